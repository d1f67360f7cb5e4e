"""`csv,path=`: tables of pictures and of cubes; every bad row is named and left out."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets


def table(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def csv(path: Path, **params: object) -> Dataset:
    return datasets.create(Spec("csv", {"path": str(path), **{key: str(value) for key, value in params.items()}}))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    lines = ["path,label,mask,split"]
    (tmp_path / "img").mkdir()
    (tmp_path / "truth").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 10), (40 * number, 0, 0)).save(tmp_path / "img" / f"{number}.png")
        Image.fromarray(np.full((10, 20), number % 2, np.uint8)).save(tmp_path / "truth" / f"{number}.png")
        split = ("train", "val", "test")[number % 3]
        lines.append(f"img/{number}.png,{('cat', 'dog')[number % 2]},truth/{number}.png,{split}")
    return table(tmp_path / "table.csv", *lines)


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    for number in range(8):
        np.save(tmp_path / f"{number}.npy", np.full((4, 6, 3), number, np.uint16))
    (tmp_path / "wavelengths.txt").write_text("500\n600\n700\n")
    return table(tmp_path / "table.csv", "Path;Label", *(f"{n}.npy;{'ab'[n % 2]}" for n in range(8)))


def test_pictures(pictures: Path) -> None:
    data = csv(pictures, size=16)
    info = data.info()
    assert (info.classes, info.channels, info.has) == (("cat", "dog"), 3, {"labels", "mask"})
    assert sorted(data.ids("test")) == ["img/2", "img/5"]
    assert sorted(data.ids("validation")) == ["img/1", "img/4"]
    sample = data.sample("img/5")
    assert sample.label == 1
    np.testing.assert_allclose(sample.input[0], 200 / 255, atol=1e-6)
    assert sample.mask is not None
    assert sample.mask.all()
    assert csv(pictures, classes="dog+cat").sample("img/5").label == 0
    assert csv(pictures).sample("img/5").input.shape == (3, 224, 224)
    verdict = check_plugin("dataset", Spec("csv", {"path": str(pictures), "size": "16"}))
    assert verdict.passed, str(verdict)


def test_cubes(cubes: Path) -> None:
    data = csv(cubes, resample="500-700:50", scale=10)
    info = data.info()
    assert (info.classes, info.has, len(info.wavelengths)) == (("a", "b"), {"labels"}, 5)
    sample = data.sample("3")
    assert sample.label == 1
    np.testing.assert_allclose(sample.input, 0.3)
    verdict = check_plugin("dataset", Spec("csv", {"path": str(cubes)}))
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "2", "0", "1"], ("0", "1", "2", "10")),
        (["10", "-2", "0", "1"], ("-2", "0", "1", "10")),
        (["10", "2", "0", "b"], ("0", "10", "2", "b")),
        (["10", "2", "02", "1.5"], ("02", "1.5", "10", "2")),
        (["7", "07", "10", "1"], ("1", "07", "7", "10")),
    ],
)
def test_labels_that_are_whole_numbers_are_sorted_as_numbers(
    cubes: Path, labels: list[str], classes: tuple[str, ...]
) -> None:
    data = csv(table(cubes, "path,label,split", *(f"{n}.npy,{label},test" for n, label in enumerate(labels))))
    assert data.info().classes == classes
    assert data.sample("1").label == classes.index(labels[1])


def test_rows_of_references_are_no_samples(cubes: Path) -> None:
    lines = ["path,label", "0.npy,dark", "7.npy,white", *(f"{n}.npy,{'ab'[n % 2]}" for n in range(1, 7))]
    data = csv(table(cubes, *lines), white=cubes.parent / "7.npy", dark=cubes.parent / "0.npy", strict="true")
    assert data.info().classes == ("a", "b")
    ids = [id for split in ("fit", "validation", "test") for id in data.ids(split)]  # type: ignore[arg-type]
    assert sorted(ids) == ["1", "2", "3", "4", "5", "6"]
    np.testing.assert_allclose(data.sample("3").input, 3 / 7, rtol=1e-6)


def test_train_without_val(cubes: Path) -> None:
    lines = ["path,label,split", *(f"{n}.npy,{'ab'[n % 2]},{'train' if n < 7 else 'test'}" for n in range(8))]
    data = csv(table(cubes, *lines))
    assert list(data.ids("test")) == ["7"]
    assert len(data.ids("fit")) + len(data.ids("validation")) == 7


def test_the_table_is_part_of_the_content(pictures: Path) -> None:
    before = csv(pictures).content_hash()
    pictures.write_text(pictures.read_text().replace("img/5.png,dog", "img/5.png,cat"))
    assert csv(pictures).content_hash() != before


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("img/none.png,cat,truth/0.png,test", r"img/none\.png cannot be opened: No such file"),
        ("../outside.png,cat,truth/0.png,test", r"outside\.png leads out of"),
        ("/etc/hostname,cat,truth/0.png,test", "leads out of"),
        ("img/0.png,cat,truth/0.png,test", r"line 8 of .*img/0\.png is listed before"),
        ("img/6.png,bird,truth/0.png,test", r"line 8 of .*unknown label 'bird'; labels are cat, dog"),
        ("img/6.png,cat,truth/0.png,holdout", r"line 8 of .*unknown split 'holdout'; splits are train, fit"),
        ("img/6.png,cat,truth/0.png,", "unknown split ''"),
        (",cat,truth/0.png,test", "line 8 of .*it has no path"),
        ("img/6.png,cat,,test", r"img/6\.png has no mask, as others have"),
        ("img/6.png,cat,../outside.png,test", r"outside\.png leads out of"),
        ("img/6.png,cat,truth/small.png,test", r"mask .*small\.png is 5x5, but picture .*6\.png is 20x10"),
        ("img/broken.png,cat,truth/0.png,test", r"broken\.png cannot be read as a picture"),
        ("img/empty.png,cat,truth/0.png,test", r"empty\.png is empty \(0 bytes\)"),
    ],
)
def test_one_bad_row_is_named_and_stops_nothing(
    pictures: Path, line: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The table lies one folder down, so that ../outside.png exists.
    root = pictures.parent / "root"
    root.mkdir()
    for name in ("img", "truth", "table.csv"):
        (pictures.parent / name).rename(root / name)
    Image.new("RGB", (20, 10)).save(root / "img" / "6.png")
    Image.new("L", (5, 5)).save(root / "truth" / "small.png")
    Image.new("L", (20, 10)).save(pictures.parent / "outside.png")
    (root / "img" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "img" / "empty.png").write_bytes(b"")
    with (root / "table.csv").open("a") as file:
        file.write(f"{line}\n")
    with caplog.at_level(logging.WARNING):
        data = csv(root / "table.csv", classes="cat+dog")
        assert sum(len(data.ids(split)) for split in ("fit", "validation", "test")) == 6  # type: ignore[arg-type]
    ((_, told),) = data.left_out().items()  # type: ignore[attr-defined]
    assert told in caplog.text
    with pytest.raises(BadInputError, match=reason):
        csv(root / "table.csv", classes="cat+dog", strict="true").info()


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no table at"):
        csv(tmp_path / "nothing.csv").info()
    with pytest.raises(BadInputError, match="has the columns file, class; it needs path and label"):
        csv(table(tmp_path / "a.csv", "file,class", "x.png,cat")).info()
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadInputError, match=r"b\.csv cannot be read as a table"):
        csv(tmp_path / "b.csv").info()
    (tmp_path / "c.csv").write_bytes(b"")
    with pytest.raises(BadInputError, match="has the columns none"):
        csv(tmp_path / "c.csv").info()
    with pytest.raises(BadInputError, match=r"lists pictures \(\.png\) and cubes \(\.npy\)"):
        csv(table(tmp_path / "d.csv", "path,label", "x.png,cat", "y.npy,cat")).info()
    with pytest.raises(BadInputError, match="pass kind=pictures or kind=cubes"):
        csv(table(tmp_path / "e.csv", "path,label", "x.tif,cat")).info()


@pytest.mark.data
def test_rice_photographs(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "rice_voc" / "RICE" / "VOC2012"
    masks = sorted((root / "SegmentationClass").glob("*.png"))[:6]
    names = [mask.stem for mask in masks if (root / "JPEGImages" / f"{mask.stem}.jpg").is_file()]
    lines = [f"JPEGImages/{name}.jpg,{name[:3].lower()},SegmentationClass/{name}.png" for name in names]
    data = csv(table(tmp_path / "rice.csv", "path,label,mask", *lines), root=root, size=32)
    samples = [data.sample(id) for split in ("fit", "validation", "test") for id in data.ids(split)]  # type: ignore[arg-type]
    assert len(samples) == len(names) > 0
    assert all(sample.mask is not None and sample.mask.any() for sample in samples)
