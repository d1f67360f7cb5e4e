"""Band overlap: how well the most salient bands agree with the bands that carry the evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ._maps import NO_EVIDENCE, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._ranking import RankedTruth, expected_overlap, spearman

NO_SPECTRUM = "no spectral axis"
CONSTANT_CURVE = "the spectral curve is constant"
CONSTANT_TRUTH = "the band truth is constant"


@metric(
    "bio_at_5",
    columns=(
        Column("bio_at_5", "higher", (0, 1), "overlap of top and expert bands, |P & G| / |P | G|", truth=True),
        Column("bio_at_5_focus", "higher", (0, 1), "the same on the maximum over positions (FOCUS)", truth=True),
        Column("bio_at_5_ceiling", "none", (0, 1), "largest overlap that this truth allows", truth=True),
        Column("bio_at_5_chance", "none", (0, 1), "expected overlap of bands drawn at random", truth=True),
        Column("bio_at_5_lift", "higher", (-1, 1), "bio_at_5 minus its chance level", truth=True),
        Column("precision_at_5", "higher", (0, 1), "share of the top bands that are expert bands", truth=True),
        Column("band_spearman", "higher", (-1, 1), "rank correlation of the curve with the band truth", truth=True),
    ),
    version=1,
    needs=("bands",),
    paper=Paper("FOCUS: Fused Observation of Channels for Unveiling Spectra", 2025, "section 4, without a formula"),
)
class BandOverlap(Metric):
    """Band importance overlap (BIO@k) in expectation over ties at the k-th place.

    Expert bands are those with at least half of the largest band truth of the sample. All bands of a spectral group
    tie, so the expectation is over which of them would be picked; it is exact (hypergeometric), not sampled.
    """

    k: int = 5

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN without evidence, without a spectral axis, and for a constant curve.

        Raises:
            BadInputError: no explanation, no band truth, one of another length than the curve, or ``k`` below 1.
        """
        explanation = in_float64(explanation)
        bands = self._truth(batch, explanation)
        expert = (bands >= bands.amax(1, keepdim=True) / 2) & (bands > 0)
        healthy = ~expert.any(1)
        k = torch.full_like(healthy, min(self.k, bands.shape[1]), dtype=torch.long)
        ceiling, chance = best_overlap(k, expert), chance_overlap(k, expert)
        scores = {
            "bio_at_5_ceiling": column(ceiling, {NO_EVIDENCE: healthy}),
            "bio_at_5_chance": column(chance, {NO_EVIDENCE: healthy}),
        }
        if not explanation.has_spectrum:
            nowhere = torch.full_like(ceiling, torch.nan)
            reasons = {NO_EVIDENCE: healthy, NO_SPECTRUM: torch.ones_like(healthy)}
            rest = [c.name for c in self.columns if c.name not in scores]
            return scores | {name: column(nowhere, reasons) for name in rest}
        curve, broken = finite_rows(explanation.spectral("mean_positive"))
        focus, focus_broken = finite_rows(explanation.spectral("focus"))
        overlap, precision = ranked(curve, expert).top(k)
        undefined = {NO_EVIDENCE: healthy, NOT_FINITE: broken, CONSTANT_CURVE: is_constant(curve)}
        focus_undefined = {NO_EVIDENCE: healthy, NOT_FINITE: focus_broken, CONSTANT_CURVE: is_constant(focus)}
        return scores | {
            "bio_at_5": column(overlap, undefined),
            "bio_at_5_focus": column(ranked(focus, expert).top(k)[0], focus_undefined),
            "bio_at_5_lift": column(overlap - chance, undefined),
            "precision_at_5": column(precision, undefined),
            "band_spearman": column(spearman(curve, bands), undefined | {CONSTANT_TRUTH: is_constant(bands)}),
        }

    def _truth(self, batch: Batch, explanation: Explanation) -> Tensor:
        if batch.bands is None:
            raise BadInputError("bio_at_5 needs band truth and this batch has none; choose a data set with `bands`.")
        if batch.bands.shape[1] != explanation.geometry.channels:
            raise BadInputError(
                f"band truth of {batch.bands.shape[1]} bands does not fit a model of {explanation.geometry.channels}."
            )
        if self.k < 1:
            raise BadInputError(f"k={self.k} bands cannot be picked; use k >= 1.")
        return batch.bands.double().to(explanation.native.device)


def ranked(curve: Tensor, expert: Tensor) -> RankedTruth:
    """Bands in falling order of a curve [B,L], with the expert ones [B,L] counted."""
    return RankedTruth.of(curve, expert, torch.ones_like(expert))


def best_overlap(k: Tensor, expert: Tensor) -> Tensor:
    """Largest |P & G| / |P | G| [B] that k picks can reach on expert bands [B,L]."""
    g = expert.sum(1)
    return torch.minimum(k, g).double() / torch.maximum(k, g)


def chance_overlap(k: Tensor, expert: Tensor) -> Tensor:
    """Expected |P & G| / |P | G| [B] of k bands drawn at random from all bands, for expert bands [B,L]."""
    g = expert.sum(1).double()
    return expected_overlap(k.double(), g, torch.zeros_like(g), torch.full_like(g, expert.shape[1]), g, k.double())
