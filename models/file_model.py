"""Models from checkpoint files: those of ``bench train``, and torch files of a ViT's arguments and weights."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from ..bench.contract import BadInputError, Model
from .checkpoint import Checkpoint, read_checkpoint
from .handle import wrap

TOLD_CLASSES = 5


@dataclass(frozen=True)
class FileModel:
    """``file,path=model.safetensors`` (written by ``bench train``) or ``file,path=model.pt`` with cfg and state_dict.

    Attributes:
        path: a safetensors file with this project's description in its header, or what ``torch.save`` made of
            ``{"cfg": VisionTransformer arguments, "state_dict": ...}``; tensors only, no code is unpickled.
        mean, std: of the normalisation, one number for all channels; for files that do not say (default 0 and 1).
    """

    path: Path
    mean: float | None = None
    std: float | None = None

    def load(self) -> Model:
        if not self.path.is_file():
            raise BadInputError(f"no checkpoint at {self.path}.")
        if self.path.suffix == ".safetensors":
            return self._described()
        return self._pickled()

    def _described(self) -> Model:
        if self.mean is not None or self.std is not None:
            raise BadInputError(f"{self.path} says its own mean and std; leave these parameters out.")
        return described_model(*read_checkpoint(self.path), ("file_sha256", file_hash(self.path)))

    def _pickled(self) -> Model:
        content = read_tensors(self.path)
        if not isinstance(content, dict) or not {"cfg", "state_dict"} <= set(content):
            raise BadInputError(
                f"{self.path} must hold a dictionary with 'cfg' (arguments of timm's VisionTransformer) and "
                "'state_dict'; for bare weights use timm,id=ID,weights=FILE."
            )
        cfg, weights = dict(content["cfg"]), content["state_dict"]
        facts = {key: cfg.pop(key) for key in ("mean", "std", "classes", "wavelengths") if key in cfg}
        module = _vision_transformer(cfg, weights, self.path)
        for key, given in (("mean", self.mean), ("std", self.std)):
            if given is not None:
                facts[key] = (given,) * module.in_chans
        return wrap(module, **facts, provenance=(("file_sha256", file_hash(self.path)),))


def described_model(module: nn.Module, checkpoint: Checkpoint, *provenance: tuple[str, Any]) -> Model:
    """The :class:`Model` of a module with its checkpoint's description; the training record goes into provenance."""
    return wrap(
        module,
        mean=checkpoint.mean,
        std=checkpoint.std,
        input_size=checkpoint.input_size,
        classes=checkpoint.classes,
        wavelengths=checkpoint.wavelengths,
        provenance=(*provenance, ("training", checkpoint.training)),
    )


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers only, memory-mapped where the format allows.

    Raises:
        BadInputError: the file is unreadable, or would run code when unpickled; the text names the classes.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not `from error`, here and below: torch's text advises to switch this safety off.
        raise BadInputError(f"{path} {_beside_tensors(path, error)}") from None
    except Exception as error:  # of a truncated or damaged file torch raises errors of ten kinds
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else "it ends early"
        raise BadInputError(
            f"{path} could not be read as tensors only ({type(error).__name__}: {reason}). Fetch it again if it is "
            'truncated or damaged; of a whole model save torch.save({"state_dict": model.state_dict()}, FILE).'
        ) from None


def _beside_tensors(path: Path, error: pickle.UnpicklingError) -> str:
    """What a file holds that must not be unpickled, and what to do about it."""
    try:
        classes = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # no zip archive, or a damaged one: torch's error may name the first class
        classes = re.findall(r"Unsupported global: GLOBAL (\S+)", str(error))
    if not classes:
        return "is no file of tensors that torch.save wrote, or is damaged; fetch or save it again."
    more = f" and {len(classes) - TOLD_CLASSES} more" if len(classes) > TOLD_CLASSES else ""
    return (
        f"does not hold tensors only, but also {', '.join(classes[:TOLD_CLASSES])}{more}; unpickling these could run "
        "code, so it is refused. In the environment that made the file, save its weights alone: "
        'torch.save({"state_dict": model.state_dict()}, FILE), or as safetensors.'
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _vision_transformer(cfg: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> VisionTransformer:
    try:
        with torch.random.fork_rng(devices=[]):
            module = VisionTransformer(**cfg, **_head_width(cfg, weights))
        module.load_state_dict(weights)
    except (TypeError, AssertionError) as error:
        raise BadInputError(f"the cfg in {path} does not make a timm VisionTransformer: {error}") from error
    except RuntimeError as error:
        raise BadInputError(f"the state_dict in {path} does not fit its cfg: {error}") from error
    return module


def _head_width(cfg: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Attention layer where heads are not embed_dim / num_heads wide, for which VisionTransformer has no argument."""
    qkv = weights.get("blocks.0.attn.qkv.weight")
    heads = cfg.get("num_heads", 12)
    if qkv is None or qkv.shape[0] == 3 * qkv.shape[1] or qkv.shape[0] % (3 * heads):
        return {}
    width = qkv.shape[0] // (3 * heads)

    class WideAttention(Attention):
        """timm's attention with heads of the checkpoint's width."""

        def __init__(self, dim: int, **arguments: Any) -> None:
            super().__init__(dim, attn_head_dim=width, **arguments)

    return {"attn_layer": WideAttention}
