"""Splits and orders of file sets, decided by each file's own name, so that adding a file moves no other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..bench.contract import BadInputError, Split

Splits = dict[Split, tuple[str, ...]]
SIXTY_TWENTY_TWENTY: Mapping[Split, float] = {"fit": 0.6, "validation": 0.2, "test": 0.2}
LEARNING: Mapping[Split, float] = {"fit": 0.8, "validation": 0.2}
SPLIT_NAMES: Mapping[str, Split] = {
    "train": "fit",
    "fit": "fit",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def splits_of(folders: Iterable[str], root: Path) -> dict[str, Split]:
    """Those of the folder names below ``root`` that stand for a split, with it.

    Raises:
        BadInputError: two stand for the same.
    """
    found = {name: SPLIT_NAMES[name] for name in folders if name in SPLIT_NAMES}
    if len(set(found.values())) < len(found):
        raise BadInputError(f"{str(root)!r} has two folders for one split: {', '.join(found)}. Keep one of them.")
    return found


def mixed(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of their hashes: the same for ever, and classes well mixed."""
    return tuple(sorted(names, key=lambda name: (_digest("order", name), name)))


def split_by_hash(names: Iterable[str], fractions: Mapping[Split, float] = SIXTY_TWENTY_TWENTY) -> Splits:
    """Each name to the split in whose share of [0,1) its hash falls; every split in mixed order."""
    found: dict[Split, list[str]] = {split: [] for split in fractions}
    for name in names:
        draw, edge = int(_digest("split", name)[:12], 16) / 16**12, 0.0
        for split, share in fractions.items():
            edge += share
            if draw < edge or split == list(fractions)[-1]:
                found[split].append(name)
                break
    return {split: mixed(members) for split, members in found.items()}


def official_splits(learn: Iterable[str], test: Iterable[str]) -> Splits:
    """A published test list as it is, in mixed order; fit : validation = 80 : 20 of the published rest by a hash."""
    return {**split_by_hash(learn, LEARNING), "test": mixed(test)}


def fingerprint(facts: Iterable[str]) -> str:
    """SHA-256 over facts of files and parameters."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _digest(purpose: str, name: str) -> str:
    return hashlib.sha256(f"{purpose}\0{name}".encode()).hexdigest()
