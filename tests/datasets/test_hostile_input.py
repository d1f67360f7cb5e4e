"""Files made to do harm: zip bombs, pickles, paths and links out of the root, loops, files that keep data elsewhere."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets
from vitxai.datasets._cube_files import inspect_cube
from vitxai.datasets._safe_paths import folders_in, inside


def cubes(path: Path, **params: object) -> Dataset:
    return datasets.create(Spec("cubes", {"path": str(path), **{key: str(value) for key, value in params.items()}}))


def refused(path: Path, reason: str, **params: object) -> None:
    """Alone the file is an error; beside a good one it is left out."""
    with pytest.raises(BadInputError, match=reason):
        cubes(path, **params).info()
    good = path.parent / "good.npy"
    np.save(good, np.ones((4, 5, 3)))
    data = cubes(path.parent, splits="test", **params)
    assert list(data.ids("test")) == ["good"]
    assert str(path) in data.left_out()  # type: ignore[attr-defined]


class Harm:
    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


@pytest.fixture(autouse=True)
def unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "harmed").exists()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_a_zip_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 200 MB of zeros in 200 kB, allowed are 100 MB; nothing is unpacked, not even headers.
    side, bands = 1000, 50
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("cube.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(npy_header((side, side, bands)))
        for _ in range(bands):
            stream.write(bytes(4 * side * side))
    opened = []
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda archive, member, *_, **__: opened.append(member))
    refused(tmp_path / "bomb.npz", r"bomb\.npz has \d+ bytes and announces 0\.2 GB once unpacked", max_gb=0.1)
    assert opened == []


def test_a_zip_member_that_lies_about_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("cube.npy", npy_header((4, 5, 3)) + bytes(4 * 60 + 8))
    refused(tmp_path / "lie.npz", r"cube\.npy has 376 bytes, but announces 368: damaged")


def test_a_zip_with_other_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("../../evil.py", "print()")
    refused(tmp_path / "x.npz", r"holds '\.\./\.\./evil\.py', which is no plain array")


def test_a_zip_with_too_many_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for number in range(1001):
            archive.writestr(f"{number}.npy", b"")
    refused(tmp_path / "x.npz", "has 1001 members")


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[[Harm()]]], dtype=object), allow_pickle=True)
    refused(tmp_path / "x.npy", "holds Python objects")
    np.savez(tmp_path / "y.npz", cube=np.array([[[Harm()]]], dtype=object), allow_pickle=True)
    refused(tmp_path / "y.npz", "holds Python objects|no plain array")
    (tmp_path / "z.npy").write_bytes(pickle.dumps(Harm()))
    refused(tmp_path / "z.npy", r"z\.npy cannot be read")
    (tmp_path / "w.mat").write_bytes(pickle.dumps(Harm()))
    refused(tmp_path / "w.mat", r"w\.mat is no \.mat file")


def test_a_pickled_mask_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.ones((4, 5, 3)))
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks" / "a.npy", np.ones((4, 5), dtype=bool))
    np.save(tmp_path / "masks" / "b.npy", np.array([[Harm()]], dtype=object), allow_pickle=True)
    data = cubes(tmp_path, splits="test")
    assert list(data.ids("test")) == ["a"]
    assert "mask" in next(iter(data.left_out().values()))  # type: ignore[attr-defined]


def test_matlab_bombs(tmp_path: Path) -> None:
    """A compressed element that announces 8 GB."""
    shape = struct.pack("<iiiii", 5, 12, 1000, 1000, 1000) + bytes(4)
    flags = struct.pack("<iiII", 6, 8, 6, 0)
    body = flags + shape + struct.pack("<hh4s", 1, 4, b"cube") + struct.pack("<iI", 9, 8 * 10**9 & 0xFFFFFFFF)
    element = zlib.compress(struct.pack("<iI", 14, 0x7FFFFFF0) + body)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    (tmp_path / "x.mat").write_bytes(head + struct.pack("<iI", 15, len(element)) + element)
    refused(tmp_path / "x.mat", r"announces 8\.0 GB once unpacked")


@pytest.mark.parametrize("length", [0, 60, 128, 200, -20])
def test_truncated_matlab_files(tmp_path: Path, length: int) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"cube": np.random.default_rng(0).random((9, 9, 9))}, do_compression=True)
    (tmp_path / "x.mat").write_bytes((tmp_path / "x.mat").read_bytes()[:length])
    refused(tmp_path / "x.mat", r"x\.mat ")


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "tiff", "mat", "hdr"])
@pytest.mark.parametrize("kind", ["empty", "half", "noise"])
def test_broken_files_of_every_format(tmp_path: Path, suffix: str, kind: str) -> None:
    path, cube = tmp_path / f"x.{suffix}", np.random.default_rng(0).random((9, 9, 9)).astype(np.float32)
    if suffix == "h5":
        pytest.importorskip("h5py").File(path, "w").create_dataset("cube", data=cube, compression="gzip").file.close()
    elif suffix == "tiff":
        pytest.importorskip("tifffile").imwrite(path, cube, compression="zlib", photometric="minisblack")
    elif suffix == "npz":
        np.savez_compressed(path, cube=cube)
    elif suffix == "npy":
        np.save(path, cube)
    else:
        path.write_text("ENVI\nlines = 9\nsamples = 9")
    content = path.read_bytes()
    noise = np.random.default_rng(1).bytes(500)
    path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "noise": noise}[kind])
    refused(path, rf"x\.{suffix}")


def test_an_hdf5_file_that_announces_more_than_it_holds(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("cube", (100_000, 100_000, 10), "f4", chunks=(100, 100, 10), compression="gzip")
    refused(tmp_path / "x.h5", r"announces 400\.0 GB once unpacked")


def test_hdf5_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    outside = tmp_path / "outside"
    outside.mkdir()
    np.ones((4, 5, 3), "f4").tofile(outside / "secret.bin")
    with h5py.File(outside / "secret.h5", "w") as file:
        file["cube"] = np.ones((4, 5, 3))
    root = tmp_path / "root"
    root.mkdir()
    with h5py.File(root / "link.h5", "w") as file:
        file["cube"] = h5py.ExternalLink("../outside/secret.h5", "/cube")
    refused(root / "link.h5", "no array with rows, columns and bands")
    with h5py.File(root / "raw.h5", "w") as file:
        file.create_dataset("cube", (4, 5, 3), "f4", external=[("../outside/secret.bin", 0, 240)])
    refused(root / "raw.h5", "keeps its numbers in other files|fewer are stored")
    with h5py.File(root / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 5, 3), "f8")
        layout[:] = h5py.VirtualSource("../outside/secret.h5", "cube", (4, 5, 3))
        file.create_virtual_dataset("cube", layout)
    refused(root / "virtual.h5", "keeps its numbers in other files")


def test_hdf5_loops_end(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/cube"] = np.ones((4, 5, 3))
        file["a/again"] = file["a"]
        file["soft"] = h5py.SoftLink("/soft")
    assert cubes(tmp_path / "x.h5").info().channels == 3


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    for folder in (outside / "sick", root / "well"):
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", np.ones((4, 5, 3)))
    (root / "sick").symlink_to(outside / "sick")
    (root / "well" / "b.npy").symlink_to(outside / "sick" / "a.npy")
    data = cubes(root, splits="test")
    assert data.info().classes == ("well",)
    assert list(data.ids("test")) == ["well/a"]
    ((_, reason),) = data.left_out().items()  # type: ignore[attr-defined]
    assert "b.npy leads out of" in reason


def test_links_of_the_data_of_an_envi_header(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside.raw", tmp_path / "root"
    root.mkdir()
    outside.write_bytes(bytes(60))
    (root / "x.hdr").write_text("ENVI\nlines = 4\nsamples = 5\nbands = 3\ndata type = 1\n")
    (root / "x.raw").symlink_to(outside)
    refused(root / "x.hdr", r"x\.raw leads out of")


def test_links_of_masks(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "masks").mkdir(parents=True)
    Image.new("L", (5, 4)).save(tmp_path / "outside.png")
    Image.new("L", (5, 4)).save(root / "masks" / "b.png")
    for name in ("a", "b"):
        np.save(root / f"{name}.npy", np.ones((4, 5, 3)))
    (root / "masks" / "a.png").symlink_to(tmp_path / "outside.png")
    data = cubes(root, splits="test")
    assert list(data.ids("test")) == ["b"]
    assert "a.png leads out of" in next(iter(data.left_out().values()))  # type: ignore[attr-defined]


def test_symlink_loops_end(tmp_path: Path) -> None:
    (tmp_path / "sick").mkdir()
    np.save(tmp_path / "sick" / "a.npy", np.ones((4, 5, 3)))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "sick" / "up").symlink_to(tmp_path / "sick")
    (tmp_path / "sick" / "self.npy").symlink_to(tmp_path / "sick" / "self.npy")
    assert list(folders_in(tmp_path, tmp_path)) == ["sick"]
    data = cubes(tmp_path, splits="test")
    assert list(data.ids("test")) == ["sick/a"]
    assert "runs in circles" in next(iter(data.left_out().values()))  # type: ignore[attr-defined]


def test_a_linked_root_is_the_users_own_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    np.save(tmp_path / "real" / "a.npy", np.ones((4, 5, 3)))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(cubes(tmp_path / "link", splits="test").ids("test")) == ["a"]


def test_inside_names_the_reason(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, reason in (("nothing", "cannot be opened: No such file"), ("folder", "is no file")):
        with pytest.raises(BadInputError, match=reason):
            inside(tmp_path / name, tmp_path)
    (tmp_path / "outside.txt").write_text("x")
    with pytest.raises(BadInputError, match="leads out of"):
        inside(tmp_path / "folder" / ".." / "outside.txt", tmp_path / "folder")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("lines = 4\nsamples = 5\nbands = 3", "has data type = None"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 6", "has data type 6; real numbers are 1, 2"),
        ("lines = 4\nsamples = 5\nbands = -3\ndata type = 1", "has bands = -3"),
        ("lines = 4\nsamples = 5\nbands = 99999999999999999999999\ndata type = 1", "has bands = 9999"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nbyte order = 7", "byte order 7; allowed are bsq"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\ninterleave = tile", "has interleave 'tile'"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nfile compression = 1", "data are compressed"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nheader offset = 1000000000", "truncated"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nwavelength = {1,2}", "lists 2 wavelengths for 3 bands"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nwavelength = {a,b,c}", "could not convert"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nreflectance scale factor = 0", "is a positive number"),
        ("lines = 4\nsamples = 5\nbands = 3\ndata type = 1\nreflectance scale factor = x", "is no number"),
    ],
)
def test_impossible_envi_headers(tmp_path: Path, header: str, reason: str) -> None:
    (tmp_path / "x.hdr").write_text(f"ENVI\n{header}\n")
    (tmp_path / "x.raw").write_bytes(bytes(60))
    with pytest.raises(BadInputError, match=rf"x\.(hdr|raw).*{reason}"):
        inspect_cube(tmp_path / "x.hdr", tmp_path)


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.hdr").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BadInputError, match="an ENVI header is a short text"):
        inspect_cube(tmp_path / "x.hdr", tmp_path)


def test_a_tiff_that_points_behind_its_end(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tif", np.ones((3, 40, 50), np.uint16), photometric="minisblack")
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[: len(content) - 100])
    refused(tmp_path / "x.tif", r"x\.tif (ends at byte .* truncated|cannot be read: corrupted)")
