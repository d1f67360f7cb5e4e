"""Keys of generated scenes: scene i of a split is a pure function of (generator, version, split, seed, index)."""

from __future__ import annotations

import zlib

import numpy as np

SPLITS = ("fit", "validation", "test")


def scene_seed(generator: str, version: int, split: str, seed: int, index: int) -> np.random.SeedSequence:
    """Seed of one scene; no two keys share random numbers, and neither order nor batch size enters.

    Raises ValueError for an unknown split or a negative seed or index.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise ValueError(f"{name} is a non-negative integer; got {value}")
    return np.random.SeedSequence([zlib.crc32(generator.encode()), version, SPLITS.index(split), seed, index])


def scene_label(index: int, label: int | None, n_classes: int) -> int:
    """The requested label, or the one that balances the classes over consecutive indices (index modulo `n_classes`)."""
    if label is None:
        return index % n_classes
    if not 0 <= label < n_classes:
        raise ValueError(f"labels are 0 to {n_classes - 1}; got {label}")
    return label
