"""Transformer attribution: relevance propagation with gradient-weighted attention relevance."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt
from torch import Tensor

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, UnsupportedError, explainer
from ..models.tape import Tape
from ._attention import flow, from_layer, identity_like, on_grid, pool_row
from ._relevance import attention_relevance


@explainer(
    "chefer_lrp",
    paper=Paper("Transformer Interpretability Beyond Attention Visualization", 2021, "arXiv:2012.09838"),
    needs=("attention", "gradient"),
)
class CheferLRP(Explainer):
    """Product over layers of I + mean_h relu(dlogit/dA_h * relevance of A_h), read at the decision's rows; >= 0.

    Each sample is propagated on its own (the published code rescales residual sums over the whole batch). Rules beyond
    the published ones: LayerScale and query/key norms pass relevance as LayerNorm does, a mean over tokens shares by
    value.

    Attributes:
        method: ``rollout`` leaves the gradient out: relu(relevance of A).
        start_layer: first layer of the product; 1 as in the authors' evaluations, since layer 0 is numerically the
            worst (float32 error about 1000 times that of layer 1).
    """

    method: Literal["transformer_attribution", "rollout"] = "transformer_attribution"
    start_layer: NonNegativeInt = 1

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        weighted = attention_relevance(model, batch.inputs, batch.targets)
        if self.method == "transformer_attribution":
            weighted = gradient_weighted(weighted, ctx.tape(model, batch, gradients=True), model)
        layers = [matrix.clamp(min=0).mean(1) for matrix in weighted]
        row = pool_row(layers.pop(), geometry) if geometry.pooling == "map" else None
        transitions = [matrix + identity_like(matrix) for matrix in from_layer(layers, self.start_layer)]
        return Explanation.of_tokens(flow(transitions, row, geometry), geometry)


def gradient_weighted(relevance: list[Tensor], tape: Tape, model: Model) -> list[Tensor]:
    """Relevance of A * dlogit/dA, block by block and then the attention pool.

    Raises:
        UnsupportedError: the recording and the relevance pass saw different attention calls.
    """
    gradients = list(tape.attention_gradients)
    if tape.pool_attention_gradient is not None:
        gradients.append(tape.pool_attention_gradient[..., -relevance[-1].shape[-1] :])
    if [r.shape for r in relevance] != [g.shape for g in gradients]:
        raise UnsupportedError(
            f"relevance of {model.name} reaches {len(relevance)} attention maps, but {len(gradients)} are recorded."
        )
    return [r * g for r, g in zip(relevance, gradients, strict=True)]
