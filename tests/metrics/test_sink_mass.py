"""Sink masses: hand-made attention, prompted ViTs with and without a sink, layers that a model has not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Model, TokenGeometry
from vitxai.metrics.attention_statistics import AttentionStatistics
from vitxai.metrics.sink_mass import LAYERS, NO_PREFIX, NO_SINK, SinkMass
from vitxai.models.prompted import PromptedViT


@dataclass(frozen=True)
class GivenAttention(EngineContext):
    """A context whose tapes hold the attention of a test."""

    attention: tuple[torch.Tensor, ...] = ()

    def tape(self, model: Model, batch: Batch, **request: object) -> SimpleNamespace:
        return SimpleNamespace(attention=self.attention)


class Prompts(nn.Module):
    """Two prompts before the first block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, 2, width, generator=torch.Generator().manual_seed(1)))

    def forward(self) -> torch.Tensor:
        return self.tokens


def prompted(vit: Model, sink: bool, isolate: bool) -> Model:
    """The model with two prompts, and a sink that is hard to resist."""
    assert vit.geometry is not None
    added = 2 + sink
    width = vit.module.embed_dim
    allowed = torch.ones(added, added + vit.geometry.tokens, dtype=torch.bool)
    token = nn.Parameter(torch.randn(1, 1, width, generator=torch.Generator().manual_seed(2))) if sink else None
    head = nn.Sequential(nn.Flatten(), nn.Linear(2 * width, 4))
    module = PromptedViT(vit.module, Prompts(width), head, allowed, sink=token, isolate=isolate)
    return replace(vit, module=module.eval().requires_grad_(False), geometry=module.geometry)


def test_hand_computed_layers_of_a_plain_model(vit: Model, vit_batch: Batch) -> None:
    # Two patch queries give the class token .5 and .1 in layer 1, .8 and .6 in layer 2.
    layers = ([[1.0, 0, 0], [0.5, 0.5, 0], [0.1, 0.9, 0]], [[0.0, 1, 0], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
    given = tuple(torch.tensor([[layer]], dtype=torch.float64) for layer in layers)
    model = replace(vit, geometry=TokenGeometry((1, 2), 1, "token", (1, 2), 3))
    got = SinkMass().score(model, vit_batch.select([0]), None, GivenAttention(attention=given))
    assert got["first_token_mass_1"].values[0] == pytest.approx(0.3)
    assert got["first_token_mass_2"].values[0] == pytest.approx(0.7)
    assert got["first_token_mass"].values[0] == pytest.approx(0.5)
    assert got["first_token_mass_3"].reasons == ("the model has 2 layers",)
    assert got["sink_mass"].reasons == got[f"sink_mass_{LAYERS}"].reasons == got["sink_mass_last"].reasons == (NO_SINK,)


def test_a_model_without_prefix_tokens_has_no_first_token(vit: Model, vit_batch: Batch) -> None:
    model = replace(vit, geometry=TokenGeometry((1, 2), 0, "avg", (1, 2), 3))
    given = (torch.full((1, 2, 2, 2), 0.5),)
    got = SinkMass().score(model, vit_batch.select([0]), None, GivenAttention(attention=given))
    assert got["first_token_mass"].reasons == (NO_PREFIX,)


def test_prompts_beside_the_model_leave_its_own_attention_as_it_is(
    vit: Model, vit_batch: Batch, ctx: EngineContext
) -> None:
    plain = SinkMass().score(vit, vit_batch, None, ctx)
    model = prompted(vit, sink=True, isolate=True)
    got = SinkMass().score(model, vit_batch, None, ctx)
    np.testing.assert_allclose(got["first_token_mass"].values, plain["first_token_mass"].values, atol=1e-6)
    expected = torch.stack(model.module.read(vit_batch.inputs).sink).mean((0, 2))
    np.testing.assert_allclose(got["sink_mass"].values, expected.numpy(), atol=1e-6)
    assert got["sink_mass_last"].values.tolist() == got["sink_mass_2"].values.tolist()


def test_a_sink_in_the_sequence_takes_mass_from_the_first_token(
    vit: Model, vit_batch: Batch, ctx: EngineContext
) -> None:
    without, joined = (prompted(vit, sink=sink, isolate=False) for sink in (False, True))
    before, after = (SinkMass().score(model, vit_batch, None, ctx) for model in (without, joined))
    assert before["sink_mass"].reasons[0] == NO_SINK
    attention = ctx.tape(joined, vit_batch, attention=True).attention
    added = joined.module.added
    prefix = joined.geometry.prefix  # type: ignore[union-attr]
    assert prefix == added + 1
    expected = torch.stack([layer[:, :, prefix:, added].mean((1, 2)) for layer in attention]).mean(0)
    np.testing.assert_allclose(after["first_token_mass"].values, expected.numpy(), atol=1e-6)
    to_sink = torch.stack([layer[:, :, 1:, 0].mean((1, 2)) for layer in attention]).mean(0)
    np.testing.assert_allclose(after["sink_mass"].values, to_sink.numpy(), atol=1e-6)


@pytest.mark.parametrize("isolate", [True, False])
def test_attention_statistics_are_those_of_all_tokens_of_a_prompted_model(
    vit: Model, vit_batch: Batch, ctx: EngineContext, isolate: bool
) -> None:
    got = AttentionStatistics().score(prompted(vit, sink=True, isolate=isolate), vit_batch, None, ctx)
    plain = AttentionStatistics().score(vit, vit_batch, None, ctx)
    same = np.allclose(got["sink_consistency"].values, plain["sink_consistency"].values)
    assert same == isolate
    assert np.isfinite(got["token_effective_rank"].values).all()
