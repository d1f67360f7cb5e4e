"""Attention by layer: figures by hand, and the files of the command."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from vitxai.bench.contract import UnsupportedError
from vitxai.bench.layers import Point, as_markdown, layer_curves, of_layer, write_curves


def test_uniform_attention_has_full_entropy_and_every_key_is_active() -> None:
    figures = of_layer(torch.full((2, 3, 5, 5), 0.2), prefix=1)
    assert figures["entropy"].tolist() == pytest.approx([1.0, 1.0])
    assert figures["active"].tolist() == [1.0, 1.0]
    assert figures["prefix_0"].tolist() == pytest.approx([0.2, 0.2])


def test_a_sink_takes_all() -> None:
    attention = torch.zeros(1, 1, 4, 4)
    attention[..., 1] = 1.0
    figures = of_layer(attention, prefix=2)
    assert [figures[name].item() for name in ("prefix_0", "prefix_1", "entropy", "active")] == [0.0, 1.0, 0.0, 0.25]


def test_queries_of_prefix_tokens_do_not_count() -> None:
    attention = torch.eye(3)[None, None]
    assert of_layer(attention, prefix=1)["prefix_0"].tolist() == [0.0]
    assert of_layer(attention, prefix=0).keys() == {"entropy", "active"}


def test_the_mean_is_over_heads_queries_and_samples(tiny_models: tuple[str, str], tiny_plugins: object) -> None:
    from vitxai.bench.contract import datasets
    from vitxai.models.load import load_model
    from vitxai.models.preprocess import collate
    from vitxai.models.tape import record

    points = layer_curves(tiny_models, "tiny_squares", 5)
    model, data = load_model(tiny_models[1]), datasets.create("tiny_squares")
    tape = record(model, collate([data.sample(id) for id in data.ids("test", 5)], model).inputs, attention=True)
    expected = tape.attention[0][:, :, 1:, 0].double().mean().item()
    found = [p for p in points if (p.model, p.layer, p.figure) == (tiny_models[1], 1, "prefix_0")]
    assert [p.mean for p in found] == pytest.approx([expected], abs=1e-6)
    assert found[0].low <= found[0].mean <= found[0].high
    assert {p.layer for p in points} == {1, 2}


def test_a_model_without_one_grid_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="lie on no grid"):
        layer_curves(["timm,id=test_convnext,random=true,num_classes=10"], "glyphs", 1)


def test_files(tmp_path: Path) -> None:
    points = [Point("m", layer, "entropy", 0.5 / layer, 0.1, 0.9, 4) for layer in (1, 2)]
    points.append(Point("m", 3, "entropy", 0.1, math.nan, math.nan, 1))
    paths = write_curves(points, tmp_path, "Attention")
    assert [path.name for path in paths] == ["layers.csv", "layers.md", "layers.png"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader(paths[0].open(encoding="utf-8")))
    assert (lines[1]["layer"], lines[1]["mean"]) == ("2", "0.25")
    assert "| 2 | 0.250 [0.100, 0.900] |\n| 3 | 0.100 |" in as_markdown(points, "Attention")
