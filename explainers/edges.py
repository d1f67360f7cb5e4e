"""Floor: edges of the input."""

from __future__ import annotations

import torch
from torch.nn.functional import conv2d, pad

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid


@explainer("edges", status="floor")
class Edges(Explainer):
    """Sobel gradient magnitude of each channel of the normalised input; >= 0. The model is not asked."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        across = batch.inputs.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        kernels = torch.stack([across, across.T])[:, None]
        planes = pad(batch.inputs.detach().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        magnitude = conv2d(planes, kernels).square().sum(1).sqrt()
        return Explanation(magnitude.view_as(batch.inputs), "cube", geometry)
