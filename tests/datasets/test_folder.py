"""`folder,path=` and `mnist,path=`: class folders, masks beside them, single pictures, idx files."""

from __future__ import annotations

import gzip
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets
from vitxai.bench.data_facts import take_stock
from vitxai.bench.sample_cache import SampleCache


def folder(path: Path, **params: str) -> Dataset:
    return datasets.create(Spec("folder", {"path": str(path), "size": "16", **params}))


def picture(path: Path, colour: int = 100, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number in range(12):
        picture(tmp_path / "cat" / f"{number}.png", 10 + number)
        picture(tmp_path / "dog" / f"{number}.png", 200 + number)
    return tmp_path


def test_folders_are_classes_in_name_order(pets: Path) -> None:
    data = folder(pets)
    assert data.info().classes == ("cat", "dog")
    sample = data.sample("dog/3")
    assert sample.label == 1
    np.testing.assert_allclose(sample.input, 203 / 255, atol=1e-6)
    assert data.info().has == {"labels"}


def test_classes_select_and_order(pets: Path) -> None:
    data = folder(pets, classes="dog")
    assert data.sample("dog/3").label == 0
    with pytest.raises(BadInputError, match="no sample 'cat/3'"):
        data.sample("cat/3")
    with pytest.raises(BadInputError, match="no class folder bird; it has cat, dog"):
        folder(pets, classes="bird").info()


def test_the_order_mixes_the_classes(pets: Path) -> None:
    data = folder(pets, splits="test")
    assert {data.sample(id).label for id in data.ids("test", 8)} == {0, 1}
    assert len(data.ids("test")) == 24


def test_split_folders(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "splits"
    for number in range(20):
        picture(root / "train" / "cat" / f"{number}.png")
    picture(root / "val" / "cat" / "x.png")
    picture(root / "test" / "cat" / "y.png")
    data = folder(root)
    assert list(data.ids("validation")) == ["val/cat/x"]
    assert list(data.ids("test")) == ["test/cat/y"]
    assert len(data.ids("fit")) == 20


def test_val_is_the_test_data_where_there_is_no_test(tmp_path: Path) -> None:
    for number in range(30):
        picture(tmp_path / "train" / "cat" / f"{number}.png")
    picture(tmp_path / "val" / "cat" / "x.png")
    data = folder(tmp_path)
    assert list(data.ids("test")) == ["val/cat/x"]
    assert len(data.ids("fit")) + len(data.ids("validation")) == 30
    assert data.ids("validation")


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("val", "valid"):
        picture(tmp_path / name / "cat" / "x.png")
    with pytest.raises(BadInputError, match="two folders for one split: val, valid"):
        folder(tmp_path).ids("test")


def test_masks_beside_the_pictures(pets: Path) -> None:
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:4, :4] = 255
    (pets / "masks" / "cat").mkdir(parents=True)
    Image.fromarray(mask).save(pets / "masks" / "cat" / "3.png")
    data = folder(pets)
    assert data.info().classes == ("cat", "dog")  # the folder of masks is no class
    found = data.sample("cat/3").mask
    assert found is not None
    assert found.sum() == 16
    with pytest.raises(BadInputError, match=r"0\.png has no mask .* or pass no_mask=empty"):
        data.sample("dog/0")
    empty = folder(pets, no_mask="empty").sample("dog/0").mask
    assert empty is not None
    assert not empty.any()


def test_masks_that_match_nothing_are_refused(pets: Path) -> None:
    picture(pets / "masks" / "cats" / "3.png")
    with pytest.raises(BadInputError, match=r"no mask in .* has the inner path of a picture"):
        folder(pets).sample("cat/3")


def test_one_picture_is_one_unlabelled_test_sample(pets: Path) -> None:
    data = folder(pets / "cat" / "3.png")
    assert list(data.ids("test")) == ["3"]
    assert not data.ids("fit")
    assert data.sample("3").label is None


def test_crop_keeps_the_aspect_ratio(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.repeat([0] * 16 + [255] * 16 + [0] * 16, 16).reshape(48, 16).T.astype(np.uint8)).save(path)
    squashed, cropped = (folder(path, fit=fit).sample("wide").input for fit in ("squash", "crop"))
    assert squashed[:, :, 0].max() < 0.1
    assert cropped[:, :, 2:-2].min() > 0.9


def test_files_that_share_a_stem_are_left_out(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {id for split in ("fit", "validation", "test") for id in folder(pets).ids(split)}
    picture(pets / "cat" / "1.bmp")
    data = folder(pets)
    with caplog.at_level(logging.WARNING):
        assert {id for split in ("fit", "validation", "test") for id in data.ids(split)} == before - {"cat/1"}
    assert "leaves out 2 files" in caplog.text
    twins = [str(pets / "cat" / name) for name in ("1.bmp", "1.png")]
    left = take_stock(Spec("folder", {"path": str(pets), "size": "16"})).left_out
    assert list(left) == twins
    assert left[twins[0]] == f"{twins[0]} shares its id with 1.png; rename or remove one of them."
    with pytest.raises(BadInputError, match=r"1\.bmp shares its id with 1\.png.* 2 such in all"):
        folder(pets, strict="true").ids("test")


def test_a_folder_of_nothing_but_twins_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    picture(tmp_path / "cat" / "1.bmp")
    with pytest.raises(BadInputError, match=r"no pictures below .*1\.bmp shares its id with 1\.png"):
        folder(tmp_path).ids("test")


def test_a_picture_of_two_masks_is_left_out(pets: Path) -> None:
    for name in ("3.png", "3.bmp", "4.png"):
        (pets / "masks" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 255).save(pets / "masks" / "cat" / name)
    data = folder(pets)
    assert data.sample("cat/4").mask is not None
    with pytest.raises(BadInputError, match=r"3\.bmp shares its id with 3\.png"):
        data.sample("cat/3")


@pytest.mark.parametrize(
    ("target", "reason"), [("loop.png", "that runs in circles"), ("nothing.png", "to a file that is not there")]
)
def test_links_to_nowhere_leave_their_sample_out(pets: Path, target: str, reason: str) -> None:
    before = folder(pets, splits="test").content_hash()
    (pets / "cat" / "loop.png").symlink_to(target)
    data = folder(pets, splits="test")
    assert data.content_hash() == folder(pets, splits="test").content_hash() != before
    spec = Spec("folder", {"path": str(pets), "size": "16", "splits": "test"})
    ids, faults = SampleCache(data, spec, None).readable(data.ids("test"))
    assert len(ids) == 24
    assert list(faults) == ["cat/loop"]
    assert f"loop.png cannot be opened: it is a symlink {reason}." in faults["cat/loop"]


def test_links_of_masks_to_nowhere_leave_their_sample_out(pets: Path) -> None:
    (pets / "masks" / "cat").mkdir(parents=True)
    (pets / "masks" / "cat" / "3.png").symlink_to("3.png")
    data = folder(pets)
    assert data.content_hash()
    with pytest.raises(BadInputError, match=r"3\.png cannot be opened: it is a symlink that runs in circles"):
        data.sample("cat/3")


def test_empty_folders_and_links_to_elsewhere_are_no_classes(
    pets: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    before = folder(pets)
    ids, facts = before.ids("test"), before.content_hash()
    outside = tmp_path_factory.mktemp("outside")
    picture(outside / "1.png")
    (pets / "ape").mkdir()
    (pets / "bird").symlink_to(outside)
    (pets / "cow").symlink_to(pets)
    data = folder(pets)
    with caplog.at_level(logging.WARNING):
        assert data.info().classes == ("cat", "dog")
    assert "no class, for want of pictures: ape" in caplog.text
    assert (data.ids("test"), data.content_hash()) == (ids, facts)
    left = take_stock(Spec("folder", {"path": str(pets), "size": "16"})).left_out
    assert list(left) == [str(pets / name) for name in ("bird", "cow")]
    assert "bird leads out of" in left[str(pets / "bird")]
    assert folder(pets, classes="ape+dog").sample("dog/3").label == 1  # an empty folder may be named: logits have it
    with pytest.raises(BadInputError, match=r"no class folder bird; it has ape, cat, dog\. .*bird leads out of"):
        folder(pets, classes="bird").info()
    with pytest.raises(BadInputError, match="bird leads out of"):
        folder(pets, strict="true").ids("test")


def test_a_folder_that_one_split_lacks_keeps_its_label(tmp_path: Path) -> None:
    for path in ("train/ape/1.png", "train/dog/1.png", "test/dog/2.png"):
        picture(tmp_path / path)
    (tmp_path / "test" / "ape").mkdir()
    data = folder(tmp_path)
    assert data.info().classes == ("ape", "dog")
    assert data.sample("test/dog/2").label == 1


def test_classes_are_sorted_as_text(tmp_path: Path) -> None:
    for number in (0, 1, 2, 10):
        picture(tmp_path / str(number) / "x.png")
    assert folder(tmp_path).info().classes == ("0", "1", "10", "2")
    assert folder(tmp_path, classes="0+1+2+10").info().classes == ("0", "1", "2", "10")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no pictures below"):
        folder(tmp_path).ids("test")


def test_sixteen_bit_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadInputError, match="more than 8 bits"):
        folder(tmp_path).sample("deep")


def test_the_contract_of_folders_holds(pets: Path) -> None:
    verdict = check_plugin("dataset", Spec("folder", {"path": str(pets), "size": "16"}))
    assert verdict.passed, str(verdict)


@pytest.mark.data
def test_cifar_folders(real_data: Path) -> None:
    data = folder(real_data / "cifar10", size="32")
    sizes = [len(data.ids(split)) for split in ("fit", "validation", "test")]
    assert sum(sizes) == 12_000
    assert sizes[2] == 2_000
    assert data.sample("test/ship/0000").label == 8


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


PACKED = gzip.compress(idx(np.zeros((3, 2, 2), dtype=np.uint8)))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([7, 2, 1], dtype=np.uint8)))
    return tmp_path


