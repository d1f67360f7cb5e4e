"""Facts of a cell outlive its worker, and not what they follow from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vitxai.bench.cell import load_cell
from vitxai.bench.contract import Spec, datasets
from vitxai.bench.facts import keep_facts, known_facts, weights_file
from vitxai.bench.store import Store
from vitxai.bench.tasks import Cell


@pytest.fixture
def cell(tiny_plugins: tuple[Path, ...], tiny_models: tuple[str, str], tmp_path: Path) -> Cell:
    """A cell on a copy of a tiny model, so that its file may be changed."""
    weights = tmp_path / "weights.pt"
    shutil.copy(Spec.parse(tiny_models[0]).params["path"], weights)
    return Cell(
        board="squares",
        kind="tiny",
        dataset=Spec("tiny_squares"),
        model=Spec("file", {"path": str(weights)}),
        n=4,
        chunk=4,
        batch_size=4,
        target="prediction",
        seed=0,
        memory_gb=2.0,
        threads=1,
        validation_n=4,
        device="cpu",
        store=tmp_path / "store",
        plugins=tiny_plugins,
    )


def test_what_a_worker_said_is_known_without_one(cell: Cell) -> None:
    store = Store(cell.store)
    assert known_facts(cell, store) is None
    _, facts = load_cell(cell)
    keep_facts(cell, store, facts)
    assert known_facts(cell, store) == facts


@pytest.mark.parametrize("change", [{"n": 5}, {"memory_gb": 1.0}, {"dataset": Spec("tiny_squares", {"seed": "1"})}])
def test_another_cell_is_not_known(cell: Cell, change: dict) -> None:
    store = Store(cell.store)
    keep_facts(cell, store, load_cell(cell)[1])
    assert known_facts(replace(cell, **change), store) is None


def test_files_that_the_data_set_left_out_are_told_and_part_of_the_key(cell: Cell, tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (30 * number, 0, 0)).save(folder / f"{number}.png")
    data = Spec("folder", {"path": str(tmp_path / "data"), "size": "16", "splits": "test"})
    cell, store = replace(cell, dataset=data), Store(cell.store)
    keep_facts(cell, store, load_cell(cell)[1])
    shutil.copy(tmp_path / "data" / "a" / "0.png", tmp_path / "data" / "a" / "new.png")
    shutil.copy(tmp_path / "data" / "a" / "0.png", tmp_path / "data" / "a" / "new.jpg")
    assert known_facts(cell, store) is None  # though the samples are the same
    _, facts = load_cell(cell)
    assert len(facts.ids) == 4
    assert facts.left_out == {**datasets.create(data).left_out()}  # type: ignore[attr-defined]
    assert "new.jpg" in "".join(facts.left_out.values())
    keep_facts(cell, store, facts)
    assert known_facts(cell, store) == facts


def test_other_weights_in_the_same_file_are_not_known(cell: Cell, tiny_models: tuple[str, str]) -> None:
    store = Store(cell.store)
    keep_facts(cell, store, load_cell(cell)[1])
    shutil.copy(Spec.parse(tiny_models[1]).params["path"], cell.model.params["path"])
    assert known_facts(cell, store) is None


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("builtin,id=glyphs,seed=2", "glyphs_s2.safetensors"),
        ("builtin,id=glyphs", "glyphs_s0.safetensors"),
        ("file,path=a/b.pt", "b.pt"),
        ("timm,id=vit_tiny_patch16_224", None),
        ("builtin", None),
        ("builtin,id=glyphs,seed=two", None),
    ],
)
def test_only_models_of_one_file_are_kept(spec: str, name: str | None) -> None:
    found = weights_file(Spec.parse(spec))
    assert (found and found.name) == name
