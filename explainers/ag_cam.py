"""Attention-guided CAM."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, explainer
from ._attention import on_grid


@explainer(
    "ag_cam",
    paper=Paper("Attention Guided CAM: Visual Explanations of Vision Transformer", 2024, "arXiv:2402.04563"),
    needs=("attention", "gradient"),
)
class AttentionGuidedCAM(Explainer):
    """Sum over layers and heads of relu(dlogit/dA) sigmoid(scaled scores) at the decision's rows; >= 0.

    The authors' ViT detaches the input of every attention module, so that gradients reach earlier layers only along
    the residual stream and the MLPs; this changes the map and is the default here too. With an attention pool the
    blocks are read at the patch rows, and the pool itself, which the method does not know, is left out.

    Attributes:
        head_fusion, layer_fusion: ``sum`` as published, or ``mean`` (the same map up to scale).
        detach_attention_input: False takes the whole network's gradient.
    """

    head_fusion: Literal["sum", "mean"] = "sum"
    layer_fusion: Literal["sum", "mean"] = "sum"
    detach_attention_input: bool = True

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        tape = ctx.tape(model, batch, scores=True, gradients=True, detach_attention_input=self.detach_attention_input)
        layers: list[Tensor] = [
            getattr(geometry.query(gradient.clamp(min=0) * scores.sigmoid()), self.head_fusion)(1)
            for scores, gradient in zip(tape.scores, tape.attention_gradients, strict=True)
        ]
        total = sum(layers[1:], layers[0])
        return Explanation.of_tokens(total if self.layer_fusion == "sum" else total / len(layers), geometry)
