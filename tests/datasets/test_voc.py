"""`voc,path=`: photographs with palette masks, read in place."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets

SIZE = 16


def voc(path: Path, **params: str) -> Dataset:
    return datasets.create(Spec("voc", {"path": str(path), "size": "16", **params}))


def write(root: Path, stem: str, values: np.ndarray, colour: int = 128) -> None:
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", values.shape[::-1], (colour, 0, 255)).save(root / "JPEGImages" / f"{stem}.jpg", quality=100)
    mask = Image.fromarray(values.astype(np.uint8), mode="P")
    mask.putpalette([value // 3 for value in range(768)])
    mask.save(root / "SegmentationClass" / f"{stem}.png")


def values(**areas: tuple[slice, slice]) -> np.ndarray:
    """A 16 x 16 mask; `v2=(rows, columns)` sets value 2 there."""
    found = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for name, area in areas.items():
        found[area] = int(name[1:])
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top, small, border = slice(0, 8), slice(8, 10), slice(15, 16)
    write(tmp_path, "a_1", values(v2=(top, top), v1=(small, small), v255=(border, border)), colour=64)
    write(tmp_path, "b_2", values(v1=(top, top)))
    write(tmp_path, "b_3", values(v1=(small, top)))
    write(tmp_path, "empty_4", values())
    return tmp_path


def test_the_largest_object_is_the_label_and_void_is_ignored(root: Path) -> None:
    sample = voc(root).sample("a_1")
    assert sample.label == 1  # palette value 2: 64 pixels against 4
    assert sample.mask is not None
    assert sample.ignore is not None
    assert sample.mask[:8, :8].all()
    assert sample.mask.sum() == 64  # the smaller object of class 1 is no evidence for class 2
    assert sample.ignore.sum() == 1
    assert sample.ignore[15, 15]


def test_pictures_that_share_a_stem_are_refused(root: Path) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(root / "JPEGImages" / "a_1.png")
    with pytest.raises(BadInputError, match=r"a_1\.jpg and a_1\.png in .*JPEGImages share one id"):
        voc(root).ids("test")


def test_pictures_are_rgb_in_unit_range(root: Path) -> None:
    image = voc(root).sample("a_1").input
    assert image.shape == (3, SIZE, SIZE)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image.mean((1, 2)), [64 / 255, 0.0, 1.0], atol=0.02)


def test_a_picture_without_objects_has_no_label(root: Path) -> None:
    assert voc(root).sample("empty_4").label is None


def test_labels_by_prefix(root: Path) -> None:
    data = voc(root, labels="prefix")
    assert data.info().classes == ("a", "b", "empty")
    assert [data.sample(id).label for id in ("a_1", "b_2", "empty_4")] == [0, 1, 2]
    mask = data.sample("a_1").mask
    assert mask is not None
    assert mask.sum() == 64 + 4  # all that is not background


def test_named_prefixes_ignore_case_digits_and_separators(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for stem in ("TUNGRO3_116", "Brown_spot_2", "BROWNSPOT1_008", "IMG_7"):
        write(tmp_path, stem, values())
    data = voc(tmp_path, labels="prefix", classes="tungro+brown_spot", splits="test")
    assert {id: data.sample(id).label for id in data.ids("test")} == {
        "TUNGRO3_116": 0,
        "Brown_spot_2": 1,
        "BROWNSPOT1_008": 1,
    }
    assert "1 files begin with none of tungro+brown_spot" in caplog.text
    assert "IMG_7" in caplog.text


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    write(tmp_path, "leaf_blast_1", values())
    data = voc(tmp_path, labels="prefix", classes="leaf+leaf_blast")
    assert data.sample("leaf_blast_1").label == 1


def test_lists_decide_the_splits_and_missing_names_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a_1 \nb_2\nb_3\n")
    (lists / "val.txt").write_text("empty_4\ngone_5\ngone_6\n")
    with caplog.at_level(logging.WARNING):
        data = voc(root)
        assert list(data.ids("test")) == ["empty_4"]
    assert sorted([*data.ids("fit"), *data.ids("validation")]) == ["a_1", "b_2", "b_3"]
    assert "lists 3 names, 2 of them have no files here" in caplog.text


def test_a_name_in_both_lists_is_refused(root: Path) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text("a_1\n")
    with pytest.raises(BadInputError, match=r"1 names are in both .*'a_1'"):
        voc(root).ids("test")


def test_adding_a_file_moves_no_other(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"a_{number}", values())
    before = {id: split for split in ("fit", "validation", "test") for id in voc(tmp_path).ids(split)}
    write(tmp_path, "a_40", values())
    after = {id: split for split in ("fit", "validation", "test") for id in voc(tmp_path).ids(split)}
    assert len(before) == 40
    assert {id: after[id] for id in before} == before
    assert {*before.values()} == {"fit", "validation", "test"}


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("JPEGImages/b_2.jpg", b"no picture", r"b_2\.jpg cannot be read as a picture"),
        ("SegmentationClass/b_2.png", b"", r"b_2\.png is empty"),
    ],
)
def test_a_damaged_file_is_named(root: Path, file: str, content: bytes, text: str) -> None:
    (root / file).write_bytes(content)
    with pytest.raises(BadInputError, match=text):
        voc(root).sample("b_2")


def test_links_out_of_the_folder_are_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    Image.new("RGB", (SIZE, SIZE)).save(outside)
    (root / "JPEGImages" / "b_2.jpg").unlink()
    (root / "JPEGImages" / "b_2.jpg").symlink_to(outside)
    with pytest.raises(BadInputError, match=r"b_2\.jpg leads out of"):
        voc(root).sample("b_2")


def test_a_truncated_photograph_is_named(root: Path) -> None:
    path = root / "JPEGImages" / "b_2.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInputError, match=r"b_2\.jpg cannot be read as a picture: .*(?i:truncated)"):
        voc(root).sample("b_2")


def test_a_mask_of_another_size_is_refused(root: Path) -> None:
    Image.new("P", (8, 8)).save(root / "SegmentationClass" / "b_2.png")
    with pytest.raises(BadInputError, match=r"b_2\.png is 8x8, but picture .*b_2\.jpg is 16x16"):
        voc(root).sample("b_2")


def test_a_mask_of_colours_is_refused(root: Path) -> None:
    Image.new("RGB", (SIZE, SIZE)).save(root / "SegmentationClass" / "b_2.png")
    with pytest.raises(BadInputError, match="one value a pixel"):
        voc(root).sample("b_2")


def test_a_value_beyond_the_classes_is_refused(root: Path) -> None:
    with pytest.raises(BadInputError, match=r"holds value 2, but there are 1 class names"):
        voc(root, classes="lesion").sample("a_1")


def test_a_wrong_path_is_told_what_to_pass(root: Path) -> None:
    with pytest.raises(BadInputError, match="voc needs a folder"):
        voc(root / "nowhere").ids("test")
    (root / "inner").mkdir()
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).rename(root / "inner" / name)
    with pytest.raises(BadInputError, match=r"Did you mean path=.*inner\?"):
        voc(root).ids("test")


def test_the_content_hash_follows_the_files(root: Path) -> None:
    first = voc(root).content_hash()
    assert voc(root).content_hash() == first
    write(root, "b_2", values(v1=(slice(0, 3), slice(0, 3))), colour=7)
    assert voc(root).content_hash() != first


def test_the_contract_holds(root: Path) -> None:
    verdict = check_plugin("dataset", Spec("voc", {"path": str(root), "size": "16", "labels": "prefix"}))
    assert verdict.passed, str(verdict)


@pytest.mark.data
def test_rice_leaves(real_data: Path) -> None:
    root = real_data / "rice_voc" / "RICE" / "VOC2012"
    data = voc(root, labels="prefix", classes="tungro+brown_spot", size="64")
    sizes = {split: len(data.ids(split)) for split in ("fit", "validation", "test")}
    assert sum(sizes.values()) == 394  # of 398 photographs four bear neither name
    assert sizes["test"] == 74  # what val.txt lists and what exists
    for id in data.ids("test", 8):
        sample = data.sample(id)
        assert sample.label == int("tungro" not in id.lower())
        assert sample.mask is not None
        assert 0 < sample.mask.mean() < 0.6


@pytest.mark.data
def test_pascal_photographs(real_data: Path) -> None:
    data = voc(real_data / "labelme_voc" / "data_dataset_voc", splits="test", size="64")
    assert data.info().classes[14] == "person"
    labels = {id: data.sample(id).label for id in data.ids("test")}
    assert labels["2011_000003"] == 14
    ignored = [data.sample(id).ignore for id in labels]
    assert any(ignore is not None and ignore.any() for ignore in ignored)
