"""How a model's attention is spread, how it agrees from layer to layer, and what its tokens look like at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..bench.contract import (
    BadInputError,
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Paper,
    Scores,
    TokenGeometry,
    UnsupportedError,
    metric,
)
from ._maps import column, is_constant
from ._ranking import average_ranks, pearson

NO_PAIR = "no two neighbouring layers with maps that vary"
ZERO_TOKENS = "all patch tokens are zero"
ROUNDING = 1e-6


@metric(
    "attention_statistics",
    columns=(
        Column("sink_consistency", "higher", (-1, 1), "rank correlation of the patch attention of neighbouring layers"),
        Column("attention_active", "none", (0, 1), "share of keys with at least the attention of uniform rows"),
        Column("attention_active_absolute", "none", (0, 1), "share of keys with at least tau of the attention"),
        Column("attention_effective_tokens", "none", (0, 1), "exp(entropy) of the attention rows over T"),
        Column("token_effective_rank", "none", (1, None), "effective rank of the last block's patch tokens"),
        Column("high_norm_rate", "none", (0, 1), "share of the last block's patch tokens with an outlying norm"),
    ),
    version=1,
    needs=("attention",),
    paper=Paper("Vision transformers need registers (high-norm tokens)", 2024, "arXiv:2309.16588"),
    of="model",
)
class AttentionStatistics(Metric):
    """Means over layers, heads and patch queries of the attention, over all T keys; and two figures of the tokens.

    ``sink_consistency``: the attention of the decision's rows to the patches, mean over heads, one map a layer, prefix
    tokens (and so the sink) left out; mean Spearman correlation of neighbouring layers, pairs with a constant map left
    out. ``attention_active``: #{keys with A >= ``factor`` / T} / T, ``attention_active_absolute``: the same with A >=
    ``tau``; ``attention_effective_tokens``: exp(-sum A ln A) / T. ``token_effective_rank``: exp of the entropy of the
    singular values over their sum, of the matrix of patch tokens [P,D] (Roy and Vetterli 2007, EUSIPCO).
    ``high_norm_rate``: share of patch tokens whose norm exceeds ``outlier`` times the median norm. Tokens are the last
    block's output, before the final normalisation.

    Attributes:
        factor: of 1/T, for ``attention_active``.
        tau: absolute threshold; above 1/T uniform attention has no active key.
        outlier: multiple of the median norm of the sample's patch tokens.
    """

    factor: float = 1.0
    tau: float = 0.01
    outlier: float = 3.0

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; ``sink_consistency`` is NaN without two neighbouring layers to compare.

        Raises:
            BadInputError: a threshold is not positive.
            UnsupportedError: the model's tokens do not lie on one grid, or it has no blocks with attention.
        """
        if min(self.factor, self.tau, self.outlier) <= 0:
            raise BadInputError(f"factor={self.factor}, tau={self.tau}, outlier={self.outlier} must be positive.")
        geometry = model.geometry
        if geometry is None:
            raise UnsupportedError("attention statistics need one grid of tokens from the first block to the last.")
        layers = ctx.tape(model, batch, attention=True).attention
        tokens = last_patch_tokens(model, batch, geometry, ctx)
        spreads = [Spread.of(layer[:, :, geometry.prefix :].double(), self.factor, self.tau) for layer in layers]
        maps = torch.stack([geometry.query(layer.double().mean(1))[:, geometry.prefix :] for layer in layers], dim=1)
        consistency, pairs = neighbour_agreement(maps)
        return {
            "sink_consistency": column(consistency, {NO_PAIR: pairs == 0}),
            "attention_active": column(torch.stack([spread.active for spread in spreads]).mean(0)),
            "attention_active_absolute": column(torch.stack([spread.above_tau for spread in spreads]).mean(0)),
            "attention_effective_tokens": column(torch.stack([spread.effective for spread in spreads]).mean(0)),
            "token_effective_rank": column(effective_rank(tokens), {ZERO_TOKENS: tokens.flatten(1).eq(0).all(1)}),
            "high_norm_rate": column(high_norm_rate(tokens, self.outlier)),
        }


@dataclass(frozen=True, eq=False)
class Spread:
    """Means over the heads and queries of one layer, each [B], as shares of the T keys.

    Attributes:
        active: keys with at least ``factor`` times the attention of uniform rows.
        above_tau: keys with at least an absolute amount of attention.
        effective: exp(entropy) of the rows.
    """

    active: Tensor
    above_tau: Tensor
    effective: Tensor

    @classmethod
    def of(cls, attention: Tensor, factor: float, tau: float) -> Spread:
        """From the rows [B,H,Q,T] of the patch queries."""
        keys = attention.shape[-1]
        entropy = -torch.special.xlogy(attention, attention).sum(-1)
        # Uniform rows miss 1/T by rounding and are the case that must count in full.
        active, above_tau = (
            (attention >= least * (1 - ROUNDING)).double().flatten(1).mean(1) for least in (factor / keys, tau)
        )
        return cls(active, above_tau, entropy.exp().flatten(1).mean(1) / keys)


def neighbour_agreement(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean Spearman correlation [B] of neighbouring maps [B,L,N], and how many pairs [B] had no constant map."""
    varies = torch.stack([~is_constant(layer) for layer in maps.unbind(1)], dim=1)
    ranks = average_ranks(maps)
    usable = varies[:, 1:] & varies[:, :-1]
    agreement = pearson(ranks[:, 1:], ranks[:, :-1]).masked_fill(~usable, 0.0)
    return agreement.sum(1) / usable.sum(1), usable.sum(1)


def last_patch_tokens(model: Model, batch: Batch, geometry: TokenGeometry, ctx: Context) -> Tensor:
    """Patch tokens [B,P,D] float64 behind the last block, before the final normalisation."""
    from ..models.prompted import PromptedViT

    blocks = len(getattr(model.module, "blocks", ()))
    if not blocks:
        raise UnsupportedError(f"{type(model.module).__name__} has no `blocks` whose last output could be read.")
    name = f"{'backbone.' if isinstance(model.module, PromptedViT) else ''}blocks.{blocks - 1}"
    tokens: Tensor = ctx.tape(model, batch, attention=False, activations=(name,)).activations[name]
    if tokens.ndim != 3 or tokens.shape[1] != geometry.tokens:
        raise UnsupportedError(f"{name} gives {list(tokens.shape)}, not {geometry.tokens} tokens a sample.")
    return tokens[:, geometry.prefix :].double()


def effective_rank(matrices: Tensor) -> Tensor:
    """exp(entropy) [B] of the singular values of matrices [B,P,D] over their sum; NaN for a zero matrix."""
    singular = torch.linalg.svdvals(matrices)
    shares = singular / singular.sum(1, keepdim=True)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropy.exp()


def high_norm_rate(tokens: Tensor, outlier: float) -> Tensor:
    """Share [B] of tokens [B,P,D] whose norm exceeds ``outlier`` times the sample's median norm."""
    norms: Tensor = torch.linalg.vector_norm(tokens, dim=-1)
    high: Tensor = norms > outlier * norms.quantile(0.5, dim=1, keepdim=True)
    return high.double().mean(1)
