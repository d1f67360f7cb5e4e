"""`bench data`: how to get a data set, what is there, what was left out, and the exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from vitxai.bench.cli import app
from vitxai.bench.contract import Spec, UnknownNameError, datasets
from vitxai.bench.data_facts import needed, recipe_of, take_stock
from vitxai.datasets._catalogue import Recipe

WITH_RECIPE = (
    "csv", "cubes", "folder", "hyperleaf2024", "indian_pines", "jasper_ridge", "mnist", "pavia_university", "salinas",
    "samson", "tomato_bls", "voc",
)  # fmt: skip


def bench(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    mask = np.zeros((4, 5), bool)
    mask[0] = True
    for name in ("sick", "well"):
        (tmp_path / name).mkdir()
        for number in range(6):
            values = np.full((4, 5, 3), number, np.uint16)
            np.savez(tmp_path / name / f"{number}.npz", cube=values, mask=mask, wavelengths=[500, 600, 700])
    (tmp_path / "sick" / "bad.npz").write_bytes(b"")
    return tmp_path


def test_all_data_sets_are_listed() -> None:
    result = bench("data")
    assert result.exit_code == 0
    for name in (*WITH_RECIPE, "leaves", "glyphs"):
        assert name in result.stdout
    assert "``" not in result.stdout


@pytest.mark.parametrize("name", WITH_RECIPE)
def test_recipes_are_complete(name: str) -> None:
    recipe = datasets.get(name).recipe  # type: ignore[attr-defined]
    assert isinstance(recipe, Recipe)
    for text in (recipe.title, recipe.get, recipe.layout, recipe.size, recipe.licence, recipe.citation):
        assert text.strip()
    result = bench("data", name)
    assert result.exit_code == 0
    for key in ("title", "get", "size", "licence", "cite", "lacks", "layout"):
        assert f"\n{key}" in f"\n{result.stdout}"
    assert f"Check what you have: bench data {name} --path" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 112
    assert set(re.findall(r"https://\S+", recipe.get)) <= set(result.stdout.split())


def test_sets_without_truth_say_so() -> None:
    for name in ("hyperleaf2024", "tomato_bls"):
        assert "localisation and spectral truth cannot be scored" in str(recipe_of(name)["lacks"])


def test_what_is_there_is_counted(cubes: Path) -> None:
    result = bench("data", "cubes", "--path", cubes)
    assert result.exit_code == 0
    assert "2: sick; well" in result.stdout
    assert "3, 500 to 700 nm" in result.stdout
    assert "25.0 % of the pixels" in result.stdout
    assert "left out    1 files:" in result.stdout
    assert "bad.npz is empty" in " ".join(result.stdout.split())
    assert bench("data", "cubes", "--path", cubes, "--strict").exit_code == 1
    stock = take_stock(Spec("cubes", {"path": str(cubes)}))
    assert sum(count.ids for count in stock.splits.values()) == 12
    assert sum(sum(count.classes.values()) for count in stock.splits.values()) == 12
    assert list(stock.left_out) == [str(cubes / "sick" / "bad.npz")]


def test_as_many_are_read_as_asked_for(cubes: Path) -> None:
    stock = take_stock(Spec("cubes", {"path": str(cubes), "splits": "test"}), at_most=5)
    assert (stock.splits["test"].ids, stock.splits["test"].read) == (12, 5)
    assert stock.splits["fit"].read == 0
    assert "12 samples, of which 5 were read" in bench("data", f"cubes,path={cubes},splits=test", "--read", 5).stdout


def test_files_that_do_not_fit_are_exit_code_1(tmp_path: Path) -> None:
    result = bench("data", "salinas", "--path", tmp_path)
    assert result.exit_code == 1
    assert "not usable: salinas needs an array salinas_corrected" in result.stdout


def test_pictures_that_cannot_be_read_are_told_and_counted(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.effect_noise((16, 16), 50).convert("RGB").save(tmp_path / "a" / f"{number}.png")
    bad = tmp_path / "a" / "3.png"
    bad.write_bytes(bad.read_bytes()[:100])
    result = bench("data", "folder", "--path", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "left out    1 files:" in result.output
    assert "3.png cannot be read as a picture" in " ".join(result.output.split())
    assert bench("data", "folder", "--path", str(tmp_path), "--strict").exit_code == 1
    strict = bench("data", "folder,strict=true", "--path", str(tmp_path))
    assert strict.exit_code == 1
    assert "not usable:" in strict.output
    for picture in (tmp_path / "a").iterdir():
        picture.write_bytes(b"no")
    assert "no sample that was looked at can be read" in bench("data", "folder", "--path", str(tmp_path)).output


def test_built_in_data_need_no_path() -> None:
    result = bench("data", "leaves", "--read", 2)
    assert result.exit_code == 0
    assert "Built in" in result.stdout
    assert needed("leaves") == ()
    assert needed("cubes") == ("path",)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset 'salina'"):
        bench("data", "salina")


@pytest.mark.data
def test_jasper_ridge_is_counted(real_data: Path) -> None:
    result = bench("data", "jasper_ridge", "--path", real_data / "hsi", "--read", 0)
    assert result.exit_code == 0
    assert "4: tree; water; dirt; road" in result.stdout
