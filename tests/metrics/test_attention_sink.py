"""Sink rate: uniform, one-hot and hand-made attention; heads, layers and prefix tokens; models without a sink."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, TokenGeometry, UnsupportedError
from vitxai.metrics.attention_sink import SinkRate


@dataclass(frozen=True)
class GivenAttention(EngineContext):
    """A context whose tapes hold the attention of a test."""

    attention: tuple[torch.Tensor, ...] = ()

    def tape(self, model, batch, **request):
        return SimpleNamespace(attention=self.attention)


@pytest.fixture
def scored(vit, batch_of):
    """Scores of attention [B,H,T,T] a layer, in a model of these prefix tokens."""

    def score(*layers, prefix=1, **params):
        tokens = layers[0].shape[-1]
        pooling = "token" if prefix else "avg"
        geometry = TokenGeometry((1, tokens - prefix), prefix, pooling, (1, tokens - prefix), 3)
        batch = batch_of(len(layers[0]))
        return SinkRate(**params).score(replace(vit, geometry=geometry), batch, None, GivenAttention(attention=layers))

    return score


def test_hand_computed(scored):
    # Two patch queries give the class token .5 and .1 in head 0 (mean .3) and .8 and .6 in head 1 (mean .7).
    head0 = [[1.0, 0, 0], [0.5, 0.5, 0], [0.1, 0.9, 0]]
    head1 = [[0.0, 1, 0], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]
    got = scored(torch.tensor([[head0, head1]], dtype=torch.float64))
    assert got["sink_rate"].values[0] == pytest.approx(0.5)
    assert got["sink_rate_ratio"].values[0] == pytest.approx(1.5)
    assert got["sink_head_rate"].values[0] == pytest.approx(0.5)
    rows = [[0.5, 0.5], [0.1, 0.9], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]
    expected = np.mean([-sum(p * math.log(p) for p in row) for row in rows]) / math.log(3)
    assert got["attention_entropy"].values[0] == pytest.approx(expected)


def test_uniform_attention(scored):
    got = scored(torch.full((2, 3, 5, 5), 0.2), torch.full((2, 3, 5, 5), 0.2))
    np.testing.assert_allclose(got["sink_rate"].values, 0.2)
    np.testing.assert_allclose(got["sink_rate_ratio"].values, 1)
    np.testing.assert_allclose(got["attention_entropy"].values, 1)
    assert got["sink_head_rate"].values.tolist() == [0, 0]


def test_one_hot_attention_to_the_sink(scored):
    attention = torch.zeros(1, 2, 4, 4)
    attention[..., 0] = 1
    got = scored(attention)
    assert [got[name].values[0] for name in got] == [1, 4, 1, 0]


def test_layers_heads_and_samples_are_averaged_apart(scored):
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(3, 2, 6, 6, generator=generator).softmax(-1).double() for _ in range(3)]
    got = scored(*layers, prefix=2, token=1, eps=0.17)
    for row in range(3):
        masses = [float(layer[row, head, 2:, 1].mean()) for layer in layers for head in range(2)]
        assert got["sink_rate"].values[row] == pytest.approx(np.mean(masses))
        assert got["sink_head_rate"].values[row] == pytest.approx(np.mean(np.array(masses) > 0.17))


def test_models_without_the_token_have_an_entropy_only(scored):
    uniform = torch.full((1, 2, 4, 4), 0.25)
    got = scored(uniform, prefix=0)
    for name in ("sink_rate", "sink_rate_ratio", "sink_head_rate"):
        assert got[name].reasons == ("the model has no prefix token",)
    assert got["attention_entropy"].values[0] == pytest.approx(1)
    got = scored(uniform, prefix=1, token=1)
    assert got["sink_rate"].reasons == ("the model has 1 prefix tokens, none of index 1",)


def test_a_real_model_is_recorded(vit, vit_batch, ctx):
    got = SinkRate().score(vit, vit_batch, None, ctx)
    block = vit.module.blocks[0]
    with torch.inference_mode():
        embedded = vit.module._pos_embed(vit.module.patch_embed(vit_batch.inputs))
        qkv = block.attn.qkv(block.norm1(embedded)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] @ qkv[1].transpose(-2, -1) / 4).softmax(-1)
        second = ctx.tape(vit, vit_batch, attention=True).attention[1]
    by_hand = (attention[:, :, 1:, 0].mean((1, 2)) + second[:, :, 1:, 0].mean((1, 2))) / 2
    np.testing.assert_allclose(got["sink_rate"].values, by_hand, atol=1e-6)
    alone = SinkRate().score(vit, vit_batch.select([4]), None, ctx)
    for name, values in got.items():
        assert alone[name].values[0] == pytest.approx(values.values[4], abs=1e-5)


def test_refusals(vit, vit_batch, ctx, scored):
    with pytest.raises(UnsupportedError, match="one grid"):
        SinkRate().score(replace(vit, geometry=None), vit_batch, None, ctx)
    with pytest.raises(BadInputError, match="token=-1"):
        scored(torch.full((1, 1, 3, 3), 1 / 3), token=-1)
