"""From the bands that a camera gave to the bands that a model eats: selection, resampling, reflectance, leaf, size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..bench.contract import BadInputError
from ._cube_files import Bands, open_cube
from ._cube_header import CubeHeader
from ._image_files import Fit
from ._wavelengths import Nanometres, parse_bands, parse_span

CHUNK_VALUES = 32 << 20
"""Numbers held at once while a cube is read: 128 MB."""
RED, INFRARED, PLATEAU, TOLERANCE = 670.0, 800.0, 900.0, 20.0
"""Centres in nm of the bands of NDVI and of the NIR plateau, and how far the nearest band may lie."""


@dataclass(frozen=True)
class Spectrum:
    """Which stored bands make the bands of a sample: ``low * (1 - weight) + high * weight``.

    Attributes:
        low, high, weight: one a band of the sample.
        centres: of the sample's bands, in nm; empty where unknown.
        source: of all stored bands.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    weight: tuple[float, ...]
    centres: Nanometres
    source: Nanometres

    @property
    def used(self) -> tuple[int, ...]:
        """Stored bands that are needed."""
        return tuple(sorted({*self.low, *self.high}))


def plan_spectrum(
    count: int, source: Nanometres, where: str, *, bands: str = "", span: str = "", targets: Nanometres = ()
) -> Spectrum:
    """The spectrum of a sample from ``count`` stored bands.

    Args:
        count: stored bands.
        source: their centres in nm; empty where unknown.
        where: the file, for messages.
        bands: band numbers from 0, see ``parse_bands``; the first choice made.
        span: nm, see ``parse_span``; the second.
        targets: centres to interpolate to, linearly, never beyond the bands that are left.

    Raises:
        BadInputError: a band is missing, or wavelengths are needed and unknown.
    """
    if source and len(source) != count:
        raise BadInputError(f"{where} has {count} bands, but {len(source)} wavelengths are given for it.")
    if (span or targets) and not source:
        raise BadInputError(
            f"{where} has no wavelengths; range= and resample= need them: pass wavelengths=FILE or 400-1000."
        )
    kept = parse_bands(bands) if bands else tuple(range(count))
    if max(kept) >= count:
        raise BadInputError(f"{where} has {count} bands, numbered from 0; band {max(kept)} is missing.")
    if span:
        low, high = parse_span(span)
        kept = tuple(band for band in kept if low <= source[band] <= high)
        if not kept:
            raise BadInputError(f"{where} has no band in {low:g} to {high:g} nm; it has {told(source)}.")
    if not targets:
        return Spectrum(kept, kept, (0.0,) * len(kept), tuple(source[band] for band in kept) if source else (), source)
    return _interpolated(kept, source, targets, where)


def _interpolated(kept: Sequence[int], source: Nanometres, targets: Nanometres, where: str) -> Spectrum:
    ordered = sorted(kept, key=lambda band: source[band])
    centres = np.array([source[band] for band in ordered])
    outside = [nm for nm in targets if not centres[0] <= nm <= centres[-1]]
    if outside:
        raise BadInputError(
            f"{where} has bands from {centres[0]:g} to {centres[-1]:g} nm; {len(outside)} of {len(targets)} wanted "
            f"bands lie outside, for example {outside[0]:g} nm. Nothing is extrapolated."
        )
    above = np.clip(np.searchsorted(centres, targets, side="left"), 1, max(1, len(centres) - 1))
    if len(centres) == 1:
        above = np.zeros(len(targets), dtype=int)
    below = np.maximum(above - 1, 0)
    gap = centres[above] - centres[below]
    weight = np.where(gap > 0, (np.array(targets) - centres[below]) / np.where(gap > 0, gap, 1), 0.0)
    return Spectrum(
        tuple(ordered[i] for i in below), tuple(ordered[i] for i in above), tuple(float(w) for w in weight),
        tuple(targets), source,
    )  # fmt: skip


