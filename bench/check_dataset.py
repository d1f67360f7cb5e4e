"""The contract of data sets: splits that share nothing, samples that are a pure function of their id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, get_args

import numpy as np

from .check_findings import BrokenRuleError, NotApplicableError, Rule
from .contract import Dataset, DatasetInfo, Sample, Split, VitxaiError

SPLITS: tuple[Split, ...] = get_args(Split)
TRUTHS = ("mask", "ignore", "distractors", "leaf", "bands", "healed", "labels")
PLANES = ("mask", "ignore", "distractors", "leaf")
LOOKED_AT = 3


def rules(dataset: Dataset) -> Iterator[Rule]:
    """Every rule, in the order in which they are worth mending."""
    yield "the facts are complete", lambda: _facts(dataset)
    yield "ids are unique, stable, and splits share none", lambda: _ids(dataset)
    yield "samples have the announced shapes and types", lambda: _each(dataset, _well_formed)
    yield "samples carry the announced truths", lambda: _each(dataset, _truths)
    yield "a sample is a pure function of its id", lambda: _each(dataset, _pure)
    yield "unknown ids are refused", lambda: _refuses(dataset)
    yield "the content hash is stable", lambda: _hash(dataset)


def _facts(dataset: Dataset) -> None:
    info = dataset.info()
    if not isinstance(info, DatasetInfo):
        raise BrokenRuleError(f"info() returned {type(info).__name__}", "Return a DatasetInfo.")
    if unknown := sorted(info.has - set(TRUTHS)):
        raise BrokenRuleError(f"has names unknown truths {', '.join(unknown)}", f"Use some of: {', '.join(TRUTHS)}.")
    if len(set(info.classes)) < len(info.classes):
        raise BrokenRuleError(f"a class name stands twice in {info.classes}", "Name each class once.")
    if info.wavelengths and len(info.wavelengths) != info.channels:
        raise BrokenRuleError(
            f"{len(info.wavelengths)} wavelengths for {info.channels} channels", "Give one centre a band, in nm."
        )
    if not info.licence or not info.citation:
        raise BrokenRuleError("licence or citation is empty", "Say whose data these are and on what terms.")


def _ids(dataset: Dataset) -> None:
    found = {split: list(dataset.ids(split)) for split in SPLITS}
    if not any(found.values()):
        raise BrokenRuleError("no split has an id", "Check the path and the file names.")
    for split, ids in found.items():
        if len(set(ids)) < len(ids):
            raise BrokenRuleError(f"split {split} holds an id twice", "Make ids unique in the data set.")
        if list(dataset.ids(split)) != ids or list(replace(dataset).ids(split)) != ids:  # type: ignore[type-var]
            raise BrokenRuleError(
                f"ids({split!r}) changes between calls", "Sort files; draw orders from a hash of the id."
            )
        if list(dataset.ids(split, 1)) != ids[:1]:
            raise BrokenRuleError(f"ids({split!r}, 1) is not the beginning of ids({split!r})", "Return ids[:count].")
    for index, split in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            if shared := set(found[split]) & set(found[other]):
                raise BrokenRuleError(
                    f"{split} and {other} share {len(shared)} ids, e.g. {min(shared)}", "Make splits disjoint."
                )


def _each(dataset: Dataset, rule: Callable[[Dataset, str], None]) -> None:
    ids = [id for split in SPLITS for id in dataset.ids(split, LOOKED_AT)]
    if not ids:
        raise NotApplicableError("there are no samples")
    for id in ids:
        rule(dataset, id)


def _well_formed(dataset: Dataset, id: str) -> None:
    info, sample = dataset.info(), dataset.sample(id)
    if not isinstance(sample, Sample) or sample.id != id:
        raise BrokenRuleError(
            f"sample({id!r}) gave {getattr(sample, 'id', type(sample).__name__)!r}", "Return Sample(id=id, ...)."
        )
    if sample.input.ndim != 3 or sample.input.shape[0] != info.channels or sample.input.dtype != np.float32:
        raise BrokenRuleError(
            f"the input of {id} is {sample.input.dtype} {list(sample.input.shape)}",
            f"Return float32 [{info.channels},H,W].",
        )
    if not np.isfinite(sample.input).all():
        raise BrokenRuleError(
            f"the input of {id} holds NaN or infinity", "Refuse such files with BadInputError, naming the file."
        )
    if sample.label is not None and not 0 <= sample.label < len(info.classes):
        raise BrokenRuleError(f"{id} has label {sample.label} of {len(info.classes)} classes", "Count labels from 0.")
    _truth_shapes(sample)


def _truth_shapes(sample: Sample) -> None:
    for name in PLANES:
        plane = getattr(sample, name)
        if plane is not None and (plane.dtype != bool or plane.shape != sample.input.shape[1:]):
            raise BrokenRuleError(
                f"{name} of {sample.id} is {plane.dtype} {list(plane.shape)}",
                f"Return bool {list(sample.input.shape[1:])}.",
            )
    if sample.healed is not None and (sample.healed.shape != sample.input.shape or sample.healed.dtype != np.float32):
        raise BrokenRuleError(
            f"healed of {sample.id} is {sample.healed.dtype} {list(sample.healed.shape)}", "Shape it as input."
        )
    bands = sample.bands
    if bands is not None and (
        bands.shape != sample.input.shape[:1] or (bands < 0).any() or not np.isfinite(bands).all()
    ):
        raise BrokenRuleError(
            f"bands of {sample.id} are not [C] values >= 0", "Return float32 [C], zero without evidence."
        )


def _truths(dataset: Dataset, id: str) -> None:
    info, sample = dataset.info(), dataset.sample(id)
    carried = {f.name for f in fields(sample) if f.name in TRUTHS and getattr(sample, f.name) is not None}
    announced = set(info.has) - {"labels"}
    if carried != announced:
        told = [", ".join(sorted(truths)) or "nothing" for truths in (carried, announced)]
        raise BrokenRuleError(
            f"{id} carries {told[0]}; announced is {told[1]}",
            "Make DatasetInfo.has say what every sample carries.",
        )


def _pure(dataset: Dataset, id: str) -> None:
    first, second = dataset.sample(id), replace(dataset).sample(id)  # type: ignore[type-var]
    for f in fields(first):
        one, two = getattr(first, f.name), getattr(second, f.name)
        if not _same(one, two):
            raise BrokenRuleError(
                f"{f.name} of {id} differs between two calls", "Draw from a generator seeded by the id."
            )


def _same(one: Any, two: Any) -> bool:
    return bool(np.array_equal(one, two)) if isinstance(one, np.ndarray) else bool(one == two)


def _refuses(dataset: Dataset) -> None:
    try:
        dataset.sample("no such sample")
    except VitxaiError:
        return
    raise BrokenRuleError("sample('no such sample') was answered", "Raise BadInputError that names the id.")


def _hash(dataset: Dataset) -> None:
    first = dataset.content_hash()
    if not isinstance(first, str) or not first:
        raise BrokenRuleError(f"content_hash() returned {first!r}", "Return a hex digest.")
    if replace(dataset).content_hash() != first:  # type: ignore[type-var]
        raise BrokenRuleError("content_hash() changes though nothing did", "Hash names, sizes and times, not objects.")
