"""Hyperspectral leaf scenes with exact lesion masks, exact bands and an exact healed counterfactual.

A class is one change of leaf chemistry inside the lesion; everything else is drawn without regard to the class.
Reflectance comes from PROSPECT-D. The lesion changes nothing but reflectance: shading, specular light and sensor
noise are those of the healed scene, so `cube - healed` is exactly the lesion's own radiance and vanishes where the
lesion's weight does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ._leaf_geometry import LeafGeometry, draw_blobs, draw_leaf, smooth_field
from ._prospect import FloatArray, LeafConstituents, Prospect, Sensor
from ._scene_key import scene_label, scene_seed

VERSION = 1
"""Enters every scene's key; raise it with every change that alters a pixel."""

CLASSES = ("healthy", "chlorosis", "necrosis", "water_stress")

# Largest change of each constituent at lesion weight and severity 1: (relative, absolute in the constituent's unit).
_LESION_CHANGES: dict[str, dict[str, tuple[float, float]]] = {
    "healthy": {},
    "chlorosis": {"chlorophyll": (-0.80, 0.0), "carotenoids": (-0.35, 0.0)},
    "necrosis": {"chlorophyll": (-0.60, 0.0), "brown_pigments": (0.0, 1.8)},
    "water_stress": {"water": (-0.65, 0.0)},
}

_SEVERITY = (0.6, 1.0)
_LESIONS, _LESION_RADIUS = (2, 4), (0.055, 0.110)  # number; radius in frame widths
_SHAMS, _SHAM_RADIUS, _SHAM_GAIN = (1, 3), (0.0385, 0.088), 0.18

DEFAULT_SENSOR = Sensor(
    wavelengths=(*np.linspace(400.0, 1000.0, 31).tolist(), *np.linspace(1025.0, 2475.0, 25).tolist()),
    fwhm=(8.0,) * 31 + (20.0,) * 25,
)
"""31 VNIR bands (400 to 1000 nm) and 25 SWIR bands (1025 to 2475 nm)."""


@dataclass(frozen=True)
class LeafScene:
    """One leaf. Reflectance is about 0..1, with noise, not clipped.

    `cube`, `healed` float32 [C, H, W], bitwise equal where `lesion_weight` is 0 and everywhere for a healthy leaf;
    `label` index into `CLASSES`; `lesion_weight` float32 [H, W] 0..1, zero for a healthy leaf; `lesion_mask` bool [H,
    W], where the weight exceeds 0.5, never empty for a diseased leaf; `sham_mask` bool [H, W], spots of changed
    brightness that every class has, disjoint from the lesion; `leaf_mask` bool [H, W]; `band_truth` float32 [C], mean
    over the lesion mask of |change of leaf reflectance|, zeros for a healthy leaf; `wavelengths` float32 [C], nm.
    """

    cube: npt.NDArray[np.float32]
    healed: npt.NDArray[np.float32]
    label: int
    lesion_mask: npt.NDArray[np.bool_]
    lesion_weight: npt.NDArray[np.float32]
    leaf_mask: npt.NDArray[np.bool_]
    sham_mask: npt.NDArray[np.bool_]
    band_truth: npt.NDArray[np.float32]
    wavelengths: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Render:
    """Radiance = reflectance x `gain` + `offset`, plus noise: `gain` [H, W], `offset` float32 [C, H, W]."""

    gain: FloatArray
    offset: npt.NDArray[np.float32]


