"""Spectral agreement with a tolerance in bands or nanometres, and of the whole cube with mask and bands."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

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
    Reduction,
    Scores,
    UnsupportedError,
    metric,
)
from ._bands import CONSTANT_CURVE, NO_SPECTRUM, expert_bands, in_spectral_order
from ._maps import NO_EVIDENCE, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._matching import matching_sizes, reach_of
from ._ranking import average_precision
from ._segmentation import MaskTruth

NO_MASK = "the data set has no mask"
CELLS_AT_ONCE = 2**22


@metric(
    "spectral_truth",
    columns=(
        Column("bio_tolerant", "higher", (0, 1), "overlap of top and expert bands matched one to one", truth=True),
        Column("bio_tolerant_ceiling", "none", (0, 1), "largest overlap that this truth allows", truth=True),
        Column("bio_tolerant_chance", "none", (0, 1), "expected overlap of bands drawn at random", truth=True),
        Column("bio_tolerant_lift", "higher", (-1, 1), "bio_tolerant minus its chance level", truth=True),
        Column("precision_tolerant", "higher", (0, 1), "share of the top bands with an expert band", truth=True),
        Column("cube_auprc", "higher", (0, 1), "average precision of the cube against mask x bands", truth=True),
        Column("cube_auprc_chance", "none", (0, 1), "share of cells in mask x bands: the AUPRC of chance", truth=True),
    ),
    version=1,
    needs=("bands",),
    paper=Paper("FOCUS: Fused Observation of Channels for Unveiling Spectra", 2025, "section 4, without a formula"),
)
class SpectralTruth(Metric):
    """Band overlap with a tolerance, and average precision over the cells (pixel, band) of the cube.

    G: expert bands, P: the k bands with the largest value of the spectral curve. M: the size of the largest one-to-one
    matching of P with G whose pairs are at most ``tolerance`` apart. ``bio_tolerant`` = E[M / (k + |G| - M)],
    ``precision_tolerant`` = E[M] / k, both in exact expectation over ties at the k-th place. With tolerance 0 they are
    ``bio_at_5`` and ``precision_at_5``. ``cube_auprc``: the signed cube against the pixels of the mask times G.

    Attributes:
        k: bands that are picked; all of them on fewer.
        tolerance: largest distance of a pair.
        unit: of the tolerance: places in spectral order, or nanometres between band centres.
        reduction: of the cube to a curve.
    """

    k: int = 5
    tolerance: float = 1.0
    unit: Literal["bands", "nm"] = "bands"
    reduction: Reduction = "mean_positive"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN without evidence, without a spectral axis, and for a constant curve.

        Raises:
            BadInputError: no explanation, no band truth, one of another length than the model's bands, ``k`` below 1,
                or a tolerance that is negative or too wide.
            UnsupportedError: a tolerance in nanometres for a model that knows no wavelengths.
        """
        if self.k < 1:
            raise BadInputError(f"k={self.k} bands cannot be picked; use k >= 1.")
        explanation = in_float64(explanation)
        device = explanation.native.device
        expert = expert_bands(batch, explanation.geometry.channels).to(device)
        order = in_spectral_order(model.wavelengths, expert.shape[1]).to(device)
        return {**self._overlaps(model, explanation, expert, order), **cube_scores(batch, explanation, expert)}

    def _overlaps(self, model: Model, explanation: Explanation, expert: Tensor, order: Tensor) -> Scores:
        bands = expert.shape[1]
        reach = reach_of(self._positions(model, order), self.tolerance)
        k, healthy = min(self.k, bands), ~expert.any(1)
        nowhere = torch.zeros_like(expert)
        curve, undefined = nowhere.double(), {NO_EVIDENCE: healthy}
        if explanation.has_spectrum:
            curve, broken = finite_rows(explanation.spectral(self.reduction))
            undefined |= {NOT_FINITE: broken, CONSTANT_CURVE: is_constant(curve)}
        else:
            undefined |= {NO_SPECTRUM: torch.ones_like(healthy)}
        kth = curve.topk(k).values[:, -1:]
        sure, tied = curve > kth, curve == kth
        # Chance is the same question with every band tied.
        picks = [torch.cat(both)[:, order] for both in ((sure, nowhere), (tied, ~nowhere), (expert, expert))]
        draws = torch.cat([k - sure.sum(1), torch.full_like(healthy, k, dtype=torch.long)])
        odds = matching_sizes(picks[0], picks[1], draws, picks[2], reach)
        pairs = torch.arange(odds.shape[1], dtype=torch.float64, device=odds.device)
        g = expert.sum(1).double()
        overlap, chance = (odds * pairs / (k + g.repeat(2)[:, None] - pairs)).sum(1).chunk(2)
        precision = (odds * pairs).sum(1).chunk(2)[0] / k
        return {
            "bio_tolerant": column(overlap, undefined),
            "bio_tolerant_ceiling": column(g.clamp(max=k) / g.clamp(min=k), {NO_EVIDENCE: healthy}),
            "bio_tolerant_chance": column(chance, {NO_EVIDENCE: healthy}),
            "bio_tolerant_lift": column(overlap - chance, undefined),
            "precision_tolerant": column(precision, undefined),
        }

    def _positions(self, model: Model, order: Tensor) -> list[float]:
        if self.unit == "bands":
            return list(map(float, range(len(order))))
        if not model.wavelengths:
            raise UnsupportedError(f"{model.name} knows no wavelengths; give the tolerance in bands (unit=bands).")
        return [model.wavelengths[band] for band in order.tolist()]


