"""`cubes,path=`: every format against an independently written file, bands, reflectance, leaf, bad files."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets
from vitxai.datasets import _cube_files, _cube_header, _cube_steps
from vitxai.datasets._wavelengths import in_nanometres, parse_bands, parse_wavelengths, read_wavelengths

ROWS, COLUMNS, BANDS = 6, 5, 4
NM = (450.0, 550.0, 670.0, 800.0)
CUBE = np.arange(ROWS * COLUMNS * BANDS, dtype=np.uint16).reshape(ROWS, COLUMNS, BANDS) * 7 + 3


def cubes(path: Path, **params: object) -> Dataset:
    return datasets.create(Spec("cubes", {"path": str(path), **{key: str(value) for key, value in params.items()}}))


def only(path: Path, **params: object) -> NDArray[np.float32]:
    """The single test sample, [C,H,W]."""
    data = cubes(path, **params)
    (id,) = data.ids("test")
    return data.sample(id).input


def envi(
    path: Path, cube: NDArray[Any] = CUBE, interleave: str = "bil", order: str = "<", offset: int = 0, **entries: object
) -> Path:
    """Writes ``path`` (a header) and its data; entries with None are left out of the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = {"u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "u2": 12, "u4": 13, "i8": 14, "u8": 15}
    axes = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}[interleave]
    facts: dict[str, object] = {
        "samples": cube.shape[1], "lines": cube.shape[0], "bands": cube.shape[2], "header offset": offset,
        "data type": codes[cube.dtype.str[1:]], "interleave": interleave, "byte order": int(order == ">"),
        "wavelength units": "nm", "wavelength": "{\n" + ",\n".join(map(str, NM[: cube.shape[2]])) + "\n}",
    }  # fmt: skip
    facts |= entries
    lines = ["ENVI", "; a comment", *(f"{key} = {value}" for key, value in facts.items() if value is not None)]
    path.write_text("\n".join(lines))
    data = path.with_suffix("") if path.with_suffix("").suffix else path.with_suffix(".raw")
    stored = cube.transpose(axes).astype(cube.dtype.newbyteorder(order))  # type: ignore[call-overload]
    data.write_bytes(b"x" * offset + stored.tobytes())
    return path


def expected(cube: NDArray[Any] = CUBE) -> NDArray[np.float32]:
    return cube.astype(np.float32).transpose(2, 0, 1)


# --- formats


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_envi_interleaves_and_byte_orders(tmp_path: Path, interleave: str, order: str) -> None:
    path = envi(tmp_path / "x.hdr", interleave=interleave, order=order, offset=17)
    np.testing.assert_array_equal(only(path), expected())


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "f4", "f8", "u2", "u4", "i8", "u8"])
def test_envi_data_types(tmp_path: Path, kind: str) -> None:
    cube = (CUBE % 200).astype(kind)
    np.testing.assert_array_equal(only(envi(tmp_path / "x.hdr", cube)), expected(cube))


def test_envi_headers_that_lack_things(tmp_path: Path) -> None:
    bare = dict.fromkeys(("byte order", "header offset", "wavelength", "wavelength units"))
    path = envi(tmp_path / "x.hdr", **bare)
    assert cubes(path).info().wavelengths == ()
    np.testing.assert_array_equal(only(path), expected())


@pytest.mark.parametrize("name", ["x.img.hdr", "x.bil.hdr", "x y.dat.hdr"])
def test_envi_double_suffixes(tmp_path: Path, name: str) -> None:
    envi(tmp_path / name)
    data = cubes(tmp_path, splits="test")
    assert list(data.ids("test")) == [name.split(".")[0]]
    np.testing.assert_array_equal(data.sample(name.split(".")[0]).input, expected())


def test_envi_data_without_suffix(tmp_path: Path) -> None:
    path = envi(tmp_path / "x.hdr")
    (tmp_path / "x.raw").rename(tmp_path / "x")
    np.testing.assert_array_equal(only(path), expected())


def test_envi_micrometres_and_scale(tmp_path: Path) -> None:
    listed = {"wavelength units": "Micrometers", "wavelength": "{0.45, 0.55,\n 0.67, 0.8}"}
    path = envi(tmp_path / "x.hdr", **{"reflectance scale factor": "10000", **listed})
    assert cubes(path).info().wavelengths == NM
    np.testing.assert_allclose(only(path), expected() / 10000)
    np.testing.assert_allclose(only(path, scale=2), expected() / 2)


