"""What every metric promises: its declared columns, in their ranges, NaN with a reason, inputs untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vitxai.bench.check_metric import StandIn
from vitxai.bench.contract import BadInputError, Batch, Explanation, metrics

# Quantus runs what its parameter names, label_randomisation a model that must be trained first.
NAMES = [name for name in metrics.names() if name not in ("quantus", "label_randomisation")]
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def full_batch(vit, vit_batch) -> Batch:
    """All truths that a batch can carry; sample 0 has no evidence, sample 1 no label."""
    generator = torch.Generator().manual_seed(3)
    shape = (8, *vit.input_size)
    mask = torch.rand(shape, generator=generator) < 0.2
    mask[0] = False
    bands = torch.rand(8, 3, generator=generator)
    bands[0] = 0
    labels = vit_batch.labels.clone()
    labels[1] = -1
    healed = torch.where(mask[:, None], 0.0, vit_batch.inputs)
    truths = {"mask": mask, "ignore": torch.rand(shape, generator=generator) < 0.1, "leaf": torch.ones_like(mask)}
    distractors = torch.rand(shape, generator=generator) < 0.1
    return replace(vit_batch, labels=labels, bands=bands, healed=healed, distractors=distractors, **truths)


@pytest.fixture
def maps(vit) -> torch.Tensor:
    native = torch.randn(8, *vit.geometry.grid, generator=torch.Generator().manual_seed(4))
    native[2], native[3], native[4, 0, 0] = 0.0, 1.5, torch.nan
    return native


def within(values: np.ndarray, low: float | None, high: float | None) -> bool:
    kept = values[~np.isnan(values)]
    return bool((low is None or (kept >= low - 1e-9).all()) and (high is None or (kept <= high + 1e-9).all()))


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_as_declared(name, vit, full_batch, maps, ctx):
    metric = metrics.create(name)
    explanation = None if metric.of == "model" else Explanation(maps, "token", vit.geometry)
    if explanation is not None and "re-explain" in metric.needs:
        ctx = replace(ctx, method=StandIn(explanation, full_batch.ids), fit_data=lambda *asked: full_batch)
    before = [t.clone() for t in (full_batch.inputs, full_batch.mask, maps)]
    scores = metric.score(vit, full_batch, explanation, ctx)
    assert set(scores) == {column.name for column in metric.columns}
    for column in metric.columns:
        values = scores[column.name]
        assert values.values.dtype == np.float64
        assert values.values.shape == (8,)
        assert [bool(reason) for reason in values.reasons] == np.isnan(values.values).tolist()
        assert within(values.values, *column.range), column.name
        if explanation is not None and column.better != "none":
            assert values.reasons[4], f"{column.name} scores a map with a NaN"
    for old, new in zip(before, (full_batch.inputs, full_batch.mask, maps), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


@pytest.mark.parametrize("name", [name for name in NAMES if metrics.get(name).of == "explanation"])
def test_metrics_of_explanations_refuse_to_do_without(name, vit, full_batch, ctx):
    with pytest.raises(BadInputError, match="was given None"):
        metrics.create(name).score(vit, full_batch, None, ctx)


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        ("bio_at_5,k=3", "k", 3),
        ("otsu,reduction=focus", "reduction", "focus"),
        ("faithfulness_correlation,runs=20,share=0.25", "share", 0.25),
        ("insertion_deletion,steps=6,sigma=0.5", "steps", 6),
        ("sink_rate,token=1,eps=0.2", "token", 1),
    ],
)
def test_parameters_are_typed(spec, field, value):
    assert getattr(metrics.create(spec), field) == value


def test_a_wrong_reduction_is_refused():
    with pytest.raises(BadInputError, match="reduction"):
        metrics.create("otsu,reduction=max")


@pytest.mark.parametrize("name", [*NAMES, "label_randomisation"])
def test_every_column_is_documented(name):
    page = PAGE.read_text(encoding="utf-8")
    assert f"`{name}`" in page
    assert [column.name for column in metrics.get(name).columns if f"`{column.name}`" not in page] == []
