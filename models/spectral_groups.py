"""Band groups of a spectral-token model: neighbours of equal count or width, plant physiology, or at random."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from ..bench.contract import BadInputError, UnknownNameError
from .spectral import Groups, contiguous_groups

Scheme = Literal["contiguous", "equal_width", "physiological", "random"]
SCHEMES: tuple[Scheme, ...] = ("contiguous", "equal_width", "physiological", "random")

REGIONS: Mapping[str, tuple[float, float]] = {
    "visible": (-math.inf, 700.0),
    "red_edge": (700.0, 750.0),
    "near_infrared": (750.0, 1100.0),
    "shortwave_infrared": (1100.0, math.inf),
}
"""Regions in nm, lower end included; bands below 400 or above 2500 nm belong to the nearest one."""

MERGED: tuple[frozenset[str], ...] = (
    frozenset({"visible", "red_edge"}),
    frozenset({"near_infrared", "shortwave_infrared"}),
)
"""What is put together for fewer groups than regions, in this order: pigments first, then structure and water."""


def spectral_groups(wavelengths: Sequence[float], count: int, scheme: Scheme = "contiguous", seed: int = 0) -> Groups:
    """Band indices in ``count`` groups, every band in exactly one, none empty; in a group bands go by wavelength.

    =============  ================================================================================================
    contiguous     neighbours, as many bands in each as possible
    equal_width    neighbours, the same number of nm in each, from the first band to the last
    physiological  visible to 700 nm, red edge to 750, near infrared to 1100, shortwave infrared above (FOCUS 3.2), as
                   far as there are bands in them. For fewer groups the red edge joins the visible, then the two
                   infrared regions each other, then all. For more, each further group goes to the region with most
                   bands a group (the shorter wavelengths of equals), which is cut into neighbours of equal count.
    random         as many bands in each as possible, dealt by SHA-256 of (seed, band)
    =============  ================================================================================================

    Args:
        wavelengths: band centres in nm, in any order.

    Raises:
        BadInputError: more groups than bands, none, a centre that is not positive and finite, centres that are not nm,
            or a width so small that a group would be empty.
        UnknownNameError: no such scheme.
    """
    if scheme not in SCHEMES:
        raise UnknownNameError("grouping scheme", scheme, SCHEMES)
    if not 1 <= count <= len(wavelengths):
        raise BadInputError(f"{len(wavelengths)} bands make 1 to {len(wavelengths)} groups, not {count}.")
    wrong = [centre for centre in wavelengths if not (math.isfinite(centre) and centre > 0)]
    if wrong:
        raise BadInputError(f"band centres are positive numbers of nm, not {wrong[:3]}.")
    if scheme == "contiguous":
        return contiguous_groups(wavelengths, count)
    if scheme == "equal_width":
        return _equal_width(wavelengths, count)
    if scheme == "physiological":
        return _physiological(wavelengths, count)
    return _random(wavelengths, count, seed)


def _equal_width(wavelengths: Sequence[float], count: int) -> Groups:
    first, last = min(wavelengths), max(wavelengths)
    width = (last - first) / count
    groups: list[list[int]] = [[] for _ in range(count)]
    for band in _by_wavelength(range(len(wavelengths)), wavelengths):
        place = int((wavelengths[band] - first) / width) if width else 0
        groups[min(place, count - 1)].append(band)
    empty = [f"{first + g * width:g} to {first + (g + 1) * width:g}" for g, group in enumerate(groups) if not group]
    if empty:
        raise BadInputError(
            f"{count} groups of {width:g} nm leave none of the {len(wavelengths)} bands at {', '.join(empty)} nm; ask "
            "for fewer groups, or use scheme=contiguous."
        )
    return tuple(map(tuple, groups))


def _physiological(wavelengths: Sequence[float], count: int) -> Groups:
    if max(wavelengths) < 400:
        raise BadInputError(
            f"the longest wavelength is {max(wavelengths):g}, and physiological groups begin at 400 nm; are these "
            "micrometres?"
        )
    parts = [
        [band for band in _by_wavelength(range(len(wavelengths)), wavelengths) if low <= wavelengths[band] < high]
        for low, high in REGIONS.values()
    ]
    regions = {name: part for name, part in zip(REGIONS, parts, strict=True) if part}
    for together in MERGED:
        names = [name for name in regions if name in together]
        if len(regions) > count and len(names) == 2:
            regions[names[0]] += regions.pop(names[1])
    if len(regions) > count:
        return (tuple(_by_wavelength(range(len(wavelengths)), wavelengths)),)
    pieces = dict.fromkeys(regions, 1)
    for _ in range(count - len(regions)):
        # max keeps the first of equals, and the regions stand in order of wavelength.
        pieces[max(regions, key=lambda name: len(regions[name]) / pieces[name])] += 1
    return tuple(
        tuple(bands[place] for place in group)
        for name, bands in regions.items()
        for group in contiguous_groups(range(len(bands)), pieces[name])
    )


def _random(wavelengths: Sequence[float], count: int, seed: int) -> Groups:
    dealt = sorted(
        range(len(wavelengths)), key=lambda band: hashlib.sha256(f"{seed} spectral group {band}".encode()).digest()
    )
    sizes = [len(group) for group in contiguous_groups(range(len(dealt)), count)]
    ends = [sum(sizes[:g]) for g in range(count + 1)]
    return tuple(_by_wavelength(dealt[start:stop], wavelengths) for start, stop in pairwise(ends))


def _by_wavelength(bands: Sequence[int], wavelengths: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted(bands, key=lambda band: wavelengths[band]))
