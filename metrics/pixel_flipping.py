"""Pixel flipping: the target's probability as features go, the most or the least relevant first."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ..models.perturb import mean_colour
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._removal import Features, area, cuts, feature_values, joined, ranks, responses_without
from ._responses import clean_logits, close_ends, logits_of, target_probability

PAPER = Paper(
    "On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation",
    2015,
    "10.1371/journal.pone.0130140",
)


def _columns(feature: str, several: str) -> tuple[Column, ...]:
    morf, lerf = f"{several}, most relevant first", f"{several}, least relevant first"
    return (
        Column(f"{feature}_morf_auc", "lower", (0, 1), f"area under p(target) without {morf}"),
        Column(f"{feature}_lerf_auc", "higher", (0, 1), f"area under p(target) without {lerf}"),
        Column(f"{feature}_abpc", "higher", (-1, 1), f"area between the two curves of {several}: LeRF - MoRF"),
        Column(f"{feature}_morf_auc_normalised", "lower", (None, None), f"{feature}_morf_auc, ends at 1 and 0"),
        Column(f"{feature}_lerf_auc_normalised", "higher", (None, None), f"{feature}_lerf_auc, ends at 1 and 0"),
        Column(f"{feature}_abpc_normalised", "higher", (None, None), f"{feature}_abpc of curves with ends 1 and 0"),
    )


@metric("pixel_flipping", columns=_columns("pixel", "pixels"), version=2, paper=PAPER, queries_model=True)
class PixelFlipping(Metric):
    """Areas under the softmax probability of the target over the share of pixels that took the mean colour.

    Pixels (all channels together) go by the signed, upsampled map, stable: falling for MoRF, rising for LeRF. The
    shares are the multiples of 1/``steps``, rounded to whole pixels, 0 and 1 included. ABPC is the area of LeRF less
    that of MoRF; normalised areas are (area - p_grey) / (p_clean - p_grey). Both ends are probes, so an explanation
    costs 2 (``steps`` - 1) rows a sample.

    Attributes:
        steps: of each curve; at most one a pixel.
    """

    steps: int = 12

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN for a constant map, which orders nothing.

        Raises:
            BadInputError: no explanation, or fewer than two steps.
        """
        return _flipped(model, batch, explanation, ctx, "pixels", self.steps)


@metric("patch_flipping", columns=_columns("patch", "patches"), version=2, paper=PAPER, queries_model=True)
class PatchFlipping(Metric):
    """:class:`PixelFlipping` with patches in place of pixels: nothing is interpolated, and no patch is torn apart.

    Attributes:
        steps: of each curve; at most one a patch.
    """

    steps: int = 12

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN for a constant map, which orders nothing.

        Raises:
            BadInputError: no explanation, or fewer than two steps.
        """
        return _flipped(model, batch, explanation, ctx, "patches", self.steps)


def _flipped(
    model: Model, batch: Batch, explanation: Explanation | None, ctx: Context, features: Features, steps: int
) -> Scores:
    if steps < 2:
        raise BadInputError(f"steps={steps}: use at least two.")
    explanation = in_float64(explanation)
    values, broken = finite_rows(feature_values(explanation, features))
    counts, curves = _curves(model, batch, explanation, values, steps, ctx)
    clean, grey = curves[0][:, 0], curves[0][:, -1]
    morf, lerf = (area(curve, counts) for curve in curves)
    fall = clean - grey
    undefined = {NOT_FINITE: broken, CONSTANT_MAP: is_constant(values)}
    flat = undefined | close_ends(clean, grey)
    name = {"patches": "patch", "pixels": "pixel"}[features]
    return {
        f"{name}_morf_auc": column(morf, undefined),
        f"{name}_lerf_auc": column(lerf, undefined),
        f"{name}_abpc": column(lerf - morf, undefined),
        f"{name}_morf_auc_normalised": column((morf - grey) / fall, flat),
        f"{name}_lerf_auc_normalised": column((lerf - grey) / fall, flat),
        f"{name}_abpc_normalised": column((lerf - morf) / fall, flat),
    }


def _curves(
    model: Model, batch: Batch, explanation: Explanation, values: Tensor, steps: int, ctx: Context
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Features gone at each point [steps + 1], and p(target) [B,steps + 1] there, MoRF and LeRF."""
    counts = cuts(values[0].numel(), steps, values.device)
    inner = counts[1:-1, None]
    gone = [ranks(values, descending)[:, None] < inner for descending in (True, False)]
    between = responses_without(model, batch, torch.cat(gone, 1), ctx, explanation.geometry)
    clean = target_probability(clean_logits(model, batch, ctx), batch.targets)
    grey_logits = logits_of(model, batch, ctx, "mean_colour_logits", mean_colour(batch.inputs))
    grey = target_probability(grey_logits, batch.targets)
    morf, lerf = (joined(clean, part, grey) for part in between.chunk(2, dim=1))
    return counts, (morf, lerf)