@pytest.mark.parametrize("between", ["", "\n", "; centres\n"])
def test_envi_wavelengths_on_the_next_line(tmp_path: Path, between: str) -> None:
    listed = "\n" + between + "{450, 550,\n 670, 800}\ndescription ="
    assert cubes(envi(tmp_path / "x.hdr", wavelength=listed)).info().wavelengths == NM
    path = envi(tmp_path / "y.hdr", **{"description": "", "wavelength units": "", "wavelength": "{450, 550, 670, 800}"})
    assert cubes(path).info().wavelengths == NM


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("unit", [None, "Unknown"])
def test_envi_wavelengths_that_count_bands_are_none(
    tmp_path: Path, first: int, unit: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    counted = "{" + ", ".join(map(str, range(first, first + BANDS))) + "}"
    path = envi(tmp_path / "x.hdr", **{"wavelength": counted, "wavelength units": unit})
    with caplog.at_level(logging.WARNING):
        assert cubes(path).info().wavelengths == ()
    assert caplog.text.count("x.hdr are the numbers of its 4 bands without a unit") == 1
    assert cubes(path, wavelengths="400-700").info().wavelengths == (400.0, 500.0, 600.0, 700.0)
    path = envi(tmp_path / "y.hdr", **{"wavelength": "{1, 2, 3, 4}", "wavelength units": "Micrometers"})
    assert cubes(path).info().wavelengths == (1000.0, 2000.0, 3000.0, 4000.0)


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(CUBE))
    np.testing.assert_array_equal(only(tmp_path / "x.npy"), expected())
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[1, 2] = True
    np.savez_compressed(tmp_path / "y.npz", small=CUBE[..., :2], cube=CUBE, wavelengths=np.array(NM) / 1000, mask=mask)
    data = cubes(tmp_path / "y.npz")
    assert data.info().wavelengths == NM
    assert data.info().has == {"mask"}
    sample = data.sample("y")
    np.testing.assert_array_equal(sample.input, expected())
    np.testing.assert_array_equal(sample.mask, mask)
    assert only(tmp_path / "y.npz", key="small", wavelengths="450+550").shape == (2, ROWS, COLUMNS)


def test_bands_first_arrays_are_known_by_their_wavelengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", cube=CUBE.transpose(2, 0, 1), wavelengths=NM)
    np.testing.assert_array_equal(only(tmp_path / "x.npz"), expected())
    np.save(tmp_path / "y.npy", CUBE.transpose(2, 0, 1))
    np.testing.assert_array_equal(only(tmp_path / "y.npy", axis="first"), expected())
    np.testing.assert_array_equal(only(tmp_path / "y.npy", wavelengths="+".join(map(str, NM))), expected())


def test_an_ambiguous_axis_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 4, 4)))
    with pytest.raises(BadInputError, match="several axes are as long as its 4 wavelengths: pass axis=first"):
        only(tmp_path / "x.npy", wavelengths="450+550+670+800")
    with pytest.raises(BadInputError, match="no axis is as long as its 3 wavelengths"):
        only(tmp_path / "x.npy", wavelengths="450+550+670")


def test_matlab_5(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"paviaU": CUBE, "paviaU_gt": CUBE[..., 0], "wavelength": NM}, do_compression=True)
    assert cubes(tmp_path / "x.mat").info().wavelengths == NM
    np.testing.assert_array_equal(only(tmp_path / "x.mat"), expected())
    with pytest.raises(BadInputError, match=r"no array 'cube'; it has paviaU, paviaU_gt, wavelength"):
        only(tmp_path / "x.mat", key="cube")
    with pytest.raises(BadInputError, match="shape"):
        only(tmp_path / "x.mat", key="paviaU_gt")


