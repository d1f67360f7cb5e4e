"""SANet-style band attention in front of a frozen ViT: a reconstruction."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..bench.contract import Batch, Context, Explainer, Explanation, Fitted, Model, Paper, UnsupportedError, explainer
from ._attention import on_grid
from ._cam import grad_cam
from ._fitting import balanced_entropy, class_count, fit_module, restore
from ._own_head import drawn, sharing

if TYPE_CHECKING:
    from ..models.optimise import CrossEntropy


@explainer(
    "sanet",
    paper=Paper("SANet: Structure-Aware Network for Visual Tracking (as cited by FOCUS)", 2017, "CVPR Workshops 2017"),
    needs=("gradient", "labels", "spectrum"),
    status="reconstruction",
)
class SANet(Explainer):
    """a_b(x) M(x, y): weight of band b times the Grad-CAM of the own model, positive part, upsampled; a cube, >= 0.

    Own model: the frozen ViT on a(x) * x, in normalised space, so that a band at weight 0 is at its mean colour.
    a = sigmoid(W2 relu(W1 z)) in (0, 1), z the mean and standard deviation of each band over the pixels, trained with
    cross-entropy + ``sparsity`` x mean a. M is the mean over bands of max(Grad-CAM, 0), as ``mean_positive`` reads any
    map, so that bands and places are told apart independently of each other.

    Reconstruction: FOCUS names SANet as a method that weighs bands, but the paper it cites tracks objects in RGB video
    and has no such weights. Squeeze-and-excitation, where it stands, z, the penalty and the map are ours.

    Attributes:
        width: of the hidden layer.
        sparsity: without it a band that does neither good nor harm keeps the weight that it began with, 0.88.
        head: the frozen one, or a copy that is trained along.
        layer: of Grad-CAM, as in ``grad_cam``.
        samples: of the fit split.
        epochs, batch_size, learning_rate: of the fit.
        artefact: file of an earlier fit.
    """

    width: PositiveInt = 16
    sparsity: NonNegativeFloat = 1.0
    head: Literal["frozen", "trained"] = "frozen"
    layer: str | None = None
    samples: Annotated[int, Field(ge=2)] = 1024
    epochs: PositiveInt = 4
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-2
    artefact: Path | None = None

    READOUT: ClassVar = ("layer",)

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import Schedule

        own = self._attended(model, ctx.seed)
        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, weight_decay=0.0)
        fit = ctx.data("fit", self.samples, labels=True)
        objective = Sparse(balanced_entropy(fit, class_count(model, fit)), self.sparsity)
        return fit_module(model, ctx, own, schedule, samples=self.samples, objective=objective)

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        own = restore(self._attended(model), fitted, self.name)
        fact = (self.name, f"band attention of width {self.width}, {self.head} head")
        return replace(model, module=own, provenance=(*model.provenance, fact))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        places = Explanation.of_tokens(grad_cam(model, batch, ctx, self.layer), geometry).spatial("mean_positive")
        with torch.no_grad():
            bands = model.module.get_submodule("band_attention")(batch.inputs)
        return Explanation(bands[:, :, None, None] * places[:, None], "cube", geometry)

    def _attended(self, model: Model, seed: int = 0) -> nn.Module:
        """The frozen ViT behind a fresh band attention, the only part that requires gradients (with the head)."""
        on_grid(model)
        if model.channels <= 3:
            raise UnsupportedError(f"{model.channels} channels are no spectrum: there are no bands to weigh.")
        parts: dict[str, nn.Module] = {
            "band_attention": drawn(lambda: BandAttention(model.channels, self.width), model, seed)
        }
        if self.head == "trained":
            frozen = getattr(model.module, "head", None)
            if not isinstance(frozen, nn.Linear):
                raise UnsupportedError(f"{type(model.module).__name__} has no linear layer `head` to train a copy of.")
            parts["head"] = copy.deepcopy(frozen).requires_grad_(True)
        family: Any = type(model.module)

        def forward(self: Any, inputs: Tensor) -> Tensor:
            weights = self.band_attention(inputs)[:, :, None, None]
            logits: Tensor = family.forward(self, (weights * inputs).to(inputs.dtype))
            return logits

        return sharing(model, parts, forward, first=True)


class BandAttention(nn.Module):
    """Weights in (0, 1) of bands from their mean and standard deviation over the pixels: [B,C,H,W] -> [B,C]."""

    def __init__(self, bands: int, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(2 * bands, width), nn.Linear(width, bands)
        nn.init.zeros_(self.excite.weight)
        nn.init.constant_(self.excite.bias, 2.0)

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = inputs.to(self.squeeze.weight.dtype).flatten(2)
        statistics = torch.cat([pixels.mean(-1), pixels.std(-1, correction=0)], dim=1)
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(statistics))))


@dataclass(frozen=True, eq=False)
class Sparse:
    """Cross-entropy + ``sparsity`` x mean band weight."""

    entropy: CrossEntropy
    sparsity: float

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, _ = self.entropy.loss(module, inputs, labels)
        mean = module.get_submodule("band_attention")(inputs).mean()
        return loss + self.sparsity * mean, {"cross_entropy": loss.detach(), "band_weight": mean.detach()}

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        return self.entropy.judged(outputs, labels)
