"""`bench train`: trains a built-in model, or a timm ViT on any data set, into a self-describing checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.checkpoint import round_to_storage, write_checkpoint
from .contract import Dataset, datasets
from .optimise import EpochRecord, LabelledInputs, Progress, Schedule, best_epoch, optimise, predict
from .recipes import RECIPES, TrainConfig, command, recipe
from .source import source_digest
from .trainable import blank_model, labelled_inputs

__all__ = ["RECIPES", "EpochRecord", "Schedule", "TrainConfig", "command", "recipe", "train"]

log = logging.getLogger(__name__)


def train(config: TrainConfig, progress: Progress | None = None) -> Path:
    """Trains a model and writes its checkpoint (weights in float16) and its log; returns the checkpoint's path.

    Same configuration, machine, thread count and versions give the same weights. Torch's global random state and
    thread count are left as they were.

    Raises:
        BadInputError: unlabelled data, a split without samples, a model spec that cannot be trained, or a loss that is
            not finite.
    """
    dataset = datasets.create(config.data)
    provenance = _provenance(config, dataset)  # before training: sources may be edited while it runs
    with _threads(config.threads), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model, blank = blank_model(config.model, dataset, config.fit, config.seed)
        module = model.module.to(config.device)
        fit = labelled_inputs(dataset, "fit", config.fit, model)
        validation = labelled_inputs(dataset, "validation", config.validation, model)
        records = optimise(
            module,
            fit,
            validation,
            config.schedule,
            classes=len(blank.classes),
            seed=config.seed,
            progress=progress,
        )
        round_to_storage(module)
        test = labelled_inputs(dataset, "test", config.test, model)
        accuracy = {name: _accuracy(module, part) for name, part in (("validation", validation), ("test", test))}
    training = provenance | {
        "fit_samples": len(fit),
        "accuracy": accuracy,
        "best_epoch": best_epoch(records),
        "log": [asdict(record) for record in records],
    }
    write_checkpoint(config.path, module, replace(blank, training=training))
    config.path.with_suffix(".json").write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    log.info("wrote %s: %s", config.path, accuracy)
    return config.path


def _provenance(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    code = ("vitxai.bench.initialise", "vitxai.bench.optimise", "vitxai.models.spectral")
    return {
        "command": command(config),
        "model": config.model,
        "seed": config.seed,
        "data": config.data,
        "data_hash": dataset.content_hash(),
        "code_hashes": {module: source_digest(module) for module in code},
        "schedule": asdict(config.schedule),
        "threads": config.threads,
        "versions": {package: version(package) for package in ("torch", "timm", "numpy")},
    }


def _accuracy(module: nn.Module, part: LabelledInputs) -> dict[str, float | int]:
    correct = int((predict(module, part.inputs, 64).argmax(1) == part.labels).sum()) if len(part) else 0
    return {"correct": correct, "n": len(part)}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