def test_matlab_7_3_is_transposed_back(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file["cube"] = CUBE.transpose(2, 1, 0)  # as MATLAB writes [rows, columns, bands]
        file["cube"].attrs["MATLAB_class"] = np.bytes_("uint16")
        file["mask"] = (CUBE[..., 0] > 100).T
        file["wavelengths"] = np.array(NM)[:, None]
    with (tmp_path / "x.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    data = cubes(tmp_path / "x.mat")
    assert data.info().wavelengths == NM
    np.testing.assert_array_equal(data.sample("x").input, expected())
    np.testing.assert_array_equal(data.sample("x").mask, CUBE[..., 0] > 100)


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("group/reflectance", data=CUBE, chunks=(2, 2, 2), compression="gzip")
        file["group"].attrs["wavelength"] = np.array(NM) / 1000
    assert cubes(tmp_path / "x.h5").info().wavelengths == NM
    np.testing.assert_array_equal(only(tmp_path / "x.h5"), expected())
    np.testing.assert_array_equal(only(tmp_path / "x.h5", bands="3+0"), expected()[[3, 0]])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True, "byteorder": ">"}])
def test_tiff_pages_are_bands(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tiff", CUBE.transpose(2, 0, 1), photometric="minisblack", **options)
    np.testing.assert_array_equal(only(tmp_path / "x.tiff"), expected())
    np.testing.assert_array_equal(only(tmp_path / "x.tiff", bands="2-3"), expected()[2:])


@pytest.mark.parametrize("packed", [(), (1, 3), (0, 1, 2, 3)])
def test_tiff_written_one_page_after_the_other(tmp_path: Path, packed: tuple[int, ...]) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for band in range(BANDS):
            file.write(CUBE[..., band], compression="zlib" if band in packed else None, contiguous=False)
    np.testing.assert_array_equal(only(tmp_path / "x.tif"), expected())
    np.testing.assert_array_equal(only(tmp_path / "x.tif", bands="3+1"), expected()[[3, 1]])
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:-3])
    with pytest.raises(BadInputError, match=r"x\.tif .*truncated"):
        only(tmp_path / "x.tif")


@pytest.mark.parametrize("last", [CUBE[1:, :, 3], CUBE[..., 3].astype("f4"), CUBE[..., :3]])
def test_tiff_pages_that_are_not_alike_are_no_bands(tmp_path: Path, last: NDArray[Any]) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for page in (CUBE[..., 0], CUBE[..., 1], last):
            file.write(page)
    with pytest.raises(BadInputError, match=r"array of shape \(6, 5\); a cube has"):
        only(tmp_path / "x.tif")


def test_a_codec_that_is_missing_stops_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    if importlib.util.find_spec("imagecodecs"):
        pytest.skip("imagecodecs is installed")
    first, *others = (Image.fromarray(CUBE[..., band].astype(np.uint8)) for band in range(BANDS))
    first.save(tmp_path / "x.tif", save_all=True, append_images=others, compression="tiff_lzw")
    np.save(tmp_path / "y.npy", CUBE)
    with pytest.raises(_cube_header.MissingPackageError, match=r"x\.tif needs imagecodecs .*pip install imagecodecs\."):
        cubes(tmp_path).ids("test")


def test_tiff_with_the_bands_last(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "x.tiff", CUBE, photometric="minisblack")
    np.testing.assert_array_equal(only(tmp_path / "x.tiff", wavelengths="450+550+670+800"), expected())


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    np.save(tmp_path / "x.npy", CUBE)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setattr(_cube_header.importlib, "import_module", refuse)
    with pytest.raises(_cube_header.MissingPackageError, match=r"needs h5py: pip install 'vitxai\[hsi\]'"):
        only(tmp_path / "x.h5")


def test_large_cubes_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = envi(tmp_path / "x.hdr", CUBE.astype("f4"))
    whole = only(path, size=8, resample="450-800:50", leaf="ndvi")
    monkeypatch.setattr(_cube_steps, "CHUNK_VALUES", ROWS * COLUMNS)
    np.testing.assert_array_equal(only(path, size=8, resample="450-800:50", leaf="ndvi"), whole)


def test_only_the_bands_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", CUBE)
    seen: list[tuple[Any, ...]] = []

    class Spy:
        def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
            seen.append(index)
            return CUBE[index]

    monkeypatch.setitem(_cube_files._OPEN, "npy", lambda header, stack: Spy())  # type: ignore[index]
    np.testing.assert_array_equal(only(tmp_path / "x.npy", bands="1-2"), expected()[1:3])
    assert seen == [(slice(None), slice(None), slice(1, 3))]