def generate_leaf(
    split: str, index: int, seed: int, *, size: int = 48, sensor: Sensor = DEFAULT_SENSOR, label: int | None = None
) -> LeafScene:
    """Scene `index` of a split ("fit", "validation" or "test"), a pure function of its arguments.

    Without `label` the class is index modulo 4. With it, scenes that differ in nothing but the label share leaf,
    light, spots and healed cube. `size` is the side of the frame in pixels, at least 24.
    """
    if size < 24:
        raise ValueError(f"leaf scenes need at least 24 pixels a side; got {size}")
    label = scene_label(index, label, len(CLASSES))
    streams = (np.random.default_rng(child) for child in scene_seed("leaves", VERSION, split, seed, index).spawn(6))
    shape_rng, chemistry_rng, lesion_rng, sham_rng, light_rng, noise_rng = streams

    geometry = draw_leaf(shape_rng, size)
    leaf = geometry.coverage > 0
    # The spots of a healthy leaf are drawn too, and only then dropped: shams avoid them alike in all classes.
    spots = draw_blobs(lesion_rng, leaf.astype(np.float64), _LESIONS, _scaled(_LESION_RADIUS, size))
    severity = lesion_rng.uniform(*_SEVERITY)
    sham = draw_blobs(sham_rng, leaf * (1.0 - spots), _SHAMS, _scaled(_SHAM_RADIUS, size))
    weight = spots if _LESION_CHANGES[CLASSES[label]] else np.zeros_like(spots)
    support = weight > 0

    optics = _optics(sensor)
    chemistry = _draw_chemistry(chemistry_rng, geometry)
    healthy, _ = optics(chemistry.at(leaf))
    changed, _ = optics(_with_lesion(chemistry.at(support), CLASSES[label], severity * weight[support]))
    change = changed.T - healthy[support[leaf]].T

    render = _draw_light(light_rng, geometry, sham, optics.wavelengths)
    healed = render.offset.copy()
    healed[:, leaf] += (healthy.T * render.gain[leaf]).astype(np.float32)
    healed += _draw_noise(noise_rng, healed, optics.wavelengths)
    cube = healed.copy()
    cube[:, support] += (change * render.gain[support]).astype(np.float32)

    lesion_mask = weight > 0.5
    band_truth = np.zeros(len(sensor.wavelengths))
    if lesion_mask.any():
        band_truth = np.abs(change[:, lesion_mask[support]]).mean(axis=1)
    return LeafScene(
        cube=cube,
        healed=healed,
        label=label,
        lesion_mask=lesion_mask,
        lesion_weight=weight.astype(np.float32),
        leaf_mask=leaf,
        sham_mask=sham > 0.5,
        band_truth=band_truth.astype(np.float32),
        wavelengths=np.asarray(sensor.wavelengths, dtype=np.float32),
    )


def noise_sigma(wavelengths: FloatArray) -> FloatArray:
    """Standard deviation of the sensor noise per band [C] at a radiance of 0.7: higher below 420 nm, at the detector
    seam (1000 nm), in the water bands (1400, 1900 nm) and towards 2500 nm.
    """
    nm = wavelengths
    far = np.where(nm > 2200, 8.0 * ((nm - 2200) / 300) ** 2, 0.0)
    blue = 3.0 * np.exp(-(nm - 400) / 25)
    seam = 1.5 * np.exp(-(((nm - 1000) / 40) ** 2))
    water = 0.6 * np.exp(-(((nm - 1400) / 40) ** 2)) + 1.0 * np.exp(-(((nm - 1900) / 50) ** 2))
    sigma: FloatArray = 0.003 * (1.0 + blue + seam + water + far)
    return sigma


@lru_cache(maxsize=8)
def _optics(sensor: Sensor) -> Prospect:
    return Prospect(sensor)


def _scaled(radius: tuple[float, float], size: int) -> tuple[float, float]:
    return radius[0] * size, radius[1] * size


