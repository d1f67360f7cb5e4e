"""Background textures: crops of the images inside the scikit-image wheel (no download; attribution: data/README.md)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import skimage.data

# PNG files only: JPEG decoders may differ in the last bit, and a scene is meant to be the same everywhere.
TEXTURES = ("brick", "grass", "gravel", "coffee", "immunohistochemistry", "astronaut", "chelsea")

MAX_SIZE = 300
"""Shorter side of the smallest texture, pixels."""

_MAX_REDUCTION = 3


@lru_cache(maxsize=1)
def _textures() -> tuple[npt.NDArray[np.float32], ...]:
    images = []
    for name in TEXTURES:
        image = getattr(skimage.data, name)().astype(np.float32) / 255.0
        images.append(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3])
    return tuple(images)


def draw_texture(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    """A random crop [size, size, 3], 0..1, of a random texture, reduced 1 to 3 times by averaging, turned or
    mirrored.
    """
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"textures reach {MAX_SIZE} pixels; got {size}")
    texture = _textures()[rng.integers(len(TEXTURES))]
    height, width, _ = texture.shape
    reduction = int(rng.integers(1, min(_MAX_REDUCTION, min(height, width) // size) + 1))
    side = size * reduction
    row, column = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = texture[row : row + side, column : column + side]
    reduced: npt.NDArray[np.float32] = crop.reshape(size, reduction, size, reduction, 3).mean(axis=(1, 3))
    turned = np.rot90(reduced, int(rng.integers(4)))
    return turned[:, ::-1] if rng.integers(2) else turned
