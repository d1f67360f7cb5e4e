"""Integrated gradients."""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, explainer
from ._attention import on_grid
from ._path import integrate


@explainer(
    "integrated_gradients",
    paper=Paper("Axiomatic Attribution for Deep Networks", 2017, "arXiv:1703.01365"),
    needs=("gradient",),
)
class IntegratedGradients(Explainer):
    """Gradients of the target logit integrated from the mean colour (zero in normalised space) to the input; signed.

    The sum of a sample's map is logit(input) - logit(mean colour), up to the quadrature.

    Attributes:
        steps: Gauss-Legendre nodes, each one forward and one backward pass.
    """

    steps: PositiveInt = 50

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        baselines = torch.zeros_like(batch.inputs)
        return Explanation(integrate(model, batch, baselines, self.steps, ctx.max_rows), "cube", geometry)
