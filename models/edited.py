"""A ViT whose attention is changed in every forward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..bench.contract import UnsupportedError
from .handle import geometry_of
from .interception import AttentionCalls, Edit, calls_exposed, no_attention


class EditedAttention(nn.Module):
    """A ViT whose attention probabilities are changed in every forward pass (the own model of SelectiveViT).

    Attributes that it does not have are those of the ViT that it wraps, so that it passes for a timm ViT;
    :func:`vitxai.models.tape.record` records the changed probabilities. It can be trained: gradients pass the edit, and
    dropout follows it.

    Args:
        wrapped: the ViT.
        edit: maps the probabilities [B,H,N,N] of a block, and its index, to those used instead.
    """

    def __init__(self, wrapped: nn.Module, edit: Edit) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.edit = edit
        self.geometry = geometry_of(wrapped)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, inputs: Tensor) -> Tensor:
        module, edit = without_edits(self, None)
        calls = AttentionCalls(keep=False, edit=edit, dropout=self.training)
        with calls_exposed(module), calls:
            logits: Tensor = module(inputs)
        if not calls.layers:
            raise UnsupportedError(no_attention(module))
        return logits


def without_edits(module: nn.Module, edit: Edit | None) -> tuple[nn.Module, Edit | None]:
    """The innermost ViT, and all edits around it as one: function modes do not see each other's attention calls."""
    while isinstance(module, EditedAttention):
        edit = module.edit if edit is None else _after(module.edit, edit)
        module = module.wrapped
    return module, edit


def _after(first: Edit, second: Edit) -> Edit:
    return lambda attention, layer: second(first(attention, layer), layer)
