"""Explainers on a few samples of one model, outside any suite: what `bench explain` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..models.fit_files import obtain_fit
from ..models.load import load_model
from ..models.preprocess import collate
from .context import EngineContext, Shared
from .contract import (
    BadInputError,
    Batch,
    Dataset,
    DatasetInfo,
    Explainer,
    Explanation,
    Model,
    Sample,
    Spec,
    Split,
    UnsupportedError,
    datasets,
    explainers,
    needs_of,
)
from .memory import row_bytes, rows_per_pass
from .profile import count_passes
from .scoring import checked

MEMORY_GB = 4.0


@dataclass(frozen=True, eq=False)
class Showcase:
    """Explanations with all that a reader needs beside them.

    Attributes:
        model: the frozen model.
        explanations: by the explainer's spec, in the order asked for.
        rows: inputs that each explainer sent forward through a model, per sample; a shared recording counts once, for
            the first that asked.
        refusals: why an explainer does not work here, by its spec.
        probabilities: [B,K] of the frozen model.
        classes: names in logit order; numbers where they are unknown.
        wavelengths: band centres in nm; empty for RGB.
    """

    model: Model
    batch: Batch
    explanations: Mapping[str, Explanation]
    rows: Mapping[str, float]
    refusals: Mapping[str, str]
    probabilities: Tensor
    classes: tuple[str, ...]
    wavelengths: tuple[float, ...]

    def save(self, path: Path) -> tuple[Path, ...]:
        """Writes native maps, layout, ids and targets as .npz; of several explainers one file each, their specs added.

        ``precomputed,path=FILE`` reads them.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        written = []
        for spec, explanation in self.explanations.items():
            name = path.stem if len(self.explanations) == 1 else f"{path.stem}_{_file_name(spec)}"
            written.append(path.with_name(f"{name}{path.suffix}"))
            np.savez_compressed(
                written[-1],
                native=explanation.native.cpu().numpy(),
                layout=np.array(explanation.layout),
                ids=np.array(self.batch.ids),
                targets=self.batch.targets.cpu().numpy(),
                probabilities=self.probabilities.numpy(),
            )
        return tuple(written)


def showcase(
    model_spec: str,
    explainer_specs: Sequence[str],
    *,
    dataset: str | None = None,
    image: Path | None = None,
    count: int = 4,
    target: int | None = None,
) -> Showcase:
    """Explains the first test samples of a data set, or one picture or cube; by default each sample's prediction.

    Args:
        image: a picture, or a .npy file with one cube [C,H,W] as the model's data sets give it.

    Raises:
        BadInputError: no sample, or a target that the model does not have.
        UnsupportedError: every explainer refuses this model or these data.
    """
    # Parsed first, so that a wrong parameter is told before a large model is loaded.
    methods = {str(Spec.parse(spec)): explainers.create(spec) for spec in explainer_specs}
    model = load_model(model_spec)
    source = datasets.create(dataset) if dataset is not None else _own_input(image, model)
    ids = source.ids("test", count)
    if not ids:
        raise BadInputError(f"the test split of {dataset} is empty; pass splits=test to use all its samples.")
    batch = collate([source.sample(id) for id in ids], model)
    logits = _logits(model, batch)
    if target is not None and target >= logits.shape[1]:
        raise BadInputError(f"--target {target}, but the model has {logits.shape[1]} classes, counted from 0.")
    batch = replace(batch, targets=logits.argmax(1) if target is None else torch.full_like(batch.targets, target))
    max_rows = rows_per_pass(row_bytes(model), MEMORY_GB, model.device.type)
    data_hash = source.content_hash() if dataset is not None else ""  # artefacts that ship belong to data sets
    ctx = EngineContext(seed=0, max_rows=max_rows, fit_data=_FitData(source, model), shared=Shared())
    made: dict[str, Explanation] = {}
    rows: dict[str, float] = {}
    refusals: dict[str, str] = {}
    for spec, method in methods.items():
        try:
            made[spec], rows[spec] = _explained(method, model, batch, ctx, data_hash)
        except UnsupportedError as refusal:
            refusals[spec] = str(refusal)
    if not made:
        raise UnsupportedError(" ".join(f"{spec}: {why}" for spec, why in refusals.items()))
    info = source.info()
    return Showcase(
        model=model,
        batch=batch,
        explanations=made,
        rows=rows,
        refusals=refusals,
        probabilities=logits.softmax(1).cpu(),
        classes=model.classes or info.classes or tuple(map(str, range(logits.shape[1]))),
        wavelengths=model.wavelengths or info.wavelengths,
    )


def _explained(
    method: Explainer, model: Model, batch: Batch, ctx: EngineContext, data_hash: str
) -> tuple[Explanation, float]:
    """The map, and the inputs a sample that went forward for it (fitting left out)."""
    _meet_needs(needs_of(method), batch, model)
    fitted = obtain_fit(method, model, ctx, data_hash)
    explained = method.own_model(model, fitted)
    with count_passes(explained.module) as passes:
        explanation = method.explain(explained, batch, replace(ctx, fitted=fitted))
    return checked(explanation, batch, model), passes.forwards / len(batch)


@dataclass(frozen=True)
class _FitData:
    """What a fitted method learns from: the data set's own fit and validation splits."""

    source: Dataset
    model: Model

    def __call__(self, split: Literal["fit", "validation"], count: int, labels: bool) -> Batch:
        ids = self.source.ids(split, count)
        if not ids:
            raise UnsupportedError(f"this method learns from the {split} split, and the data given have none.")
        batch = collate([self.source.sample(id) for id in ids], self.model)
        batch = replace(batch, targets=_logits(self.model, batch).argmax(1))
        return batch if labels else replace(batch, labels=torch.full_like(batch.labels, -1))


class _OneCube(Dataset):
    """A cube of the user's own as a data set of one test sample."""

    def __init__(self, path: Path, model: Model) -> None:
        self.path, self.model = path, model

    def info(self) -> DatasetInfo:
        return DatasetInfo((), self.model.channels, frozenset(), "", "", self.model.wavelengths)

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        return [self.path.name] if split == "test" else []

    def sample(self, id: str) -> Sample:
        try:
            cube: Any = np.load(self.path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise BadInputError(f"{self.path} is not a readable .npy file: {error}.") from error
        if not isinstance(cube, np.ndarray) or cube.ndim != 3 or len(cube) != self.model.channels:
            shape = getattr(cube, "shape", "several arrays")
            raise BadInputError(
                f"{self.path} holds {shape}; {self.model.name} eats cubes [C,H,W] with C = {self.model.channels}."
            )
        return Sample(id, cube.astype(np.float32))


def _own_input(image: Path | None, model: Model) -> Dataset:
    if image is None or not image.is_file():
        raise BadInputError(f"no picture at {image}.")
    if image.suffix == ".npy":
        return _OneCube(image, model)
    return datasets.create(Spec("folder", {"path": image, "size": max(model.input_size)}))


def _logits(model: Model, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return model(batch.inputs).clone()


def _meet_needs(needs: frozenset[str], batch: Batch, model: Model) -> None:
    truths = {name for name in ("mask", "distractors", "leaf", "bands", "healed") if getattr(batch, name) is not None}
    met = truths | {"attention", "gradient", "labels"} | ({"spectrum"} if model.channels > 3 else set())
    if lacking := sorted(needs - met):
        raise UnsupportedError(f"this explainer needs {', '.join(lacking)}, which these samples do not have.")


def _file_name(spec: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in spec)
