"""Prompt-CAM: class prompts on a frozen ViT, explained by their attention to the patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Context, Explainer, Explanation, Fitted, Model, Paper, explainer
from ..models.prompted import PromptedViT, require_plain_blocks
from ._attention import on_grid
from ._fitting import class_count, fit_module, required, restore
from ._prompts import GroupedHead, PromptTokens, start_token


@explainer(
    "prompt_cam",
    paper=Paper("Prompt-CAM: A Simpler Interpretable Transformer for Fine-Grained Analysis", 2025, "arXiv:2501.09333"),
    needs=("labels",),
    cost="forward",
)
class PromptCAM(Explainer):
    """Mean over heads h of A[p(c) -> patch] in the last block, p(c) the prompt of the target class; >= 0.

    Explains its own model: one prompt a class in the sequence of a frozen ViT, whose output a linear head, shared by
    the classes, turns into the class's score.

    Attributes:
        depth: one set of prompts before the first block, or a new set before each block in place of what the block
            before made of the old one (``deep``).
        heads: all heads; or, per sample, those that the paper's greedy search keeps: attention of the target's row in
            the last block is made uniform head by head, each time where it hurts p(target) least, and the set of heads
            left where p(target) was highest is kept (H(H+1)/2 more forward passes).
        samples, epochs, learning_rate, batch_size, patience: of the fit.
        artefact: a file of ``bench fit`` to use instead of fitting.
    """

    depth: Literal["shallow", "deep"] = "deep"
    heads: Literal["all", "greedy"] = "all"
    samples: PositiveInt = 1024
    epochs: PositiveInt = 15
    learning_rate: PositiveFloat = 5e-3
    batch_size: PositiveInt = 32
    patience: PositiveInt = 5
    artefact: Path | None = None

    READOUT: ClassVar = ("heads",)

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import CrossEntropy, Schedule

        classes = class_count(model, ctx.data("validation", 1, labels=True))
        schedule = Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=1e-2,
            patience=self.patience,
        )
        net = self._net(model, classes, ctx.seed)
        return fit_module(model, ctx, net, schedule, samples=self.samples, objective=CrossEntropy())

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        fitted = required(fitted, self.name)
        classes = fitted.tensors["prompts.tokens"].shape[1]
        net = restore(self._net(model, classes, 0), fitted, self.name)
        return replace(model, module=net, geometry=net.geometry, provenance=(*model.provenance, ("prompts", classes)))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        net = model.module
        if not isinstance(net, PromptedViT):
            raise BadInputError("prompt_cam explains its own model; pass what own_model returned.")
        rows = torch.arange(len(batch), device=batch.inputs.device)
        with torch.inference_mode():
            attention = net.read(batch.inputs).attention[-1].to_backbone()[rows, :, batch.targets]
            kept = torch.ones(attention.shape[:2], dtype=torch.bool, device=attention.device)
            if self.heads == "greedy":
                kept = telling_heads(net, batch.inputs, batch.targets, attention.shape[1])
            weights = kept.to(attention) / kept.sum(1, keepdim=True)
            row = (attention * weights[..., None]).sum(1)
        return Explanation.of_tokens(row.clone(), net.seen)

    def _net(self, model: Model, classes: int, seed: int) -> PromptedViT:
        geometry, backbone = on_grid(model), model.module
        require_plain_blocks(backbone, geometry)
        parts: Any = backbone
        layers = len(parts.blocks) if self.depth == "deep" else 1
        dim = int(parts.embed_dim)
        start = start_token(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokens, head = PromptTokens(layers, classes, 1, start), GroupedHead(dim, classes, 1)
        allowed = torch.ones(classes, classes + geometry.tokens, dtype=torch.bool)
        net = PromptedViT(backbone, tokens, head, allowed, isolate=False, renew=True)
        return net.to(device=model.device, dtype=model.dtype)


def telling_heads(net: PromptedViT, inputs: Tensor, targets: Tensor, heads: int) -> Tensor:
    """Heads of the last block [B,H] that the greedy search keeps for each sample."""
    samples = torch.arange(len(inputs), device=inputs.device)
    last = len(net.backbone.blocks) - 1

    def probability(kept: Tensor) -> Tensor:
        def edit(attention: Tensor, layer: int) -> Tensor:
            if layer != last:
                return attention
            changed = attention.clone()
            row = attention[samples, :, targets]
            changed[samples, :, targets] = torch.where(kept[..., None], row, 1 / attention.shape[-1])
            return changed

        return net.scores(net.read(inputs, edit)).softmax(1)[samples, targets]

    def without(kept: Tensor, head: Tensor) -> Tensor:
        return kept.scatter(1, head[:, None], False)

    kept = torch.ones(len(inputs), heads, dtype=torch.bool, device=inputs.device)
    best, best_probability = kept.clone(), probability(kept)
    for _ in range(heads - 1):
        left = kept.nonzero()[:, 1].view(len(inputs), -1)  # heads that may still go, as many for each sample
        trials = torch.stack([probability(without(kept, head)) for head in left.T], dim=1)
        value, place = trials.max(1)
        kept = without(kept, left[samples, place])
        better = value > best_probability
        best = torch.where(better[:, None], kept, best)
        best_probability = torch.where(better, value, best_probability)
    return best
