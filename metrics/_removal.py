"""Features hidden by the order of a map: patches or pixels, the points of a curve, and what the model then answers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..bench.contract import Batch, Context, Explanation, Model, TokenGeometry
from ..models.perturb import Output, PatchSource, mixed_responses, mixed_rows, patch_source, target_responses
from ._responses import clean_logits, target_logit

Features = Literal["patches", "pixels"]


def feature_values(explanation: Explanation, features: Features) -> Tensor:
    """The signed map, one value a feature (all channels together): [B,h,w] on patches, [B,H,W] upsampled on pixels."""
    return explanation.grid("signed") if features == "patches" else explanation.spatial("signed")


def patch_sums(explanation: Explanation) -> Tensor:
    """All attribution that lies on each patch, summed over its bands and pixels: [B,h,w]."""
    a = explanation.spatial("focus", upsample=False)
    grid = explanation.geometry.grid
    pixels = a[0].numel() / (grid[0] * grid[1])
    return a if pixels == 1 else adaptive_avg_pool2d(a[:, None], grid)[:, 0] * pixels


def ranks(values: Tensor, descending: bool) -> Tensor:
    """Place [B,N] of each feature in the order of its value, from 0; equal ones keep their raster order."""
    order = values.flatten(1).argsort(dim=1, descending=descending, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def cuts(features: int, parts: int, device: torch.device) -> Tensor:
    """Features [parts + 1] before each of the cuts into parts of nearly one size, from 0 to all; at most one a part."""
    parts = min(parts, features)
    return (torch.arange(parts + 1, device=device) * features / parts).round().long()


def groups_of(rank: Tensor, counts: Tensor) -> Tensor:
    """Members [B,K,N] bool of the groups between neighbouring cuts, by rank [B,N]."""
    return (rank[:, None] >= counts[:-1, None]) & (rank[:, None] < counts[1:, None])


def group_sums(values: Tensor, counts: Tensor) -> Tensor:
    """Sum [B,K] of the values [B,h,w] in each group, the groups cut from the falling order."""
    falling = values.flatten(1).sort(dim=1, descending=True).values
    ends = counts.tolist()
    return torch.stack([falling[:, a:b].sum(1) for a, b in pairwise(ends)], dim=1)


def source_of(
    model: Model, batch: Batch, ctx: Context, geometry: TokenGeometry, name: str, images: Callable[[], Tensor]
) -> PatchSource:
    """Images [B,C,H,W] to put rows together of, made and embedded once for all explainers; ``name`` says which."""
    return ctx.probe(
        model, batch, f"patch_source,{name}", lambda: patch_source(model, images(), geometry, ctx.max_rows)
    )


def responses_without(
    model: Model,
    batch: Batch,
    hidden: Tensor,
    ctx: Context,
    geometry: TokenGeometry,
    *,
    output: Output = "probability",
    baseline: PatchSource | None = None,
) -> Tensor:
    """Answer [B,S] float64 for the target where the hidden features [B,S,N] show the baseline.

    Features are patches, or pixels. Without a baseline they show the mean colour.
    """
    points = hidden.shape[1]
    if points == 0:
        return hidden.new_zeros(len(batch), 0, dtype=torch.float64)
    rows, targets = hidden.flatten(0, 1), batch.targets.repeat_interleave(points)
    samples = torch.arange(len(batch), device=hidden.device).repeat_interleave(points)
    if rows.shape[1] == geometry.grid[0] * geometry.grid[1]:
        shown = source_of(model, batch, ctx, geometry, "inputs", lambda: batch.inputs)
        baseline = baseline or source_of(
            model, batch, ctx, geometry, "mean_colour", lambda: torch.zeros_like(batch.inputs[:1])
        )
        patches = rows.view(-1, *geometry.grid)
        responses = mixed_responses(
            model,
            shown,
            patches,
            samples,
            targets,
            geometry,
            baseline=baseline,
            output=output,
            max_rows=ctx.max_rows,
        )
    else:
        images = None if baseline is None else baseline.images

        def mixed(start: int, stop: int) -> Tensor:
            where = rows[start:stop].view(-1, 1, *geometry.image_size)
            return mixed_rows(batch.inputs, samples[start:stop], where, images)

        responses = target_responses(model, mixed, len(rows), targets, output=output, max_rows=ctx.max_rows)
    return responses.view(-1, points).double()


def cell_of_pixels(cells: tuple[int, int], size: tuple[int, int], device: torch.device) -> Tensor:
    """Index [H,W] of the cell that each pixel lies in, the image being cut into rows x columns cells, row by row."""
    rows = torch.arange(size[0], device=device) * cells[0] // size[0]
    columns = torch.arange(size[1], device=device) * cells[1] // size[1]
    return rows[:, None] * cells[1] + columns


def single_deletions(model: Model, batch: Batch, cells: tuple[int, int], ctx: Context) -> Tensor:
    """Drop [B,n] of the target logit, float64, when one cell alone takes the mean colour: a probe, n rows a sample."""
    owner = cell_of_pixels(cells, model.input_size, batch.inputs.device)
    count = cells[0] * cells[1]

    def hidden(start: int, stop: int) -> Tensor:
        rows = torch.arange(start, stop, device=owner.device)
        return mixed_rows(batch.inputs, rows // count, owner == (rows % count)[:, None, None, None])

    def compute() -> Tensor:
        targets = batch.targets.repeat_interleave(count)
        return target_responses(model, hidden, len(targets), targets, max_rows=ctx.max_rows).view(-1, count)

    clean = target_logit(clean_logits(model, batch, ctx), batch.targets)
    name = f"single_deletions,cells={cells[0]}x{cells[1]}"
    return clean[:, None] - ctx.probe(model, batch, name, compute).double()


def area(curve: Tensor, counts: Tensor) -> Tensor:
    """Area [B] of the trapezoids under a curve [B,steps + 1] over the share of features changed."""
    return torch.trapezoid(curve, counts.double() / counts[-1])


def joined(first: Tensor, inner: Tensor, last: Tensor) -> Tensor:
    """A whole curve [B,S + 2] from its ends [B] and inner points [B,S]."""
    return torch.cat([first[:, None], inner, last[:, None]], dim=1)
