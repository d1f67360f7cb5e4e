"""Segmentation by Otsu's threshold, as in the AG-CAM protocol: Jaccard index, F1 and pixel accuracy."""

from __future__ import annotations

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Paper, Reduction, Scores, metric
from ._maps import NO_EVIDENCE, NOT_FINITE, column, finite_rows, in_float64
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
    """The map as it is (signed by default), upsampled, min-max scaled, cut by Otsu; a constant map selects nothing."""

    reduction: Reduction = "signed"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B] in [0,1]; NaN for samples without evidence and for maps that are not finite.

        Raises:
            BadInputError: no explanation, or no mask of the maps' size.
        """
        maps, broken = finite_rows(in_float64(explanation).spatial(self.reduction))
        truth = MaskTruth.of(batch, (maps.shape[1], maps.shape[2]))
        selected = otsu_segmentation(maps.flatten(1), truth.valid)
        j = jaccard(selected, truth)
        pixels = truth.valid.sum(1).double()
        right = ((selected == truth.evidence) & truth.valid).sum(1)
        undefined = {NO_EVIDENCE: truth.empty, NOT_FINITE: broken}
        return {
            "otsu_jaccard": column(j, undefined),
            "otsu_f1": column(2 * j / (1 + j), undefined),
            "otsu_pixel_accuracy": column(right / pixels, undefined),
            "otsu_pixel_accuracy_background": column(1 - truth.evidence.sum(1) / pixels, {NO_EVIDENCE: truth.empty}),
        }