def told(centres: Nanometres) -> str:
    """``5 bands from 400 to 800 nm``."""
    return f"{len(centres)} bands from {min(centres):g} to {max(centres):g} nm" if centres else "unknown wavelengths"


@dataclass(frozen=True, eq=False)
class Reflectance:
    """(raw - dark) / (white - dark), by column of the sensor where references are as wide as the cube, else by band.

    Attributes:
        white, dark: [bands, columns], each the mean over its scan lines.
        path: of the white reference, for messages.
    """

    white: NDArray[np.float32]
    dark: NDArray[np.float32]
    path: Path

    def check(self, bands: Sequence[int]) -> None:
        """Refuses references by which nothing can be divided.

        Raises:
            BadInputError: white is not brighter than dark everywhere in these bands.
        """
        dull = ~(self.white[list(bands)] > self.dark[list(bands)]).all(1)
        if dull.any():
            raise BadInputError(
                f"white reference {self.path} is not brighter than dark in {int(dull.sum())} of {len(bands)} bands, "
                f"the first is {bands[int(dull.argmax())]}; leave them out with range= or bands=."
            )

    def apply(self, numbers: NDArray[np.float32], bands: Sequence[int]) -> NDArray[np.float32]:
        """Reflectance of [n, rows, columns]; the bands have been checked."""
        white, dark = (_as_wide(plane[list(bands)], numbers.shape[2])[:, None] for plane in (self.white, self.dark))
        calibrated: NDArray[np.float32] = (numbers - dark) / (white - dark)
        return calibrated


