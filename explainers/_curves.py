"""Insertion and deletion curves on the patch grid, by which fitted explainers choose on validation data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..bench.contract import Batch, Model
from ..models.perturb import mixed_responses, patch_source
from ._attention import on_grid

Criterion = Literal["insertion", "deletion"]


def curve_area(model: Model, batch: Batch, maps: Tensor, criterion: Criterion, steps: int, max_rows: int) -> Tensor:
    """Area in [0,1] under the target probability while patches are shown (insertion) or hidden (deletion): [M,B].

    Patches go in descending order of a map, ties by position; hidden ones show the mean colour in all bands.

    Args:
        maps: [M,B,h,w], M candidate maps of each sample.
        steps: equal fractions of the patches, besides none.
    """
    geometry = on_grid(model)
    candidates, samples = maps.shape[:2]
    patches = geometry.grid[0] * geometry.grid[1]
    ranks = maps.flatten(2).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1).view(maps.shape)
    counts = torch.linspace(0, patches, steps + 1, device=maps.device).round().long()

    row = torch.arange(candidates * samples * (steps + 1), device=maps.device)
    step, sample, candidate = row % (steps + 1), row // (steps + 1) % samples, row // (steps + 1) // samples
    top = ranks[candidate, sample] < counts[step][:, None, None]
    responses = mixed_responses(
        model,
        patch_source(model, batch.inputs, geometry, max_rows),
        top if criterion == "deletion" else ~top,
        sample,
        batch.targets[sample],
        geometry,
        output="probability",
        max_rows=max_rows,
    )
    return torch.trapezoid(responses.view(candidates, samples, steps + 1).double(), counts.double() / patches)