def mnist(path: Path) -> Dataset:
    return datasets.create(Spec("mnist", {"path": str(path)}))


def test_idx_rows_in_file_order(digits: Path) -> None:
    data = mnist(digits)
    assert list(data.ids("test")) == ["t10k/00000", "t10k/00001", "t10k/00002"]
    assert not data.ids("fit")
    sample = data.sample("t10k/00001")
    assert sample.label == 2
    np.testing.assert_allclose(sample.input, np.array([[[4, 5], [6, 7]]]) / 255, rtol=1e-6)


def test_train_rows_are_split_by_hash(digits: Path) -> None:
    (digits / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((50, 2, 2), dtype=np.uint8)))
    (digits / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(50, dtype=np.uint8)))
    data = mnist(digits)
    fit, validation = data.ids("fit"), data.ids("validation")
    assert len(fit) + len(validation) == 50
    assert len(fit) > len(validation) > 0


def test_rows_of_t10k_serve_all_splits_where_methods_have_to_learn(digits: Path) -> None:
    (digits / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((50, 2, 2), dtype=np.uint8))))
    (digits / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(50, dtype=np.uint8)))
    data = datasets.create(Spec("mnist", {"path": str(digits), "splits": "hash"}))
    found = [data.ids(split) for split in ("fit", "validation", "test")]
    assert sorted(id for ids in found for id in ids) == [f"t10k/{row:05d}" for row in range(50)]
    assert len(found[0]) > len(found[2]) > 0


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("t10k-labels-idx1-ubyte", idx(np.zeros(2, dtype=np.uint8)), "3 images, but .* holds 2 labels"),
        ("t10k-labels-idx1-ubyte", b"<html>", "no idx file of unsigned bytes"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(3, dtype=np.uint8))[:-1], r"announces shape \(3,\), but holds 2 bytes"),
        ("t10k-images-idx3-ubyte.gz", b"not gzip", r"t10k-images-idx3-ubyte\.gz cannot be read"),
        ("t10k-images-idx3-ubyte.gz", PACKED[:10] + b"\xff" * 20, r"idx3-ubyte\.gz cannot be read: Error -3"),
        ("t10k-images-idx3-ubyte.gz", PACKED[:-9], r"idx3-ubyte\.gz cannot be read: Compressed file ended"),
        ("t10k-labels-idx1-ubyte", idx(np.array([7, 10, 1], dtype=np.uint8)), "idx1-ubyte has label 10 in row 1"),
    ],
)
def test_damaged_idx_files_are_named(digits: Path, name: str, content: bytes, text: str) -> None:
    (digits / name).write_bytes(content)
    with pytest.raises(BadInputError, match=text):
        mnist(digits).sample("t10k/00000")


