"""Agreement with another method: rank correlations by hand, what is undefined, what is refused, and the keys."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr

from vitxai.bench.contract import BadInputError, Batch, Model, Spec, UnknownNameError, explainers, metrics
from vitxai.bench.keys import plugin_identity
from vitxai.bench.profile import count_passes
from vitxai.metrics.agreement import Agreement
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT


@pytest.fixture(scope="module")
def spectral_vit() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = SpectralViT(
            groups=[[0, 2], [1, 3, 4]], num_classes=3, img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2
        )
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return wrap(module, mean=(0.0,) * 5, std=(1.0,) * 5)


@pytest.fixture
def spectral_vit_batch(batch_of) -> Batch:
    inputs = torch.randn(4, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    return batch_of(4, inputs=inputs, targets=torch.tensor([0, 1, 2, 0]))


def rho(ours, theirs) -> list[float]:
    return [spearmanr(a, b).statistic for a, b in zip(ours.double().numpy(), theirs.double().numpy(), strict=True)]


@pytest.mark.parametrize("reduction", ["mean_positive", "focus", "signed"])
def test_rank_correlations_of_maps_and_curves(ctx, spectral_vit, spectral_vit_batch, reduction) -> None:
    model, batch = spectral_vit, spectral_vit_batch
    ours = explainers.create("input_x_gradient").explain(model, batch, ctx)
    theirs = explainers.create("integrated_gradients,steps=4").explain(model, batch, ctx)
    scores = Agreement("integrated_gradients,steps=4", reduction).score(model, batch, ours, ctx)
    grids = [e.grid(reduction).flatten(1) for e in (ours, theirs)]
    curves = [e.spectral(reduction) for e in (ours, theirs)]
    assert scores["spatial_agreement"].values.tolist() == pytest.approx(rho(*grids), abs=1e-6)
    assert scores["spectral_agreement"].values.tolist() == pytest.approx(rho(*curves), abs=1e-6)


def test_a_method_agrees_with_itself_and_a_reversed_map_disagrees(ctx, spectral_vit, spectral_vit_batch) -> None:
    ours = explainers.create("input_x_gradient").explain(spectral_vit, spectral_vit_batch, ctx)
    metric = Agreement("input_x_gradient", "signed")
    same = metric.score(spectral_vit, spectral_vit_batch, ours, ctx)
    reversed_ = metric.score(spectral_vit, spectral_vit_batch, replace(ours, native=-ours.native), ctx)
    for name in ("spatial_agreement", "spectral_agreement"):
        assert same[name].values.tolist() == pytest.approx([1.0] * len(spectral_vit_batch))
        assert reversed_[name].values.tolist() == pytest.approx([-1.0] * len(spectral_vit_batch))


def test_methods_without_a_curve_and_constant_maps_are_undefined_with_a_reason(
    ctx, spectral_vit, spectral_vit_batch
) -> None:
    flat = explainers.create("rollout").explain(spectral_vit, spectral_vit_batch, ctx)
    gradient = explainers.create("input_x_gradient").explain(spectral_vit, spectral_vit_batch, ctx)
    whole = Agreement("center_prior").score(spectral_vit, spectral_vit_batch, gradient, ctx)["spectral_agreement"]
    assert all(map(math.isnan, whole.values))
    assert set(whole.reasons) == {"the other method has no spectral curve"}
    constant = replace(flat, native=torch.ones_like(flat.native))
    scores = Agreement("input_x_gradient").score(spectral_vit, spectral_vit_batch, constant, ctx)
    assert set(scores["spatial_agreement"].reasons) == {"the map is constant"}
    broken = replace(gradient, native=gradient.native.clone())
    broken.native[0].fill_(torch.nan)
    reasons = Agreement("input_x_gradient").score(spectral_vit, spectral_vit_batch, broken, ctx)
    assert reasons["spatial_agreement"].reasons[0] == "the map is not finite"
    assert reasons["spatial_agreement"].reasons[1] == ""


def test_on_rgb_there_is_no_curve(ctx, vit, vit_batch) -> None:
    ours = explainers.create("input_x_gradient").explain(vit, vit_batch, ctx)
    scores = Agreement("integrated_gradients,steps=2").score(vit, vit_batch, ours, ctx)
    assert set(scores["spectral_agreement"].reasons) == {"no spectral axis"}
    assert not any(scores["spatial_agreement"].reasons)


def test_the_other_map_is_made_once_for_all_methods(ctx, vit, vit_batch) -> None:
    metric = Agreement("integrated_gradients,steps=3")
    maps = [explainers.create(name).explain(vit, vit_batch, ctx) for name in ("input_x_gradient", "rollout")]
    with count_passes(vit.module) as first:
        metric.score(vit, vit_batch, maps[0], ctx)
    with count_passes(vit.module) as second:
        metric.score(vit, vit_batch, maps[1], ctx)
    assert first.forwards == 3 * len(vit_batch)
    assert second.forwards == 0


@pytest.mark.parametrize("other", ["focus", "focusvit", "selectivevit", "spectral_lift,of=grad_cam"])
def test_methods_that_learn_or_bring_a_model_are_refused(ctx, vit, vit_batch, other) -> None:
    ours = explainers.create("rollout").explain(vit, vit_batch, ctx)
    with pytest.raises(BadInputError, match="learns, brings a model of its own or wraps"):
        metrics.create(Spec("agreement", {"other": other})).score(vit, vit_batch, ours, ctx)
    with pytest.raises(UnknownNameError, match="no_such_method"):
        metrics.create("agreement,other=no_such_method").score(vit, vit_batch, ours, ctx)
    with pytest.raises(BadInputError, match="scores explanations"):
        metrics.create("agreement").score(vit, vit_batch, None, ctx)


def test_the_other_methods_source_is_part_of_the_key() -> None:
    found = plugin_identity(metrics, Spec("agreement", {"other": "saliency"}))
    again = plugin_identity(metrics, Spec("agreement", {"other": "rollout"}))
    assert found["wraps"][0]["source"] != again["wraps"][0]["source"]