# --- bands


def test_band_selection(tmp_path: Path) -> None:
    path = envi(tmp_path / "x.hdr")
    assert cubes(path, bands="3+0").info().wavelengths == (800.0, 450.0)
    np.testing.assert_array_equal(only(path, bands="3+0"), expected()[[3, 0]])
    assert cubes(path, range="500-700").info().wavelengths == (550.0, 670.0)
    assert cubes(path, range="0.5-0.7").info().wavelengths == (550.0, 670.0)
    with pytest.raises(BadInputError, match=r"x\.hdr has 4 bands, numbered from 0; band 9 is missing"):
        only(path, bands="9")
    with pytest.raises(BadInputError, match="no band in 900 to 1000 nm; it has 4 bands from 450 to 800 nm"):
        only(path, range="900-1000")


def test_resampling_is_linear_and_never_extrapolates(tmp_path: Path) -> None:
    cube = np.broadcast_to(np.array(NM, np.float32) ** 2, (ROWS, COLUMNS, BANDS)).copy()
    path = envi(tmp_path / "x.hdr", cube)
    targets = (450.0, 500.0, 610.0, 700.0, 800.0)
    found = only(path, resample="+".join(map(str, targets)))
    np.testing.assert_allclose(found[:, 0, 0], np.interp(targets, NM, np.array(NM) ** 2), rtol=1e-6)
    with pytest.raises(BadInputError, match=r"from 450 to 800 nm; 1 of 2 wanted bands lie outside, for example 440 nm"):
        only(path, resample="440+500")
    with pytest.raises(BadInputError, match="has no wavelengths; range= and resample= need them"):
        only(envi(tmp_path / "y.hdr", wavelength=None), resample="500+600")


def test_resampling_sorts_overlapping_detectors(tmp_path: Path) -> None:
    path = envi(tmp_path / "x.hdr", wavelength="{450, 670, 550, 800}")
    found = only(path, resample="500+600")
    np.testing.assert_allclose(found[0], (expected()[0] + expected()[2]) / 2, rtol=1e-6)


def test_resampling_to_the_bands_of_a_checkpoint(tmp_path: Path) -> None:
    import torch

    from vitxai.models.checkpoint import Checkpoint, write_checkpoint

    model = Checkpoint("vision_transformer", {}, (8, 8), (0.0,), (1.0,), ("a",), wavelengths=(500.0, 600.0))
    write_checkpoint(tmp_path / "model.safetensors", torch.nn.Linear(1, 1), model)
    data = cubes(envi(tmp_path / "x.hdr"), resample=tmp_path / "model.safetensors")
    assert data.info().wavelengths == (500.0, 600.0)


def test_wavelengths_from_elsewhere(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CUBE)
    assert cubes(tmp_path, splits="test", wavelengths="400-700").info().wavelengths == (400.0, 500.0, 600.0, 700.0)
    (tmp_path / "wavelengths.csv").write_text("band,wavelength (um)\n1,0.45\n2,0.55\n3,0.67\n4,0.8\n")
    assert cubes(tmp_path, splits="test").info().wavelengths == NM
    (tmp_path / "other.txt").write_text("# nm\n" + "\n".join(str(nm + 1) for nm in NM))
    assert cubes(tmp_path, splits="test", wavelengths=tmp_path / "other.txt").info().wavelengths[0] == 451.0


def test_units(caplog: pytest.LogCaptureFixture) -> None:
    assert in_nanometres([0.4, 2.5], "x") == (400.0, 2500.0)
    with caplog.at_level(logging.WARNING):
        assert in_nanometres([0.4, 2.5], "x", "nm") == (400.0, 2500.0)
    assert "x say 'nm', but 0.4 to 2.5 can only be micrometres" in caplog.text
    for values, unit in (([1000.0, 2000.0], "cm-1"), ([1.0, 2500.0], ""), ([float("nan")], ""), ([], "")):
        with pytest.raises(BadInputError, match="wavelengths of x"):
            in_nanometres(values, "x", unit)


