"""Input times gradient."""

from __future__ import annotations

import torch

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, explainer
from ._attention import on_grid


@explainer(
    "input_x_gradient",
    paper=Paper(
        "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
        2016,
        "arXiv:1605.01713",
    ),
    needs=("gradient",),
)
class InputXGradient(Explainer):
    """x dlogit/dx on the normalised input, signed: zero input is the mean colour."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        with torch.inference_mode(False), torch.enable_grad():
            inputs = batch.inputs.detach().clone().requires_grad_()
            target = model(inputs).gather(1, batch.targets.clone()[:, None]).sum()
            (gradient,) = torch.autograd.grad(target, inputs)
        return Explanation(batch.inputs * gradient, "cube", geometry)
