"""A head without training: similarity to the class means of a backbone's features."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ..bench.contract import BadInputError, Model, UnsupportedError
from .file_model import file_hash
from .handle import weights_hash
from .whole_files import replacing

HEADER_KEY = "vitxai_prototypes"
SCALES = torch.logspace(0, 3, 301, dtype=torch.float64)
"""Candidates for the scale, 1 to 1000; the common ones are 1 / 0.07 and 100."""


class PrototypeHead(nn.Module):
    """Logits [B,K] = scale * cosine of the angle between features [B,D] and each of K class prototypes.

    Args:
        prototypes: [K,D], of any length.
        scale: inverse temperature.
    """

    def __init__(self, prototypes: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * F.normalize(prototypes, dim=-1), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=-1), self.weight)


@dataclass(frozen=True)
class Prototypes:
    """What was learned of the classes.

    Attributes:
        vectors: [K,D], of length one.
        scale: inverse temperature.
        classes: names, in logit order.
        backbone: weights hash of the model whose features they are means of, its own head left off.
        facts: of how they came to be (data set, its hash, samples of each class, accuracy).
    """

    vectors: Tensor
    scale: float
    classes: tuple[str, ...]
    backbone: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def class_means(features: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Tensor:
    """The mean direction of each class: features [N,D] at length one, averaged, at length one again -> [K,D].

    Raises:
        BadInputError: a class has no sample.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    if absent := [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]:
        raise BadInputError(f"no sample to learn of {', '.join(absent)}; a prototype needs at least one of each class.")
    directions = F.normalize(features.double(), dim=-1)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64).index_add_(0, labels, directions)
    return F.normalize(sums, dim=-1).to(features.dtype)


def best_scale(features: Tensor, labels: Tensor, vectors: Tensor) -> float:
    """The scale of least cross-entropy on these samples (temperature scaling, Guo et al. 2017), out of ``SCALES``."""
    cosines = F.normalize(features.double(), dim=-1) @ vectors.double().T
    losses = torch.stack([F.cross_entropy(scale * cosines, labels) for scale in SCALES])
    return float(SCALES[losses.argmin()])


def without_head(model: Model) -> Model:
    """The model that answers with the features [B,D] that its head reads; everything but the head is shared.

    Raises:
        UnsupportedError: its head is not one linear layer that could be left off.
    """
    return _with_head(model, nn.Identity(), ())


def with_prototypes(model: Model, prototypes: Prototypes) -> Model:
    """The model with a :class:`PrototypeHead` instead of its own head; everything but the head is shared.

    Raises:
        BadInputError: the prototypes were made on another backbone.
        UnsupportedError: see :func:`without_head`.
    """
    bare = without_head(model)
    if bare.weights_hash != prototypes.backbone:
        raise BadInputError(
            f"these prototypes are means of another model's features (weights {prototypes.backbone[:12]}, here "
            f"{bare.weights_hash[:12]}); make them anew for this model."
        )
    head = PrototypeHead(prototypes.vectors.to(model.device, model.dtype), prototypes.scale)
    return _with_head(model, head, prototypes.classes)


def write_prototypes(path: Path, prototypes: Prototypes) -> None:
    """Writes them as safetensors, atomically."""
    facts = {name: getattr(prototypes, name) for name in ("scale", "classes", "backbone", "facts")}
    with replacing(path) as partial:
        partial.write_bytes(save({"vectors": prototypes.vectors.contiguous()}, {HEADER_KEY: json.dumps(facts)}))


def read_prototypes(path: Path) -> Prototypes:
    """What :func:`write_prototypes` wrote.

    Raises:
        BadInputError: no such file, or not one of prototypes.
    """
    if not path.is_file():
        raise BadInputError(f"no prototypes at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            vectors = file.get_tensor("vectors") if header else None
    except SafetensorError as error:
        raise BadInputError(f"{path} is not a readable safetensors file: {error}.") from error
    if header is None or vectors is None:
        raise BadInputError(f"{path} holds no prototypes.")
    facts = json.loads(header)
    return Prototypes(vectors, **{**facts, "classes": tuple(facts["classes"])})


def prototypes_from(model: Model, path: Path) -> Model:
    """:func:`with_prototypes` of a file, which provenance then names."""
    prototypes = read_prototypes(path)
    facts = {"file": path.name, "sha256": file_hash(path), "scale": prototypes.scale, **prototypes.facts}
    changed = with_prototypes(model, prototypes)
    return replace(changed, provenance=(*model.provenance, ("prototypes", facts)))


def _with_head(model: Model, head: nn.Module, classes: tuple[str, ...]) -> Model:
    own = getattr(model.module, "head", None)
    if not isinstance(own, nn.Linear | nn.Identity | PrototypeHead) or hasattr(model.module, "head_dist"):
        raise UnsupportedError(
            f"the head of {model.name} ({type(model.module).__name__}) is not one linear layer, so that no other can "
            "take its place."
        )
    module: Any = copy.copy(model.module)
    module._modules = dict(model.module._modules)
    module.head = head.eval()
    module.num_classes = len(classes)
    return replace(model, module=module, classes=classes, weights_hash=weights_hash(module))
