"""How concentrated a map is on the patch grid: Gini index and entropy of the magnitudes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ._maps import NOT_FINITE, column, finite_rows, in_float64

ZERO_MAP = "the map is zero"
ONE_PATCH = "the patch grid has one patch"


@metric(
    "sparseness",
    columns=(
        Column("sparseness", "higher", (0, 1), "Gini index of the magnitudes on the patch grid"),
        Column("complexity", "lower", (0, 1), "entropy of the magnitudes on the patch grid over ln n"),
    ),
    version=1,
    paper=Paper("Concise explanations of neural networks using adversarial training", 2020, "arXiv:1810.06583"),
)
class Sparseness(Metric):
    """Gini index (higher is sparser, after Chalasani et al.) and normalised entropy of |a| over the n patches.

    The direction is that of Chalasani et al. and Quantus; FocusViT reads the Gini index the other way round.
    """

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """``sparseness`` [B] in [0, 1 - 1/n] and ``complexity`` [B] in [0, 1]; NaN for a zero map.

        Raises:
            BadInputError: no explanation.
        """
        maps, broken = finite_rows(in_float64(explanation).grid("signed"))
        magnitudes = maps.abs().flatten(1)
        undefined = {NOT_FINITE: broken, ZERO_MAP: magnitudes.amax(1) == 0}
        single = torch.full_like(broken, magnitudes.shape[1] < 2)
        return {
            "sparseness": column(gini(magnitudes), undefined),
            "complexity": column(relative_entropy(magnitudes), undefined | {ONE_PATCH: single}),
        }


def gini(magnitudes: Tensor) -> Tensor:
    """Gini index [B] of rows [B,n] >= 0, in [0, 1 - 1/n]; NaN for a zero row."""
    n = magnitudes.shape[1]
    ordered = _shares(magnitudes).sort(1).values
    weights = 2 * torch.arange(1, n + 1, dtype=ordered.dtype, device=ordered.device) - n - 1
    return (weights * ordered).sum(1) / n


def relative_entropy(magnitudes: Tensor) -> Tensor:
    """Shannon entropy [B] of rows [B,n] >= 0 made shares, over ln n: 0 for one patch only, 1 for a constant row."""
    shares = _shares(magnitudes)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropy / math.log(max(magnitudes.shape[1], 2))


def _shares(magnitudes: Tensor) -> Tensor:
    scaled = magnitudes / magnitudes.amax(1, keepdim=True)
    return scaled / scaled.sum(1, keepdim=True)
