"""Changes of training images that leave their class alone; each drawn per image from a given generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

MAX_SHIFT = 4
"""Pixels that ``shift`` moves an image at most, each way."""

AFFINE_RANGES = (12.0, 0.12, 0.2, 4.0, 4.0)
"""Largest turn (degrees), scaling, shear and shift right and down (pixels) of ``affine``, each way."""

PHOTO_RANGES = (15.0, 0.2, 0.2, 0.2)
"""Largest turn (degrees), and changes of brightness, contrast and saturation, of ``photo``, each way."""

PHOTO_CROP = 224 / 256
"""Side of the part that ``photo`` keeps, as a share of the image's."""


def unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,H,W] as they are."""
    return images


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,H,W], half of them mirrored left to right."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)


def dihedral(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,S,S], each in one of the eight positions of a square: for things without an up or a left."""
    position = torch.randint(8, (len(images),), generator=generator)
    turned = torch.empty_like(images)
    for k in range(8):
        rows = (position == k).nonzero().flatten().to(images.device)
        placed = images[rows].rot90(k % 4, (2, 3))
        turned[rows] = placed.flip(3) if k >= 4 else placed
    return turned


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,H,W], each moved by up to ``MAX_SHIFT`` pixels down and right or up and left; the border is continued."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (MAX_SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * MAX_SHIFT + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


def affine(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,H,W], each turned, scaled, sheared and moved a little, as another hand would have written it."""
    n, (height, width) = len(images), images.shape[2:]
    turn, scale, shear, *move = ((torch.rand(n, 5, generator=generator) * 2 - 1) * torch.tensor(AFFINE_RANGES)).unbind(
        1
    )
    angle, size = torch.deg2rad(turn), 1 + scale
    rows = [
        torch.stack([angle.cos() * size, (shear - angle.sin()) * size, 2 * move[0] / width], dim=1),
        torch.stack([angle.sin() * size, angle.cos() * size, 2 * move[1] / height], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False).to(images)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def photo(images: Tensor, generator: torch.Generator) -> Tensor:
    """[B,C,H,W], each mirrored or not, turned, cropped at a random place and jittered in colour (FocusViT's recipe).

    The crop is enlarged to the image's size again. Colours change in normalised space: contrast and saturation are
    factors to 0 and to the mean over channels, brightness is added in standard deviations.
    """
    n, (height, width) = len(images), images.shape[2:]
    draws = torch.rand(n, 7, generator=generator)
    turn, bright, contrast, saturation = ((draws[:, :4] * 2 - 1) * torch.tensor(PHOTO_RANGES)).unbind(1)
    right, down = ((draws[:, 4:6] * 2 - 1) * (1 - PHOTO_CROP)).unbind(1)
    side = torch.where(draws[:, 6] < 0.5, -1.0, 1.0)
    cos, sin = PHOTO_CROP * torch.deg2rad(turn).cos(), PHOTO_CROP * torch.deg2rad(turn).sin()
    rows = [
        torch.stack([side * cos, -sin * height / width, right], dim=1),
        torch.stack([side * sin * width / height, cos, down], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False).to(images)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    bright, contrast, saturation = (v.to(images)[:, None, None, None] for v in (bright, contrast, saturation))
    grey = moved.mean(1, keepdim=True)
    return (grey + (moved - grey) * (1 + saturation)) * (1 + contrast) + bright


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "mirror": mirror,
    "dihedral": dihedral,
    "shift": shift,
    "affine": affine,
    "photo": photo,
}
