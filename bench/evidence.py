"""What a trained model's decision rests on: accuracy on fresh scenes, and p(class) as its evidence is healed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from ..models.preprocess import collate
from .contract import BadInputError, Dataset, Model, Sample

_CHUNK = 64
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """Correctly classified samples of n."""

    correct: int
    n: int

    @property
    def share(self) -> float:
        """Correct / n, 0..1."""
        return self.correct / self.n

    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share (Wilson 1927, score interval)."""
        p, n, z2 = self.share, self.n, _Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(centre - half, 0.0), min(centre + half, 1.0)


def band_share(sample: Sample, share: float) -> NDArray[np.bool_]:
    """Bands [C] with at least ``share`` of the sample's largest band truth (charter 9)."""
    assert sample.bands is not None
    shared: NDArray[np.bool_] = sample.bands >= share * sample.bands.max()
    return shared


def top_bands(sample: Sample, share: float) -> NDArray[np.bool_]:
    """The ``share`` of bands [C] with the largest band truth; of equals those of lower index."""
    assert sample.bands is not None
    chosen = np.zeros(len(sample.bands), dtype=bool)
    chosen[np.argsort(-sample.bands, kind="stable")[: round(share * len(chosen))]] = True
    return chosen


def heal(sample: Sample, bands: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The sample's input [C,H,W] with the given bands [C] taken from its healed counterfactual."""
    assert sample.healed is not None
    return np.where(bands[:, None, None], sample.healed, sample.input)


Change = Callable[[Sample], NDArray[np.float32]]

WHOLE: Mapping[str, Change] = {
    "original": lambda sample: sample.input,
    "healed": lambda sample: heal(sample, np.ones(len(sample.input), dtype=bool)),
}
"""Changes of a sample with a counterfactual: none, and all evidence gone."""

SPECTRAL: Mapping[str, Change] = {
    **WHOLE,
    "healed_truth_bands": lambda sample: heal(sample, band_share(sample, 0.5)),
    "healed_other_bands": lambda sample: heal(sample, ~band_share(sample, 0.5)),
    "healed_top_quarter": lambda sample: heal(sample, top_bands(sample, 0.25)),
    "healed_other_three_quarters": lambda sample: heal(sample, ~top_bands(sample, 0.25)),
}
"""Besides, healed only in the bands that carry the evidence (>= half of the largest change; top 25 %), or elsewhere."""


@dataclass(frozen=True)
class CausalRow:
    """One class.

    Attributes:
        samples: with evidence, of this class.
        probability: mean p(true class) after each change, by its name.
        correct: correctly classified samples.
        halved: of these, samples whose p(true class) falls below half when healed (charter 2).
    """

    label: str
    samples: int
    probability: Mapping[str, float]
    correct: int
    halved: int


@dataclass(frozen=True)
class Evidence:
    """``accuracy`` over all samples, ``rows`` over those with evidence, class by class."""

    accuracy: Accuracy
    rows: tuple[CausalRow, ...]


def evidence(models: Sequence[Model], dataset: Dataset, count: int, causal: int) -> list[Evidence]:
    """For each model: accuracy on the first ``count`` test samples, causal rows on the first ``causal`` of these.

    Raises:
        BadInputError: more causal samples than samples, or samples without label or counterfactual.
    """
    if not 0 <= causal <= count or count < 1:
        raise BadInputError(f"{causal} causal samples of {count}: ask for at least one sample, causal ones among them.")
    changes = SPECTRAL if "bands" in dataset.info().has else WHOLE
    tallies = [_Tally() for _ in models]
    ids = list(dataset.ids("test", count))
    for start in range(0, count, _CHUNK):
        samples = [dataset.sample(id) for id in ids[start : start + _CHUNK]]
        _require_truth(samples)
        shown = [sample for sample in samples[: max(causal - start, 0)] if _has_evidence(sample)]
        for model, tally in zip(models, tallies, strict=True):
            tally.add(model, samples, shown, changes)
    return [tally.summary(list(changes), dataset.info().classes) for tally in tallies]


@dataclass
class _Tally:
    """Sums over the samples seen so far: correct of n; p [n, changes, K] and labels of those with evidence."""

    correct: int = 0
    n: int = 0
    probabilities: list[torch.Tensor] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)

    def add(
        self, model: Model, samples: Sequence[Sample], shown: Sequence[Sample], changes: Mapping[str, Change]
    ) -> None:
        truth = torch.tensor([sample.label for sample in samples])
        self.correct += int((_probabilities(model, samples).argmax(1) == truth).sum())
        self.n += len(samples)
        if shown:
            self.probabilities.append(torch.stack([_after(model, shown, change) for change in changes.values()], dim=1))
            self.labels += [sample.label for sample in shown]

    def summary(self, changes: Sequence[str], classes: Sequence[str]) -> Evidence:
        seen = torch.cat(self.probabilities) if self.probabilities else torch.empty(0, len(changes), len(classes))
        return Evidence(Accuracy(self.correct, self.n), _rows(seen, self.labels, changes, classes))


def _require_truth(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.label is None or sample.healed is None:
            raise BadInputError(f"sample {sample.id!r} has no label or no healed counterfactual; evidence needs both.")


def _has_evidence(sample: Sample) -> bool:
    return not np.array_equal(sample.input, sample.healed)  # type: ignore[arg-type]  # required above


def _after(model: Model, samples: Sequence[Sample], change: Change) -> torch.Tensor:
    return _probabilities(model, [replace(sample, input=change(sample)) for sample in samples])


@torch.inference_mode()
def _probabilities(model: Model, samples: Sequence[Sample]) -> torch.Tensor:
    """Softmax [B,K] float32 on the CPU."""
    bare = [Sample(id=sample.id, input=sample.input, label=sample.label) for sample in samples]
    return model(collate(bare, model).inputs).float().softmax(1).cpu()


def _rows(
    probabilities: torch.Tensor, labels: Sequence[int | None], changes: Sequence[str], classes: Sequence[str]
) -> tuple[CausalRow, ...]:
    """From p [n, changes, K] and labels [n]; the first two changes are ``original`` and ``healed``."""
    truth = torch.tensor(labels, dtype=torch.long)
    own = probabilities[torch.arange(len(truth)), :, truth]
    right = probabilities[:, 0].argmax(1) == truth
    halved = own[:, 1] < 0.5 * own[:, 0]
    rows = []
    for k in truth.unique().tolist():  # type: ignore[no-untyped-call]
        of_class = truth == k
        means = own[of_class].mean(0).tolist()
        rows.append(
            CausalRow(
                label=classes[k],
                samples=int(of_class.sum()),
                probability=dict(zip(changes, means, strict=True)),
                correct=int((of_class & right).sum()),
                halved=int((of_class & right & halved).sum()),
            )
        )
    return tuple(rows)
