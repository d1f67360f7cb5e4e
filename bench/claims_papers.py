"""FocusViT's own numbers held against each other: does its Table 3 (area under the radar) follow from its Table 2?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from .aggregates import area_under_radar, normalised
from .claims import Finding, Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

METHODS = ("LIME", "SHAP", "LRP", "Grad-CAM", "Attention", "FocusViT")
AXES = ("faithfulness correlation", "max-sensitivity", "sparseness", "model randomisation")
HIGHER = (True, False, False, False)
"""Directions as the paper reads them."""

TABLE_2: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "Flower": (
        (0.0006, 0.0009, 0.0323, 0.0293, 0.0216, 0.0350),
        (3.7378, 13.3765, 1.0035, 1.0020, 1.0004, 1.0037),
        (0.9987, 0.3449, 0.4348, 0.5466, 0.5056, 0.1248),
        (0.1854, 0.0000, 0.1265, 0.1583, 0.0016, 0.0015),
    ),
    "Dog": (
        (0.0036, 0.0012, 0.0233, 0.0, 0.0, 0.0336),
        (34.2574, 46.2796, 1.3110, 1.4135, 1.3334, 1.2663),
        (0.9975, 0.6452, 0.5265, 0.5265, 0.5527, 0.4844),
        (0.0003, 0.0000, 0.2452, 0.3713, 0.398, 0.1931),
    ),
    "MiT": (
        (0.0000, 0.0000, 0.0186, 0.0211, 0.0463, 0.0500),
        (26.1842, 58.5712, 1.2668, 1.1362, 1.2214, 1.1240),
        (0.9978, 0.5027, 0.3771, 0.6069, 0.4987, 0.3121),
        (0.0003, 0.0000, 0.1101, 0.2680, 0.1746, 0.05800),
    ),
    "Caltech": (
        (0.0024, 0.0016, 0.0122, 0.0087, 0.0152, 0.1558),
        (4.9136, 10.0210, 1.0060, 1.0096, 1.0055, 1.0023),
        (0.9967, 0.7261, 0.5267, 0.6090, 0.4412, 0.4298),
        (0.0006, 0.0000, 0.2052, 0.2395, 0.3437, 0.1627),
    ),
    "Pet": (
        (0.0005, 0.0018, 0.0063, 0.0197, 0.0239, 0.0635),
        (5.5832, 37.8872, 1.0354, 1.0043, 1.5483, 1.0510),
        (0.9978, 0.7212, 0.5577, 0.3749, 0.5895, 0.3675),
        (0.0010, 0.0001, 0.4169, 0.2596, 0.0010, 0.05135),
    ),
}
"""Data set -> scores, axes x methods."""

TABLE_3: Mapping[str, tuple[float, ...]] = {
    "Flower": (0.0163, 1.1656, 1.0342, 0.7785, 1.1859, 1.9916),
    "Dog": (0.2687, 1.0714, 1.1870, 0.1371, 1.3432, 1.6311),
    "MiT": (0.2809, 1.1006, 1.3474, 0.0000, 1.3036, 1.9332),
    "Caltech": (0.2818, 0.9054, 1.0339, 0.5159, 1.0578, 1.6378),
    "Pet": (0.2886, 0.8235, 0.8447, 1.6803, 1.1440, 1.9111),
}
"""Data set -> area under the radar of each method."""

ORDERS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2))
"""Orders of four axes that differ in which axes are neighbours."""

ROUNDING = 1e-4
SHAP_SIGN = "Flower's faithfulness of SHAP read as -.0009 (the four printed digits stand either way)"


def recomputed(name: str, order: tuple[int, ...] = ORDERS[0], higher: tuple[bool, ...] = HIGHER) -> Floats:
    """Areas of the methods from Table 2, with the sign of SHAP's faithfulness on Flower turned."""
    scores = np.array(TABLE_2[name])
    if name == "Flower":
        scores[0, METHODS.index("SHAP")] *= -1
    return area_under_radar(normalised(scores, np.array(higher))[list(order)])


def follows(name: str, areas: Floats) -> NDArray[np.bool_]:
    """Which entries of a row of Table 3 these areas give, to the printed digits."""
    return np.asarray(np.abs(areas - np.array(TABLE_3[name])) <= ROUNDING)


def impossible(name: str) -> tuple[str, ...]:
    """Methods whose entry exceeds 1 though they are worst on an axis, which leaves two triangles of 1/2 at most."""
    r = normalised(np.array(TABLE_2[name]), np.array(HIGHER))
    zero = (r == 0).any(0)
    return tuple(m for m, z, area in zip(METHODS, zero, TABLE_3[name], strict=True) if z and area > 1)


def table_3_findings() -> tuple[Finding, ...]:
    """Row by row of Table 3: how many entries follow from Table 2."""
    found = []
    for name in TABLE_3:
        hits = follows(name, recomputed(name))
        missed = [method for method, hit in zip(METHODS, hits, strict=True) if not hit]
        notes = []
        if missed:
            notes.append(f"do not follow: {', '.join(missed) if hits.any() else 'all'}")
        if name == "Flower":
            notes.append(SHAP_SIGN)
        notes.append(f"under all {len(ORDERS) * 16} orders and directions at most {_most(name)} follow")
        if cannot := impossible(name):
            notes.append(f"cannot be (worst on an axis, area above 1): {', '.join(cannot)}")
        verdict: Verdict = "holds" if hits.all() else "does not hold"
        subject = f"{name}: share of entries that follow"
        found.append(Finding(subject, verdict, float(hits.mean()), n=len(METHODS), note="; ".join(notes)))
    return tuple(found)


def first_findings() -> tuple[Finding, ...]:
    """Row by row: is FocusViT's recomputed area the largest?"""
    found = []
    for name in TABLE_3:
        areas = recomputed(name)
        mine, rival = float(areas[-1]), int(areas[:-1].argmax())
        note = f"from Table 2: {mine:.3f}, next {METHODS[rival]} {areas[rival]:.3f}; Table 3 says {TABLE_3[name][-1]}"
        lead = mine - float(areas[rival])
        verdict: Verdict = "holds" if lead > 0 else "does not hold"
        found.append(Finding(f"{name}: FocusViT minus the next", verdict, lead, note=note))
    return tuple(found)


@cache
def _most(name: str) -> int:
    directions = product((True, False), repeat=len(AXES))
    return max(int(follows(name, recomputed(name, order, d)).sum()) for order, d in product(ORDERS, directions))
