"""Heat maps as small PNG files: signed where the map is signed, over the grey image, the truth's outline on top."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Pixels = NDArray[np.uint8]

# Anchors of two perceptually ordered scales; light to dark for magnitude, blue over white to red for sign.
_MAGNITUDE = np.array([(255, 247, 236), (253, 212, 158), (252, 141, 89), (215, 48, 31), (127, 0, 0)], dtype=float)
_SIGNED = np.array([(5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31)], dtype=float)
_OUTLINE, _HALO = (0, 229, 255), (0, 0, 0)
_COLOURS = 96


def heat_map(map_: Floats, image: Pixels, mask: NDArray[np.bool_] | None = None, size: int = 112) -> Pixels:
    """Overlay [size, size, 3] of a spatial map [h, w] on an image [H, W, 3] with the mask's [H, W] outline.

    Non-negative maps are drawn from their least to their largest value, others symmetrically about 0 (white); constant
    ones are blank. Colour is blended by magnitude, so that the image stays visible where the map is silent.
    """
    values = _resize(map_, size)
    signed = bool((map_ < 0).any())
    largest = float(np.abs(map_).max())
    # Attention maps have a floor well above zero, which says nothing about where they point.
    start = 0.0 if signed else float(map_.min())
    width = largest - start
    scaled = np.clip((values - start) / width, -1, 1) if width > 1e-6 * largest else np.zeros_like(values)
    colours = _look_up(_SIGNED, (scaled + 1) / 2) if signed else _look_up(_MAGNITUDE, scaled)
    grey = np.repeat(_resize(image.mean(-1), size)[..., None], 3, -1)
    weight = 0.15 + 0.75 * np.abs(scaled)[..., None] ** 0.7
    blended = weight * colours + (1 - weight) * grey
    return outlined(np.clip(blended, 0, 255).astype(np.uint8), mask)


def scale(signed: bool, steps: int = 256) -> Floats:
    """The colours [steps, 3] in 0..255 of a heat map from its lowest to its highest value, for a colour bar."""
    return _look_up(_SIGNED if signed else _MAGNITUDE, np.linspace(0, 1, steps))


def picture(image: Pixels, mask: NDArray[np.bool_] | None = None, size: int = 112) -> Pixels:
    """The image [H, W, 3] itself at [size, size, 3], with the mask's outline."""
    return outlined(np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)), mask)


def outlined(image: Pixels, mask: NDArray[np.bool_] | None) -> Pixels:
    """Draws the border of a mask [H, W] of any size on an image: a bright line with a dark halo."""
    if mask is None or not mask.any():
        return image
    size = image.shape[:2]
    large = np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST), dtype=bool)
    grown = _grow(large)
    drawn = image.copy()
    drawn[_grow(grown) & ~grown] = _HALO
    drawn[grown & ~large] = _OUTLINE
    return drawn


def data_uri(pixels: Pixels) -> str:
    """The pixels as an inline PNG with a palette, a third of the size of a full-colour one."""
    file = io.BytesIO()
    reduced = Image.fromarray(pixels).quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    reduced.save(file, format="PNG", optimize=False)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def _resize(values: NDArray, size: int) -> Floats:
    picture = Image.fromarray(np.asarray(values, dtype=np.float32))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)


def _look_up(anchors: Floats, position: Floats) -> Floats:
    """Colours [..., 3] at positions in [0, 1], linear between the anchors."""
    place = np.clip(position, 0, 1) * (len(anchors) - 1)
    below = np.minimum(place.astype(int), len(anchors) - 2)
    part = (place - below)[..., None]
    return np.asarray(anchors[below] * (1 - part) + anchors[below + 1] * part)
