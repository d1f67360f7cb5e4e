"""The facts of a cell, kept in the store, so that a run that finds everything stored starts no worker."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..models.shipped import checkpoint_folder, checkpoint_name
from .contract import Spec
from .contract import datasets as dataset_registry
from .data_facts import files_left_out
from .fingerprint import fingerprint
from .keys import key_of, plugin_identity
from .source import source_digest
from .store import Artefact, Store
from .tasks import Cell, CellFacts

SOURCES = ("vitxai.bench.cell", "vitxai.models.load")


def known_facts(cell: Cell, store: Store) -> CellFacts | None:
    """What an earlier worker said of this cell; None where nobody has asked, or where only a worker can know."""
    key = _key(cell)
    artefact = None if key is None else store.read("facts", key)
    return None if artefact is None else _adapter().validate_python(artefact.record)


def keep_facts(cell: Cell, store: Store, facts: CellFacts) -> None:
    """Stores a worker's facts for :func:`known_facts`."""
    key = _key(cell)
    if key is not None:
        record = _adapter().dump_python(facts, mode="json")
        record["info"]["has"].sort()  # a set, whose order changes from process to process: equal keys hold equal bytes
        store.write("facts", key, Artefact(record=record))


def _key(cell: Cell) -> str | None:
    """Everything that the facts follow from; None for a model that is not one file, and for accelerators."""
    weights = weights_file(cell.model)
    if weights is None or not weights.is_file() or not _on_cpu(cell.device):
        return None
    dataset: Any = dataset_registry.create(cell.dataset)
    parts = {
        "model": str(cell.model),
        "weights": _content(weights, weights.stat().st_mtime_ns),
        "dataset": {**plugin_identity(dataset_registry, cell.dataset), "content": dataset.content_hash()},
        "n": cell.n,
        "split": cell.split,
        "memory_gb": cell.memory_gb,
        "machine": fingerprint("cpu").key,
        "source": [source_digest(module) for module in SOURCES],
    }
    if files := files_left_out(dataset):  # no part of the content, which is that of the samples
        parts["left_out"] = files
    return key_of("facts", parts)


def weights_file(model: Spec) -> Path | None:
    """The file that alone decides the model of a spec, where there is one."""
    if "prototypes" in model.params:
        return None
    seed = str(model.params.get("seed", 0))
    if model.name == "builtin" and "id" in model.params and seed.isdigit():
        return checkpoint_folder() / checkpoint_name(str(model.params["id"]), int(seed))
    return Path(str(model.params["path"])) if model.name == "file" and "path" in model.params else None


def _on_cpu(device: str) -> bool:
    import torch

    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


@cache
def _content(path: Path, changed: int) -> str:
    """SHA-256 of a file; ``changed``, its time of change, keeps the answer from outliving the content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _adapter() -> TypeAdapter[CellFacts]:
    return TypeAdapter(CellFacts)
