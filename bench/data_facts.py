"""What is known of a data set before one has it, and what is there once one does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args

import numpy as np

from .contract import BadInputError, Dataset, DatasetInfo, Spec, Split, datasets

SPLITS: tuple[Split, ...] = get_args(Split)
TRUTHS = ("mask", "ignore", "distractors", "leaf", "bands", "healed")


@dataclass(frozen=True)
class SplitCount:
    """One split as it lies there.

    Attributes:
        ids: samples in it.
        read: how many of them were read for the other figures.
        classes: samples read by class name; ``unlabelled`` for those without.
        shapes: samples read by the shape of their input.
        truths: of the samples read, how many carry a truth that is not empty, and the mean share of the pixels that it
            covers (for planes).
    """

    ids: int
    read: int
    classes: Mapping[str, int]
    shapes: Mapping[str, int]
    truths: Mapping[str, tuple[int, float | None]]


@dataclass(frozen=True)
class Inventory:
    """What is there.

    Attributes:
        info: what the data set says of itself.
        splits: counts of each.
        left_out: files that are no samples, with the reason.
    """

    info: DatasetInfo
    splits: Mapping[Split, SplitCount]
    left_out: Mapping[str, str]


def recipe_of(name: str) -> Mapping[str, str | tuple[str, ...]]:
    """How to get a data set, in the order in which it is shown; without a recipe what its class says.

    Raises:
        UnknownNameError: no data set bears the name.
    """
    cls = datasets.get(name)
    recipe = getattr(cls, "recipe", None)
    if recipe is None:
        first = (cls.__doc__ or name).split("\n\n")[0].replace("``", "")
        facts: dict[str, str | tuple[str, ...]] = {"title": " ".join(first.split())}
        if not needed(name):
            info = cls().info()
            facts |= {"get": "Built in: nothing has to be fetched.", "licence": info.licence, "cite": info.citation}
        return facts
    return {
        "title": recipe.title,
        "get": recipe.get,
        "size": recipe.size,
        "licence": recipe.licence,
        "cite": recipe.citation,
        "lacks": recipe.lacks or "nothing that its kind of data has",
        "note": recipe.notes,
        "layout": recipe.layout,
    }


def needed(name: str) -> tuple[str, ...]:
    """Parameters without a default, ``path`` for what lies in files."""
    cls: Any = datasets.get(name)
    return tuple(f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING)


def take_stock(spec: Spec, at_most: int | None = None) -> Inventory:
    """Looks at what is there, reading up to so many samples of each split.

    Args:
        spec: the data set with its path.
        at_most: samples read in each split; None reads all.

    Raises:
        BadInputError: the files are not there or do not fit; the text names them.
    """
    dataset = datasets.create(spec)
    info = dataset.info()
    unreadable: dict[str, str] = {}
    splits = {split: _count(dataset, info, split, at_most, unreadable) for split in SPLITS}
    if unreadable and not any(count.read for count in splits.values()):
        raise BadInputError(f"no sample that was looked at can be read, the first: {next(iter(unreadable.values()))}")
    return Inventory(info, splits, {**files_left_out(dataset), **unreadable})


def files_left_out(dataset: Dataset) -> Mapping[str, str]:
    """Files that a data set itself left out, with the reason; the contract does not ask it of data sets to say so."""
    told: Callable[[], Mapping[str, str]] | None = getattr(dataset, "left_out", None)
    return told() if told else {}


def _count(
    dataset: Dataset, info: DatasetInfo, split: Split, at_most: int | None, unreadable: dict[str, str]
) -> SplitCount:
    ids = list(dataset.ids(split))
    classes, shapes = Counter[str](), Counter[str]()
    there, covered = Counter[str](), dict.fromkeys(TRUTHS, 0.0)
    chosen = ids if at_most is None else ids[:at_most]
    read = 0
    for id in chosen:
        try:
            sample = dataset.sample(id)
        except BadInputError as error:
            if getattr(dataset, "strict", False):
                raise
            unreadable[id] = str(error)
            continue
        read += 1
        classes["unlabelled" if sample.label is None else info.classes[sample.label]] += 1
        shapes[" x ".join(map(str, sample.input.shape))] += 1
        for truth in TRUTHS:
            value = getattr(sample, truth)
            if value is not None and np.any(value):
                there[truth] += 1
                covered[truth] += float(np.mean(value != 0))
    truths = {
        truth: (there[truth], covered[truth] / read if truth in TRUTHS[:4] else None)
        for truth in TRUTHS
        if truth in info.has and read
    }
    ordered = {name: classes[name] for name in (*info.classes, "unlabelled") if classes[name]}
    return SplitCount(len(ids), read, ordered, shapes, truths)
