"""Overlap with the mask at the threshold that suits a method best on validation data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..bench.contract import (
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Paper,
    Reduction,
    Scores,
    metric,
)
from ._maps import NO_EVIDENCE, NOT_FINITE, column, finite_rows, in_float64
from ._minmax import min_max
from ._segmentation import MaskTruth, jaccard

LEVELS = 100
ROWS = 8
NO_THRESHOLD = "no validation sample has evidence and a finite map"


@metric(
    "iou_at_best_threshold",
    columns=(
        Column("spatial_iou_validated", "higher", (0, 1), "IoU above the threshold chosen on validation", truth=True),
        Column("validated_threshold", "none", (0, 1), "that threshold"),
    ),
    version=1,
    needs=("mask", "re-explain"),
    paper=Paper("DiffCAM (threshold chosen on validation data)", 2025, "CVPR 2025"),
)
class IouAtBestThreshold(Metric):
    """IoU of the min-max scaled map above one threshold for all samples, the method's own best on validation data.

    The threshold is the multiple of 1/100 below 1 with the largest mean IoU over the validation samples that have
    evidence, the smallest such. It is chosen anew for each method and model, never on test data, so that no method is
    measured by how well another's threshold suits it. Costs ``samples`` explanations a chunk of samples, beside the
    maps themselves.

    Attributes:
        samples: of the validation split, or as many as the suite lets methods see.
        reduction: of the map to space.
    """

    samples: PositiveInt = 32
    reduction: Reduction = "mean_positive"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """Both columns [B]; the threshold is the same for all of them.

        Raises:
            BadInputError: no explanation, or no mask of the maps' size.
            UnsupportedError: the explainer of the map is not at hand.
        """
        maps, truth, broken = self._scaled(batch, in_float64(explanation))
        threshold = self._threshold(model, ctx)
        unknown = torch.full_like(broken, threshold is None)
        cut = 0.0 if threshold is None else threshold
        overlap = jaccard((maps > cut) & truth.valid, truth)
        return {
            "spatial_iou_validated": column(
                overlap, {NO_EVIDENCE: truth.empty, NOT_FINITE: broken, NO_THRESHOLD: unknown}
            ),
            "validated_threshold": column(torch.full_like(overlap, cut), {NO_THRESHOLD: unknown}),
        }

    def _scaled(self, batch: Batch, explanation: Explanation) -> tuple[Tensor, MaskTruth, Tensor]:
        """Maps [B,P] in [0,1], their truth, and which rows [B] were not finite; a constant map selects nothing."""
        maps, broken = finite_rows(explanation.spatial(self.reduction))
        truth = MaskTruth.of(batch, (maps.shape[1], maps.shape[2]))
        return min_max(maps.flatten(1), truth.valid)[0], truth, broken

    def _threshold(self, model: Model, ctx: Context) -> float | None:
        name = f"validation_batches,samples={self.samples}"
        batches: Sequence[Batch] = ctx.probe(model, None, name, lambda: self._validation(ctx))
        overlaps = [self._overlaps(part, ctx.explain(model, part)) for part in batches]
        usable = torch.cat(overlaps)
        usable = usable[usable.isfinite().all(1)]
        return int(usable.mean(0).argmax()) / LEVELS if len(usable) else None

    def _validation(self, ctx: Context) -> tuple[Batch, ...]:
        """The validation samples in batches of one size, whatever that of the run, so that the maps are the same."""
        whole = ctx.data("validation", self.samples)
        starts = range(0, len(whole), ROWS)
        return tuple(whole.select(range(start, min(start + ROWS, len(whole)))) for start in starts)

    def _overlaps(self, batch: Batch, explanation: Explanation) -> Tensor:
        """IoU [B,LEVELS] at every threshold; NaN without evidence or for a map that is not finite."""
        maps, truth, broken = self._scaled(batch, in_float64(explanation))
        cuts = (level / LEVELS for level in range(LEVELS))
        overlaps = torch.stack([jaccard((maps > cut) & truth.valid, truth) for cut in cuts], dim=1)
        return overlaps.masked_fill((truth.empty | broken)[:, None], torch.nan)
