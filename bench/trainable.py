"""What is trained: an untrained model with its preprocessing, and a split as normalised tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..models.builtin import BUILTIN_MODELS
from ..models.checkpoint import Checkpoint
from ..models.handle import wrap
from ..models.load import load_model
from ..models.optimise import LabelledInputs
from ..models.preprocess import collate
from .contract import BadInputError, Dataset, Model, Sample, Spec, Split
from .initialise import initialise

_STATISTICS_SAMPLES = 256
_CHUNK = 64


def blank_model(spec: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    """A model for a data set's classes and channels, before training, with its description.

    A built-in model has fresh weights, drawn from ``seed``, and is normalised by the mean and standard deviation of its
    ``fit`` first samples, 256 at most. A timm model has the weights and normalisation that its spec asks for, and a
    fresh head.

    Raises:
        BadInputError, UnknownNameError: the timm spec is wrong, or its weights are missing.
    """
    model, description = (_builtin if spec in BUILTIN_MODELS else _timm)(spec, dataset, fit, seed)
    return replace(model, module=model.module.train().requires_grad_(True)), description


def channel_statistics(dataset: Dataset, fit: int | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation [C] over the pixels of the first fit samples, whatever their sizes."""
    ids = dataset.ids("fit", min(fit or _STATISTICS_SAMPLES, _STATISTICS_SAMPLES))
    inputs = [dataset.sample(id).input for id in ids]
    pixels = np.concatenate([array.reshape(len(array), -1) for array in inputs], axis=1)
    mean, variance = pixels.mean(1, dtype=np.float64), pixels.var(1, dtype=np.float64)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def plain_samples(dataset: Dataset, split: Split, count: int | None) -> Iterator[Sample]:
    """The first samples of a split (all when None), one by one."""
    return (dataset.sample(id) for id in dataset.ids(split, count))


def labelled_inputs(samples: Iterable[Sample], model: Model) -> LabelledInputs:
    """Samples preprocessed for a model, on the CPU.

    Raises:
        BadInputError: a sample has no label.
    """
    inputs, labels, remaining = [], [], iter(samples)
    while chunk := list(islice(remaining, _CHUNK)):
        for sample in chunk:
            if sample.label is None:
                raise BadInputError(f"sample {sample.id!r} has no label; training needs one for each sample.")
        batch = collate([Sample(id=sample.id, input=sample.input, label=sample.label) for sample in chunk], model)
        inputs.append(batch.inputs.cpu())
        labels.append(batch.labels.cpu())
    if not inputs:
        return LabelledInputs(torch.empty(0, model.channels, *model.input_size), torch.empty(0, dtype=torch.long))
    return LabelledInputs(torch.cat(inputs), torch.cat(labels))


def _builtin(id: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    definition, info = BUILTIN_MODELS[id], dataset.info()
    mean, std = channel_statistics(dataset, fit)
    description = Checkpoint(
        architecture=definition.architecture,
        arguments=definition.arguments_for(info),
        input_size=definition.input_size,
        mean=mean,
        std=std,
        classes=info.classes,
        wavelengths=info.wavelengths,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = description.build()
    initialise(module, torch.Generator().manual_seed(seed))
    return wrap(module, name=id, mean=mean, std=std), description


def _timm(spec: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    asked, info = Spec.parse(spec), dataset.info()
    shape = {"num_classes": len(info.classes), "in_chans": info.channels}
    model = load_model(Spec(asked.name, {**asked.params, **shape, "head": "random", "seed": seed}))
    module: Any = model.module
    known = len(module.pretrained_cfg["mean"]) == info.channels
    mean, std = (model.mean, model.std) if known else channel_statistics(dataset, fit)
    description = Checkpoint(
        architecture="timm",
        arguments={"model_name": module.pretrained_cfg["architecture"], "img_size": model.input_size, **shape},
        input_size=model.input_size,
        mean=mean,
        std=std,
        classes=info.classes,
        wavelengths=info.wavelengths,
    )
    return replace(model, mean=mean, std=std), description
