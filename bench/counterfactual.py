"""Scenes that teach a model to decide by the bands that carry the evidence, and by no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .contract import BadInputError, Dataset, Sample, Split
from .evidence import band_share, heal

TRUTH_SHARE = 0.5
"""Truth bands change by at least this share of the largest change (charter 9)."""


def counterfactual_samples(dataset: Dataset, split: Split, count: int | None) -> Iterator[Sample]:
    """The first samples of a split; of those with evidence, class by class in turn,

    - one stays as it is,
    - one is healed in its truth bands and becomes a sample of the class without evidence,
    - one is healed in all other bands and keeps its label.

    Evidence outside the truth bands alone thus speaks for nothing, and evidence inside them alone for its class.

    Raises:
        BadInputError: samples lack label, counterfactual or band truth, or no class is without evidence.
    """
    bare = _class_without_evidence(dataset)
    seen: Counter[int] = Counter()
    for id in dataset.ids(split, count):
        sample = dataset.sample(id)
        if sample.label is None or sample.healed is None or sample.bands is None:
            raise BadInputError(f"sample {id!r} lacks label, healed counterfactual or band truth; all are needed.")
        if sample.label == bare:
            yield sample
            continue
        turn = seen[sample.label] % 3
        seen[sample.label] += 1
        truth = band_share(sample, TRUTH_SHARE)
        if turn == 1:
            sample = replace(sample, input=heal(sample, truth), label=bare)
        elif turn == 2:
            sample = replace(sample, input=heal(sample, ~truth))
        yield sample


def _class_without_evidence(dataset: Dataset) -> int:
    classes = len(dataset.info().classes)
    for id in dataset.ids("fit", 4 * classes):
        sample = dataset.sample(id)
        if sample.healed is not None and sample.label is not None and np.array_equal(sample.input, sample.healed):
            return sample.label
    raise BadInputError(
        f"the first {4 * classes} fit samples of {dataset.name!r} all have evidence; counterfactual training needs a "
        "class without."
    )
