"""Batched rank statistics in float64: average ranks, correlations, curves over thresholds, expectations over ties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def average_ranks(values: Tensor) -> Tensor:
    """Ranks [...,n] from 1, ascending, ties averaged."""
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values.contiguous(), side="left")
    up_to = torch.searchsorted(ordered, values.contiguous(), side="right")
    return (below + up_to + 1).double() / 2


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation [B] of rows [B,n], in [-1,1]; NaN where a row does not vary."""
    x, y = (v.double() - v.double().mean(-1, keepdim=True) for v in (x, y))
    # Rows are scaled before squaring: gradient maps can be small enough to underflow.
    x, y = (v / v.abs().amax(-1, keepdim=True) for v in (x, y))
    return ((x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()).clamp(-1, 1)


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Rank correlation [B] of rows [B,n], ties averaged; NaN where a row does not vary."""
    return pearson(average_ranks(x), average_ranks(y))


def average_precision(scores: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """:meth:`RankedTruth.average_precision` of [B,n] alone, several times faster on long rows with few true elements.

    The mean over true elements of the precision among all elements that score at least as high, so that sorted scores
    are enough, without their order.
    """
    rows = zip(*(t.cpu().numpy() for t in (scores, truth & valid, valid)), strict=True)
    figures = [_average_precision(*row) for row in rows]
    return torch.tensor(figures, dtype=torch.float64, device=scores.device)


def _average_precision(scores: NDArray[Any], positive: NDArray[np.bool_], valid: NDArray[np.bool_]) -> float:
    if not positive.any():
        return math.nan
    of_true, of_all = np.sort(scores[positive]), np.sort(scores[valid])
    # Equal scores enter together.
    thresholds, gained = np.unique(of_true, return_counts=True)
    hits, places = (len(ordered) - np.searchsorted(ordered, thresholds) for ordered in (of_true, of_all))
    return float((gained * hits / places).sum() / len(of_true))


@dataclass(frozen=True, eq=False)
class RankedTruth:
    """Elements in falling order of their scores, with the true ones counted from the top.

    Thresholds lie between different scores only, so that equal ones enter together.

    Attributes:
        scores: [B,n] falling.
        hits: [B,n] true elements up to and including this place.
        closes: [B,n] whether a threshold lies after this place: the last one of its score.
        positives: [B] true elements.
        negatives: [B] false elements.
    """

    scores: Tensor
    hits: Tensor
    closes: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def of(cls, scores: Tensor, truth: Tensor, valid: Tensor) -> RankedTruth:
        """From scores, truth and validity, each [B,n]; what is not valid is in no figure."""
        falling, order = scores.masked_fill(~valid, -torch.inf).sort(dim=-1, descending=True)
        hits = (truth & valid).gather(-1, order).cumsum(-1).double()
        closes = torch.ones_like(valid)
        closes[:, :-1] = falling[:, :-1] != falling[:, 1:]
        size = valid.sum(-1, keepdim=True)
        closes &= torch.arange(valid.shape[-1], device=valid.device) < size
        return cls(falling, hits, closes, hits[:, -1], size[:, 0] - hits[:, -1])

    @property
    def places(self) -> Tensor:
        """Elements up to and including each place, [n]."""
        return torch.arange(1, self.hits.shape[-1] + 1, dtype=torch.float64, device=self.hits.device)

    def average_precision(self) -> Tensor:
        """Step-wise area under the precision-recall curve [B], ties pooled; NaN without a true element."""
        gained = self.hits - self._at_threshold_above(self.hits)
        return (gained * self.hits / self.places * self.closes).sum(-1) / self.positives

    def auroc(self) -> Tensor:
        """Chance [B] that a true element outscores a false one, ties half; NaN without one of either kind."""
        false = self.places - self.hits
        gained, tied = (count - self._at_threshold_above(count) for count in (self.hits, false))
        beaten = self.negatives[:, None] - false + tied / 2
        return (gained * beaten * self.closes).sum(-1) / (self.positives * self.negatives)

    def best_overlap(self) -> Tensor:
        """Largest intersection over union [B] over all thresholds; NaN without a true element."""
        union = self.places + self.positives[:, None] - self.hits
        overlap = (self.hits / union * self.closes).amax(-1)
        return overlap.masked_fill(self.positives == 0, torch.nan)

    def top(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Expected overlap and precision of the top k with the truth, over all ways to break ties at the k-th place.

        The tie group of m elements, t of them true, fills its r places by a draw without replacement, so that the true
        ones among them are hypergeometric (m, t, r); everything above the group is certain.

        Args:
            k: [B] int, from 1 to the number of valid elements.

        Returns:
            E[|P & G| / |P | G|] and E[|P & G|] / k, both [B]; for an empty truth 0.
        """
        kth = self.scores.gather(-1, k[:, None] - 1)
        above, up_to = (self.scores > kth).sum(-1), (self.scores >= kth).sum(-1)
        certain = torch.nn.functional.pad(self.hits, (1, 0)).gather(-1, above[:, None])[:, 0]
        m, t = (up_to - above).double(), self.hits.gather(-1, up_to[:, None] - 1)[:, 0] - certain
        r = (k - above).double()
        overlap = expected_overlap(k.double(), self.positives, certain, m, t, r)
        return overlap, (certain + r * t / m) / k

    def _at_threshold_above(self, counts: Tensor) -> Tensor:
        """Growing counts [B,n] at the last threshold before each place; 0 before the first."""
        return torch.nn.functional.pad((counts * self.closes).cummax(-1).values[:, :-1], (1, 0))


def expected_overlap(k: Tensor, g: Tensor, certain: Tensor, m: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """E[h / (k + g - h)] with h = certain + Hypergeometric(m, t, r), all [B] float64."""
    drawn = torch.arange(int(torch.minimum(r, t).max()) + 1, dtype=torch.float64, device=k.device)
    m, t, r, k, g, certain = (v[:, None] for v in (m, t, r, k, g, certain))
    possible = (drawn <= t) & (drawn <= r) & (r - drawn <= m - t)
    j = torch.where(possible, drawn, torch.minimum(r, t))
    log_weight = _log_binomial(t, j) + _log_binomial(m - t, r - j) - _log_binomial(m, r)
    weight = log_weight.exp().where(possible, torch.zeros_like(j))
    hits = certain + j
    return (weight * hits / (k + g - hits)).sum(-1) / weight.sum(-1)


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
