"""The shipped handwritten digits, in disjoint pools for fit, validation and test scenes (attribution:
data/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from ._scene_key import SPLITS

N_CLASSES = 10

_FIRST_SHARES = {"fit": (0.0, 0.70), "validation": (0.70, 0.85), "test": (0.85, 1.0)}


@dataclass(frozen=True)
class Digits:
    """`ink` float64 [N, 8, 8] 0..1, `labels` int64 [N] 0..9, `ids` int64 [N] positions in the shipped file."""

    ink: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]


@lru_cache(maxsize=len(SPLITS))
def digit_pool(split: str) -> Digits:
    """Digits that scenes of a split may show. The pools are disjoint.

    Each class is cut in the file's order (70, 15, 15 %): writers follow one another there, so that most writers of
    the test pool are unseen too.
    """
    with resources.files(__package__).joinpath("data", "digits.npz").open("rb") as file, np.load(file) as archive:
        images, labels = archive["images"], archive["labels"].astype(np.int64)
    start, stop = _FIRST_SHARES[split]
    ids = np.sort(np.concatenate([_cut(np.flatnonzero(labels == digit), start, stop) for digit in range(N_CLASSES)]))
    return Digits(ink=images[ids] / 16.0, labels=labels[ids], ids=ids)


def _cut(ids: npt.NDArray[np.int64], start: float, stop: float) -> npt.NDArray[np.int64]:
    return ids[round(start * len(ids)) : round(stop * len(ids))]
