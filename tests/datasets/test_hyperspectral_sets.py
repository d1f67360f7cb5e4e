"""hyperleaf2024 and tomato_bls: tiny copies of the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets
from vitxai.datasets.hyperleaf2024 import band_centres
from vitxai.datasets.tomato_bls import camera_of, time_of

ROWS, COLUMNS = 6, 8


def make(name: str, path: Path, **params: object) -> Dataset:
    return datasets.create(Spec(name, {"path": str(path), **{key: str(value) for key, value in params.items()}}))


def everything(data: Dataset) -> list[str]:
    return sorted(id for split in ("fit", "validation", "test") for id in data.ids(split))  # type: ignore[arg-type]


# --- HyperLeaf2024


@pytest.fixture
def hyperleaf(tmp_path: Path) -> Path:
    tifffile = pytest.importorskip("tifffile")
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    lines = ["ImageId,GrainWeight,Gsw,PhiPS2,Fertilizer,Heerup,Kvium,Rembrandt,Sheriff"]
    for number in range(12):
        cube = generator.integers(1, 60000, (204, ROWS, COLUMNS)).astype(np.uint16)
        cube[:, :2] = 0
        tifffile.imwrite(tmp_path / "images" / f"{number:05d}.tiff", cube, photometric="minisblack")
        marks = ",".join(str(int(number % 4 == cultivar)) for cultivar in range(4))
        lines.append(f"{number},5000,0.1,0.6,{(number % 3) / 2},{marks}")  # without leading zeros
    (tmp_path / "train.csv").write_text("\n".join(lines))
    return tmp_path


def test_hyperleaf_follows_the_layout(hyperleaf: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    data = make("hyperleaf2024", hyperleaf)
    info = data.info()
    assert info.classes == ("Heerup", "Kvium", "Rembrandt", "Sheriff")
    assert (info.channels, info.has) == (204, {"labels", "leaf"})
    assert everything(data) == [f"{number:05d}" for number in range(12)]
    sample = data.sample("00006")
    stored = tifffile.imread(hyperleaf / "images" / "00006.tiff")
    np.testing.assert_allclose(sample.input, stored / 65535, rtol=1e-6)
    assert sample.label == 2
    np.testing.assert_array_equal(sample.leaf, stored.sum(0) > 0)
    assert make("hyperleaf2024", hyperleaf, task="fertilizer").sample("00005").label == 2
    both = make("hyperleaf2024", hyperleaf, task="both")
    assert both.info().classes[both.sample("00006").label or 0] == "Rembrandt_fertilizer_0"
    verdict = check_plugin("dataset", Spec("hyperleaf2024", {"path": str(hyperleaf)}))
    assert verdict.passed, str(verdict)


def test_hyperleaf_wavelengths_are_the_published_ones() -> None:
    centres = band_centres()
    assert len(centres) == 204
    published = {0: 397.32, 1: 400.20, 2: 403.09, 40: 513.40, 100: 690.64, 150: 841.18, 202: 1000.49, 203: 1003.58}
    for band, nm in published.items():
        assert abs(centres[band] - nm) <= 0.0101


def test_hyperleaf_saved_again_with_the_bands_last(hyperleaf: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = hyperleaf / "images" / "00003.tiff"
    cube = tifffile.imread(path)
    tifffile.imwrite(path, cube.transpose(1, 2, 0), photometric="minisblack")
    np.testing.assert_allclose(make("hyperleaf2024", hyperleaf).sample("00003").input, cube / 65535, rtol=1e-6)


def test_hyperleaf_rows_that_do_not_fit_are_left_out(hyperleaf: Path) -> None:
    (hyperleaf / "images" / "00001.tiff").unlink()
    with (hyperleaf / "train.csv").open("a") as file:
        file.write("\n12,1,1,1,0.7,1,0,0,0\n13,1,1,1,0.5,1,1,0,0\n3,1,1,1,0.5,1,0,0,0\nx,1,1,1,0.5,1,0,0,0\n")
    for number in (12, 13):
        (hyperleaf / "images" / f"{number:05d}.tiff").write_bytes((hyperleaf / "images" / "00000.tiff").read_bytes())
    data = make("hyperleaf2024", hyperleaf)
    assert everything(data) == ["00000", *(f"{number:05d}" for number in range(2, 12))]
    reasons = " ".join(data.left_out().values())  # type: ignore[attr-defined]
    for part in ("00001.tiff is missing", "Fertilizer=0.7", "[1.0, 1.0, 0.0, 0.0]", "'00003'", "'0000x'"):
        assert part in reasons
    (hyperleaf / "train.csv").write_text("ImageId,Fertilizer\n0,1\n")
    with pytest.raises(BadInputError, match="has no column Heerup, Kvium, Rembrandt, Sheriff"):
        make("hyperleaf2024", hyperleaf).info()
    (hyperleaf / "train.csv").unlink()
    with pytest.raises(BadInputError, match=r"no train\.csv in"):
        make("hyperleaf2024", hyperleaf).info()


def test_hyperleaf_traits_are_no_classes(hyperleaf: Path) -> None:
    pytest.importorskip("tifffile")
    table = hyperleaf / "train.csv"
    table.write_text(table.read_text().replace("\n6,5000,0.1", "\n6,4321.5,0.25").replace("\n7,5000", "\n7,"))
    data = make("hyperleaf2024", hyperleaf, task="traits")
    info = data.info()
    assert (info.classes, info.traits) == ((), ("GrainWeight", "Gsw", "PhiPS2"))
    assert "labels" not in info.has
    sample = data.sample("00006")
    assert sample.label is None
    np.testing.assert_array_equal(sample.traits, np.array([4321.5, 0.25, 0.6], dtype=np.float32))
    assert "00007" not in everything(data)
    assert "GrainWeight=''" in " ".join(data.left_out().values())  # type: ignore[attr-defined]
    assert data.content_hash() != make("hyperleaf2024", hyperleaf).content_hash()
    verdict = check_plugin("dataset", Spec("hyperleaf2024", {"path": str(hyperleaf), "task": "traits"}))
    assert verdict.passed, str(verdict)


# --- tomato


def scan(path: Path, bands: int = 5) -> np.ndarray:
    cube = np.random.default_rng(len(path.name)).integers(0, 10000, (ROWS, bands, COLUMNS)).astype("<u2")
    listed = ", ".join(f"{nm:.2f}" for nm in np.linspace(890.68, 1719.81, bands))
    path.parent.mkdir(parents=True, exist_ok=True)
    cube.tofile(path)
    path.with_name(path.name + ".hdr").write_text(
        f"ENVI\ninterleave = bil\ndata type = 12\nlines = {ROWS}\nsamples = {COLUMNS}\nbands = {bands}\n"
        "bit depth = 16\nshutter = 9.9\nimager serial number = 0\nrotation = [(0, 0), (1, 1)]\nlabel = 2hrafterino09\n"
        f"byte order = 0\nheader offset = 0\nreflectance scale factor = 10000\nwavelength units = nm\n"
        f"wavelength = {{{listed}}}\n"
    )
    return cube


@pytest.fixture
def tomato(tmp_path: Path) -> Path:
    for run in range(1, 4):
        scan(tmp_path / "SWIR" / f"before inoculation swir run{run}.bil")
        scan(tmp_path / "SWIR" / f"0dai_2hr_swir_bc_run{run}.bil")
        scan(tmp_path / "SWIR" / "later" / f"3dai_SWIR_bc_run{run}.bil")
        scan(tmp_path / "VISNIR" / f"3dai_visnir_bc_run{run}.bil", bands=7)
    scan(tmp_path / "SWIR" / "swir_cloth_run1.bil")
    return tmp_path


def test_tomato_follows_the_layout(tomato: Path) -> None:
    data = make("tomato_bls", tomato, size=0)
    info = data.info()
    assert info.classes == ("before", "2h", "3dai")
    assert (info.channels, info.wavelengths[0], info.wavelengths[-1]) == (5, 890.68, 1719.81)
    assert info.has == {"labels"}
    assert len(everything(data)) == 9
    id = "SWIR/later/3dai_SWIR_bc_run2"
    sample = data.sample(id)
    assert sample.label == 2
    stored = np.fromfile(tomato / f"{id}.bil", "<u2").reshape(ROWS, 5, COLUMNS)
    np.testing.assert_allclose(sample.input, stored.transpose(1, 0, 2) / 10000, rtol=1e-6)
    assert make("tomato_bls", tomato, labels="after").sample(id).label == 1
    assert make("tomato_bls", tomato, camera="visnir").info().channels == 7
    assert make("tomato_bls", tomato, size=0, leaf="nir").sample(id).leaf is not None
    verdict = check_plugin("dataset", Spec("tomato_bls", {"path": str(tomato), "size": "8"}))
    assert verdict.passed, str(verdict)


def test_tomato_scans_that_cannot_be_read_are_left_out(tomato: Path) -> None:
    scan(tomato / "SWIR" / "swir_unknown_run1.bil")
    scan(tomato / "3dai_bc_run1.bil")
    cut = tomato / "SWIR" / "0dai_2hr_swir_bc_run1.bil"
    cut.write_bytes(cut.read_bytes()[:-10])
    data = make("tomato_bls", tomato)
    assert len(everything(data)) == 8
    reasons = " ".join(data.left_out().values())  # type: ignore[attr-defined]
    for part in ("names no time point", "names no camera", "truncated"):
        assert part in reasons


@pytest.mark.parametrize(
    ("name", "camera", "time"),
    [
        ("0dai_2hr_swir_bc_run1.bil.hdr", "swir", "2h"),
        ("Before Inoculation VISNIR run 2.bil.hdr", "visnir", "before"),
        ("swir_bi_run1.bil.hdr", "swir", "before"),
        ("vis_12dai_run1.bil.hdr", "visnir", "12dai"),
        ("VISNIR D3 run1.bil.hdr", "visnir", "3dai"),
        ("2h_swir.bil.hdr", "swir", "2h"),
    ],
)
def test_names(name: str, camera: str, time: str) -> None:
    assert (camera_of(Path(name)), time_of(Path(name))) == (camera, time)
