"""From samples to what a model eats, and back: resize, check, normalise, stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..bench.contract import BadInputError, Batch, Model, Sample


def collate(samples: Sequence[Sample], model: Model, targets: Tensor | Sequence[int] | None = None) -> Batch:
    """The batch of these samples for a model, on its device, inputs in its dtype.

    Samples of another size than the model's are resized, images bilinearly with antialiasing, masks to the nearest
    pixel. A truth that any sample lacks is None for the batch.

    Args:
        targets: [B] classes to explain; by default the labels (-1 where unknown), until the engine's target policy
            replaces them.

    Raises:
        BadInputError: no samples, wrong channels, shapes that do not match, values that are not finite; it names the
            sample and the field.
    """
    if not samples:
        raise BadInputError("a batch needs at least one sample.")
    labels = torch.tensor([-1 if sample.label is None else sample.label for sample in samples], device=model.device)
    chosen = labels.clone() if targets is None else torch.as_tensor(targets, device=model.device).long()
    if chosen.shape != labels.shape:
        raise BadInputError(f"{len(samples)} samples need as many targets, not shape {tuple(chosen.shape)}.")
    inputs = _images(samples, "input", model)
    assert inputs is not None
    return Batch(
        ids=tuple(sample.id for sample in samples),
        inputs=inputs,
        targets=chosen,
        labels=labels,
        mask=_masks(samples, "mask", model),
        ignore=_masks(samples, "ignore", model),
        distractors=_masks(samples, "distractors", model),
        leaf=_masks(samples, "leaf", model),
        bands=_stacked(samples, "bands", lambda sample: _bands(sample, model)),
        healed=_images(samples, "healed", model),
    )


def normalise(model: Model, images: Tensor) -> Tensor:
    """(raw - mean) / std per channel: [B,C,H,W] -> [B,C,H,W] on the model's device, in its dtype."""
    mean, std = _statistics(model, images)
    return ((images - mean) / std).to(model.device, model.dtype)


def denormalise(model: Model, inputs: Tensor) -> Tensor:
    """The raw images [B,C,H,W] of normalised inputs, in at least float32."""
    images = inputs if inputs.dtype == torch.float64 else inputs.float()
    mean, std = _statistics(model, images)
    return images * std + mean


def _statistics(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (model.mean, model.std))
    return mean[:, None, None], std[:, None, None]


def _stacked(samples: Sequence[Sample], name: str, convert: Callable[[Sample], Tensor]) -> Tensor | None:
    if any(getattr(sample, name) is None for sample in samples):
        return None
    return torch.stack([convert(sample) for sample in samples])


def _images(samples: Sequence[Sample], name: str, model: Model) -> Tensor | None:
    images = _stacked(samples, name, lambda sample: _image(sample, name, model))
    return None if images is None else normalise(model, images)


def _masks(samples: Sequence[Sample], name: str, model: Model) -> Tensor | None:
    return _stacked(samples, name, lambda sample: _mask(sample, name, model))


def _image(sample: Sample, name: str, model: Model) -> Tensor:
    array = np.asarray(getattr(sample, name))
    if array.ndim != 3 or array.shape[0] != model.channels or 0 in array.shape:
        raise BadInputError(
            f"{name} of sample {sample.id!r} has shape {array.shape}; this model eats ({model.channels}, H, W)."
        )
    if name != "input" and array.shape != np.shape(sample.input):
        raise BadInputError(f"{name} of sample {sample.id!r} has shape {array.shape}, its input {sample.input.shape}.")
    image = _tensor(array, model).float()
    if not torch.isfinite(image).all():
        raise BadInputError(f"{name} of sample {sample.id!r} holds NaN or infinite values.")
    if tuple(image.shape[1:]) == model.input_size:
        return image
    return interpolate(image[None], size=model.input_size, mode="bilinear", align_corners=False, antialias=True)[0]


def _mask(sample: Sample, name: str, model: Model) -> Tensor:
    array = np.asarray(getattr(sample, name))
    pixels = np.shape(sample.input)[1:]
    if array.shape != pixels:
        raise BadInputError(f"{name} of sample {sample.id!r} has shape {array.shape}, its input {pixels}.")
    mask = _tensor(array.astype(bool), model)
    if tuple(mask.shape) == model.input_size:
        return mask
    return interpolate(mask[None, None].float(), size=model.input_size, mode="nearest-exact")[0, 0].bool()


def _bands(sample: Sample, model: Model) -> Tensor:
    array = np.asarray(sample.bands, dtype=np.float32)
    if array.shape != (model.channels,) or not np.isfinite(array).all() or (array < 0).any():
        raise BadInputError(
            f"bands of sample {sample.id!r} must be {model.channels} finite values >= 0, got shape {array.shape}."
        )
    return _tensor(array, model)


def _tensor(array: np.ndarray[Any, Any], model: Model) -> Tensor:
    return torch.from_numpy(np.array(array)).to(model.device)
