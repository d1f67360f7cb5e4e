"""SelectiveViT: a ViT whose small attention weights are cut off, as it is given or fine-tuned so."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..bench.contract import Batch, Context, Explainer, Explanation, Fitted, Model, Paper, UnsupportedError, explainer
from ..models.handle import require_eager, weights_hash
from ..models.tape import EditedAttention, record
from ._attention import on_grid, pool_row, with_rows
from ._cam import grad_cam
from ._fitting import fit_module, restore

VALIDATION = 1024
"""Validation samples that fine-tuning asks for; a suite gives at most its ``validation_n``."""


@dataclass(frozen=True)
class Selection:
    """Attention <= threshold to 0, the rest divided by its sum + 1e-6 (not at threshold 0, which cuts nothing).

    Attributes:
        blocks: of the model, None where unknown; a model with more attention maps than these is refused.
    """

    threshold: float
    blocks: int | None = None

    def __call__(self, attention: Tensor, layer: int) -> Tensor:
        if self.blocks is not None and layer >= self.blocks:
            raise UnsupportedError(
                f"this model makes more attention calls than it has blocks ({self.blocks}; parallel or differential "
                "attention), so it has no single attention map a block to select from."
            )
        if self.threshold == 0:
            return attention
        kept = torch.where(attention > self.threshold, attention, 0.0)
        return kept / (kept.sum(-1, keepdim=True) + 1e-6)


@explainer(
    "selectivevit",
    paper=Paper(
        "SelectiveViT: Enhancing Vision Transformer Interpretability through Selective Attention Mechanisms",
        2025,
        "Research report",
    ),
    needs=("attention", "gradient"),
)
class SelectiveViT(Explainer):
    """Explains its own model: the given ViT with selective attention in every head, fine-tuned or (default) as it is.

    The paper's 0.005 lies just under the uniform 1/N of its 197 tokens; with fewer tokens the same number cuts far
    less. ``relative`` therefore counts the threshold in units of 1/N. The facts of ``fit`` name N and both thresholds.

    ``epochs=10`` is the paper's recipe: all weights by AdamW, cosine, batches of 16; the epoch with the lowest
    validation loss is kept. With ``threshold=0`` too it is the plain ViT by the same recipe, the paper's baseline. The
    paper names no weight decay (torch's 0.01 here), patience, augmentation or clipping (norm 1 here). An artefact
    holds all weights, 4 bytes each: 343 MB for ViT-B/16.

    Attributes:
        threshold: attention up to it is cut off; 0 changes nothing.
        relative: in units of 1/N instead of absolute.
        map: Grad-CAM at ``layer`` (the paper's Captum LayerGradCam, signed), or the last layer's selective attention.
        layer: as in ``grad_cam``.
        epochs: of fine-tuning with selective attention; 0 explains the weights as they are.
        samples: labelled fit samples of fine-tuning.
        learning_rate: at its beginning; it falls to 0 along a cosine.
        batch_size: samples a step.
        patience: epochs without a lower validation loss after which it stops.
        augmentation: none, mirror, dihedral, shift or affine.
        amp: forward passes in bfloat16 (the paper's mixed precision).
        artefact: a file of ``bench fit`` to read the weights from.
    """

    threshold: NonNegativeFloat = 0.005
    relative: bool = False
    map: Literal["grad_cam", "attention"] = "grad_cam"
    layer: str | None = None
    epochs: NonNegativeInt = 0
    samples: PositiveInt = 2048
    learning_rate: PositiveFloat = 3e-4
    batch_size: PositiveInt = 16
    patience: PositiveInt = 3
    augmentation: str = "none"
    amp: bool = False
    artefact: Path | None = None

    def fit(self, model: Model, ctx: Context) -> Fitted:
        tokens = on_grid(model).tokens
        absolute = self._absolute(model)
        facts = {"tokens": tokens, "threshold": absolute, "threshold_in_uniform_shares": absolute * tokens}
        if not self.epochs:
            return Fitted(facts=facts)
        fitted = fit_module(
            model, ctx, self._selective(model), self._schedule(), samples=self.samples, validation=VALIDATION
        )
        active = active_keys(self.own_model(model, fitted), ctx)
        return replace(fitted, facts={**fitted.facts, **facts, **active})

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        edited = self._selective(model)
        provenance = (*model.provenance, ("selective_attention_threshold", self._absolute(model)))
        if not self.epochs:
            return replace(model, module=edited.eval(), provenance=provenance)
        tuned = restore(edited, fitted, self.name)
        provenance = (*provenance, ("fine_tuned_epochs", self.epochs))
        return replace(model, module=tuned, weights_hash=weights_hash(tuned), provenance=provenance)

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        if self.map == "grad_cam":
            return Explanation.of_tokens(grad_cam(model, batch, ctx, self.layer), geometry)
        tape = ctx.tape(model, batch)
        if tape.pool_attention is not None:
            return Explanation.of_tokens(pool_row(tape.pool_attention.mean(1), geometry), geometry)
        return Explanation.of_tokens(geometry.query(tape.attention[-1].mean(1)), geometry)

    def _absolute(self, model: Model) -> float:
        return self.threshold / on_grid(model).tokens if self.relative else self.threshold

    def _selective(self, model: Model) -> EditedAttention:
        """The given ViT with selective attention; a copy that can be trained, where it is to be fine-tuned."""
        require_eager(model.module)
        with_rows(model)
        module = copy.deepcopy(model.module).requires_grad_(True) if self.epochs else model.module
        if self.epochs and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
            raise UnsupportedError(
                f"{model.name} has batch norms, whose running statistics are no part of an artefact; fine-tune a ViT "
                "without them, or leave epochs at 0."
            )
        blocks = len(getattr(model.module, "blocks", ())) or None
        return EditedAttention(module, Selection(self._absolute(model), blocks))

    def _schedule(self) -> Any:
        from ..models.optimise import Schedule

        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.01,
            label_smoothing=0.0,
            augmentation=self.augmentation,
            patience=self.patience,
            betas=(0.9, 0.999),
            policy="cosine",
            amp=self.amp,
        )


def active_keys(model: Model, ctx: Context) -> dict[str, Any]:
    """Facts of the attention that is left, over all queries of the validation samples.

    ``active_tokens``: mean number of keys with attention above 0 that a query of a head has; ``active_share``: over N;
    ``active_tokens_by_head``: [layers][heads].
    """
    batch = ctx.data("validation", VALIDATION)
    sums: Any = 0
    for rows in torch.split(batch.inputs, ctx.max_rows):
        maps = record(model, rows).attention
        sums = sums + torch.stack([(layer > 0).double().sum(-1).mean(-1).sum(0) for layer in maps])
    heads = sums / len(batch)
    mean = float(heads.mean())
    return {
        "active_tokens": mean,
        "active_share": mean / on_grid(model).tokens,
        "active_tokens_by_head": [[round(value, 2) for value in layer] for layer in heads.tolist()],
    }
