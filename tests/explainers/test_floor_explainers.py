"""The floors: what an explainer must beat."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, explainers


def test_random_is_keyed_by_the_sample_and_the_seed(tiny, batch_for):
    model = tiny("spectral")
    batch = batch_for(model)
    method = explainers.get("random")()
    maps = method.explain(model, batch, EngineContext(seed=0)).native
    assert torch.equal(maps[[2, 0]], method.explain(model, batch.select([2, 0]), EngineContext(seed=0)).native)
    assert not torch.equal(maps, method.explain(model, batch, EngineContext(seed=1)).native)
    assert maps.min() >= 0
    assert maps.max() < 1
    assert len(maps.unique()) == maps.numel()


def test_center_prior_is_the_gaussian(tiny, batch_for, ctx):
    model = tiny()
    found = explainers.get("center_prior")(sigma=0.25).explain(model, batch_for(model, 2), ctx).native
    y, x = (3 + 0.5) / 16 - 1, (20 + 0.5) / 16 - 1
    assert found[1, 3, 20].item() == pytest.approx(math.exp(-(y * y + x * x) / (2 * 0.25**2)))
    assert torch.equal(found, found.flip(1))
    assert torch.equal(found, found.transpose(1, 2))


def test_edges_are_sobel_magnitudes(tiny, batch_for, ctx):
    model = tiny()
    inputs = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    inputs[0, 0, :, 10:] = 1.0  # a step across
    inputs[0, 1] = 0.5 * torch.arange(32)[:, None] + 0.25 * torch.arange(32)[None, :]  # a ramp
    batch = replace(batch_for(model, 1), inputs=inputs)
    found = explainers.get("edges")().explain(model, batch, ctx).native[0]
    assert found[0, 5].nonzero().flatten().tolist() == [9, 10]
    torch.testing.assert_close(found[0, 5, [9, 10]], torch.tensor([0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(found[1, 7, 9].item(), math.hypot(0.5, 0.25))
    assert not found[2].any()


def test_input_magnitude_is_the_distance_from_the_mean_colour(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    found = explainers.get("input_magnitude")().explain(model, batch, ctx).native
    assert torch.equal(found, torch.where(batch.inputs < 0, -batch.inputs, batch.inputs))


def test_leaf_mask_is_the_leaf(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    found = explainers.get("leaf_mask")().explain(model, batch, ctx)
    assert found.layout == "pixel"
    assert torch.equal(found.native == 1, batch.leaf)
    with pytest.raises(BadInputError, match="no foreground masks"):
        explainers.get("leaf_mask")().explain(model, replace(batch, leaf=None), ctx)


@pytest.mark.parametrize("name", ["random", "center_prior", "edges", "input_magnitude", "leaf_mask"])
def test_floors_are_declared_and_do_not_ask_the_model(name, tiny, batch_for, ctx):
    model = tiny()
    calls = []
    hook = model.module.register_forward_pre_hook(lambda *_: calls.append(1))
    explainers.create(name).explain(model, batch_for(model), ctx)
    hook.remove()
    assert explainers.get(name).status == "floor"
    assert not calls
