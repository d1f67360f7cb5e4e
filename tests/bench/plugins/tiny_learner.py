"""A fitted explainer with a model of its own and an artefact: two new head weights, learned in a few epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitxai.bench.contract import Batch, Context, Explainer, Explanation, Fitted, Model, explainer
from vitxai.explainers._fitting import fit_module, restore
from vitxai.models.optimise import CrossEntropy, Schedule


class Rescaled(nn.Module):
    """Logits of a frozen model, times a learned factor, plus a learned bias."""

    def __init__(self, inner: nn.Module, classes: int) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.factor = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor + self.bias


class Told(CrossEntropy):
    """Cross-entropy that tells the mean factor beside it."""

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return functional.cross_entropy(module(inputs), labels), {"sink_mass": module.factor.detach().mean()}


@explainer("tiny_learner")
class TinyLearner(Explainer):
    """The class's learned factor everywhere; explains its own model.

    Attributes:
        epochs: passes over the fit samples.
        artefact: of an earlier fit.
    """

    epochs: int = 3
    artefact: Path | None = None

    def fit(self, model: Model, ctx: Context) -> Fitted:
        schedule = Schedule(self.epochs, batch_size=4, learning_rate=0.05, policy="constant")
        return fit_module(model, ctx, Rescaled(model.module, 4), schedule, samples=8, objective=Told())

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        return replace(model, module=restore(Rescaled(model.module, 4), fitted, self.name))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        assert model.geometry is not None
        height, width = model.geometry.grid
        factor = model.module.factor.to(batch.inputs)[batch.targets]
        ramp = torch.arange(height * width, device=factor.device, dtype=factor.dtype).view(1, height, width)
        return Explanation(factor[:, None, None] * ramp, "token", model.geometry)
