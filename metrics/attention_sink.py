"""How much of a model's attention drains into one prefix token, and how spread the rest is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bench.contract import (
    BadInputError,
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Paper,
    Scores,
    UnsupportedError,
    metric,
)
from ._maps import column

NO_PREFIX = "the model has no prefix token"


@metric(
    "sink_rate",
    columns=(
        Column("sink_rate", "none", (0, 1), "mean attention of patch queries to the class (first prefix) token"),
        Column("sink_rate_ratio", "none", (0, None), "sink rate over 1/T, that of uniform attention over T tokens"),
        Column("sink_head_rate", "none", (0, 1), "share of heads whose patch queries give the sink more than eps"),
        Column("attention_entropy", "none", (0, 1), "entropy of the patch queries' attention over ln T"),
    ),
    version=1,
    needs=("attention",),
    paper=Paper("When attention sink emerges in language models: an empirical view", 2025, "arXiv:2410.10781"),
    of="model",
)
class SinkRate(Metric):
    """Mass that patch queries leave on a prefix token, mean over layers, heads and patch queries.

    The direction depends on the question: on a dedicated sink high is wanted, on the class token it measures collapse.

    Attributes:
        token: index of the sink among the prefix tokens; 0 is the class token of timm models.
        eps: a head with a mean mass above it counts as a sink head.
    """

    token: int = 0
    eps: float = 0.3

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; the sink columns are NaN for models without that prefix token.

        Raises:
            BadInputError: ``token`` is negative.
            UnsupportedError: the model's tokens do not lie on one grid, or it has no attention to record.
        """
        if self.token < 0:
            raise BadInputError(f"token={self.token} is no prefix token; count from 0.")
        if model.geometry is None:
            raise UnsupportedError("sink rates need one grid of tokens; the attention of this model lies in windows.")
        prefix = model.geometry.prefix
        sink = self.token if self.token < prefix else None
        layers = [
            LayerFigures.of(attention[:, :, prefix:].double(), sink)
            for attention in ctx.tape(model, batch, attention=True).attention
            if attention.shape[-2] == model.geometry.tokens  # an attention pool has one query, which is no patch
        ]
        mass = torch.cat([layer.mass for layer in layers], dim=1)
        entropy = torch.cat([layer.entropy for layer in layers], dim=1)
        reason = f"the model has {prefix} prefix tokens, none of index {self.token}" if prefix else NO_PREFIX
        missing = {reason: torch.full((len(batch),), sink is None)}
        return {
            "sink_rate": column(mass.mean(1), missing),
            "sink_rate_ratio": column(mass.mean(1) * model.geometry.tokens, missing),
            "sink_head_rate": column((mass > self.eps).double().mean(1), missing),
            "attention_entropy": column(entropy.mean(1)),
        }


@dataclass(frozen=True, eq=False)
class LayerFigures:
    """Means over the patch queries of one layer, each [B,H] float64.

    Attributes:
        mass: attention to the sink; NaN where there is none.
        entropy: of the attention rows over ln T; 1 for uniform, 0 for one-hot rows.
    """

    mass: Tensor
    entropy: Tensor

    @classmethod
    def of(cls, attention: Tensor, sink: int | None) -> LayerFigures:
        """From the rows [B,H,Q,T] of the patch queries and the index of the sink among the T tokens."""
        entropy = -torch.special.xlogy(attention, attention).sum(-1).mean(-1) / math.log(attention.shape[-1])
        mass = torch.full_like(entropy, torch.nan) if sink is None else attention[..., sink].mean(-1)
        return cls(mass, entropy)