def test_lists_of_bands_and_wavelengths(tmp_path: Path) -> None:
    assert parse_bands("0-2+7+10-20:5") == (0, 1, 2, 7, 10, 15, 20)
    assert len(parse_wavelengths("400-1000:20+1025-2475:60")) == 56
    for text in ("5-2", "a", "1+1", "-1"):
        with pytest.raises(BadInputError, match="bands="):
            parse_bands(text)
    for text in ("400-", "400-300:5", "400-500", "500:5"):
        with pytest.raises(BadInputError, match="no list of wavelengths"):
            parse_wavelengths(text)
    (tmp_path / "two.csv").write_text("1,400\n2,500\n")
    with pytest.raises(BadInputError, match=r"two\.csv has 2 columns and 0 of them named"):
        read_wavelengths(tmp_path / "two.csv")
    with pytest.raises(BadInputError, match="no wavelengths at"):
        parse_wavelengths("nothing.txt")


# --- reflectance, leaf, masks, size


def test_white_and_dark_reference(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    dark = generator.integers(5, 10, (3, COLUMNS, BANDS)).astype(np.uint16)
    white = generator.integers(500, 900, (4, COLUMNS, BANDS)).astype(np.uint16)
    path = envi(tmp_path / "a" / "x.hdr")
    references = {"white": envi(tmp_path / "w.hdr", white), "dark": envi(tmp_path / "d.hdr", dark)}
    by_column = (CUBE - dark.mean(0)) / (white.mean(0) - dark.mean(0))
    np.testing.assert_allclose(only(path, **references), by_column.transpose(2, 0, 1), rtol=1e-4)
    references["white"] = envi(tmp_path / "w.hdr", white[:, :2])  # another width: by band
    by_band = (CUBE - dark.mean((0, 1))) / (white[:, :2].mean((0, 1)) - dark.mean((0, 1)))
    np.testing.assert_allclose(only(path, **references), by_band.transpose(2, 0, 1), rtol=1e-4)
    with pytest.raises(BadInputError, match=r"d\.hdr is not brighter than dark in 4 of 4 bands, the first is 0"):
        only(path, white=references["dark"], dark=references["white"])
    with pytest.raises(BadInputError, match="dark= needs white="):
        only(path, dark=references["dark"])
    references["white"] = envi(tmp_path / "w.hdr", white[..., :2])
    references["dark"] = envi(tmp_path / "d.hdr", dark[..., :2])
    with pytest.raises(BadInputError, match=r"x\.hdr has 4 bands, white reference .* 2"):
        only(path, **references)


def test_references_are_no_samples_and_no_class(tmp_path: Path) -> None:
    envi(tmp_path / "sick" / "x.hdr")
    envi(tmp_path / "sick" / "y.hdr")
    white = envi(tmp_path / "refs" / "white.hdr", CUBE + 5000)
    dark = envi(tmp_path / "refs" / "dark.hdr", CUBE // 100)
    assert cubes(tmp_path).info().classes == ("refs", "sick")  # nothing says what they are
    data = cubes(tmp_path, splits="test", white=white, dark=dark)
    assert data.info().classes == ("sick",)
    assert sorted(data.ids("test")) == ["sick/x", "sick/y"]
    assert data.left_out() == {}  # type: ignore[attr-defined]
    named_otherwise = tmp_path / "sick" / ".." / "sick" / "y.hdr"
    data = cubes(tmp_path, splits="test", classes="sick", white=white, dark=named_otherwise, strict="true")
    assert list(data.ids("test")) == ["sick/x"]


def test_leaf_masks(tmp_path: Path) -> None:
    cube = np.full((ROWS, COLUMNS, BANDS), 0.2, np.float32)
    cube[:3, :, 3] = 0.6  # NDVI 0.5
    cube[0, 0] = 0
    path = envi(tmp_path / "x.hdr", cube)
    leaf = cubes(path, leaf="ndvi", threshold=0.4).sample("x").leaf
    assert leaf is not None
    assert leaf.sum() == 3 * COLUMNS - 1
    assert not leaf[0, 0]
    nonzero = cubes(path, leaf="nonzero", threshold=0).sample("x").leaf
    assert nonzero is not None
    assert nonzero.sum() == ROWS * COLUMNS - 1
    with pytest.raises(BadInputError, match=r"x\.hdr has no band within 20 nm of 900 nm, which leaf=nir needs"):
        cubes(path, leaf="nir").info()


def test_masks_and_size(tmp_path: Path) -> None:
    envi(tmp_path / "sick" / "x.hdr")
    envi(tmp_path / "well" / "y.hdr")
    (tmp_path / "masks" / "sick").mkdir(parents=True)
    mask = np.zeros((ROWS, COLUMNS), np.uint8)
    mask[:3] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "sick" / "x.png")
    data = cubes(tmp_path, splits="test", size=12)
    assert data.info().classes == ("sick", "well")
    assert list(data.ids("test")) == ["sick/x"]  # y has no mask
    sample = data.sample("sick/x")
    assert sample.input.shape == (BANDS, 12, 12)
    assert sample.mask is not None
    np.testing.assert_array_equal(sample.mask, np.arange(12)[:, None].repeat(12, 1) < 6)
    data = cubes(tmp_path, splits="test", no_mask="empty")
    well = data.sample("well/y")
    assert well.label == 1
    assert well.mask is not None
    assert not well.mask.any()
    np.save(tmp_path / "masks" / "sick" / "x.npy", mask)
    (tmp_path / "masks" / "sick" / "x.png").unlink()
    np.testing.assert_array_equal(cubes(tmp_path, splits="test").sample("sick/x").mask, mask > 0)


def test_resizing_averages(tmp_path: Path) -> None:
    cube = np.zeros((8, 8, 1), np.float32)
    cube[::2] = 1
    path = envi(tmp_path / "x.hdr", cube, wavelength=None)
    small = only(path, size=2)
    assert abs(small.mean() - 0.5) < 0.1


# --- splits, bad files, the contract


@pytest.fixture
def field(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    for name in ("sick", "well"):
        for number in range(8):
            cube = generator.integers(1, 4000, (ROWS, COLUMNS, BANDS)).astype(np.uint16)
            envi(tmp_path / name / f"{number}.hdr", cube)
    return tmp_path


def test_the_contract(field: Path) -> None:
    verdict = check_plugin("dataset", Spec("cubes", {"path": str(field), "size": "8", "leaf": "ndvi"}))
    assert verdict.passed, str(verdict)


def test_splits(field: Path) -> None:
    data = cubes(field)
    parts = [set(data.ids(split)) for split in ("fit", "validation", "test")]  # type: ignore[arg-type]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 16
    (field / "train").mkdir()
    (field / "sick").rename(field / "train" / "sick")
    (field / "well").rename(field / "train" / "well")
    envi(field / "test" / "sick" / "a.hdr")
    data = cubes(field)
    assert list(data.ids("test")) == ["test/sick/a"]
    assert len(data.ids("fit")) + len(data.ids("validation")) == 16
    assert cubes(field, classes="well").info().classes == ("well",)
    with pytest.raises(BadInputError, match="no class folder ill; it has sick, well"):
        cubes(field, classes="ill").info()


def cut(path: Path) -> None:
    data = path.with_suffix(".raw")
    data.write_bytes(data.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.with_suffix(".raw").write_bytes(b"")


def no_data(path: Path) -> None:
    path.with_suffix(".raw").unlink()


def no_header(path: Path) -> None:
    path.unlink()


def longer(path: Path) -> None:
    path.with_suffix(".raw").write_bytes(path.with_suffix(".raw").read_bytes() * 2)


def fewer_bands(path: Path) -> None:
    envi(path, CUBE[..., :3])


def other_bands(path: Path) -> None:
    envi(path, wavelength="{451, 551, 671, 801}")


def not_a_number(path: Path) -> None:
    cube = CUBE.astype(np.float32)
    cube[0, 0, 0] = np.nan
    envi(path, cube)


def half_a_header(path: Path) -> None:
    path.write_text(path.read_text()[:-3])


def rubbish(path: Path) -> None:
    path.write_bytes(b"\0\1\2")


def wrong_mask(path: Path) -> None:
    masks = path.parents[1] / "masks" / path.parent.name
    for other in path.parents[1].glob("*/*.hdr"):
        (path.parents[1] / "masks" / other.parent.name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (COLUMNS, ROWS)).save(path.parents[1] / "masks" / other.parent.name / f"{other.stem}.png")
    Image.new("L", (ROWS, COLUMNS)).save(masks / f"{path.stem}.png")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut, "holds 239 bytes, but 3.hdr announces 240 .* truncated"),
        (empty, "holds 0 bytes, but 3.hdr announces 240"),
        (longer, "of another shape or type"),
        (no_data, "has no data file beside it"),
        (no_header, "3.raw has no ENVI header"),
        (fewer_bands, r"has 3 bands from 450 to 670 nm, but 15 of 16 files have 4 bands .* pass resample="),
        (other_bands, "has 4 bands from 451 to 801 nm, but 15 of 16"),
        (not_a_number, "holds NaN or infinite values"),
        (half_a_header, "ends within the braces of 'wavelength'"),
        (rubbish, "is no text, so it is no ENVI header"),
        (wrong_mask, r"mask .*3\.png has 5 x 6 pixels, cube .*3\.hdr 6 x 5"),
    ],
)
def test_one_bad_file_is_named_and_stops_nothing(
    field: Path, spoil: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(field / "sick" / "3.hdr")
    data = cubes(field, splits="test")
    assert set(data.ids("test")) == {f"{name}/{n}" for name in ("sick", "well") for n in range(8)} - {"sick/3"}
    warned = [message for message in caplog.messages if "cubes leaves a file out" in message]
    assert len(warned) == 1
    assert re.search(reason, warned[0])
    assert str(field / "sick" / "3") in warned[0]
    with pytest.raises(BadInputError, match=reason):
        cubes(field, splits="test", strict="true").ids("test")
    with pytest.raises(BadInputError, match="no sample 'sick/3'"):
        data.sample("sick/3")


def test_pixels_that_are_not_finite_can_be_ignored(field: Path) -> None:
    not_a_number(field / "sick" / "3.hdr")
    data = cubes(field, splits="test", nan="zero")
    assert data.info().has == {"labels", "ignore"}
    sample = data.sample("sick/3")
    assert sample.ignore is not None
    assert sample.ignore.sum() == 1
    assert np.isfinite(sample.input).all()
    with pytest.raises(BadInputError, match=r"3\.hdr holds NaN or infinite values in 1 pixels"):
        cubes(field, splits="test", check="headers").sample("sick/3")


def test_resampling_brings_different_cameras_together(field: Path) -> None:
    other_bands(field / "sick" / "3.hdr")
    data = cubes(field, splits="test", resample="460-790:30")
    assert len(data.ids("test")) == 16
    assert data.sample("sick/3").input.shape[0] == data.info().channels == 12


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no file is a cube"):
        cubes(tmp_path).info()
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"1 files cannot be used, the first: .*x\.npy is empty"):
        cubes(tmp_path).info()