def _as_wide(plane: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    return plane if plane.shape[1] == columns else plane.mean(1, keepdims=True)


def read_reference(header: CubeHeader) -> NDArray[np.float32]:
    """The mean over scan lines of a white or dark reference, [bands, columns].

    Raises:
        BadInputError: a number is not finite.
    """
    with open_cube(header) as read:
        parts = [read(bands).mean(1) for bands in _chunks(range(header.shape[2]), header)]
    mean = np.concatenate(parts)
    if not np.isfinite(mean).all():
        raise BadInputError(f"reference {header.path} holds NaN or infinite values.")
    return mean


def is_finite(header: CubeHeader) -> bool:
    """Reads every number once, in parts."""
    with open_cube(header) as read:
        return all(bool(np.isfinite(read(bands)).all()) for bands in _chunks(range(header.shape[2]), header))


@dataclass(frozen=True)
class Cut:
    """How samples are brought to size.

    Attributes:
        size: side in pixels; 0 keeps rows and columns as stored.
        fit: ``squash`` or ``crop``.
    """

    size: int
    fit: Fit

    def plane(self, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """Numbers [H,W], bilinear with antialiasing."""
        if not self.size:
            return plane
        return np.asarray(self._to(Image.fromarray(plane), Image.Resampling.BILINEAR), dtype=np.float32)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask [H,W], nearest pixel."""
        if not self.size:
            return mask
        return np.asarray(self._to(Image.fromarray(mask.astype(np.uint8)), Image.Resampling.NEAREST)) > 0

    def _to(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        if self.fit == "crop":
            return ImageOps.fit(image, (self.size, self.size), method=resample)
        return image.resize((self.size, self.size), resample)


def read_sample(
    header: CubeHeader, spectrum: Spectrum, cut: Cut, scale: float, reference: Reflectance | None, leaf: str,
    threshold: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, NDArray[np.bool_]]:  # fmt: skip
    """The cube [C,H,W], its leaf mask where asked for, and the pixels with a value that is not finite, all at size.

    Values that are not finite are 0. Only the bands that are needed are read, and no more at once than
    ``CHUNK_VALUES`` numbers.

    Args:
        scale: numbers are divided by it where there is no reference.
        leaf: ``none``; ``ndvi``, (R800 - R670) / (R800 + R670) above the threshold; ``nir``, reflectance at 900 nm
            above it; or ``nonzero``, any band above the threshold.

    Raises:
        BadInputError: unreadable numbers, or a band that the leaf mask needs is missing.
    """
    rows, columns, _ = header.shape
    height, width = (cut.size, cut.size) if cut.size else (rows, columns)
    cube = np.empty((len(spectrum.low), height, width), dtype=np.float32)
    broken = np.zeros((rows, columns), dtype=bool)
    brightest = np.full((rows, columns), -np.inf, dtype=np.float32) if leaf == "nonzero" else None
    with open_cube(header) as raw:

        def read(bands: Sequence[int]) -> NDArray[np.float32]:
            numbers = raw(bands)
            return reference.apply(numbers, bands) if reference else numbers / np.float32(scale)

        for places in _chunks(range(len(spectrum.low)), header):
            numbers, bad = _bands(read, spectrum, places)
            broken |= bad
            if brightest is not None:
                np.maximum(brightest, numbers.max(0), out=brightest)
            for place, plane in zip(places, numbers, strict=True):
                cube[place] = cut.plane(plane)
        found = (
            brightest > threshold if brightest is not None else _leaf(read, header, spectrum.source, leaf, threshold)
        )
    return cube, None if found is None else cut.mask(found), cut.mask(broken)


def _bands(read: Bands, spectrum: Spectrum, places: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    low, high = ([side[place] for place in places] for side in (spectrum.low, spectrum.high))
    weight = np.array([spectrum.weight[place] for place in places], dtype=np.float32)
    used = sorted({*low, *high})
    numbers = read(used)
    bad = np.asarray(~np.isfinite(numbers).all(0), dtype=bool)
    numbers = np.nan_to_num(numbers, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    if not weight.any():
        return numbers[[used.index(band) for band in low]] if used != low else numbers, bad
    where = {band: index for index, band in enumerate(used)}
    below, above = (numbers[[where[band] for band in side]] for side in (low, high))
    return below + (above - below) * weight[:, None, None], bad


def check_leaf(header: CubeHeader, centres: Nanometres, leaf: str) -> None:
    """Refuses a cube without the bands that the leaf mask is made of.

    Raises:
        BadInputError: no band is near enough; the text names the file.
    """
    for nm in {"ndvi": (RED, INFRARED), "nir": (PLATEAU,)}.get(leaf, ()):
        _nearest(nm, centres, header, leaf)


def _leaf(
    read: Bands, header: CubeHeader, centres: Nanometres, leaf: str, threshold: float
) -> NDArray[np.bool_] | None:
    if leaf == "none":
        return None
    if leaf == "nir":
        (plateau,) = np.nan_to_num(read([_nearest(PLATEAU, centres, header, leaf)]))
        above: NDArray[np.bool_] = plateau > threshold
        return above
    red, infrared = (
        np.nan_to_num(read([_nearest(nm, centres, header, leaf)])[0], posinf=0, neginf=0) for nm in (RED, INFRARED)
    )
    total = red + infrared
    ndvi = np.divide(infrared - red, total, out=np.full_like(total, -1.0), where=total > 0)
    green: NDArray[np.bool_] = ndvi > threshold
    return green


def _nearest(nm: float, centres: Nanometres, header: CubeHeader, leaf: str) -> int:
    band = min(range(len(centres)), key=lambda i: abs(centres[i] - nm), default=-1)
    if band < 0 or abs(centres[band] - nm) > TOLERANCE:
        raise BadInputError(
            f"{header.path} has no band within {TOLERANCE:g} nm of {nm:g} nm, which leaf={leaf} needs; it has "
            f"{told(centres)}."
        )
    return band


def _chunks(places: range, header: CubeHeader) -> Iterator[range]:
    step = max(1, CHUNK_VALUES // (header.shape[0] * header.shape[1]))
    for start in range(0, len(places), step):
        yield places[start : start + step]
