"""From a map to a binary segmentation: positive part, min-max, Otsu's threshold, overlap with a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch
from ._maps import is_constant

BINS = 256


@dataclass(frozen=True, eq=False)
class MaskTruth:
    """The evidence of a batch at pixel level, without the pixels to ignore.

    Attributes:
        evidence: [B,P] bool.
        valid: [B,P] bool, pixels that have a truth.
    """

    evidence: Tensor
    valid: Tensor

    @classmethod
    def of(cls, batch: Batch, size: tuple[int, int]) -> MaskTruth:
        """From the masks of a batch.

        Raises:
            BadInputError: the batch has no mask, or one of another size than the maps.
        """
        if batch.mask is None:
            raise BadInputError("localisation needs masks and this batch has none; choose a data set with `mask`.")
        if tuple(batch.mask.shape[1:]) != tuple(size):
            raise BadInputError(f"masks of {list(batch.mask.shape[1:])} pixels do not lie on maps of {list(size)}.")
        valid = torch.ones_like(batch.mask) if batch.ignore is None else ~batch.ignore
        return cls((batch.mask & valid).flatten(1), valid.flatten(1))

    @property
    def empty(self) -> Tensor:
        """Rows [B] without evidence."""
        return ~self.evidence.any(1)


def fill_ignored(maps: Tensor, valid: Tensor) -> Tensor:
    """Pixels [B,P] that are not valid take the smallest valid value (0 where none is), so that they widen no range."""
    lowest = maps.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    return torch.where(valid, maps, lowest.nan_to_num(posinf=0.0))


def otsu_segmentation(maps: Tensor, valid: Tensor) -> Tensor:
    """Pixels [B,P] above Otsu's threshold of the valid ones after min-max; none for a constant map."""
    maps = fill_ignored(maps, valid)
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    constant = is_constant(maps)[:, None]
    scaled = (maps - low) / (high - low).masked_fill(constant, 1.0)
    return (scaled > otsu_threshold(scaled, valid)[:, None]) & valid & ~constant


def otsu_threshold(scaled: Tensor, valid: Tensor) -> Tensor:
    """Otsu's threshold [B] of maps [B,P] in [0,1]: the centre of the bin that maximises the variance between classes.

    Equals ``skimage.filters.threshold_otsu(image, nbins=256)`` of the valid pixels when these reach 0 and 1.
    Source: N. Otsu, A threshold selection method from gray-level histograms, IEEE SMC 9(1), 1979.
    """
    bins = (scaled * BINS).long().clamp(0, BINS - 1)
    counts = torch.zeros(len(scaled), BINS, dtype=torch.float64, device=scaled.device)
    counts.scatter_add_(1, bins, valid.double())
    centres = (torch.arange(BINS, dtype=torch.float64, device=scaled.device) + 0.5) / BINS
    below, above = counts.cumsum(1)[:, :-1], counts.flip(1).cumsum(1).flip(1)[:, 1:]
    sum_below = (counts * centres).cumsum(1)[:, :-1]
    sum_above = (counts * centres).flip(1).cumsum(1).flip(1)[:, 1:]
    # Both classes hold pixels wherever it matters: the extremes are in the first and the last bin.
    difference = sum_below / below.clamp(min=1) - sum_above / above.clamp(min=1)
    return centres[(below * above * difference.square()).argmax(1)]


def jaccard(selected: Tensor, truth: MaskTruth) -> Tensor:
    """Intersection over union [B] of a selection [B,P] with the evidence; NaN where both are empty."""
    return (selected & truth.evidence).sum(1).double() / (selected | truth.evidence).sum(1)
