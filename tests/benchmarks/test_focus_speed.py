"""Latency of FOCUS over the number of classes K and groups G, beside the plain forward of the same model."""

from __future__ import annotations

import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Fitted, Model, explainers
from vitxai.bench.speed import inputs_for
from vitxai.explainers._fitting import learned
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT, contiguous_groups

SAMPLES, BANDS = 16, 60
SIZES = [(4, 2), (4, 5), (4, 10), (4, 20), (2, 10), (16, 10), (64, 10)]


def subject(classes: int, groups: int) -> tuple[Model, Batch]:
    """The size of the built-in spectral-token ViT."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SpectralViT(
            groups=contiguous_groups(range(BANDS), groups), num_classes=classes, img_size=48, patch_size=8,
            embed_dim=48, depth=3, num_heads=3,
        )  # fmt: skip
    model = wrap(net, mean=(0.0,) * BANDS, std=(1.0,) * BANDS)
    return model, inputs_for(model, SAMPLES)


@pytest.mark.parametrize(("classes", "groups"), SIZES)
def test_forward(benchmark, classes: int, groups: int) -> None:
    model, batch = subject(classes, groups)
    with torch.inference_mode():
        logits = benchmark(model, batch.inputs)
    assert logits.shape == (SAMPLES, classes)


@pytest.mark.parametrize(("classes", "groups"), SIZES)
def test_focus(benchmark, classes: int, groups: int) -> None:
    model, batch = subject(classes, groups)
    method = explainers.create("focus")
    net = method._net(model, classes, seed=0)
    heads = torch.zeros(3, 3, dtype=torch.bool)
    fitted = Fitted({**learned(net), "auxiliary_heads": heads, "baseline": torch.zeros(classes, groups)})
    own, ctx = method.own_model(model, fitted), EngineContext(fitted=fitted)
    explanation = benchmark(method.explain, own, batch, ctx)
    assert explanation.native.shape == (SAMPLES, groups, 6, 6)
