"""Pictures of samples for people: true or false colour, 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Batch, Model

VISIBLE = (650.0, 550.0, 450.0)
INFRARED = (1650.0, 1450.0, 1200.0)
"""Wavelengths in nm shown as red, green and blue; the second shows water and dry matter."""
TOLERANCE_NM = 60.0


def pictures(model: Model, batch: Batch, wavelengths: Sequence[float]) -> dict[str, Tensor]:
    """``image`` [B,H,W,3] uint8, ``infrared`` alike where bands reach so far, ``mask`` and ``ignore`` [B,H,W] bool."""
    from ..models.preprocess import denormalise

    raw = denormalise(model, batch.inputs).detach().float().cpu()
    found = {"mask": batch.mask, "ignore": batch.ignore}
    result = {name: truth.cpu() for name, truth in found.items() if truth is not None}
    if raw.shape[1] == 3 and not wavelengths:
        return {"image": _eight_bits(raw), **result}
    visible = _composite(raw, wavelengths, VISIBLE)
    result["image"] = _eight_bits(
        _stretched(raw.mean(1, keepdim=True).expand(-1, 3, -1, -1) if visible is None else visible)
    )
    infrared = _composite(raw, wavelengths, INFRARED)
    return result if infrared is None else {**result, "infrared": _eight_bits(_stretched(infrared))}


def _composite(raw: Tensor, wavelengths: Sequence[float], wanted: Sequence[float]) -> Tensor | None:
    """The bands nearest to three wavelengths, [B,3,H,W]; None where one of them is too far."""
    if len(wavelengths) != raw.shape[1]:
        return None
    bands = [min(range(len(wavelengths)), key=lambda i: abs(wavelengths[i] - nm)) for nm in wanted]
    if any(abs(wavelengths[band] - nm) > TOLERANCE_NM for band, nm in zip(bands, wanted, strict=True)):
        return None
    return raw[:, bands]


def _stretched(colours: Tensor) -> Tensor:
    """Each picture divided by its 99th percentile: reflectance alone would look nearly black."""
    top = torch.quantile(colours.flatten(1), 0.99, dim=1).clamp(min=1e-6)
    return colours / top.view(-1, 1, 1, 1)


def _eight_bits(colours: Tensor) -> Tensor:
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
