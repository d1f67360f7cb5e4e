"""Loading by spec: the project's own loaders, and whatever entry points of the group ``vitxai.models`` add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch

from ..bench.contract import BadInputError, Model, Spec, UnknownNameError, VitxaiError
from ..bench.contract.registry import instantiate
from .builtin import load_builtin
from .file_model import FileModel, described_model
from .prototype_head import prototypes_from
from .timm_model import TimmModel
from .torchvision_model import TorchvisionModel
from .transformers_model import TransformersModel

ENTRY_POINTS = "vitxai.models"
PROTOTYPES = "prototypes"


class Loader(Protocol):
    """A dataclass of typed parameters that loads a :class:`Model` on the CPU, in its stored dtype."""

    def load(self) -> Model: ...


@dataclass(frozen=True)
class BuiltinLoader:
    """``builtin,id=leaves_spectral,seed=0``: a model that ships with the project."""

    id: str
    seed: int = 0

    def load(self) -> Model:
        return described_model(*load_builtin(self.id, self.seed))


LOADERS: Mapping[str, type[Loader]] = {
    "builtin": BuiltinLoader,
    "timm": TimmModel,
    "torchvision": TorchvisionModel,
    "transformers": TransformersModel,
    "file": FileModel,
}


def load_model(
    spec: Spec | str | Mapping[str, Any], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Model:
    """The model of a spec, e.g. ``timm,id=vit_tiny_patch16_224.augreg_in21k_ft_in1k``; nothing is downloaded unasked.

    Third parties add loaders as entry points ``name = "module:callable"`` of the group ``vitxai.models``; the callable
    takes the spec's parameters by name, as strings, and returns a :class:`Model` (see :func:`vitxai.models.wrap`).

    ``prototypes=FILE`` beside the parameters of any loader puts what ``bench prototypes`` wrote in the head's place.

    Args:
        device, dtype: where the model goes, and its floating-point dtype; by default as stored, on the CPU. The
            weights hash is that of the stored weights.

    Raises:
        UnknownNameError: no loader, timm model or built-in model bears the name.
        BadInputError: a parameter is unknown or wrong, or weights are missing or do not fit; the text says what to do.
    """
    spec = Spec.parse(spec)
    params = dict(spec.params)
    prototypes = params.pop(PROTOTYPES, None)
    model = _load(Spec(spec.name, params))
    if prototypes is not None:
        model = prototypes_from(model, Path(str(prototypes)))
    module = model.module.to(device=device, dtype=dtype)
    return replace(model, module=module.eval().requires_grad_(False), name=str(spec))


def loader_names() -> list[str]:
    """Names that a model spec may begin with, sorted."""
    return sorted({*LOADERS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def _load(spec: Spec) -> Model:
    if spec.name in LOADERS:
        return instantiate(LOADERS[spec.name], spec, "model").load()
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if spec.name not in points:
        raise UnknownNameError("model loader", spec.name, loader_names())
    point = points[spec.name]
    try:
        loader: Callable[..., Any] = point.load()
    except Exception as error:
        raise VitxaiError(f"model loader {spec.name!r} ({point.value}) could not be loaded: {error!r}") from error
    model = loader(**spec.params)
    if not isinstance(model, Model):
        raise BadInputError(
            f"model loader {spec.name!r} ({point.value}) returned {type(model).__name__}; it must return what "
            "vitxai.models.wrap makes."
        )
    return model
