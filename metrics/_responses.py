"""Responses of a model that no explainer influences: clean, healed and constant inputs, each a probe shared by all."""

from __future__ import annotations

from torch import Tensor

from ..bench.contract import Batch, Context, Model
from ..models.perturb import target_responses

SMALLEST_CHANGE = 0.05
"""Ends of a curve that are closer have nothing between them that an area could be a share of."""


def clean_logits(model: Model, batch: Batch, ctx: Context) -> Tensor:
    """Logits [B,K] of the inputs, float64."""
    return logits_of(model, batch, ctx, "clean_logits", batch.inputs)


def logits_of(model: Model, batch: Batch, ctx: Context, name: str, inputs: Tensor) -> Tensor:
    """Logits [B,K] float64 of one variant of the inputs; ``name`` says which, with all that it depends on."""

    def rows(start: int, stop: int) -> Tensor:
        return inputs[start:stop]

    def compute() -> Tensor:
        return target_responses(model, rows, len(batch), None, output="logits", max_rows=ctx.max_rows)

    return ctx.probe(model, batch, name, compute).double()


def target_logit(logits: Tensor, targets: Tensor) -> Tensor:
    """Logit [B] of each row's target."""
    return logits.gather(1, targets[:, None])[:, 0]


def target_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Softmax probability [B] of each row's target."""
    return target_logit(logits.softmax(1), targets)


def close_ends(first: Tensor, last: Tensor) -> dict[str, Tensor]:
    """Where [B] a curve cannot be normalised, with the reason: its ends [B] are probabilities that hardly differ."""
    return {f"the ends of the curve differ by less than {SMALLEST_CHANGE}": (first - last).abs() < SMALLEST_CHANGE}