def _draw_chemistry(rng: np.random.Generator, geometry: LeafGeometry) -> LeafConstituents:
    """Maps [H, W] of a healthy leaf: a random mean, two scales of texture, and veins."""
    vein, size = geometry.vein, geometry.vein.shape[0]
    texture = 0.05 * smooth_field(rng, size, size / 10) + 0.03 * smooth_field(rng, size, size / 40)
    flat = np.ones_like(vein)
    structure = rng.uniform(1.35, 1.75) * (1 + 0.25 * vein) + 0.03 * smooth_field(rng, size, size / 16)
    return LeafConstituents(
        structure=np.maximum(structure, 1.05),
        chlorophyll=rng.uniform(32, 55) * (1 + texture) * (1 - 0.45 * vein),
        carotenoids=rng.uniform(6, 11) * (1 + texture) * (1 - 0.35 * vein),
        anthocyanins=rng.uniform(0.3, 1.5) * flat,
        brown_pigments=rng.uniform(0, 0.03) * flat,
        water=rng.uniform(0.010, 0.016) * (1 + 0.5 * texture) * (1 + 0.25 * vein),
        dry_matter=rng.uniform(0.004, 0.007) * (1 + 0.5 * vein),
    )


def _with_lesion(healthy: LeafConstituents, class_name: str, strength: FloatArray) -> LeafConstituents:
    """The same pixels [n] with the class's change applied at `strength` (severity x weight) [n], 0..1."""
    contents = {field.name: np.asarray(getattr(healthy, field.name)) for field in fields(healthy)}
    for name, (relative, absolute) in _LESION_CHANGES[class_name].items():
        contents[name] = contents[name] * (1 + relative * strength) + absolute * strength
    return LeafConstituents(**contents)


def _draw_light(rng: np.random.Generator, geometry: LeafGeometry, sham: FloatArray, wavelengths: FloatArray) -> _Render:
    """Background, shading of the curved blade, specular light, sham spots and a light gradient, none of them
    spectral.
    """
    coverage, size = geometry.coverage, geometry.coverage.shape[0]
    backgrounds = _background_spectra(wavelengths)
    spectrum = backgrounds[rng.integers(len(backgrounds))] * rng.uniform(0.8, 1.2)
    mottle = 1 + 0.05 * smooth_field(rng, size, size / 48)

    height = 1.8 * np.exp(-((1.1 * geometry.across) ** 2)) + 0.5 * smooth_field(rng, size, size / 8)
    slope_y, slope_x = np.gradient((height - 0.5 * geometry.vein) * size / 48)
    azimuth = rng.uniform(0, 2 * np.pi)
    facing = slope_x * np.cos(azimuth) + slope_y * np.sin(azimuth)
    shade = np.clip(1 + 0.22 * facing, 0.55, 1.5) * (1 + rng.choice([-1, 1]) * _SHAM_GAIN * sham)
    specular = 0.04 * np.clip(facing - 0.35, 0, 1)

    side = np.arange(size) / size - 0.5
    illumination = 1 + 0.12 * (np.cos(azimuth) * side[:, None] + np.sin(azimuth) * side[None, :])
    background = np.multiply.outer(spectrum, illumination * (1 - coverage) * mottle)
    return _Render(
        gain=illumination * coverage * shade,
        offset=(background + illumination * coverage * specular).astype(np.float32),
    )


def _background_spectra(wavelengths: FloatArray) -> FloatArray:
    """Reflectance [3, C] of dark cloth, plastic and soil."""
    x = (wavelengths - 400) / 2100
    return np.stack([0.035 + 0.02 * x, 0.05 + 0.12 * x - 0.05 * x**2, 0.09 + 0.25 * x - 0.16 * x**2])


def _draw_noise(
    rng: np.random.Generator, radiance: npt.NDArray[np.float32], wavelengths: FloatArray
) -> npt.NDArray[np.float32]:
    """Sensor noise [C, H, W] of signal-dependent strength, and column stripes."""
    n_bands, _, width = radiance.shape
    level = noise_sigma(wavelengths).astype(np.float32)[:, None, None] * np.sqrt(
        np.float32(0.3) + np.clip(radiance, 0, 1)
    )
    stripes = np.float32(0.002) * rng.standard_normal((n_bands, 1, width), dtype=np.float32) * radiance
    noise: npt.NDArray[np.float32] = level * rng.standard_normal(radiance.shape, dtype=np.float32) + stripes
    return noise
