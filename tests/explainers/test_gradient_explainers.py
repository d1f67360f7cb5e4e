"""input_x_gradient, integrated_gradients and the healed_difference oracle against their textbook formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation, explainers

KINDS = ["class_token", "mean_pooled", "map_pooled", "distilled", "spectral"]


def slope(model, image, target):
    image = image.clone().requires_grad_()
    model(image[None])[0, target].backward()
    return image.grad


def path_integral(model, image, baseline, target, steps):
    """Gauss-Legendre nodes and weights from numpy, one image and one node at a time."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(image)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += weight * slope(model, baseline + node * (image - baseline), target)
    return (image - baseline) * total


@pytest.mark.parametrize("kind", KINDS)
def test_input_x_gradient(kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model)
    found = explainers.get("input_x_gradient")().explain(model, batch, ctx)
    assert found.layout == "cube"
    for row, target in enumerate(batch.targets.tolist()):
        wanted = batch.inputs[row] * slope(model, batch.inputs[row], target)
        torch.testing.assert_close(found.native[row], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients(kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("integrated_gradients")(steps=6).explain(model, batch, ctx)
    assert found.layout == "cube"
    for row, target in enumerate(batch.targets.tolist()):
        wanted = path_integral(model, batch.inputs[row], torch.zeros_like(batch.inputs[row]), target, 6)
        # Captum keeps its quadrature weights in float32.
        torch.testing.assert_close(found.native[row], wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


def test_integrated_gradients_sum_to_the_change_of_the_logit(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    total = explainers.get("integrated_gradients")(steps=100).explain(model, batch, ctx).native.sum((1, 2, 3))
    change = (model(batch.inputs) - model(torch.zeros_like(batch.inputs)))[range(3), batch.targets]
    torch.testing.assert_close(total, change, rtol=1e-5, atol=1e-5)


def test_healed_difference_is_the_path_from_the_healed_sample(tiny, batch_for, ctx):
    model = tiny("spectral")
    batch = batch_for(model, 2)
    found = explainers.get("healed_difference")(steps=100).explain(model, batch, ctx).native
    wanted = path_integral(model, batch.inputs[1], batch.healed[1], 1, 100)
    torch.testing.assert_close(found[1], wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())
    assert not found.masked_select(~batch.mask[:, None]).any(), "nothing outside the evidence was changed"
    change = (model(batch.inputs) - model(batch.healed))[range(2), batch.targets]
    torch.testing.assert_close(found.sum((1, 2, 3)), change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["integrated_gradients", "healed_difference"])
def test_the_memory_budget_does_not_change_the_map(name, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    one, other = (
        explainers.get(name)(steps=5).explain(model, batch, EngineContext(max_rows=rows)).native for rows in (1, 64)
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["input_x_gradient", "integrated_gradients", "chefer_lrp", "grad_cam"])
def test_the_callers_grad_mode_does_not_matter(name, mode, tiny, batch_for):
    model = tiny()
    batch = batch_for(model, 1)
    wanted = explainers.create(name).explain(model, batch, EngineContext()).native
    with mode():
        found = explainers.create(name).explain(model, batch, EngineContext()).native.clone()
    assert torch.equal(found, wanted)
    assert not wanted.requires_grad


def test_the_oracle_without_counterfactuals_is_an_error(tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(BadInputError, match="no counterfactuals"):
        explainers.get("healed_difference")().explain(model, replace(batch_for(model), healed=None), ctx)


def test_signs_reach_the_reductions(tiny, batch_for, ctx):
    model = tiny("spectral")
    found: Explanation = explainers.get("input_x_gradient")().explain(model, batch_for(model), ctx)
    assert found.native.min() < 0 < found.native.max()
    assert found.spectral("mean_positive").min() >= 0 > found.spectral("signed").min()
