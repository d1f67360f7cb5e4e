"""Pictures and masks from files, brought to one square size; every unreadable file is named with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..bench.contract import BadInputError

Fit = Literal["squash", "crop"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
ORIENTATION = 0x0112  # EXIF tag
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")


def folder_at(path: Path, what: str) -> Path:
    """The folder, with ``~`` expanded.

    Raises:
        BadInputError: there is none.
    """
    folder = path.expanduser()
    if not folder.is_dir():
        raise BadInputError(f"{what} needs a folder, and there is none at {str(path)!r}. Pass path=FOLDER.")
    return folder


def pictures_in(folder: Path) -> dict[str, Path]:
    """Image files directly in a folder by their stem, in name order.

    Raises:
        BadInputError: two files share a stem, so that one id would mean two pictures.
    """
    found = pictures_by_stem(folder)
    for first, *others in found.values():
        if others:
            raise BadInputError(f"{first.name} and {others[0].name} in {folder} share one id; rename one of them.")
    return {stem: first for stem, (first, *_) in found.items()}


def pictures_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Image files directly in a folder by their stem, in name order; several files may share one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if _is_picture(path):
            found.setdefault(path.stem, []).append(path)
    return found


def holds_pictures(folder: Path) -> bool:
    """Whether an image file lies directly in a folder."""
    return any(map(_is_picture, folder.iterdir()))


def read_rgb(path: Path, size: int, fit: Fit) -> NDArray[np.float32]:
    """The picture as [3,size,size] float32 in [0,1], upright by its EXIF orientation, bicubic with antialiasing."""
    image = ImageOps.exif_transpose(_open(path))
    if image.mode in DEEP_MODES:
        raise BadInputError(f"{path} has {image.mode} pixels of more than 8 bits; convert it to an 8-bit RGB picture.")
    square = _to_square(image.convert("RGB"), size, fit, Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def read_classes(path: Path, size: int | None = None, fit: Fit = "squash") -> NDArray[np.uint8]:
    """Palette indices or grey values of a mask, [size,size] (as stored when None), nearest neighbour.

    Raises:
        BadInputError: the file cannot be read, or holds colours instead of one value a pixel.
    """
    image = ImageOps.exif_transpose(_open(path))
    if image.mode not in ("P", "L", "1"):
        raise BadInputError(
            f"mask {path} has mode {image.mode}; a mask holds one value a pixel (palette, grey or 1-bit PNG)."
        )
    if image.mode == "1":
        image = image.convert("L")
    if size is not None:
        image = _to_square(image, size, fit, Image.Resampling.NEAREST)
    return np.asarray(image, dtype=np.uint8)


def read_colours(path: Path) -> NDArray[np.uint8]:
    """The picture as stored, [H,W,3], for masks that are painted in a colour."""
    return np.asarray(_open(path).convert("RGB"), dtype=np.uint8)


def stored_size(path: Path) -> tuple[int, int]:
    """Width and height of the stored pixels, before any EXIF rotation."""
    return _open(path).size


def fit_pixels(pixels: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.float32]:
    """[H,W,3] as [3,size,size] float32 in [0,1]: what ``read_rgb`` does to a file."""
    square = _to_square(Image.fromarray(pixels), size, fit, Image.Resampling.BICUBIC)
    return np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def fit_mask(mask: NDArray[np.bool_], size: int, fit: Fit, picture: Path | None = None) -> NDArray[np.bool_]:
    """[H,W] as [size,size], nearest neighbour; a mask over a picture's stored pixels turns with its EXIF orientation.

    Raises:
        BadInputError: the mask does not lie pixel on pixel over the picture.
    """
    image = Image.fromarray(mask.astype(np.uint8))
    if picture is not None:
        photograph = _open(picture)
        if photograph.size != image.size:
            raise BadInputError(f"the mask of {picture} is {_by(image.size)}, but the picture {_by(photograph.size)}.")
        image.getexif()[ORIENTATION] = photograph.getexif().get(ORIENTATION, 1)
        image = ImageOps.exif_transpose(image)
    return np.asarray(_to_square(image, size, fit, Image.Resampling.NEAREST)) > 0


def check_same_size(picture: Path, mask: Path) -> None:
    """Refuses a mask that does not lie pixel on pixel over its picture."""
    sizes = [ImageOps.exif_transpose(_open(path)).size for path in (picture, mask)]
    if sizes[0] != sizes[1]:
        raise BadInputError(f"mask {mask} is {_by(sizes[1])}, but picture {picture} is {_by(sizes[0])}.")


def file_facts(paths: Iterable[Path], root: Path) -> list[str]:
    """Name, bytes and modification time of each file: what a content hash is made of.

    Of a file that cannot be looked at (a dangling link, a link in a circle) the name and that fact.
    """
    facts = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            stat = path.stat()
        except OSError:
            facts.append(f"{name}\0unreadable")
        else:
            facts.append(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return facts


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise BadInputError(f"{path} cannot be read as a picture: {reason}. Replace or remove the file.") from error
    return image


def _to_square(image: Image.Image, size: int, fit: Fit, resample: Image.Resampling) -> Image.Image:
    if fit == "crop":
        return ImageOps.fit(image, (size, size), method=resample)
    return image.resize((size, size), resample)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
