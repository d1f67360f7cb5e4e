"""PROSPECT-D: reflectance and transmittance of a leaf from its constituents, vectorised over leaves and bands.

Sources: Feret et al. 2017 (Remote Sens. Environ. 193) for the model and its coefficients; Jacquemoud & Baret 1990
(Remote Sens. Environ. 34) for the pile of plates with a real-valued number of layers (Stokes 1862); Stern 1964 (Appl.
Opt. 3) for the transmissivity of the leaf surface. Lengths of wavelength are nanometres throughout.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import exp1

FloatArray: TypeAlias = npt.NDArray[np.float64]

GRID_NM: FloatArray = np.arange(400.0, 2501.0)
"""Wavelengths of the tabulated coefficients, 1 nm apart [2101]."""

_COEFFICIENT_FILE = "prospect_d.json"
_ABSORBERS = ("chlorophyll", "carotenoids", "anthocyanins", "brown_pigments", "water", "dry_matter")
_INCIDENCE_DEG = 40.0  # half-angle of the cone of light on the leaf surface (Jacquemoud & Baret 1990)
_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_OPTICAL_DEPTHS = (1e-6, 60.0)  # ends of the table of layer transmissivity


@dataclass(frozen=True)
class LeafConstituents:
    """Leaf structure and contents; all fields broadcast to one shape S.

    Units: `structure` number of layers N >= 1; pigments ug/cm2; `brown_pigments` arbitrary (0 to about 2); `water` cm
    (equivalent thickness); `dry_matter` g/cm2. Contents are >= 0.
    """

    structure: npt.ArrayLike
    chlorophyll: npt.ArrayLike
    carotenoids: npt.ArrayLike
    anthocyanins: npt.ArrayLike
    brown_pigments: npt.ArrayLike
    water: npt.ArrayLike
    dry_matter: npt.ArrayLike

    def at(self, where: npt.NDArray[np.bool_]) -> LeafConstituents:
        """Constituents of the pixels selected by a boolean array of shape S, each field [n_selected]."""
        return LeafConstituents(
            **{
                field.name: np.broadcast_to(np.asarray(getattr(self, field.name)), where.shape)[where]
                for field in dataclasses.fields(self)
            }
        )


@dataclass(frozen=True)
class Sensor:
    """Bands of an imaging spectrometer: centre and full width at half maximum of Gaussian responses, in nm [C]."""

    wavelengths: tuple[float, ...]
    fwhm: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.wavelengths) != len(self.fwhm) or not self.wavelengths:
            raise ValueError(
                f"a sensor needs one FWHM a band: {len(self.wavelengths)} wavelengths, {len(self.fwhm)} widths"
            )
        outside = [nm for nm in self.wavelengths if not GRID_NM[0] <= nm <= GRID_NM[-1]]
        if outside:
            raise ValueError(f"PROSPECT covers 400 to 2500 nm; the sensor has bands at {outside} nm")
        narrow = [width for width in self.fwhm if not width > 0]
        if narrow:
            raise ValueError(f"band widths are positive nanometres; the sensor has {narrow}")

    def response(self) -> FloatArray:
        """Relative response of each band on `GRID_NM`, [C, 2101], rows summing to one (cut at the ends of the grid)."""
        centre = np.asarray(self.wavelengths)[:, None]
        sigma = np.asarray(self.fwhm)[:, None] / _FWHM_PER_SIGMA
        weight = np.exp(-0.5 * ((GRID_NM - centre) / sigma) ** 2)
        normalised: FloatArray = weight / weight.sum(axis=1, keepdims=True)
        return normalised


@lru_cache(maxsize=1)
def coefficients() -> dict[str, FloatArray]:
    """Refractive index and specific absorption of each constituent on `GRID_NM` [2101], from the shipped node table."""
    table = json.loads(resources.files(__package__).joinpath("data", _COEFFICIENT_FILE).read_text(encoding="utf-8"))
    curves: dict[str, FloatArray] = {}
    for name, nodes in table["coefficients"].items():
        value = np.asarray(nodes["value"], dtype=np.float64)
        if nodes["scale"] == "log":
            curves[name] = np.exp(np.interp(GRID_NM, nodes["nm"], np.log(value)))
        else:
            curves[name] = np.interp(GRID_NM, nodes["nm"], value)
    return curves


def surface_transmissivity(incidence_deg: float, refractive_index: FloatArray) -> FloatArray:
    """Average transmissivity of a dielectric surface for isotropic light within a cone (Stern 1964, closed form).

    `incidence_deg` is the half-angle of the cone, 0 < angle <= 90; the result has the shape of `refractive_index`,
    0..1.
    """
    n2 = refractive_index**2
    plus, minus = n2 + 1.0, n2 - 1.0
    sin2 = np.sin(np.deg2rad(incidence_deg)) ** 2
    k = -(minus**2) / 4.0
    a = (refractive_index + 1.0) ** 2 / 2.0
    b2 = sin2 - plus / 2.0
    # At 90 degrees the root is exactly zero; rounding would make its argument negative.
    b = np.sqrt(np.maximum(b2**2 + k, 0.0)) - b2

    perpendicular = (k**2 / (6.0 * b**3) + k / b - b / 2.0) - (k**2 / (6.0 * a**3) + k / a - a / 2.0)
    inner_a, inner_b = 2.0 * plus * a - minus**2, 2.0 * plus * b - minus**2
    parallel = (
        -2.0 * n2 * (b - a) / plus**2
        - 2.0 * n2 * plus * np.log(b / a) / minus**2
        + n2 * (1.0 / b - 1.0 / a) / 2.0
        + 16.0 * n2**2 * (n2**2 + 1.0) * np.log(inner_b / inner_a) / (plus**3 * minus**2)
        + 16.0 * n2**3 * (1.0 / inner_b - 1.0 / inner_a) / plus**3
    )
    transmissivity: FloatArray = (perpendicular + parallel) / (2.0 * sin2)
    return transmissivity


def layer_transmissivity(absorption: FloatArray) -> FloatArray:
    """Transmissivity of one layer for diffuse light, (1 - k) exp(-k) + k^2 E1(k), of any shape, 0..1.

    `absorption` k >= 0 is the layer's optical depth. Interpolated linearly in log k over 1e-6 to 60 with an error
    below 5e-7; beyond these ends the value at the end is taken (1 - 2e-6 and 3e-28), which also keeps the pile of
    plates solvable.
    """
    start, step, value = _layer_table()
    position = (np.log(np.clip(absorption, _OPTICAL_DEPTHS[0], _OPTICAL_DEPTHS[1])) - start) / step
    node = np.clip(position.astype(np.intp), 0, len(value) - 2)
    low = value[node]
    transmissivity: FloatArray = low + (position - node) * (value[node + 1] - low)
    return transmissivity


@lru_cache(maxsize=1)
def _layer_table() -> tuple[float, float, FloatArray]:
    """First node, node distance (both in log k) and values of the layer transmissivity; E1 itself is too slow per
    pixel.
    """
    start, stop = np.log(_OPTICAL_DEPTHS)
    nodes, step = np.linspace(start, stop, 8192, retstep=True)
    k = np.exp(nodes)
    return float(start), float(step), (1.0 - k) * np.exp(-k) + k**2 * exp1(k)


class Prospect:
    """Leaf optics at the bands of a sensor.

    The coefficients, not the spectra, are averaged over each band's response: exact for smooth coefficients and C
    instead of 2101 evaluations a leaf. Without a sensor the bands are `GRID_NM`.
    """

    def __init__(self, sensor: Sensor | None = None) -> None:
        curves = coefficients()
        if sensor is not None:
            response = sensor.response()
            curves = {name: response @ curve for name, curve in curves.items()}
        self.wavelengths: FloatArray = GRID_NM if sensor is None else np.asarray(sensor.wavelengths)
        index = curves["refractive_index"]
        self._absorption = np.stack([curves[name] for name in _ABSORBERS])
        self._enter_cone = surface_transmissivity(_INCIDENCE_DEG, index)
        self._enter = surface_transmissivity(90.0, index)
        self._leave = self._enter / index**2

    def __call__(self, leaf: LeafConstituents) -> tuple[FloatArray, FloatArray]:
        """Directional-hemispherical reflectance and transmittance, each S + [C], 0..1 with a sum <= 1.

        Raises ValueError for a structure below one layer or a negative content.
        """
        layers = np.asarray(leaf.structure, dtype=np.float64)[..., None]
        contents = np.stack(
            np.broadcast_arrays(*(np.asarray(getattr(leaf, name), dtype=np.float64) for name in _ABSORBERS)), axis=-1
        )
        _check(layers, contents)
        tau = layer_transmissivity(contents @ self._absorption / layers)

        inner_reflection = 1.0 - self._leave
        bounces = 1.0 - (inner_reflection * tau) ** 2
        passed = tau * self._leave / bounces
        top_t = self._enter_cone * passed
        top_r = 1.0 - self._enter_cone + inner_reflection * tau * top_t
        inner_t = self._enter * passed
        inner_r = 1.0 - self._enter + inner_reflection * tau * inner_t

        pile_r, pile_t = _pile_of_plates(inner_r, inner_t, layers - 1.0)
        between = 1.0 - pile_r * inner_r
        return top_r + top_t * pile_r * inner_t / between, top_t * pile_t / between


def _pile_of_plates(
    reflectance: FloatArray, transmittance: FloatArray, layers: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Reflectance and transmittance of a real number of equal, slightly absorbing layers (Stokes 1862)."""
    r, t = reflectance, transmittance
    root = np.sqrt((1.0 + r + t) * (1.0 + r - t) * (1.0 - r + t) * (1.0 - r - t))
    difference = (r - t) * (r + t)
    a = (1.0 + difference + root) / (2.0 * r)
    b_layers = ((1.0 - difference + root) / (2.0 * t)) ** layers
    denominator = (a * b_layers) ** 2 - 1.0
    return a * (b_layers**2 - 1.0) / denominator, b_layers * (a**2 - 1.0) / denominator


def _check(layers: FloatArray, contents: FloatArray) -> None:
    if not np.all(layers >= 1.0):
        raise ValueError(f"leaf structure counts layers and is >= 1; got {float(np.min(layers))}")
    if not np.all(contents >= 0.0):
        smallest = contents.reshape(-1, len(_ABSORBERS)).min(axis=0)
        bad = {name: float(low) for name, low in zip(_ABSORBERS, smallest, strict=True) if not low >= 0.0}
        raise ValueError(f"leaf contents are >= 0; got {bad}")
