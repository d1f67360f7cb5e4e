"""Agreement of the spatial map with the mask of the evidence, and its mass on distractors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, Values, metric
from ._maps import (
    CONSTANT_MAP,
    CONSTANT_TOLERANCE,
    NO_EVIDENCE,
    NOT_FINITE,
    column,
    finite_rows,
    in_float64,
    is_constant,
)
from ._ranking import RankedTruth
from ._segmentation import MaskTruth, fill_ignored, jaccard, otsu_segmentation

ALL_EVIDENCE = "the mask covers every pixel"
NO_DISTRACTOR_DATA = "the data set has no distractors"
NO_DISTRACTORS = "no distractors in this sample"
NO_RELEVANCE = "no positive relevance"


@metric(
    "localisation",
    columns=(
        Column("spatial_iou", "higher", (0, 1), "IoU of the map above Otsu's threshold", truth=True),
        Column("spatial_iou_focus", "higher", (0, 1), "the same on the sum over bands (FOCUS)", truth=True),
        Column("spatial_iou_topg", "higher", (0, 1), "IoU of the |G| most relevant pixels, G the mask", truth=True),
        Column("spatial_iou_ceiling", "none", (0, 1), "best IoU of the mask itself on the patch grid", truth=True),
        Column("auprc", "higher", (0, 1), "average precision of the map against the mask", truth=True),
        Column("auprc_focus", "higher", (0, 1), "the same on the sum over bands (FOCUS)", truth=True),
        Column("auprc_chance", "none", (0, 1), "share of pixels in the mask: the AUPRC of chance", truth=True),
        Column("auroc", "higher", (0, 1), "chance that a pixel of the mask outranks one outside", truth=True),
        Column("pointing_game", "higher", (0, 1), "share of the maximal pixels that lie in the mask", truth=True),
        Column("relevance_mass", "higher", (0, 1), "share of the positive relevance inside the mask", truth=True),
        Column("distractor_rate", "lower", (0, 1), "share of the positive relevance inside distractors", truth=True),
    ),
    version=1,
    needs=("mask",),
    paper=Paper("Top-down neural attention by excitation backprop (pointing game)", 2018, "10.1007/s11263-017-1059-x"),
)
class Localisation(Metric):
    """Pixel-level figures of the upsampled map; pixels in ``batch.ignore`` are left out of all of them.

    Columns are computed on the reduction ``mean_positive``, those named ``_focus`` on ``focus``.
    """

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN with a reason where docs/metrics.md leaves them undefined.

        Raises:
            BadInputError: no explanation, or no mask of the maps' size.
        """
        explanation = in_float64(explanation)
        maps, broken = finite_rows(explanation.spatial("mean_positive"))
        truth = MaskTruth.of(batch, (maps.shape[1], maps.shape[2]))
        undefined = {NO_EVIDENCE: truth.empty, NOT_FINITE: broken}
        common = MapFigures.of(maps, truth)
        focus_maps, focus_broken = finite_rows(explanation.spatial("focus"))
        focus = MapFigures.of(focus_maps, truth)
        focus_undefined = {NO_EVIDENCE: truth.empty, NOT_FINITE: focus_broken}
        constant = undefined | {CONSTANT_MAP: common.constant}
        full = ~(truth.valid & ~truth.evidence).any(1)
        return {
            "spatial_iou": column(common.iou(), undefined),
            "spatial_iou_focus": column(focus.iou(), focus_undefined),
            "spatial_iou_topg": column(common.iou_topg(), undefined),
            "spatial_iou_ceiling": column(grid_ceiling(truth, explanation), {NO_EVIDENCE: truth.empty}),
            "auprc": column(common.ranked.average_precision(), undefined),
            "auprc_focus": column(focus.ranked.average_precision(), focus_undefined),
            "auprc_chance": column(truth.evidence.sum(1) / truth.valid.sum(1).double(), {NO_EVIDENCE: truth.empty}),
            "auroc": column(common.ranked.auroc(), undefined | {ALL_EVIDENCE: full}),
            "pointing_game": column(common.pointing(), constant),
            "relevance_mass": column(common.mass(truth.evidence), undefined | {NO_RELEVANCE: common.silent}),
            "distractor_rate": distractor_rate(batch, common, broken),
        }


