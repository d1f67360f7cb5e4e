"""Band centres of the sensors that took the labelled scenes."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np

from ._wavelengths import Nanometres


def evenly(first: float, last: float, count: int, removed: str = "") -> Nanometres:
    """Nominal centres from ``first`` to ``last`` nm without the removed bands, which count from 1 (``104-108 220``)."""
    centres = np.linspace(first, last, count)
    return tuple(round(float(centres[band]), 2) for band in kept_bands(count, removed))


def kept_bands(count: int, removed: str) -> list[int]:
    """Band numbers from 0 that are left when those of ``104-108 220`` (from 1, ends included) are gone."""
    gone: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", removed):
        gone |= set(range(int(first) - 1, int(last or first)))
    return [band for band in range(count) if band not in gone]


def aviris_1992() -> Nanometres:
    """The 220 centres of Indian Pines' scene."""
    text = resources.files(__package__).joinpath("data", "aviris_1992_bands.txt").read_text(encoding="utf-8")
    return tuple(float(nm) for line in text.splitlines() if not line.startswith("#") for nm in line.split())
