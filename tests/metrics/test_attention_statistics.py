"""Attention statistics: uniform, one-hot and hand-made attention; layers that agree; ranks and norms of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, TokenGeometry, UnsupportedError
from vitxai.bench.profile import count_passes
from vitxai.metrics.attention_statistics import AttentionStatistics, effective_rank, high_norm_rate


@dataclass(frozen=True)
class GivenTape(EngineContext):
    """A context whose tapes hold the attention and the last tokens of a test."""

    attention: tuple[torch.Tensor, ...] = ()
    tokens: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def tape(self, model, batch, **request):
        return SimpleNamespace(attention=self.attention, activations={"blocks.1": self.tokens})


@pytest.fixture
def scored(vit, batch_of):
    """Scores of attention [B,H,T,T] a layer and tokens [B,T,D], in a model of these prefix tokens."""

    def score(*layers, tokens=None, prefix=1, **params):
        size, count = len(layers[0]), layers[0].shape[-1]
        pooling = "token" if prefix else "avg"
        geometry = TokenGeometry((1, count - prefix), prefix, pooling, (1, count - prefix), 3)
        tokens = torch.ones(size, count, 2) if tokens is None else tokens
        ctx = GivenTape(attention=layers, tokens=tokens)
        return AttentionStatistics(**params).score(replace(vit, geometry=geometry), batch_of(size), None, ctx)

    return score


def test_hand_computed(scored):
    # Two patch queries of three keys: at least 1/3 of the attention has one key in each, at least .2 two and one.
    head = [[1.0, 0, 0], [0.7, 0.2, 0.1], [0.9, 0.05, 0.05]]
    got = scored(torch.tensor([[head]], dtype=torch.float64), tau=0.2)
    assert got["attention_active"].values[0] == pytest.approx(1 / 3)
    assert got["attention_active_absolute"].values[0] == pytest.approx((2 + 1) / 2 / 3)
    effective = [math.exp(-sum(p * math.log(p) for p in row)) for row in head[1:]]
    assert got["attention_effective_tokens"].values[0] == pytest.approx(np.mean(effective) / 3)


def test_uniform_attention_is_the_least_sparse_but_for_an_absolute_threshold(scored):
    uniform = torch.full((2, 3, 7, 7), 1 / 7)
    got = scored(uniform, uniform, tau=0.15)
    np.testing.assert_allclose(got["attention_active"].values, 1)
    np.testing.assert_allclose(got["attention_effective_tokens"].values, 1)
    assert got["attention_active_absolute"].values.tolist() == [0, 0]  # 1/7 < .15
    assert got["sink_consistency"].reasons == ("no two neighbouring layers with maps that vary",) * 2


def test_one_hot_attention_has_one_active_token(scored):
    attention = torch.zeros(1, 2, 4, 4)
    attention[..., 0] = 1
    got = scored(attention)
    for name in ("attention_active", "attention_active_absolute", "attention_effective_tokens"):
        assert got[name].values.tolist() == [0.25], name


def test_consistency_compares_the_decision_rows_without_the_prefix(scored):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(3, 2, 8, 8, generator=generator).softmax(-1).double() for _ in range(3)]
    got = scored(*layers, prefix=2)["sink_consistency"].values
    for row in range(3):
        maps = [layer[row, :, 0, 2:].mean(0) for layer in layers]
        pairs = [spearmanr(maps[i], maps[i + 1]).statistic for i in range(2)]
        assert got[row] == pytest.approx(np.mean(pairs), abs=1e-12)
    without_prefix = scored(*layers, prefix=0)["sink_consistency"].values
    maps = [layer[0].mean((0, 1)) for layer in layers]
    expected = np.mean([spearmanr(maps[i], maps[i + 1]).statistic for i in range(2)])
    assert without_prefix[0] == pytest.approx(expected, abs=1e-12)


def test_the_sink_does_not_enter_consistency(scored):
    """A layer that gives the sink more and all patches less by the same factor has the same map."""
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(1, 1, 5, 5, generator=generator).double()
    second = first.clone()
    second[..., 0] += 3
    layers = [layer / layer.sum(-1, keepdim=True) for layer in (first, second)]
    assert scored(*layers)["sink_consistency"].values[0] == pytest.approx(1)
    flipped = torch.cat([second[..., :1], 1 - second[..., 1:]], -1)
    assert scored(layers[0], flipped / flipped.sum(-1, keepdim=True))["sink_consistency"].values[0] == pytest.approx(-1)


def test_pairs_with_a_constant_map_are_left_out(scored):
    generator = torch.Generator().manual_seed(2)
    varied = torch.rand(1, 1, 5, 5, generator=generator).double()
    varied = varied / varied.sum(-1, keepdim=True)
    uniform = torch.full_like(varied, 0.2)
    assert scored(uniform, varied, varied)["sink_consistency"].values[0] == pytest.approx(1)
    assert np.isnan(scored(varied, uniform, varied)["sink_consistency"].values[0])
    assert np.isnan(scored(varied)["sink_consistency"].values[0])


def test_effective_rank_of_known_matrices():
    identity = torch.eye(4).double()[None]
    single = torch.outer(torch.arange(1.0, 5), torch.tensor([2.0, 1, 0, 5])).double()[None]
    # Singular values 3 and 1: shares .75 and .25.
    two = torch.diag(torch.tensor([3.0, 1, 0, 0])).double()[None]
    expected = [4, 1, math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))]
    np.testing.assert_allclose(effective_rank(torch.cat([identity, single, two])), expected, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(1, 6, 3, generator=generator).double()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    np.testing.assert_allclose(effective_rank(7 * rotation @ matrix), effective_rank(matrix), atol=1e-9)


def test_high_norms_are_those_far_above_the_median():
    norms = torch.tensor([[1.0, 1, 1, 2, 2.9, 3.1, 50, 1]], dtype=torch.float64)
    tokens = norms[..., None] * torch.tensor([0.6, -0.8], dtype=torch.float64)
    # The median is 1.5.
    assert high_norm_rate(tokens, 1.9).tolist() == [3 / 8]
    assert high_norm_rate(tokens, 3.0).tolist() == [1 / 8]
    assert high_norm_rate(100 * tokens, 3.0).tolist() == [1 / 8]
    assert high_norm_rate(torch.zeros(1, 5, 2), 3.0).tolist() == [0]


def test_prefix_tokens_have_no_part_in_ranks_and_norms(scored):
    tokens = torch.ones(2, 6, 3)
    tokens[:, 0] = torch.tensor([1e6, 0, 0])
    tokens[1, 1:] = 0
    uniform = torch.full((2, 1, 6, 6), 1 / 6)
    got = scored(uniform, tokens=tokens)
    assert got["high_norm_rate"].values.tolist() == [0, 0]
    assert got["token_effective_rank"].values[0] == pytest.approx(1)
    assert got["token_effective_rank"].reasons[1] == "all patch tokens are zero"


def test_a_real_model_is_recorded_twice_for_all(vit, vit_batch, ctx):
    with count_passes(vit.module) as count:
        got = AttentionStatistics().score(vit, vit_batch, None, ctx)
        AttentionStatistics(tau=0.1).score(vit, vit_batch, None, ctx)
    assert count.forwards == 2 * 8
    with torch.inference_mode():
        tokens = vit.module._pos_embed(vit.module.patch_embed(vit_batch.inputs))
        tokens = vit.module.blocks(tokens)[:, 1:].double()
    singular = np.linalg.svd(tokens.numpy(), compute_uv=False)
    shares = singular / singular.sum(1, keepdims=True)
    expected = np.exp(-(shares * np.log(shares)).sum(1))
    np.testing.assert_allclose(got["token_effective_rank"].values, expected, rtol=1e-4)
    alone = AttentionStatistics().score(vit, vit_batch.select([4]), None, ctx)
    for name, values in got.items():
        assert alone[name].values[0] == pytest.approx(values.values[4], abs=1e-4), name


def test_refusals(vit, vit_batch, ctx, scored):
    with pytest.raises(UnsupportedError, match="one grid"):
        AttentionStatistics().score(replace(vit, geometry=None), vit_batch, None, ctx)
    uniform = torch.full((1, 1, 3, 3), 1 / 3)
    with pytest.raises(UnsupportedError, match=r"blocks.1 gives \[1, 5, 2\], not 3 tokens"):
        scored(uniform, tokens=torch.ones(1, 5, 2))
    with pytest.raises(BadInputError, match="tau=0"):
        scored(uniform, tau=0.0)
    bare = replace(vit, module=torch.nn.Flatten())
    with pytest.raises(UnsupportedError, match="Flatten has no `blocks`"):
        AttentionStatistics().score(bare, vit_batch, None, GivenTape(attention=(uniform,)))
