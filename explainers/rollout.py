"""Attention rollout."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt
from torch import Tensor

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, TokenGeometry, explainer
from ._attention import Fusion, flow, from_layer, fuse_heads, identity_like, on_grid, pool_row


@explainer(
    "rollout",
    paper=Paper("Quantifying Attention Flow in Transformers", 2020, "arXiv:2005.00928"),
    needs=("attention",),
)
class Rollout(Explainer):
    """R = A'_L ... A'_1 with A' = row-normalised (fused heads + I), read at the decision's rows. Class-agnostic, >= 0.

    Attributes:
        fusion: of the heads.
        discard_ratio: share of the lowest entries of each fused map set to 0 before the identity is added, per sample;
            a prefix token's attention to itself is kept.
        start_layer: first layer of the product.
    """

    fusion: Fusion = "mean"
    discard_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    start_layer: NonNegativeInt = 0

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        tape = ctx.tape(model, batch)
        pool = None if tape.pool_attention is None else self._fuse(tape.pool_attention, geometry)
        blocks = [self._fuse(attention, geometry) for attention in from_layer(tape.attention, self.start_layer)]
        transitions = [row_normalise(matrix + identity_like(matrix)) for matrix in blocks]
        row = None if pool is None else pool_row(row_normalise(pool), geometry)
        return Explanation.of_tokens(flow(transitions, row, geometry), geometry)

    def _fuse(self, attention: Tensor, geometry: TokenGeometry) -> Tensor:
        return discard(fuse_heads(attention, self.fusion), self.discard_ratio, geometry.prefix)


def row_normalise(matrix: Tensor) -> Tensor:
    """Rows that sum to 1."""
    return matrix / matrix.sum(-1, keepdim=True)


def discard(matrix: Tensor, ratio: float, prefix: int) -> Tensor:
    """[B,Q,K] with the ``int(Q K ratio)`` lowest entries of each sample zeroed, but for prefix tokens' own cells."""
    if ratio == 0:
        return matrix
    flat = matrix.flatten(1)
    lowest = flat.argsort(dim=1, stable=True)[:, : int(flat.shape[1] * ratio)]
    kept = flat.scatter(1, lowest, 0.0).view_as(matrix).clone()
    if matrix.shape[1] == matrix.shape[2]:
        own = range(prefix)
        kept[:, own, own] = matrix[:, own, own]
    return kept
