"""Infidelity: how far the attribution of what is removed differs from what the model loses."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ._maps import NOT_FINITE, column, finite_rows, in_float64
from ._removal import patch_sums, responses_without
from ._responses import clean_logits, target_logit

NO_ATTRIBUTION = "no removed square has attribution"
NO_DROP = "no removed square changes the target logit"


@metric(
    "infidelity",
    columns=(
        Column("infidelity", "lower", (0, None), "mean squared gap of attribution and logit drop over random squares"),
        Column("infidelity_normalised", "lower", (0, 1), "the same at the map's best scale, over the mean of drop^2"),
    ),
    version=1,
    paper=Paper("On the (in)fidelity and sensitivity of explanations", 2019, "arXiv:1901.09392"),
    queries_model=True,
)
class Infidelity(Metric):
    """E_I[(s_I - d_I)^2], Yeh's infidelity with square removal: s_I = I^T Phi, d_I = f(x) - f(x - I).

    I removes a random square of patches, which take the mean colour: its side is uniform from 1 to half the grid's
    shorter side, its place uniform inside the grid. Maps here are attributions, so that I^T Phi is the sum of the map
    over the square (all bands and pixels); f is the target logit. ``infidelity`` takes the map as it is. Normalised:
    min_b E[(b s - d)^2] / E[d^2] = 1 - E[s d]^2 / (E[s^2] E[d^2]), b the optimal scale.

    Squares depend on the sample alone; the drops are a probe of ``runs`` rows a sample, shared by all explainers.

    Attributes:
        runs: squares a sample.
    """

    runs: int = 100

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """Both columns [B]; the normalised one is NaN where attributions or drops are all zero.

        Raises:
            BadInputError: no explanation, or no runs.
        """
        if self.runs < 1:
            raise BadInputError(f"runs={self.runs}: use at least one.")
        explanation = in_float64(explanation)
        values, broken = finite_rows(patch_sums(explanation))
        squares = random_squares(batch, ctx, self.runs, explanation.geometry.grid).to(values.device)
        drops = self._drops(model, batch, squares, explanation, ctx)
        sums = (squares * values[:, None]).flatten(2).sum(-1)
        silent = {NO_ATTRIBUTION: sums.abs().amax(1) == 0, NO_DROP: drops.abs().amax(1) == 0}
        return {
            "infidelity": column((sums - drops).square().mean(1), {NOT_FINITE: broken}),
            "infidelity_normalised": column(scaled_residual(sums, drops), {NOT_FINITE: broken} | silent),
        }

    def _drops(self, model: Model, batch: Batch, squares: Tensor, explanation: Explanation, ctx: Context) -> Tensor:
        """Drop [B,runs] of the target logit without each square, float64."""
        clean = target_logit(clean_logits(model, batch, ctx), batch.targets)
        without = ctx.probe(
            model,
            batch,
            f"infidelity_squares,runs={self.runs}",
            lambda: responses_without(model, batch, squares.flatten(2), ctx, explanation.geometry, output="logit"),
        )
        return clean[:, None] - without.double()


def random_squares(batch: Batch, ctx: Context, runs: int, grid: tuple[int, int]) -> Tensor:
    """Squares [B,runs,h,w] bool of patches, keyed by the sample alone."""
    draws = torch.stack([torch.rand(runs, 3, generator=ctx.generator(id, "infidelity")) for id in batch.ids])
    side = 1 + (draws[..., 0] * max(1, min(grid) // 2)).long()
    inside = []
    for axis, length in enumerate(grid):
        first = (draws[..., 1 + axis] * (length - side + 1)).long()[..., None]
        place = torch.arange(length)
        inside.append((place >= first) & (place < first + side[..., None]))
    return inside[0][..., None] & inside[1][..., None, :]


def scaled_residual(sums: Tensor, drops: Tensor) -> Tensor:
    """min_b mean((b s - d)^2) / mean(d^2) [B] of rows [B,R], in [0, 1]; NaN where one of the rows is zero."""
    s, d = (v / v.abs().amax(1, keepdim=True) for v in (sums, drops))
    explained = (s * d).sum(1).square() / (s.square().sum(1) * d.square().sum(1))
    return (1 - explained).clamp(0, 1)
