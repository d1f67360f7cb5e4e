"""`bench prototypes`: class means of a model's features on a data set, as a head for models that have none."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..models.load import load_model
from ..models.preprocess import collate
from ..models.prototype_head import Prototypes, best_scale, class_means, without_head, write_prototypes
from .contract import BadInputError, Dataset, Model, Spec, Split, datasets

DEFAULT_SCALE = 1 / 0.07
BATCH = 32


def make_prototypes(
    model: Spec | str,
    data: Spec | str,
    out: Path,
    *,
    fit: int | None = None,
    validation: int | None = None,
    scale: float | None = None,
    device: str = "cpu",
) -> Prototypes:
    """Writes the prototypes of a data set's classes for a model; load them with ``MODEL,prototypes=FILE``.

    Args:
        fit, validation: samples of these splits; all by default. Test data are not looked at.
        scale: inverse temperature; by default the one of least cross-entropy on the validation split, and
            1 / 0.07 where that is empty.

    Raises:
        BadInputError: unlabelled samples, a class without samples, a scale that is not positive, or a spec that does
            not load.
        UnsupportedError: the model's head cannot be replaced.
    """
    if scale is not None and scale <= 0:
        raise BadInputError(f"scale={scale:g}; an inverse temperature is positive.")
    dataset = datasets.create(Spec.parse(data))
    loaded = load_model(model, device=device)
    backbone, classes = without_head(loaded), dataset.info().classes
    features, labels = _features(backbone, dataset, "fit", fit)
    vectors = class_means(features, labels, classes)
    held_out, truth = _features(backbone, dataset, "validation", validation)
    chosen = scale
    if chosen is None:
        chosen = best_scale(held_out, truth, vectors) if len(truth) else DEFAULT_SCALE
    correct = int(((held_out @ vectors.T).argmax(1) == truth).sum()) if len(truth) else 0
    facts = {
        "data": str(data),
        "data_hash": dataset.content_hash(),
        "fit_samples": dict(zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True)),
        "validation": {"correct": correct, "n": len(truth)},
    }
    prototypes = Prototypes(vectors, chosen, classes, backbone.weights_hash, facts)
    write_prototypes(out, prototypes)
    return prototypes


def _features(backbone: Model, dataset: Dataset, split: Split, count: int | None) -> tuple[Tensor, Tensor]:
    """Features [N,D] and labels [N] of a split, on the CPU."""
    ids = list(dataset.ids(split, count))
    if not ids and split == "fit":
        raise BadInputError("the fit split is empty, and prototypes are learned there; see the data set's splits=.")
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for start in range(0, len(ids), BATCH):
            batch = collate([dataset.sample(id) for id in ids[start : start + BATCH]], backbone)
            if bool((batch.labels < 0).any()):
                raise BadInputError(f"the {split} split has samples without a label, of which no prototype can learn.")
            parts.append((backbone(batch.inputs).float().cpu(), batch.labels.cpu()))
    if not parts:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long)
    return torch.cat([features for features, _ in parts]).clone(), torch.cat([labels for _, labels in parts])
