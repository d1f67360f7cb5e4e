"""The samples of a cell as batches for its model: test chunks, and what methods may learn from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from .context import tensors_in
from .contract import BadInputError, Batch, Dataset, Model, Split, UnsupportedError
from .sample_cache import SampleCache
from .tasks import Cell

DECODERS = 8
"""Threads that decode for an accelerator."""

FIT_CHUNK = 64
"""Samples to fit on that are decoded together; their other truths are dropped at once."""


class CellSamples:
    """Loads, collates and chooses targets; holds the current chunk and the data of fits.

    Attributes:
        label_conflict: why the data set's labels are no answers of the model; labels then count as unknown.
    """

    def __init__(self, cell: Cell, dataset: Dataset, model: Model) -> None:
        self._cell, self._dataset, self._model = cell, dataset, model
        self._cache = SampleCache(dataset, cell.dataset, cell.store)
        self.label_conflict = ""
        self._chunk: tuple[tuple[str, ...], list[Batch]] = ((), [])
        self._learned: dict[tuple[str, int], tuple[Batch, list[int]]] = {}

    @property
    def current(self) -> Sequence[Batch]:
        """The batches of the chunk last asked for."""
        return self._chunk[1]

    def is_current(self, ids: Sequence[str]) -> bool:
        """Whether the chunk of these ids is the one at hand."""
        return self._chunk[0] == tuple(ids)

    def batches(self, ids: Sequence[str], targets: Tensor) -> list[Batch]:
        """The chunk in batches, the same objects for every plug-in, so that recordings can be shared."""
        if not self.is_current(ids):
            whole = self.collate(ids)
            whole = replace(whole, targets=targets.to(whole.inputs.device))
            size = self._cell.batch_size
            starts = range(0, len(whole), size)
            self._chunk = (tuple(ids), [whole.select(range(s, min(s + size, len(whole)))) for s in starts])
        return self._chunk[1]

    def collate(self, ids: Sequence[str]) -> Batch:
        """Samples as the model eats them; targets are the labels until the policy is applied."""
        from ..models.preprocess import collate

        batch = collate([self._cache.sample(id) for id in ids], self._model)
        return replace(batch, labels=torch.full_like(batch.labels, -1)) if self.label_conflict else batch

    def compare_labels(self) -> None:
        """Finds out, by the width of its logits, whether model and data set tell equally many classes apart."""
        classes = len(self._dataset.info().classes)
        with torch.inference_mode():
            blank = torch.zeros(1, self._model.channels, *self._model.input_size)
            logits = self._model(blank.to(device=self._model.device, dtype=self._model.dtype)).shape[1]
        if classes not in (0, logits):
            self.label_conflict = (
                f"{self._cell.model} has {logits} classes and {self._cell.dataset} {classes}: class numbers of one are "
                "not those of the other. Give the model a head for these data (bench train, bench prototypes)."
            )

    def readable(self, split: Split, count: int) -> tuple[tuple[str, ...], dict[str, str]]:
        """Of the first ``count`` ids of a split those that can be read, and why the others cannot."""
        # With an accelerator the processor waits anyway; without one, decoding side by side gains nothing.
        workers = 1 if self._model.device.type == "cpu" else min(DECODERS, os.cpu_count() or 1)
        return self._cache.readable(self._dataset.ids(split, count), workers)

    def logits(self, inputs: Tensor) -> Tensor:
        """Clean logits [B,K].

        Raises:
            BadInputError: a logit is not finite.
        """
        with torch.inference_mode():
            parts = [self._model(rows) for rows in torch.split(inputs, self._cell.batch_size)]
        logits = torch.cat(parts).clone()
        if not bool(torch.isfinite(logits).all()):
            raise BadInputError(f"{self._cell.model} gives logits that are not finite.")
        return logits

    def targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The classes explained, [B] int64, by the suite's policy (charter 1).

        Raises:
            BadInputError: the policy asks for labels that are unknown, or for more classes than there are.
        """
        policy = self._cell.target
        if policy == "label":
            if bool((labels < 0).any()):
                raise BadInputError("the target policy is 'label' and some samples have none; use 'prediction'.")
            return labels
        rank = {"prediction": 0, "runner_up": 1}[policy]
        if logits.shape[1] <= rank:
            raise BadInputError(f"the target policy is {policy!r} and the model has {logits.shape[1]} class.")
        return logits.topk(rank + 1, dim=1).indices[:, rank].clone()

    def fit_data(self, split: Literal["fit", "validation"], count: int, labels: bool) -> Batch:
        """See :meth:`EngineContext.data`; of the validation split at most the suite's ``validation_n`` (charter 5)."""
        if labels and self.label_conflict:
            raise UnsupportedError(f"this method learns from labels. {self.label_conflict}")
        count = min(count, self._cell.validation_n) if split == "validation" else count
        if (split, count) not in self._learned:
            ids, _ = self.readable(split, count)
            if not ids:
                raise UnsupportedError(
                    f"this method learns from the {split} split, which {self._cell.dataset} has no samples in; where "
                    "the data set has splits=hash, say so."
                )
            batch = self._learning(ids) if split == "fit" else self.collate(ids)
            batch = replace(batch, targets=self.targets(self.logits(batch.inputs), batch.labels))
            self._learned[split, count] = (batch, _versions(batch))
        batch, _ = self._learned[split, count]
        return batch if labels else replace(batch, labels=torch.full_like(batch.labels, -1))

    def _learning(self, ids: Sequence[str]) -> Batch:
        """Inputs and labels alone: what methods fit on is many samples, and they learn from no other truth."""
        parts = []
        for start in range(0, len(ids), FIT_CHUNK):
            part = self.collate(ids[start : start + FIT_CHUNK])
            parts.append(Batch(part.ids, part.inputs, part.targets, part.labels))
        inputs, targets, labels = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets", "labels")
        )
        return Batch(tuple(ids), inputs, targets, labels)

    def changed(self) -> bool:
        """Whether a plug-in wrote into data of fits; forgets them then."""
        spoiled = any(versions != _versions(batch) for batch, versions in self._learned.values())
        if spoiled:
            self._learned.clear()
        return spoiled


def _versions(batch: Batch) -> list[int]:
    return [tensor._version for tensor in tensors_in(batch)]
