"""Layer-wise relevance propagation (Chefer et al. 2021, alpha = 1) as one backward pass.

Inside :class:`RelevanceRules` every operation keeps its forward value and gets a relevance rule as its backward, so
that ``torch.autograd.grad`` of the logits propagates relevance instead of gradients, through whatever modules a ViT is
made of. Operations without a rule are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..bench.contract import Model, UnsupportedError
from ..models.interception import calls_exposed, no_attention

EPSILON = 1e-9

# Only move values, so that their gradient already carries each share of relevance to where it came from.
REARRANGEMENTS = frozenset(
    {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "contiguous", "clone"}
    | {"permute", "transpose", "swapaxes", "movedim", "to", "type", "type_as", "float"}
    | {"unbind", "__getitem__", "select", "narrow", "chunk", "split", "cat", "concat", "stack"}
)
# One value in, one value out: relevance passes unchanged (the published rule for LayerNorm and GELU).
ELEMENTWISE = frozenset({"layer_norm", "rms_norm", "gelu", "relu", "silu"})


def attention_relevance(model: Model, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Relevance of every attention probability, first layer first: list of [B,H,Q,K].

    Starts from one at each sample's target logit. Samples of a batch do not touch each other.

    Raises:
        UnsupportedError: the model computes something that no rule covers, or has no softmax attention.
    """
    rules = RelevanceRules()
    with torch.inference_mode(False), torch.enable_grad(), calls_exposed(model.module), rules:
        logits = model(inputs.detach().clone().requires_grad_())
    if not rules.attention:
        raise UnsupportedError(no_attention(model.module))
    start = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)
    return list(torch.autograd.grad(logits, rules.attention, start, materialize_grads=True))


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / (b + 1e-9), and 0 where b = 0."""
    return torch.where(b == 0, 0.0, a / torch.where(b == -EPSILON, EPSILON, b + EPSILON))


class LinearRule(Function):
    """x+ W+ and x- W- share the relevance in one denominator; the bias takes none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        parts = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        share = safe_divide(relevance, sum(nn.functional.linear(part, w) for part, w in parts))  # type: ignore[arg-type]
        return sum(part * (share @ w) for part, w in parts), None, None  # type: ignore[return-value]


class MatmulRule(Function):
    """Each factor gets half of the relevance, shared by its contributions to every product."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        ctx.save_for_backward(a, b, product)
        return product

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b, product = ctx.saved_tensors
        share = safe_divide(relevance, product)
        return a * (share @ b.mT) / 2, b * (a.mT @ share) / 2


class AddRule(Function):
    """Shares by value, then rescaled so that a summand's total is its part of |total| of both; per sample."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        share = safe_divide(relevance, a + b)
        shares = (a * share, b * share)
        totals = [_per_sample_sum(part) for part in shares]
        mass, whole = totals[0].abs() + totals[1].abs(), _per_sample_sum(relevance)
        first, second = (
            part * safe_divide(safe_divide(total.abs(), mass) * whole, total)
            for part, total in zip(shares, totals, strict=True)
        )
        return first, second


class MeanRule(Function):
    """Shares by value: x / sum(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(x)
        return x.mean(dim, keepdim)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        total = x.sum(ctx.dim, keepdim=True)
        return x * safe_divide(relevance.reshape(total.shape), total), None, None


class IdentityRule(Function):
    """Any value, relevance unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return relevance, None


class RelevanceRules(TorchFunctionMode):
    """Replaces operations on tracked tensors by their rules, from the first attention of a forward pass onward.

    Below the first attention no relevance is asked for, so that patch embeddings may be anything.

    Attributes:
        attention: the probabilities [B,H,Q,K] of every attention call, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention: list[Tensor] = []
        # By identity, and holding the tensors, so that no identity is used twice.
        self._readers: dict[int, list[Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        tracked = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves((args, kwargs)))
        if not tracked or not (self.attention or name == "scaled_dot_product_attention"):
            return func(*args, **kwargs)
        if name in ELEMENTWISE:
            self._fork(args[0])
            return IdentityRule.apply(args[0], lambda x: func(x, *args[1:], **kwargs))
        if name in self._rules:
            return self._rules[name](self, *args, **kwargs)
        result = func(*args, **kwargs)
        if name not in REARRANGEMENTS and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            raise UnsupportedError(f"relevance propagation has no rule for {name!r}, which this model computes.")
        return result

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        self._fork(input)
        return LinearRule.apply(input, weight, bias)

    def _add(self, input: Any, other: Any, *, alpha: float = 1) -> Any:
        if not _both_tracked(input, other) or input.shape != other.shape or alpha != 1:
            raise UnsupportedError(
                "relevance propagation adds two tensors of one shape only; this model adds a constant or broadcasts."
            )
        self._fork(input)
        self._fork(other)
        return AddRule.apply(input, other)

    def _mul(self, input: Any, other: Any) -> Any:
        x, factor = (input, other) if isinstance(input, Tensor) and input.requires_grad else (other, input)
        per_channel = isinstance(factor, nn.Parameter) and factor.ndim == 1
        if not (isinstance(factor, Number) or per_channel):
            raise UnsupportedError(
                "relevance propagation covers scaling and LayerScale; this model multiplies two tensors (a gate, or "
                "a rotary embedding)."
            )
        return IdentityRule.apply(x, lambda value: value * factor)

    def _div(self, input: Any, other: Any) -> Any:
        if not isinstance(other, Number):
            raise UnsupportedError("relevance propagation covers division by a number; this model divides tensors.")
        return IdentityRule.apply(input, lambda value: value / other)

    def _mean(self, input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            raise UnsupportedError(
                "relevance propagation covers the mean over named axes; this model takes it over all."
            )
        return MeanRule.apply(input, dim, keepdim)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training:
            raise UnsupportedError("relevance propagation needs a model in eval mode; a dropout is in training mode.")
        return input

    def _scaled_dot_product_attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            raise UnsupportedError(
                "relevance propagation covers plain attention: no mask or bias, dropout, causality or grouped queries."
            )
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        attention = IdentityRule.apply(MatmulRule.apply(query, key.mT), lambda scores: (scores * scale).softmax(-1))
        self.attention.append(attention)
        return MatmulRule.apply(attention, value)

    def _fork(self, x: Tensor) -> None:
        """At a tensor's second reader: the published x (R1/x + R2/x), which is R1 + R2 but for the safe division."""
        readers = self._readers.setdefault(id(x), [])
        readers.append(x)
        if len(readers) == 2 and x.requires_grad:
            value = x.detach()
            x.register_hook(lambda relevance: value * safe_divide(relevance, value))  # type: ignore[no-untyped-call]

    _rules: ClassVar[dict[str, Callable[..., Any]]] = {
        "linear": _linear,
        "add": _add,
        "__add__": _add,
        "__radd__": _add,
        "mul": _mul,
        "__mul__": _mul,
        "__rmul__": _mul,
        "div": _div,
        "__truediv__": _div,
        "mean": _mean,
        "dropout": _dropout,
        "scaled_dot_product_attention": _scaled_dot_product_attention,
    }


def _per_sample_sum(x: Tensor) -> Tensor:
    """[B,...] -> [B,1,...]."""
    return x.flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))


def _both_tracked(a: Any, b: Any) -> bool:
    return all(isinstance(x, Tensor) and x.requires_grad for x in (a, b))
