"""RGB scenes: a handwritten digit on a photographed texture, with a distractor of the same colour and an exact mask.

The class is the digit. The distractor is another digit, of any class, cut into tiles and shuffled, so that neither
colour nor ink alone tells the object. The healed scene lacks the digit and is otherwise the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from ._digits import N_CLASSES, digit_pool
from ._scene_key import scene_label, scene_seed
from ._textures import draw_texture

VERSION = 1
"""Enters every scene's key; raise it with every change that alters a pixel."""

CLASSES = tuple(str(digit) for digit in range(N_CLASSES))

_DIGIT_SIDE, _DISTRACTOR_SIDE = (0.56, 0.64), (0.24, 0.29)  # sides of the boxes in frame widths
_ROTATION_DEG = 15.0
_TEXTURE_LEVEL, _TEXTURE_CONTRAST = (0.15, 0.45), (0.03, 0.08)  # mean and standard deviation of the luminance
_INK_CONTRAST = (0.40, 0.55)  # luminance of the ink above the texture's mean
_CHROMA = 0.35
_NOISE = 0.015
_STROKE_EDGE = (0.35, 0.65)  # ink (0..1) where a stroke begins and where it covers fully
_LUMINANCE = np.array([0.299, 0.587, 0.114])

_Box = tuple[slice, slice]


@dataclass(frozen=True)
class GlyphScene:
    """One scene. `image`, `healed` float32 [3, H, W] 0..1, bitwise equal where the digit has no ink; `label` 0..9;
    `mask` bool [H, W], the digit, never empty; `distractor_mask` bool [H, W], the scrambled digit, in a box that does
    not touch the digit's.
    """

    image: npt.NDArray[np.float32]
    healed: npt.NDArray[np.float32]
    label: int
    mask: npt.NDArray[np.bool_]
    distractor_mask: npt.NDArray[np.bool_]


def generate_glyph(split: str, index: int, seed: int, *, size: int = 64, label: int | None = None) -> GlyphScene:
    """Scene `index` of a split ("fit", "validation" or "test"), a pure function of its arguments.

    Splits draw digits from disjoint pools. Without `label` the class is index modulo 10. With it, scenes that differ
    in nothing but the label share background, distractor and healed image. `size` is the side in pixels, 32 to 300.
    """
    if not 32 <= size <= 300:
        raise ValueError(f"glyph scenes are 32 to 300 pixels wide; got {size}")
    label = scene_label(index, label, N_CLASSES)
    streams = (np.random.default_rng(child) for child in scene_seed("glyphs", VERSION, split, seed, index).spawn(5))
    texture_rng, layout_rng, digit_rng, distractor_rng, noise_rng = streams

    background, ink = _draw_colours(texture_rng, draw_texture(texture_rng, size))
    digit_box, distractor_box = _draw_boxes(layout_rng, size)
    pool = digit_pool(split)
    candidates = np.flatnonzero(pool.labels == label)
    digit = pool.ink[candidates[int(digit_rng.random() * len(candidates))]]
    strokes = _strokes(digit, digit_box, size, digit_rng.uniform(-_ROTATION_DEG, _ROTATION_DEG))
    shuffled = _shuffle_tiles(distractor_rng, pool.ink[distractor_rng.integers(len(pool.ink))])
    distractor = _strokes(shuffled, distractor_box, size, distractor_rng.uniform(-_ROTATION_DEG, _ROTATION_DEG))

    noise = _NOISE * noise_rng.standard_normal(background.shape)
    scene = background + distractor[..., None] * (ink - background)
    inked = scene + strokes[..., None] * (ink - scene)
    healed = _to_image(scene + noise)
    image = np.where(strokes > 0, _to_image(inked + noise), healed)
    return GlyphScene(image=image, healed=healed, label=label, mask=strokes > 0.5, distractor_mask=distractor > 0.5)


def _draw_colours(
    rng: np.random.Generator, texture: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Background [H, W, 3] of limited contrast, and an ink colour [3] that is clearly lighter."""
    level, contrast = rng.uniform(*_TEXTURE_LEVEL), rng.uniform(*_TEXTURE_CONTRAST)
    deviation = texture - texture.mean(axis=(0, 1))
    spread = max(float((deviation @ _LUMINANCE).std()), 0.01)
    background = np.clip(_draw_colour(rng, level) + deviation * (contrast / spread), 0, 1)
    return background, _draw_colour(rng, level + rng.uniform(*_INK_CONTRAST))


def _draw_colour(rng: np.random.Generator, luminance: float) -> npt.NDArray[np.float64]:
    """A colour [3], 0..1, of a random hue and a given luminance: its chroma is reduced until it fits."""
    chroma = rng.uniform(-_CHROMA, _CHROMA, 3)
    chroma -= chroma @ _LUMINANCE
    room = np.where(chroma > 0, 1 - luminance, luminance)
    return luminance + chroma * min(1.0, float((room / np.abs(chroma)).min()))


def _draw_boxes(rng: np.random.Generator, size: int) -> tuple[_Box, _Box]:
    """Boxes of digit and distractor, side by side or one above the other, at least two pixels apart."""
    sides = [int(size * rng.uniform(*limits)) for limits in (_DIGIT_SIDE, _DISTRACTOR_SIDE)]
    slack = size - sum(sides) - 2
    before, between = np.sort(rng.integers(0, slack + 1, 2))
    digit_first = bool(rng.integers(2))
    first_side = sides[0] if digit_first else sides[1]
    starts = (int(before), int(between) + first_side + 2)
    digit_start, distractor_start = starts if digit_first else starts[::-1]
    across = [int(rng.integers(0, size - side + 1)) for side in sides]
    along = (slice(digit_start, digit_start + sides[0]), slice(distractor_start, distractor_start + sides[1]))
    boxes = [(run, slice(start, start + side)) for run, start, side in zip(along, across, sides, strict=True)]
    if rng.integers(2):
        boxes = [(columns, rows) for rows, columns in boxes]
    return boxes[0], boxes[1]


def _shuffle_tiles(rng: np.random.Generator, ink: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 16 tiles of 2 x 2 cells of a digit [8, 8] in a random order."""
    tiles = ink.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 2, 2)
    return rng.permutation(tiles).reshape(4, 4, 2, 2).transpose(0, 2, 1, 3).reshape(8, 8)


def _strokes(ink: npt.NDArray[np.float64], box: _Box, size: int, rotation_deg: float) -> npt.NDArray[np.float64]:
    """Coverage [size, size], 0..1, of a digit [8, 8] enlarged into a box and turned about its centre."""
    side = box[0].stop - box[0].start
    # The box is nine cells wide: half a cell of margin on each side keeps turned strokes inside.
    cells = (np.arange(side) + 0.5) / side * 9.0 - 4.5
    angle = np.deg2rad(rotation_deg)
    rows = 3.5 + cells[:, None] * np.cos(angle) + cells[None, :] * np.sin(angle)
    columns = 3.5 - cells[:, None] * np.sin(angle) + cells[None, :] * np.cos(angle)
    enlarged = map_coordinates(ink, np.stack([rows, columns]), order=3, mode="grid-constant")
    coverage = np.zeros((size, size))
    coverage[box] = np.clip((enlarged - _STROKE_EDGE[0]) / (_STROKE_EDGE[1] - _STROKE_EDGE[0]), 0, 1)
    return coverage


def _to_image(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(np.clip(colours, 0, 1).transpose(2, 0, 1), dtype=np.float32)