def cube_scores(batch: Batch, explanation: Explanation, expert: Tensor) -> Scores:
    """Average precision of the signed cube against mask x expert bands [B,L], and that of chance."""
    healthy = ~expert.any(1)
    if batch.mask is None:
        unknown, everywhere = torch.full_like(healthy, torch.nan, dtype=torch.float64), torch.ones_like(healthy)
        return dict.fromkeys(("cube_auprc", "cube_auprc_chance"), column(unknown, {NO_MASK: everywhere}))
    truth = MaskTruth.of(batch, explanation.geometry.image_size)
    cells = truth.valid.sum(1).double() * expert.shape[1]
    chance = truth.evidence.sum(1) * expert.sum(1) / cells
    known = {NO_EVIDENCE: healthy | truth.empty}
    if explanation.has_spectrum:
        precision, broken = cube_precision(explanation, truth, expert)
        undefined = known | {NOT_FINITE: broken}
    else:
        precision, undefined = torch.full_like(chance, torch.nan), known | {NO_SPECTRUM: torch.ones_like(healthy)}
    return {"cube_auprc": column(precision, undefined), "cube_auprc_chance": column(chance, known)}


def cube_precision(explanation: Explanation, truth: MaskTruth, expert: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision [B] over cells, a few samples at a time to bound memory, and which cubes [B] are not finite."""
    together = max(1, CELLS_AT_ONCE // (expert.shape[1] * truth.valid.shape[1]))
    parts = [slice(start, start + together) for start in range(0, len(explanation), together)]
    figures = [
        _cell_precision(replace(explanation, native=explanation.native[part]), truth, expert, part) for part in parts
    ]
    precision, broken = zip(*figures, strict=True)
    return torch.cat(precision), torch.cat(broken)


def _cell_precision(explanation: Explanation, truth: MaskTruth, expert: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    cube, broken = finite_rows(explanation.cube())
    cells = cube.flatten(1)
    cells = torch.where(is_constant(cells)[:, None], cells[:, :1], cells)
    valid = truth.valid[part, None].expand(-1, expert.shape[1], -1).flatten(1)
    positives = (truth.evidence[part, None] & expert[part, :, None]).flatten(1)
    return average_precision(cells, positives, valid), broken
