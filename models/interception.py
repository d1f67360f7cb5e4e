"""Explicit attention in place of the fused kernel: every call of scaled dot product attention in a pass, in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..bench.contract import UnsupportedError

Edit = Callable[[Tensor, int], Tensor]
"""Maps the probabilities [B,H,N,N] of one layer, and its index, to those used instead."""


class AttentionCalls(TorchFunctionMode):
    """Computes each attention call of a pass in plain steps, ``softmax(q kᵀ scale + mask) v``, and keeps what is asked.

    A call with as many queries as keys is self-attention; one with other queries is an attention pool.

    Args:
        keep, scores, values: which to keep: probabilities, softmax inputs, values.
        differentiable: make a kept map a leaf of the graph where nothing before it needs a gradient, so that a
            backward pass ends at the first map.
        edit: changes the probabilities of self-attention before they are used.
        dropout: let a module in training mode drop attention; otherwise it is refused.

    Attributes:
        attention: probabilities used (before any dropout), [B,H,N,N] per call.
        scores: the softmax's input (scaled, mask or position bias added), [B,H,N,N] per call.
        values: [B,H,N,d] per call.
        pools: probabilities of attention pools, [B,H,Q,N] per call.
    """

    def __init__(
        self,
        *,
        keep: bool,
        scores: bool = False,
        values: bool = False,
        differentiable: bool = False,
        edit: Edit | None = None,
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.keep, self.keep_scores, self.keep_values = keep, scores, values
        self.differentiable, self.edit, self.dropout = differentiable, edit, dropout
        self.attention: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.values: list[Tensor] = []
        self.pools: list[Tensor] = []
        self.layers = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = self._attend if func is F.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if dropout_p and not self.dropout:
            raise UnsupportedError("attention dropout is on; put the model in eval mode before it is recorded.")
        if enable_gqa:
            key, value = _shared_heads(key, query), _shared_heads(value, query)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = _masked(query * scale @ key.transpose(-2, -1), attn_mask, is_causal)
        attention = scores.softmax(-1)
        if query.shape[-2] != key.shape[-2]:
            if self.keep:
                self.pools.append(self._leaf(attention))
            return _dropped(attention, dropout_p) @ value
        if self.edit is not None:
            attention = self.edit(attention, self.layers)
        self.layers += 1
        if self.keep:
            self.attention.append(self._leaf(attention))
        if self.keep_scores:
            self.scores.append(scores)
        if self.keep_values:
            self.values.append(value)
        return _dropped(attention, dropout_p) @ value

    def _leaf(self, attention: Tensor) -> Tensor:
        if self.differentiable and not attention.requires_grad:
            attention.requires_grad_()
        return attention


def _shared_heads(shared: Tensor, query: Tensor) -> Tensor:
    return shared.repeat_interleave(query.shape[-3] // shared.shape[-3], dim=-3)


def _dropped(attention: Tensor, share: float) -> Tensor:
    return F.dropout(attention, share) if share else attention


def _masked(scores: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


@contextmanager
def calls_exposed(module: nn.Module) -> Iterator[None]:
    """Every part calls ``scaled_dot_product_attention``, once and in forward order, until the block ends.

    timm's own unfused path and gradient checkpointing (which runs forward passes again during backward) are switched
    off by their attributes on each part, and put back afterwards.
    """
    changed: list[tuple[nn.Module, str, bool]] = []
    try:
        for part in module.modules():
            for name, wanted in (("fused_attn", True), ("grad_checkpointing", False)):
                if vars(part).get(name, wanted) is not wanted:
                    changed.append((part, name, vars(part)[name]))
                    setattr(part, name, wanted)
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


@contextmanager
def batch_norms_mended(module: nn.Module) -> Iterator[None]:
    """Gradients of batch norms are right for a single sample too, in forward passes until the block ends.

    torch's backward of batch norm in eval mode reads a gradient [1,C,H,W] in the wrong order where it is laid out
    channels last (torch 2.15, CPU), as that of XCiT's patch embedding is.
    """

    def mend(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]

    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_hook(mend) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def no_attention(module: nn.Module) -> str:
    """The reason to refuse a module in whose pass nothing was intercepted."""
    return (
        f"{type(module).__name__} made no call of torch's scaled_dot_product_attention, so there is no attention to "
        "record or edit; use a timm ViT, or a method that needs no attention."
    )
