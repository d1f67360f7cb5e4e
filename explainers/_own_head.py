"""Own models over a frozen ViT: the same parts and names, with parts and a forward pass of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..bench.contract import Model, TokenGeometry, UnsupportedError
from ..models.handle import require_eager
from ._attention import on_grid
from ._cam import patch_tokens

Part = TypeVar("Part", bound=nn.Module)
Read = Callable[[nn.Module, Tensor], Tensor]
"""What a head reads of a ViT and its normalised inputs: [B,C,H,W] -> [B,...]."""


def sharing(
    model: Model, parts: Mapping[str, nn.Module], forward: Callable[[Any, Tensor], Tensor], first: bool = False
) -> nn.Module:
    """The ViT of ``model`` with ``parts`` of its own and another ``forward(self, inputs)``.

    Everything else is shared, not copied, under the same names, so that tapes, hooks and randomisation work on it as on
    the original, which stays as it is. Only the parts can be put in training mode.

    Args:
        parts: by name; a name of the ViT replaces its part.
        first: the parts stand before the ViT's own, as they do in the pass.

    Raises:
        UnsupportedError: the module is compiled or scripted.
    """
    module = model.module
    require_eager(module)
    family: Any = type(module)

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        for name in parts:
            self.get_submodule(name).train(mode)
        return self

    own: nn.Module = object.__new__(type(family.__name__, (family,), {"forward": forward, "train": train}))
    nn.Module.__init__(own)
    vars(own).update({name: value for name, value in vars(module).items() if name not in vars(own)})
    own.training = False
    own._parameters.update(module._parameters)
    own._buffers.update(module._buffers)
    own._non_persistent_buffers_set |= module._non_persistent_buffers_set
    shared = {name: part for name, part in module._modules.items() if name not in parts}
    own._modules.update({**parts, **shared} if first else {**shared, **parts})
    own.geometry = model.geometry  # type: ignore[assignment]
    return own


def with_head(model: Model, head: nn.Module, read: Read) -> nn.Module:
    """The ViT of ``model`` whose logits are ``own_head(read(vit, inputs))``; the frozen head is there, but idle."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        logits: Tensor = self.own_head(read(self, inputs))
        return logits

    return sharing(model, {"own_head": head}, forward)


def final_tokens(model: Model) -> Read:
    """Patch tokens [B,P,D] after the last block and the model's last norm, all spectral groups included.

    Raises:
        UnsupportedError: the model has no token grid or no ``forward_features``; when read, its output is not one
            vector for each token.
    """
    geometry, dtype = on_grid(model), head_dtype(model)
    require_features(model)

    def read(vit: Any, inputs: Tensor) -> Tensor:
        return patch_tokens(vit.forward_features(inputs), geometry, "forward_features").to(dtype)

    return read


def require_features(model: Model) -> tuple[int, int]:
    """Width of the final tokens and number of classes, as the ViT tells them.

    Raises:
        UnsupportedError: it does not, or has no ``forward_features`` of its own (a wrapper around a ViT).
    """
    width, classes = getattr(model.module, "num_features", None), getattr(model.module, "num_classes", None)
    if not (hasattr(type(model.module), "forward_features") and isinstance(width, int) and isinstance(classes, int)):
        raise UnsupportedError(
            f"{type(model.module).__name__} does not tell its final tokens (forward_features, num_features and "
            "num_classes, as timm's models have them), so no head can be put on them."
        )
    return width, classes


def head_dtype(model: Model) -> torch.dtype:
    """Of a head: the model's, float32 at least."""
    return torch.promote_types(model.dtype, torch.float32)


def drawn(build: Callable[[], Part], model: Model, seed: int = 0) -> Part:
    """A part with fresh weights, drawn with ``seed``; global random states are as before."""
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(seed)
        return build().to(model.device, head_dtype(model))


def positions(geometry: TokenGeometry) -> Tensor:
    """Row and column of each patch token, [P,2] float64; the groups of a spectral-token model share them."""
    h, w = geometry.grid
    grid = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    return grid.repeat(geometry.patches // (h * w), 1)