def test_the_content_hash_follows_the_files(field: Path) -> None:
    before = cubes(field).content_hash()
    assert cubes(field).content_hash() == before
    assert cubes(field, range="400-700").content_hash() != before
    envi(field / "sick" / "3.hdr", CUBE + 1)
    assert cubes(field).content_hash() != before


# --- real files


@pytest.mark.data
def test_a_real_envi_cube_with_its_references(real_data: Path) -> None:
    folder = real_data / "hsi" / "plantcv_maize_B73"
    path = folder / "4-22-22_right_same_B73_top_00.hdr"
    raw, white, dark = (
        np.fromfile(file.with_suffix(".raw"), "<u2").reshape(31, 580, 43).astype(np.float64)
        for file in (path, folder / "white_reference_crop.hdr", folder / "dark_reference_crop.hdr")
    )
    references = {"white": folder / "white_reference_crop.hdr", "dark": folder / "dark_reference_crop.hdr"}
    info = cubes(path).info()
    assert (info.channels, info.wavelengths[0], info.wavelengths[-1]) == (580, 366.551, 1048.421)
    np.testing.assert_array_equal(only(path), raw.transpose(1, 0, 2))
    reflectance = (raw - dark.mean(0)) / (white.mean(0) - dark.mean(0))
    np.testing.assert_allclose(only(path, **references), reflectance.transpose(1, 0, 2), rtol=1e-3, atol=1e-3)
    small = cubes(path, range="400-1000", resample="410-990:20", size=16, leaf="ndvi", threshold=0.1, **references)
    sample = small.sample(small.ids("test")[0])
    assert sample.input.shape == (30, 16, 16)
    assert sample.leaf is not None
    assert 0 < sample.leaf.mean() < 1
