"""Sparseness: Gini index and entropy by hand, against Quantus and scipy, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from vitxai.bench.contract import Explanation, TokenGeometry
from vitxai.metrics.sparseness import Sparseness


@pytest.fixture
def scored(batch_of, explained, vit, ctx):
    def score(maps):
        explanation = explained(maps)
        return Sparseness().score(vit, batch_of(len(explanation)), explanation, ctx)

    return score


def test_hand_computed(scored):
    got = scored([[[1.0, 0.0], [0.0, 0.0]], [[2.0, -2.0], [2.0, 2.0]], [[1.0, -2.0], [3.0, 4.0]]])
    # Gini of 1, 2, 3, 4: sum (2i - n - 1) a_i / (n sum a) = (-3 - 2 + 3 + 12) / 40.
    np.testing.assert_allclose(got["sparseness"].values, [3 / 4, 0, 1 / 4], atol=1e-12)
    of_four = entropy([0.1, 0.2, 0.3, 0.4]) / math.log(4)
    np.testing.assert_allclose(got["complexity"].values, [0, 1, of_four], atol=1e-12)


def test_agrees_with_quantus(scored):
    quantus = pytest.importorskip("quantus")
    maps = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    got = scored(maps)
    options = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
    module = torch.nn.Flatten().eval()
    call = {"model": module, "x_batch": maps[:, None].numpy(), "y_batch": np.zeros(4, int), "channel_first": True}
    sparseness = quantus.Sparseness(**options)(a_batch=maps[:, None].numpy().copy(), **call)
    complexity = quantus.Complexity(**options)(a_batch=maps[:, None].numpy().copy(), **call)
    np.testing.assert_allclose(got["sparseness"].values, sparseness, atol=1e-5)
    np.testing.assert_allclose(got["complexity"].values * math.log(36), complexity, atol=1e-5)


def test_is_computed_on_the_patch_grid(batch_of, vit, ctx):
    """The same patches given as pixels score the same, however many pixels a patch has."""
    geometry = TokenGeometry((2, 2), prefix=1, pooling="token", image_size=(16, 16), channels=3)
    tokens = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    pixels = tokens.repeat_interleave(8, 1).repeat_interleave(8, 2)
    by_token = Sparseness().score(vit, batch_of(3), Explanation(tokens, "token", geometry), ctx)
    by_pixel = Sparseness().score(vit, batch_of(3), Explanation(pixels, "pixel", geometry), ctx)
    for name in by_token:
        np.testing.assert_allclose(by_pixel[name].values, by_token[name].values, atol=1e-6)


def test_zero_map_is_undefined(scored):
    got = scored([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    for values in got.values():
        assert values.reasons == ("the map is zero", "")
    assert scored([[[2.0]]])["complexity"].reasons == ("the patch grid has one patch",)


def test_scale_sign_order_and_neighbours_do_not_matter(scored):
    maps = torch.randn(8, 5, 5, generator=torch.Generator().manual_seed(0))
    together = scored(maps)
    shuffled = maps.flatten(1)[:, torch.randperm(25, generator=torch.Generator().manual_seed(1))].view(8, 5, 5)
    huge = maps.clone()
    huge[0] *= 1e12
    for name, values in together.items():
        for variant in (maps * 1e-30, -maps, shuffled, huge):
            np.testing.assert_allclose(scored(variant)[name].values, values.values, atol=1e-6)
        alone = [scored(maps[row : row + 1])[name].values[0] for row in range(8)]
        np.testing.assert_allclose(alone, values.values, atol=1e-12)
