"""The labelled scenes: windows, blocks that share no pixel, truth by pixel, on tiny copies of the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from vitxai.bench.check import check_plugin
from vitxai.bench.contract import BadInputError, Dataset, Spec, datasets
from vitxai.datasets._scene_bands import aviris_1992, evenly, kept_bands
from vitxai.datasets._scenes import SceneDataset

ROWS, COLUMNS = 40, 33
LAYOUTS = {
    "indian_pines": ("indian_pines_corrected", "indian_pines_gt", 200, 16),
    "pavia_university": ("paviaU", "paviaU_gt", 103, 9),
    "salinas": ("salinas_corrected", "salinas_gt", 204, 16),
}


def scene(name: str, path: Path, **params: object) -> Dataset:
    return datasets.create(Spec(name, {"path": str(path), **{key: str(value) for key, value in params.items()}}))


def write(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    cube_key, map_key, bands, classes = LAYOUTS[name]
    generator = np.random.default_rng(0)
    cube = generator.integers(900, 9000, (ROWS, COLUMNS, bands)).astype(np.uint16)
    labels = np.kron(generator.integers(0, classes + 1, (10, 11)), np.ones((4, 3))).astype(np.uint8)
    savemat(folder / f"{cube_key.capitalize()}.mat", {cube_key: cube})
    savemat(folder / f"{map_key.capitalize()}.mat", {map_key: labels})
    return cube, labels


@pytest.mark.parametrize("name", LAYOUTS)
def test_windows_of_the_true_layout(tmp_path: Path, name: str) -> None:
    cube, labels = write(tmp_path, name)
    data = scene(name, tmp_path)
    info = data.info()
    assert (info.channels, len(info.wavelengths), len(info.classes)) == (cube.shape[2], cube.shape[2], LAYOUTS[name][3])
    assert info.has == {"labels", "mask", "ignore"}
    id = data.ids("test")[0]
    row, column = (int(part) for part in id.split("-"))
    sample = data.sample(id)
    where = np.s_[row - 4 : row + 4, column - 4 : column + 4]
    np.testing.assert_allclose(sample.input, cube[where].transpose(2, 0, 1) / 1e4, rtol=1e-6)
    assert sample.label == labels[row, column] - 1
    np.testing.assert_array_equal(sample.mask, labels[where] == labels[row, column])
    np.testing.assert_array_equal(sample.ignore, labels[where] == 0)
    verdict = check_plugin("dataset", Spec(name, {"path": str(tmp_path)}))
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize(("window", "stride", "block"), [(8, 4, 0), (5, 1, 7), (3, 2, 3)])
def test_splits_share_no_pixel(tmp_path: Path, window: int, stride: int, block: int) -> None:
    write(tmp_path, "pavia_university")
    data = scene("pavia_university", tmp_path, window=window, stride=stride, block=block, test_stride=1)
    seen = {}
    for split in ("fit", "validation", "test"):
        seen[split] = np.zeros((ROWS, COLUMNS), bool)
        assert data.ids(split)  # type: ignore[arg-type]
        for id in data.ids(split):  # type: ignore[arg-type]
            row, column = (int(part) - window // 2 for part in id.split("-"))
            assert 0 <= row <= ROWS - window
            assert 0 <= column <= COLUMNS - window
            seen[split][row : row + window, column : column + window] = True
    for one, other in (("fit", "validation"), ("fit", "test"), ("validation", "test")):
        assert not (seen[one] & seen[other]).any()


def test_test_windows_share_no_pixel_with_one_another(tmp_path: Path) -> None:
    write(tmp_path, "salinas")
    data = scene("salinas", tmp_path, block=16)
    counts = np.zeros((ROWS, COLUMNS), int)
    for id in data.ids("test"):
        row, column = (int(part) - 4 for part in id.split("-"))
        counts[row : row + 8, column : column + 8] += 1
    assert counts.max() == 1


def test_the_main_class_of_a_window(tmp_path: Path) -> None:
    _, labels = write(tmp_path, "indian_pines")
    data = scene("indian_pines", tmp_path, label="main")
    others = 0
    for id in data.ids("fit", 20):
        row, column = (int(part) for part in id.split("-"))
        inside = labels[row - 4 : row + 4, column - 4 : column + 4]
        main = np.bincount(inside[inside > 0]).argmax()
        assert data.sample(id).label == main - 1
        others += main != labels[row, column]
    assert others > 0, "some windows have a main class that is not their centre's"


def test_wavelengths() -> None:
    assert len(aviris_1992()) == 220
    assert (aviris_1992()[0], aviris_1992()[-1]) == (400.02, 2498.96)
    assert len(kept_bands(220, "104-108 150-163 220")) == 200
    assert len(kept_bands(224, "108-112 154-167 224")) == 204
    assert kept_bands(5, "2-3 5") == [0, 3]
    assert evenly(400, 500, 3) == (400.0, 450.0, 500.0)


def materials(folder: Path, name: str, one_file: bool) -> tuple[np.ndarray, np.ndarray]:
    """A scene [rows, columns, bands] and shares [rows, columns, materials], written in column order."""
    rows, columns, bands, count = 30, 26, *((198, 4) if name == "jasper_ridge" else (156, 3))
    generator = np.random.default_rng(3)
    shares = generator.dirichlet(np.full(count, 0.3), (rows, columns))
    members = generator.uniform(0, 1, (bands, count))
    cube = shares @ members.T
    facts = {"nRow": rows, "nCol": columns, "Y" if one_file else "V": cube.reshape(rows * columns, bands, order="F").T}
    truth = {"A": shares.reshape(rows * columns, count, order="F").T, "M": members}
    if one_file:
        savemat(folder / "all.mat", facts | truth)
    else:
        (folder / "GroundTruth").mkdir()
        savemat(folder / "scene.mat", facts)
        savemat(folder / "GroundTruth" / "end.mat", truth)
    return cube, shares


@pytest.mark.parametrize("one_file", [True, False])
def test_abundances_in_column_order(tmp_path: Path, one_file: bool) -> None:
    cube, shares = materials(tmp_path, "samson", one_file)
    data = scene("samson", tmp_path, window=6)
    info = data.info()
    assert info.classes == ("soil", "tree", "water")
    assert (info.wavelengths[0], info.wavelengths[-1]) == (401.0, 889.0)
    assert info.has == {"labels", "mask"}
    for id in data.ids("test"):
        row, column = (int(part) for part in id.split("-"))
        sample = data.sample(id)
        where = np.s_[row - 3 : row + 3, column - 3 : column + 3]
        np.testing.assert_allclose(sample.input, cube[where].transpose(2, 0, 1), rtol=1e-5)
        assert sample.label == shares[row, column].argmax()
        np.testing.assert_array_equal(sample.mask, shares[where][..., sample.label] >= 0.5)
    verdict = check_plugin("dataset", Spec("samson", {"path": str(tmp_path), "window": "6"}))
    assert verdict.passed, str(verdict)


@pytest.mark.parametrize("turned", [False, True])
def test_a_square_map_is_turned_as_the_scene_is(tmp_path: Path, turned: bool) -> None:
    generator = np.random.default_rng(3)
    shares = generator.dirichlet(np.full(3, 0.3), (30, 30))
    members = generator.uniform(0, 1, (156, 3))
    cube = shares @ members.T
    stored = shares.transpose(1, 0, 2) if turned else shares
    savemat(tmp_path / "Samson.mat", {"Y": cube.reshape(900, 156, order="F").T, "S_GT": stored, "M": members})
    data = scene("samson", tmp_path, window=4)
    row, column = (int(part) for part in data.ids("test")[0].split("-"))
    assert data.sample(data.ids("test")[0]).label == shares[row, column].argmax()


def test_matlab_7_3(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    cube, _ = write(tmp_path, "pavia_university")
    before = scene("pavia_university", tmp_path)
    id = before.ids("test")[0]
    expected = before.sample(id)
    (tmp_path / "Paviau.mat").unlink()
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["paviaU"] = cube.transpose(2, 1, 0)
    sample = scene("pavia_university", tmp_path).sample(id)
    np.testing.assert_array_equal(sample.input, expected.input)
    np.testing.assert_array_equal(sample.mask, expected.mask)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"`bench data salinas` says how"):
        scene("salinas", tmp_path / "nowhere").info()
    with pytest.raises(BadInputError, match=r"needs an array salinas_corrected or salinas .* no \.mat file"):
        scene("salinas", tmp_path).info()
    write(tmp_path, "salinas")
    (tmp_path / "Salinas_corrected.mat").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(BadInputError, match=r"Salinas_corrected\.mat is a web page, not a \.mat file"):
        scene("salinas", tmp_path).info()
    (tmp_path / "Salinas_corrected.mat").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"Salinas_corrected\.mat is empty"):
        scene("salinas", tmp_path).info()


def test_maps_and_scenes_that_do_not_fit(tmp_path: Path) -> None:
    cube, labels = write(tmp_path, "pavia_university")
    savemat(tmp_path / "Paviau_gt.mat", {"paviaU_gt": labels[:-1]})
    with pytest.raises(BadInputError, match="the truth of pavia_university has shape"):
        scene("pavia_university", tmp_path).info()
    savemat(tmp_path / "Paviau_gt.mat", {"paviaU_gt": labels + 1})
    with pytest.raises(BadInputError, match="holds 1 to 10; classes are 1 to 9"):
        scene("pavia_university", tmp_path).info()
    savemat(tmp_path / "Paviau.mat", {"paviaU": cube[..., :50]})
    savemat(tmp_path / "Paviau_gt.mat", {"paviaU_gt": labels})
    with pytest.raises(BadInputError, match="has 50 bands; known are 103"):
        scene("pavia_university", tmp_path).info()
    write(tmp_path, "pavia_university")
    with pytest.raises(BadInputError, match="three splits need three: pass a smaller block"):
        scene("pavia_university", tmp_path, window=30).ids("test")
    with pytest.raises(BadInputError, match="does not fit"):
        scene("pavia_university", tmp_path, window=41).ids("test")


@pytest.mark.data
def test_jasper_ridge(real_data: Path) -> None:
    path = real_data / "hsi" / "jasperRidge2_R198.mat"
    stored = loadmat(path)
    data = scene("jasper_ridge", path)
    assert isinstance(data, SceneDataset)
    info = data.info()
    assert info.classes == ("tree", "water", "dirt", "road")
    assert [str(name[0][0])[2:] for name in stored["cood"]] == list(info.classes)
    assert (info.channels, info.wavelengths[-1]) == (198, round(380 + 218 * 2120 / 223, 2))
    for split in ("fit", "validation", "test"):
        assert {data.sample(id).label for id in data.ids(split)} == {0, 1, 2, 3}  # type: ignore[arg-type]
    for id in data.ids("test"):
        row, column = (int(part) for part in id.split("-"))
        pixel = column * 100 + row  # column order
        sample = data.sample(id)
        np.testing.assert_allclose(sample.input[:, 4, 4], stored["Y"][:, pixel] / 5000, rtol=1e-6)
        assert sample.label == stored["A"][:, pixel].argmax()
        assert sample.mask is not None
        assert sample.mask[4, 4] == (stored["A"][sample.label, pixel] >= 0.5)
    # The abundances explain the scene as it lies, and not turned: A and Y share one order of pixels.
    truth, pixels = data._truth.abundances, data._pixels
    assert truth is not None
    members = stored["M"] * (stored["Y"].max() / 5000) / stored["M"].max()
    lying, turned = (np.square(pixels - way @ members.T).mean() for way in (truth, truth.transpose(1, 0, 2)))
    assert lying < turned / 3
    # Water is darker than vegetation in the near infrared.
    band = int(np.argmin(np.abs(np.array(info.wavelengths) - 850)))
    tree, water = (pixels[..., band][truth[..., material] > 0.9].mean() for material in (0, 1))
    assert water < tree / 4