def test_no_more_is_unpacked_than_a_header_announces(digits: Path) -> None:
    """100 MB of zeros in 100 kB behind a header of 12 bytes."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(idx(np.zeros((3, 2, 2), dtype=np.uint8)))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(100)]
    (digits / "t10k-images-idx3-ubyte.gz").write_bytes(b"".join([*parts, packer.flush()]))
    tracemalloc.start()
    with pytest.raises(BadInputError, match=r"images-idx3-ubyte\.gz announces shape \(3, 2, 2\), but holds more"):
        mnist(digits).ids("test")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_an_impossible_shape_is_not_read(digits: Path) -> None:
    header = struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3)
    (digits / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
    with pytest.raises(BadInputError, match=r"announces shape \(4294967295, .*; at most 1\.1 GB"):
        mnist(digits).ids("test")


def test_idx_files_are_no_links_to_elsewhere(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside, file = tmp_path_factory.mktemp("outside") / "labels", digits / "t10k-labels-idx1-ubyte"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(BadInputError, match="t10k-labels-idx1-ubyte leads out of"):
        mnist(digits).ids("test")


def test_a_folder_without_idx_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="neither t10k-images-idx3-ubyte nor"):
        mnist(tmp_path).ids("test")


def test_the_contract_of_idx_files_holds(digits: Path) -> None:
    verdict = check_plugin("dataset", Spec("mnist", {"path": str(digits)}))
    assert verdict.passed, str(verdict)


@pytest.mark.data
def test_mnist_test_digits(real_data: Path) -> None:
    data = mnist(real_data / "mnist")
    assert len(data.ids("test")) == 10_000
    assert [data.sample(id).label for id in data.ids("test", 5)] == [7, 2, 1, 0, 4]
