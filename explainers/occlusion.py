"""Occlusion: a window slides over the patch grid."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Context, Explainer, Explanation, Model, Paper, explainer
from ..models.perturb import mixed_responses, patch_source
from ._attention import on_grid
from ._masks import within_budget
from ._superpixels import Baseline, baseline_images


@explainer(
    "occlusion",
    paper=Paper("Visualizing and Understanding Convolutional Networks", 2013, "arXiv:1311.2901"),
    cost="budget",
)
class Occlusion(Explainer):
    """Mean over the windows that cover a patch of p(x) - p(x with the window replaced), all bands at once; signed.

    Windows start at every ``stride``-th patch; the last one of a row or column may be cut off by the border (as in
    Captum).

    Attributes:
        window: side in patches.
        stride: in patches, at most ``window``.
        baseline: the mean colour, or the blurred input.
        output: the paper's target probability, or the target logit.
        sigma: of the blur, in patch sides.
        budget: forward passes an image, one a window and one more; a grid that needs more is refused.
    """

    window: PositiveInt = 2
    stride: PositiveInt = 1
    baseline: Baseline = "mean"
    output: Literal["probability", "logit"] = "probability"
    sigma: PositiveFloat = 1.0
    budget: Annotated[int, Field(ge=2)] = 1000

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        if self.stride > self.window:
            raise BadInputError(f"stride={self.stride} leaves patches out between windows of {self.window}.")
        windows = window_masks(geometry.grid, self.window, self.stride)
        count = len(windows)
        within_budget(count + 1, self.budget, f"{count} windows and the input itself")
        # The last mask is empty: the input itself.
        masks = torch.cat([windows, torch.zeros_like(windows[:1])]).to(batch.inputs.device)
        samples = torch.arange(len(batch), device=batch.inputs.device).repeat_interleave(count + 1)
        removed = baseline_images(batch.inputs, self.baseline, self.sigma, geometry)
        responses = mixed_responses(
            model,
            patch_source(model, batch.inputs, geometry, ctx.max_rows),
            masks.repeat(len(batch), 1, 1),
            samples,
            batch.targets.to(samples.device)[samples],
            geometry,
            baseline=None if removed is None else patch_source(model, removed, geometry, ctx.max_rows),
            output=self.output,
            max_rows=ctx.max_rows,
        ).view(len(batch), count + 1)
        drops = responses[:, -1:] - responses[:, :-1]
        cover = masks[:-1].flatten(1).to(drops.dtype)
        native = (drops @ cover / cover.sum(0)).view(-1, *geometry.grid)
        return Explanation(native.to(batch.inputs.dtype), "token", geometry)


def window_masks(grid: tuple[int, int], window: int, stride: int) -> Tensor:
    """The patches of each window, row by row: [W,h,w] bool."""
    inside = []
    for side in grid:
        starts = torch.arange(-(-max(side - window, 0) // stride) + 1)[:, None] * stride
        place = torch.arange(side)
        inside.append((place >= starts) & (place < starts + window))
    return (inside[0][:, None, :, None] & inside[1][None, :, None, :]).flatten(0, 1)