@dataclass(frozen=True, eq=False)
class MapFigures:
    """The figures of one map a sample against its truth.

    Attributes:
        maps: [B,P] with the ignored pixels at the smallest valid value.
        truth: the evidence and the valid pixels.
        constant: rows [B] of constant maps.
        ranked: the valid pixels by relevance; all tie on a constant map.
    """

    maps: Tensor
    truth: MaskTruth
    constant: Tensor
    ranked: RankedTruth

    @classmethod
    def of(cls, maps: Tensor, truth: MaskTruth) -> MapFigures:
        """From maps [B,H,W]; a nearly constant map becomes exactly so."""
        flat = fill_ignored(maps.flatten(1), truth.valid)
        constant = is_constant(flat)
        flat = torch.where(constant[:, None], flat[:, :1], flat)
        return cls(flat, truth, constant, RankedTruth.of(flat, truth.evidence, truth.valid))

    @property
    def silent(self) -> Tensor:
        """Rows [B] without positive relevance."""
        return self._relevance().sum(1) == 0

    def iou(self) -> Tensor:
        """IoU [B] of the positive part above Otsu's threshold; 0 for a constant map."""
        return jaccard(otsu_segmentation(self.maps.clamp(min=0), self.truth.valid), self.truth)

    def iou_topg(self) -> Tensor:
        """IoU [B] of as many top pixels as the evidence has, in expectation over ties; 0 for a constant map."""
        k = self.truth.evidence.sum(1).clamp(min=1)
        return self.ranked.top(k)[0].masked_fill(self.constant, 0.0)

    def pointing(self) -> Tensor:
        """Chance [B] that a maximal pixel, drawn at random among equals, lies in the evidence."""
        # Interpolation leaves rounding errors on a plateau, hence the tolerance.
        slack = CONSTANT_TOLERANCE * self.maps.abs().amax(1, keepdim=True)
        maximal = (self.maps >= self.maps.amax(1, keepdim=True) - slack) & self.truth.valid
        return (maximal & self.truth.evidence).sum(1).double() / maximal.sum(1)

    def mass(self, region: Tensor) -> Tensor:
        """Share [B] of the positive relevance in a region [B,P]; NaN without positive relevance."""
        relevance = self._relevance()
        return (relevance * region).sum(1) / relevance.sum(1)

    def _relevance(self) -> Tensor:
        return self.maps.clamp(min=0) * self.truth.valid


def grid_ceiling(truth: MaskTruth, explanation: Explanation) -> Tensor:
    """Best IoU [B] over all thresholds of the evidence itself, averaged over patches and upsampled back."""
    geometry = explanation.geometry
    evidence = truth.evidence.view(-1, 1, *geometry.image_size).double()
    seen = interpolate(adaptive_avg_pool2d(evidence, geometry.grid), size=geometry.image_size, mode="bilinear")
    return RankedTruth.of(seen.flatten(1), truth.evidence, truth.valid).best_overlap()


def distractor_rate(batch: Batch, figures: MapFigures, broken: Tensor) -> Values:
    """Share [B] of the positive relevance on planted things that carry no class; samples without evidence count too."""
    if batch.distractors is None:
        everywhere = torch.ones_like(broken)
        return column(torch.full_like(broken, torch.nan, dtype=torch.float64), {NO_DISTRACTOR_DATA: everywhere})
    distractors = batch.distractors.flatten(1) & figures.truth.valid
    reasons = {NOT_FINITE: broken, NO_DISTRACTORS: ~distractors.any(1), NO_RELEVANCE: figures.silent}
    return column(figures.mass(distractors), reasons)
