"""Probes in the store: tensors, and lists, tuples or dictionaries of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .store import Artefact


def packed(value: Any) -> Artefact | None:
    """A probe as an artefact; None for what has no stored form and lives in memory only."""
    if isinstance(value, Tensor):
        return Artefact(tensors={"value": value}, record={"form": "tensor"})
    if isinstance(value, list | tuple) and value and all(isinstance(item, Tensor) for item in value):
        form = "list" if isinstance(value, list) else "tuple"
        return Artefact(tensors={f"{i:06d}": item for i, item in enumerate(value)}, record={"form": form})
    if isinstance(value, dict) and value and all(isinstance(item, Tensor) for item in value.values()):
        return Artefact(tensors=dict(value), record={"form": "dict"})
    return None


def unpacked(artefact: Artefact, device: torch.device) -> Any:
    """The probe of an artefact, on the device."""
    tensors = {name: tensor.to(device) for name, tensor in artefact.tensors.items()}
    match artefact.record["form"]:
        case "tensor":
            return tensors["value"]
        case "dict":
            return tensors
        case form:
            items = [tensors[name] for name in sorted(tensors)]
            return items if form == "list" else tuple(items)
