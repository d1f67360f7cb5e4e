"""The model under explanation: a module with the facts that every method and metric needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .geometry import TokenGeometry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Model:
    """A ViT in eval mode with frozen parameters; made by ``vitxai.models``, never by hand.

    Attributes:
        module: maps [B,C,H,W] normalised inputs to logits [B,K].
        name: the spec it was loaded from, e.g. ``builtin,id=leaves_spectral,seed=0``.
        geometry: of its tokens; None for a model whose tokens do not lie on one grid (windows, pyramids).
        input_size: (H, W) that it eats.
        mean, std: per channel, of the normalisation (input - mean) / std; zero in normalised space is the mean colour.
        weights_hash: SHA-256 over the state dict (name, dtype, shape, bytes).
        classes: names, in logit order; empty where unknown.
        wavelengths: band centres in nm; empty for RGB.
        provenance: what else a result must name (timm id, file, random weights, training record).
    """

    module: nn.Module
    name: str
    geometry: TokenGeometry | None
    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_hash: str
    classes: tuple[str, ...] = ()
    wavelengths: tuple[float, ...] = ()
    provenance: tuple[tuple[str, Any], ...] = ()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [B,K] of normalised inputs [B,C,H,W]; grad mode is the caller's."""
        logits: Tensor = self.module(inputs)
        return logits

    @property
    def channels(self) -> int:
        """Input channels: 3, or the number of bands."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.module.parameters()).dtype
