"""`bench train`: trains a built-in model, a timm ViT or a spectral one over it into a self-describing checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.checkpoint import Checkpoint, round_to_storage, write_checkpoint
from ..models.optimise import (
    EpochRecord,
    LabelledInputs,
    Progress,
    Schedule,
    SquaredError,
    best_epoch,
    optimise,
    predict,
)
from ..models.whole_files import replacing
from .contract import BadInputError, Dataset, Model, Sample, Split, datasets
from .counterfactual import counterfactual_samples
from .recipes import PRESETS, RECIPES, Phase, Scenes, TrainConfig, command, recipe
from .source import source_digest
from .trainable import blank_model, labelled_inputs, linear_head, plain_samples, pooled_features

__all__ = ["PRESETS", "RECIPES", "EpochRecord", "Phase", "Schedule", "TrainConfig", "command", "recipe", "train"]

log = logging.getLogger(__name__)

_CODE = (
    "vitxai.bench.initialise",
    "vitxai.models.optimise",
    "vitxai.models.spectral",
    "vitxai.models.spectral_backbone",
)
_PHASE_STRIDE = 2**32
_SAMPLES: Mapping[Scenes, Callable[[Dataset, Split, int | None], Iterator[Sample]]] = {
    "plain": plain_samples,
    "counterfactual": counterfactual_samples,
}


def train(config: TrainConfig, progress: Progress | None = None) -> Path:
    """Trains a model and writes its checkpoint (weights in float16) and its log; returns the checkpoint's path.

    Same configuration, machine, thread count and versions give the same weights, whether the run was stopped and
    resumed or not. Torch's global random state and thread count are left as they were.

    On a data set with traits in place of classes the outputs are the traits, in standard deviations of the fit samples
    from their mean; both stand in the training record.

    Raises:
        BadInputError: unlabelled data, a split without samples, a model spec that cannot be trained, or a loss that is
            not finite.
    """
    dataset = datasets.create(config.data)
    provenance = {
        "data_hash": dataset.content_hash(),
        "code_hashes": {module: source_digest(module) for module in _CODE},
    }
    states = _states(config, provenance) if config.resume else None
    with _threads(config.threads), torch.random.fork_rng():
        model, blank = blank_model(config.model, dataset, config.fit, config.seed)
        model.module.to(config.device)
        if model.provenance:
            provenance["backbone"] = dict(model.provenance)
        phases = [_phase(model, dataset, config, index, progress, states) for index in range(len(config.phases))]
        counts: dict[Split, int | None] = {"validation": config.validation, "test": config.test}
        accuracy = {split: _accuracy(model, dataset, split, count, phases[-1]) for split, count in counts.items()}
    path = write_trained(config, model, blank, {**provenance, "phases": phases, "accuracy": accuracy})
    for state in states or ():
        state.unlink(missing_ok=True)
    return path


def train_phase(
    model: Model,
    dataset: Dataset,
    config: TrainConfig,
    index: int,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Runs one phase on a model in place and rounds its weights to what is stored; returns the phase's record.

    A phase depends on nothing of the phases before it but the weights that they left.
    """
    phase, info = config.phases[index], dataset.info()
    traits = 0 if info.classes else len(info.traits)
    select = _SAMPLES[phase.scenes]
    fit = labelled_inputs(select(dataset, "fit", config.fit), model, traits)
    validation = labelled_inputs(select(dataset, "validation", config.validation), model, traits)
    if config.shuffle_labels:
        order = torch.randperm(len(fit), generator=torch.Generator().manual_seed(config.seed))
        fit = validation = replace(fit, labels=fit.labels[order])
    scale = _scale(fit, info.traits) if traits else {}
    if traits:
        fit, validation = _standardised(fit, scale), _standardised(validation, scale)
    learner: nn.Module = model.module
    if config.freeze:
        learner = linear_head(model.module)
        # Features are those of the weights that are stored.
        round_to_storage(model.module)
        model.module.requires_grad_(False)
        learner.requires_grad_(True)
        fit, validation = (pooled_features(model.module, part) for part in (fit, validation))
    torch.manual_seed(config.seed)
    records = optimise(
        learner,
        fit,
        validation,
        phase.schedule,
        classes=len(info.classes),
        objective=SquaredError() if traits else None,
        seed=config.seed + index * _PHASE_STRIDE,
        progress=progress,
        resume=resume,
    )
    round_to_storage(model.module)
    return {
        "scenes": phase.scenes,
        "schedule": asdict(phase.schedule),
        "fit_samples": len(fit),
        "best_epoch": best_epoch(records),
        "trained_parameters": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "log": [asdict(record) for record in records],
        **({"traits": scale} if traits else {}),
        **({"shuffled_labels": True} if config.shuffle_labels else {}),
    }


def _states(config: TrainConfig, provenance: Mapping[str, Any]) -> tuple[Path, ...]:
    """Beside the checkpoint, for each phase the file of its state; named after everything that it depends on."""
    facts = [command(config), repr(config.phases), config.device, config.threads, provenance]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return tuple(
        config.path.with_name(f"{config.path.stem}.{key}.phase{index}.state") for index in range(len(config.phases))
    )


def _phase(
    model: Model,
    dataset: Dataset,
    config: TrainConfig,
    index: int,
    progress: Progress | None,
    states: tuple[Path, ...] | None,
) -> dict[str, Any]:
    """:func:`train_phase`, or what a run that was stopped later had made of it."""
    if states is None:
        return train_phase(model, dataset, config, index, progress)
    done = states[index]
    if done.is_file():
        content = torch.load(done, weights_only=True)
        model.module.load_state_dict(content["weights"])
        ended: dict[str, Any] = content["record"]
        return ended
    record = train_phase(model, dataset, config, index, progress, done.with_suffix(".epoch"))
    with replacing(done) as partial:
        torch.save({"weights": model.module.state_dict(), "record": record}, partial)
    return record


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


def _accuracy(
    model: Model, dataset: Dataset, split: Split, count: int | None, phase: Mapping[str, Any]
) -> dict[str, Any]:
    """Correct of n; or R2 and the root mean squared error of each trait, in its own unit."""
    scale = phase.get("traits")
    part = labelled_inputs(plain_samples(dataset, split, count), model, len(scale["names"]) if scale else 0)
    outputs = predict(model.module, part.inputs, 64) if len(part) else None
    if scale is None:
        correct = int((outputs.argmax(1) == part.labels).sum()) if outputs is not None else 0
        return {"correct": correct, "n": len(part)}
    if outputs is None:
        return {"n": 0}
    known = _standardised(part, scale)
    error = (outputs - known.labels).square().mean(0).sqrt() * torch.tensor(scale["std"])
    return {
        "r2": SquaredError().judged(outputs, known.labels)[1],
        "rmse": dict(zip(scale["names"], error.tolist(), strict=True)),
        "n": len(part),
    }


def _scale(fit: LabelledInputs, names: tuple[str, ...]) -> dict[str, Any]:
    """Mean and standard deviation of each trait over the fit samples."""
    mean, std = fit.labels.mean(0), fit.labels.std(0, correction=0)
    constant = [name for name, spread in zip(names, std.tolist(), strict=True) if spread == 0]
    if constant:
        raise BadInputError(f"traits {constant} do not vary over the {len(fit)} fit samples: nothing can be learned.")
    return {"names": list(names), "mean": mean.tolist(), "std": std.tolist()}


def _standardised(part: LabelledInputs, scale: Mapping[str, Any]) -> LabelledInputs:
    mean, std = torch.tensor(scale["mean"]), torch.tensor(scale["std"])
    return LabelledInputs(part.inputs, (part.labels - mean) / std)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
