"""Explaining again: noisy copies of a batch that all metrics and explainers share, and maps as comparable vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Context, Explanation, Model
from ..models.perturb import target_responses
from ._maps import in_float64

Space = Literal["grid", "native"]
AGAIN_NOT_FINITE = "a map explained again is not finite"
Batches = tuple[Batch, ...]


def vectors(explanation: Explanation | None, space: Space) -> Tensor:
    """Signed maps as rows [B,n] float64: on the patch grid, the same for every method, or as they are.

    Raises:
        BadInputError: there is no explanation.
    """
    whole = in_float64(explanation)
    return (whole.grid("signed") if space == "grid" else whole.native).flatten(1)


def explained_again(
    model: Model, batches: Sequence[Batch], ctx: Context, view: Callable[[Explanation], Tensor]
) -> Tensor:
    """What ``view`` makes of the method's maps of these batches, row after row."""
    return torch.cat([view(ctx.explain(model, batch)) for batch in batches])


def copied(batch: Batch, copies: int, inputs: Tensor, max_rows: int) -> Batches:
    """Batches of at most ``max_rows`` rows: every sample ``copies`` times in a row, with these inputs [B*copies,C,H,W].

    Ids and targets stay those of the sample, so that a method's own random draws are the same for every copy.
    """
    rows = [row for row in range(len(batch)) for _ in range(copies)]
    starts = range(0, len(rows), max_rows)
    return tuple(replace(batch.select(rows[i : i + max_rows]), inputs=inputs[i : i + max_rows]) for i in starts)


def uniform_copies(model: Model, batch: Batch, ctx: Context, copies: int, radius: float) -> Batches:
    """Copies of each input with uniform noise on [-radius, radius] in every element, in normalised units.

    Raises:
        BadInputError: no copy, or a radius that is not positive.
    """
    if copies < 1 or not radius > 0:
        raise BadInputError(f"samples={copies}, radius={radius}: use one sample or more and a positive radius.")

    def compute() -> Batches:
        shape = (copies, *batch.inputs.shape[1:])
        noise = torch.stack([torch.rand(shape, generator=ctx.generator(id, "uniform noise")) for id in batch.ids])
        inputs = noise.mul_(2).sub_(1).mul_(radius).to(batch.inputs).add_(batch.inputs[:, None])
        return copied(batch, copies, inputs.flatten(0, 1), ctx.max_rows)

    return ctx.probe(model, batch, f"uniform_copies,copies={copies},radius={radius}", compute)


def gaussian_copies(model: Model, batch: Batch, ctx: Context, copies: int, noise: float) -> Batches:
    """Copies of each input with Gaussian noise whose deviation is ``noise`` times the range of the input.

    Raises:
        BadInputError: no copy, or noise that is not positive.
    """
    if copies < 1 or not noise > 0:
        raise BadInputError(f"samples={copies}, noise={noise}: use one sample or more and positive noise.")

    def compute() -> Batches:
        shape = (copies, *batch.inputs.shape[1:])
        draws = [torch.randn(shape, generator=ctx.generator(id, "gaussian noise")) for id in batch.ids]
        spread = batch.inputs.flatten(1).amax(1) - batch.inputs.flatten(1).amin(1)
        inputs = batch.inputs[:, None] + noise * spread.view(-1, 1, 1, 1, 1) * torch.stack(draws).to(batch.inputs)
        return copied(batch, copies, inputs.flatten(0, 1), ctx.max_rows)

    return ctx.probe(model, batch, f"gaussian_copies,copies={copies},noise={noise}", compute)


def logits_of_copies(model: Model, batch: Batch, ctx: Context, name: str, batches: Batches) -> Tensor:
    """Logits [B,copies,K] of copies, float64; ``name`` says which."""

    def compute() -> Tensor:
        inputs = torch.cat([part.inputs for part in batches])

        def rows(start: int, stop: int) -> Tensor:
            return inputs[start:stop]

        logits = target_responses(model, rows, len(inputs), None, output="logits", max_rows=ctx.max_rows)
        return logits.view(len(batch), -1, logits.shape[1])

    return ctx.probe(model, batch, name, compute).double()


def relative_distances(maps: Tensor, again: Tensor) -> Tensor:
    """||again - map|| / ||map|| [B,R] in the Euclidean norm, of rows [B,n] and [B,R,n]; NaN for a zero map."""
    # Rows are scaled before squaring: gradient maps can be small enough to underflow.
    scale = maps.abs().amax(1)[:, None, None]
    maps, again = maps[:, None] / scale, again / scale
    distances: Tensor = torch.linalg.vector_norm(again - maps, dim=-1) / torch.linalg.vector_norm(maps, dim=-1)
    return distances
