"""Shapes on a leaf: outline, veins, blobs and smooth random fields. Arrays are [H, W] of a square frame of `size`
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ._prospect import FloatArray

_BLOB_TRIALS = 1000
_BLOB_TAIL = 0.02  # sigmoid weight below which a blob ends, so that its support is finite


@dataclass(frozen=True)
class LeafGeometry:
    """`coverage` share of the pixel that is leaf, 0..1; `vein` strength 0..1; `across` distance from the midrib in
    half-widths of the leaf, signed. The leaf is where `coverage` > 0.
    """

    coverage: FloatArray
    vein: FloatArray
    across: FloatArray


def smooth_field(rng: np.random.Generator, size: int, sigma: float) -> FloatArray:
    """Gaussian random field with correlation length `sigma` pixels, mean 0, standard deviation 1."""
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="reflect")
    standardised: FloatArray = (field - field.mean()) / field.std()
    return standardised


def draw_leaf(rng: np.random.Generator, size: int) -> LeafGeometry:
    """A serrated leaf around a bent midrib, in a random direction, with oblique secondary veins."""
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    length = size * rng.uniform(0.74, 0.90)
    centre_x, centre_y = size / 2 + size * rng.uniform(-0.04, 0.04, 2)
    along = (columns - centre_x) * np.cos(angle) + (rows - centre_y) * np.sin(angle)
    aside = (rows - centre_y) * np.cos(angle) - (columns - centre_x) * np.sin(angle)
    position = along / length + 0.5
    inside = np.clip(position, 1e-6, 1 - 1e-6)
    aside -= rng.uniform(-0.12, 0.12) * length * (4 * inside * (1 - inside) - 0.5)

    p, q = rng.uniform(0.55, 0.80), rng.uniform(0.80, 1.20)
    widest = (p / (p + q)) ** p * (q / (p + q)) ** q
    half_width = inside**p * (1 - inside) ** q / widest * size * rng.uniform(0.20, 0.29)
    serration = 1 + 0.03 * np.sin(position * rng.uniform(40, 70) + rng.uniform(0, 2 * np.pi))
    margin = half_width * serration - np.abs(aside)
    coverage = np.clip(margin / 1.2, 0, 1) * ((position > 0) & (position < 1))

    across = aside / (half_width + 1e-6)
    spacing = length * rng.uniform(0.085, 0.12)
    slope = np.tan(np.deg2rad(rng.uniform(35, 55)))
    stagger = rng.uniform(0, 1) * np.sign(aside)
    phase = (along - np.abs(aside) * slope) / spacing + stagger
    to_vein = (phase - np.round(phase)) * spacing * np.cos(np.arctan(slope))
    midrib = np.exp(-0.5 * (aside / (0.010 * size + 0.50)) ** 2)
    secondary = np.exp(-0.5 * (to_vein / (0.006 * size + 0.35)) ** 2) * np.sqrt(np.clip(1 - np.abs(across), 0, 1))
    vein = np.maximum(midrib, 0.6 * secondary) * (coverage > 0)
    return LeafGeometry(coverage=coverage, vein=vein, across=across)


def draw_blobs(
    rng: np.random.Generator, room: FloatArray, n_range: tuple[int, int], radius_range: tuple[float, float]
) -> FloatArray:
    """Weight 0..1 of the union of irregular soft spots, within `room` (weights 0..1 that multiply the spots).

    `n_range` inclusive numbers of spots, `radius_range` pixels. Centres keep a distance from the end of the room.
    Drawn again until some pixel weighs more than one half; RuntimeError when the room is too small for that.
    """
    depth = distance_transform_edt(room > 0.5)
    centres = np.argwhere(depth >= min(0.7 * radius_range[0], depth.max()))
    for _ in range(_BLOB_TRIALS if depth.max() > 0 else 0):
        weight = np.zeros_like(room)
        for _ in range(int(rng.integers(n_range[0], n_range[1] + 1))):
            weight = np.maximum(weight, _draw_blob(rng, room.shape[0], centres, rng.uniform(*radius_range)))
        weight *= room
        if np.any(weight > 0.5):
            return weight
    raise RuntimeError(f"no room for spots of radius {radius_range} pixels in {int((room > 0.5).sum())} pixels")


def _draw_blob(rng: np.random.Generator, size: int, centres: np.ndarray, radius: float) -> FloatArray:
    row, column = centres[rng.integers(len(centres))]
    rows, columns = np.mgrid[:size, :size]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1.4)
    u = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
    v = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    outline = radius * (1 + 0.18 * smooth_field(rng, size, 2.5 * size / 48))
    sigmoid = 1 / (1 + np.exp((np.hypot(u * stretch, v / stretch) - outline) / (0.12 * radius + 0.25)))
    blob: FloatArray = np.clip((sigmoid - _BLOB_TAIL) / (1 - 2 * _BLOB_TAIL), 0, 1)
    return blob
