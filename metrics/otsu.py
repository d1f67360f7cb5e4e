"""Segmentation by Otsu's threshold, as in the AG-CAM protocol: Jaccard index, F1 and pixel accuracy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Paper, Reduction, Scores, metric
from ._maps import NO_EVIDENCE, NOT_FINITE, column, finite_rows, in_float64
from ._responses import clean_logits, target_probability
from ._segmentation import MaskTruth, jaccard, otsu_segmentation


@metric(
    "otsu",
    columns=(
        Column("otsu_jaccard", "higher", (0, 1), "Jaccard index of the map above Otsu's threshold", truth=True),
        Column("otsu_f1", "higher", (0, 1), "F1 of the map above Otsu's threshold", truth=True),
        Column("otsu_pixel_accuracy", "higher", (0, 1), "share of pixels segmented rightly", truth=True),
        Column("otsu_pixel_accuracy_background", "none", (0, 1), "its value for an empty map", truth=True),
    ),
    version=1,
    needs=("mask",),
    paper=Paper("A threshold selection method from gray-level histograms", 1979, "10.1109/TSMC.1979.4310076"),
)
class Otsu(Metric):
    """The map as it is (signed by default), upsampled, min-max scaled, cut by Otsu; a constant map selects nothing.

    Attributes:
        reduction: of the map to space.
        min_probability: only samples whose target has a softmax probability above it in the scored model are defined;
            0.85 is the protocol of the report on attention-guided CAM, where the target is the prediction.
    """

    reduction: Reduction = "signed"
    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B] in [0,1]; NaN for samples without evidence or below the probability, and for maps not finite.

        Raises:
            BadInputError: no explanation, or no mask of the maps' size.
        """
        maps, broken = finite_rows(in_float64(explanation).spatial(self.reduction))
        truth = MaskTruth.of(batch, (maps.shape[1], maps.shape[2]))
        selected = otsu_segmentation(maps.flatten(1), truth.valid)
        j = jaccard(selected, truth)
        pixels = truth.valid.sum(1).double()
        right = ((selected == truth.evidence) & truth.valid).sum(1)
        unsure = self._unsure(model, batch, ctx)
        undefined = {**unsure, NO_EVIDENCE: truth.empty, NOT_FINITE: broken}
        return {
            "otsu_jaccard": column(j, undefined),
            "otsu_f1": column(2 * j / (1 + j), undefined),
            "otsu_pixel_accuracy": column(right / pixels, undefined),
            "otsu_pixel_accuracy_background": column(
                1 - truth.evidence.sum(1) / pixels, {**unsure, NO_EVIDENCE: truth.empty}
            ),
        }

    def _unsure(self, model: Model, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        if not self.min_probability:
            return {}
        probability = target_probability(clean_logits(model, batch, ctx), batch.targets)
        return {f"p(target) is not above {self.min_probability:g}": probability <= self.min_probability}
