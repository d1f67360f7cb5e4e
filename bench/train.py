"""`bench train`: trains a built-in model, or a timm ViT on any data set, into a self-describing checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..models.checkpoint import Checkpoint, round_to_storage, write_checkpoint
from ..models.optimise import EpochRecord, LabelledInputs, Progress, Schedule, best_epoch, optimise, predict
from .contract import Dataset, Model, Sample, Split, datasets
from .counterfactual import counterfactual_samples
from .recipes import RECIPES, Phase, Scenes, TrainConfig, command, recipe
from .source import source_digest
from .trainable import blank_model, labelled_inputs, plain_samples

__all__ = ["RECIPES", "EpochRecord", "Phase", "Schedule", "TrainConfig", "command", "recipe", "train"]

log = logging.getLogger(__name__)

_CODE = ("vitxai.bench.initialise", "vitxai.models.optimise", "vitxai.models.spectral")
_PHASE_STRIDE = 2**32
_SAMPLES: Mapping[Scenes, Callable[[Dataset, Split, int | None], Iterator[Sample]]] = {
    "plain": plain_samples,
    "counterfactual": counterfactual_samples,
}


def train(config: TrainConfig, progress: Progress | None = None) -> Path:
    """Trains a model and writes its checkpoint (weights in float16) and its log; returns the checkpoint's path.

    Same configuration, machine, thread count and versions give the same weights. Torch's global random state and
    thread count are left as they were.

    Raises:
        BadInputError: unlabelled data, a split without samples, a model spec that cannot be trained, or a loss that is
            not finite.
    """
    dataset = datasets.create(config.data)
    provenance = {
        "data_hash": dataset.content_hash(),
        "code_hashes": {module: source_digest(module) for module in _CODE},
    }
    with _threads(config.threads), torch.random.fork_rng():
        model, blank = blank_model(config.model, dataset, config.fit, config.seed)
        model.module.to(config.device)
        phases = [train_phase(model, dataset, config, index, progress) for index in range(len(config.phases))]
        counts: dict[Split, int | None] = {"validation": config.validation, "test": config.test}
        accuracy = {
            split: _accuracy(model, labelled_inputs(plain_samples(dataset, split, count), model))
            for split, count in counts.items()
        }
    return write_trained(config, model, blank, {**provenance, "phases": phases, "accuracy": accuracy})


def train_phase(
    model: Model, dataset: Dataset, config: TrainConfig, index: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Runs one phase on a model in place and rounds its weights to what is stored; returns the phase's record.

    A phase depends on nothing of the phases before it but the weights that they left.
    """
    phase = config.phases[index]
    select = _SAMPLES[phase.scenes]
    fit = labelled_inputs(select(dataset, "fit", config.fit), model)
    validation = labelled_inputs(select(dataset, "validation", config.validation), model)
    torch.manual_seed(config.seed)
    records = optimise(
        model.module,
        fit,
        validation,
        phase.schedule,
        classes=len(dataset.info().classes),
        seed=config.seed + index * _PHASE_STRIDE,
        progress=progress,
    )
    round_to_storage(model.module)
    return {
        "scenes": phase.scenes,
        "schedule": asdict(phase.schedule),
        "fit_samples": len(fit),
        "best_epoch": best_epoch(records),
        "log": [asdict(record) for record in records],
    }


def write_trained(config: TrainConfig, model: Model, blank: Checkpoint, results: Mapping[str, Any]) -> Path:
    """Writes the checkpoint of a trained model, and its training record beside it as JSON."""
    training = {
        "command": command(config),
        "model": config.model,
        "seed": config.seed,
        "data": config.data,
        "threads": config.threads,
        "versions": {package: version(package) for package in ("torch", "timm", "numpy")},
        **results,
    }
    write_checkpoint(config.path, model.module, replace(blank, training=training))
    config.path.with_suffix(".json").write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    log.info("wrote %s: %s", config.path, training["accuracy"])
    return config.path


def _accuracy(model: Model, part: LabelledInputs) -> dict[str, int]:
    correct = int((predict(model.module, part.inputs, 64).argmax(1) == part.labels).sum()) if len(part) else 0
    return {"correct": correct, "n": len(part)}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
