"""Insertion and deletion: how fast the target's probability comes and goes with the most relevant patches."""

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
    metric,
)
from ..models.perturb import blurred, mean_colour
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._removal import responses_without, source_of
from ._responses import clean_logits, close_ends, logits_of, target_probability


@metric(
    "insertion_deletion",
    columns=(
        Column("insertion_auc", "higher", (0, 1), "area under p(target) as patches return to the blurred image"),
        Column("deletion_auc", "lower", (0, 1), "area under p(target) as patches take the mean colour"),
        Column("insertion_auc_normalised", "higher", (None, None), "the same with the curve's ends at 0 and 1"),
        Column("deletion_auc_normalised", "lower", (None, None), "the same with the curve's ends at 1 and 0"),
    ),
    version=2,
    paper=Paper("RISE: randomized input sampling for explanation of black-box models", 2018, "arXiv:1806.07421"),
    queries_model=True,
)
class InsertionDeletion(Metric):
    """Areas under the softmax probability of the target over the share of patches changed, most relevant first.

    Patches are ordered by the signed map, stable and descending; the shares are the multiples of 1/``steps``, rounded
    to whole patches, 0 and 1 included. The three end images (clean, mean colour, blurred) are probes, so an
    explanation costs 2 (``steps`` - 1) rows a sample.

    Attributes:
        steps: of each curve; at most one a patch.
        sigma: of the Gaussian blur, in patch sides.
    """

    steps: int = 12
    sigma: float = 1.0

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN for a constant map, which orders nothing.

        Raises:
            BadInputError: no explanation, fewer than two steps, or a blur that is none or wider than the image.
        """
        if self.steps < 2 or self.sigma <= 0:
            raise BadInputError(f"steps={self.steps}, sigma={self.sigma}: use at least two steps and a positive sigma.")
        explanation = in_float64(explanation)
        geometry = explanation.geometry
        grid, broken = finite_rows(explanation.grid("signed"))
        walk = PatchWalk.of(grid, self.steps)
        side = math.sqrt(math.prod(geometry.image_size) / math.prod(geometry.grid))
        sigma = self.sigma * side
        grey = mean_colour(batch.inputs)
        blur = source_of(model, batch, ctx, geometry, f"blurred,px={sigma}", lambda: blurred(batch.inputs, sigma))

        clean_end = target_probability(clean_logits(model, batch, ctx), batch.targets)
        grey_end = target_probability(logits_of(model, batch, ctx, "mean_colour_logits", grey), batch.targets)
        blur_end = target_probability(
            logits_of(model, batch, ctx, f"blurred_logits,px={sigma}", blur.images), batch.targets
        )
        deleted = responses_without(model, batch, walk.reached(), ctx, geometry)
        inserted = responses_without(model, batch, ~walk.reached(), ctx, geometry, baseline=blur)
        deletion = walk.area(clean_end, deleted, grey_end)
        insertion = walk.area(blur_end, inserted, clean_end)

        undefined = {NOT_FINITE: broken, CONSTANT_MAP: is_constant(grid)}
        no_fall, no_rise = close_ends(clean_end, grey_end), close_ends(clean_end, blur_end)
        return {
            "insertion_auc": column(insertion, undefined),
            "deletion_auc": column(deletion, undefined),
            "insertion_auc_normalised": column((insertion - blur_end) / (clean_end - blur_end), undefined | no_rise),
            "deletion_auc_normalised": column((deletion - grey_end) / (clean_end - grey_end), undefined | no_fall),
        }


@dataclass(frozen=True, eq=False)
class PatchWalk:
    """The patches of each sample in falling relevance, and how many are changed at each point of the curve.

    Attributes:
        rank: [B,N] place of each patch in the order, from 0.
        counts: [steps + 1] patches changed, from 0 to N.
    """

    rank: Tensor
    counts: Tensor

    @classmethod
    def of(cls, grid: Tensor, steps: int) -> PatchWalk:
        """From maps [B,h,w]; equal patches keep their raster order."""
        order = grid.flatten(1).argsort(dim=1, descending=True, stable=True)
        patches = order.shape[1]
        steps = min(steps, patches)
        counts = (torch.arange(steps + 1, device=grid.device) * patches / steps).round().long()
        return cls(order.argsort(dim=1), counts)

    def reached(self) -> Tensor:
        """Patches [B,steps - 1,N] bool that are changed at each inner point."""
        return self.rank[:, None] < self.counts[1:-1, None]

    def area(self, first: Tensor, inner: Tensor, last: Tensor) -> Tensor:
        """Area [B] under a curve, first point [B], inner points [B,steps - 1], last [B], over the share of patches."""
        curve = torch.cat([first[:, None], inner, last[:, None]], dim=1)
        return torch.trapezoid(curve, self.counts.double() / self.rank.shape[1])
