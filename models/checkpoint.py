"""Checkpoint files that describe themselves: safetensors weights, architecture, preprocessing and training record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..bench.contract import BadInputError, UnknownNameError
from .spectral import SpectralViT
from .spectral_backbone import SpectralBackbone
from .whole_files import replacing

HEADER_KEY = "vitxai"
"""Key of the safetensors header under which the description stands, as JSON."""

ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "spectral_vit": SpectralViT,
    "spectral_backbone": SpectralBackbone,
    "vision_transformer": VisionTransformer,
    "timm": timm.create_model,
}
"""What a checkpoint may be built with: a name and keyword arguments that JSON can hold.

A file holds all weights, those of a frozen pretrained backbone too: it loads anywhere or not at all, and no figure
rests on a download that may change or go away. It costs what any fine-tuned ViT costs (2 bytes a weight).
"""


@dataclass(frozen=True)
class Checkpoint:
    """Everything about a checkpoint but its weights.

    Attributes:
        architecture: a key of ``ARCHITECTURES``.
        arguments: its keyword arguments.
        input_size: (H, W) that the module eats.
        mean, std: per channel, of the normalisation (input - mean) / std.
        classes: names, in logit order.
        wavelengths: band centres in nm; empty for RGB.
        training: the record of how the weights came to be (command, seed, data, hashes, log, accuracy).
    """

    architecture: str
    arguments: Mapping[str, Any]
    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    wavelengths: tuple[float, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module with freshly initialised weights, which are drawn from torch's global generator.

        Raises:
            UnknownNameError: no such architecture.
        """
        if self.architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", self.architecture, ARCHITECTURES)
        return ARCHITECTURES[self.architecture](**self.arguments)


def write_checkpoint(path: Path, module: nn.Module, checkpoint: Checkpoint) -> None:
    """Writes weights and description, atomically; floating-point weights are stored in float16.

    Raises:
        BadInputError: a weight is not finite in float16.
    """
    tensors = {name: _stored(name, tensor) for name, tensor in module.state_dict().items()}
    header = {HEADER_KEY: json.dumps(asdict(checkpoint), sort_keys=True)}
    with replacing(path) as partial:
        partial.write_bytes(save(tensors, metadata=header))


@torch.no_grad()
def round_to_storage(module: nn.Module) -> None:
    """Rounds a module's weights in place to what :func:`write_checkpoint` keeps of them."""
    for name, tensor in module.state_dict().items():
        tensor.copy_(_stored(name, tensor))


def _stored(name: str, tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    half = tensor.to(torch.float16)
    if not torch.isfinite(half).all():
        raise BadInputError(f"weight {name!r} has values that float16 cannot hold; lower the learning rate.")
    return half


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a safetensors file with this project's description in its header."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return HEADER_KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def read_description(path: Path) -> Checkpoint:
    """The description in a checkpoint's header, without its weights.

    Raises:
        BadInputError: no such file, not a safetensors file, or one that was not written by ``bench train``.
    """
    if not path.is_file():
        raise BadInputError(f"no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
    except SafetensorError as error:
        raise BadInputError(f"{path} is not a readable safetensors file: {error}.") from error
    if header is None:
        raise BadInputError(
            f"{path} has no {HEADER_KEY!r} description in its header; load it as weights of a timm model instead."
        )
    raw = json.loads(header)
    for name in ("input_size", "mean", "std", "classes", "wavelengths"):
        raw[name] = tuple(raw[name])
    return Checkpoint(**raw)


def read_checkpoint(path: Path) -> tuple[nn.Module, Checkpoint]:
    """The module in eval mode, float32, with the file's weights; and the description.

    Raises:
        BadInputError: as :func:`read_description`, or the weights do not fit the architecture.
    """
    checkpoint = read_description(path)
    with torch.random.fork_rng(devices=[]):
        module = checkpoint.build()
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise BadInputError(f"the weights in {path} do not fit {checkpoint.architecture}: {error}") from error
    return module.eval(), checkpoint
