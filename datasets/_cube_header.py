"""What the readers of all cube formats share: what is known of an array before it is read, and what is refused."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..bench.contract import BadInputError, VitxaiError
from ._wavelengths import Nanometres

Kind = Literal["envi", "mat", "hdf5", "npz", "npy", "tiff"]
CUBE_KEYS = ("cube", "hypercube", "data", "img", "image", "reflectance")
WAVELENGTH_KEYS = ("wavelengths", "wavelength", "wavelengths_nm", "wavelength_nm", "wl", "lambda", "centers")
MASK_KEY = "mask"


class MissingPackageError(VitxaiError):
    """A file needs an optional package; no fault of the file's."""


@dataclass(frozen=True)
class CubeHeader:
    """What is known of a cube before its numbers are read.

    Attributes:
        path: of the file, for ENVI of its header.
        kind: format.
        shape: rows, columns, bands.
        axes: where rows, columns and bands lie in the stored array.
        dtype: of the stored numbers.
        wavelengths: in nm, as the file itself says; empty where it does not.
        key: of the array in its file.
        has_mask: the file holds a ``mask`` of rows x columns.
        scale: divide by it to get reflectance, as the file itself says.
        ignored: value of pixels without data.
        companions: other files that belong to it.
        certain: size and type alone show that every number can be read and is finite.
    """

    path: Path
    kind: Kind
    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    dtype: np.dtype[Any]
    wavelengths: Nanometres = ()
    key: str = ""
    has_mask: bool = False
    scale: float = 1.0
    ignored: float | None = None
    companions: tuple[Path, ...] = ()
    certain: bool = False


@dataclass(frozen=True)
class StoredArray:
    """An array as a file announces it, before anybody knows which axis holds the bands."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, int, int]  # stored axes in logical order: reversed for MATLAB 7.3
    bands_first: bool = False
    wavelengths: Nanometres = ()
    key: str = ""
    mask_shape: tuple[int, ...] | None = None
    certain: bool = False


def package(name: str) -> Any:
    """An optional package.

    Raises:
        MissingPackageError: it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"this file format needs {name}: pip install 'vitxai[hsi]'.") from error


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Whatever a reader of foreign files raises, as one error that names the file.

    Raises:
        BadInputError: the file cannot be read.
        MissingPackageError: tifffile lacks the package that unpacks it.
    """
    try:
        yield
    except VitxaiError:
        raise
    except Exception as error:
        text = str(error).replace(str(path), "it").strip() or type(error).__name__
        if "imagecodecs" in text:
            raise MissingPackageError(f"{path} needs imagecodecs to be unpacked: pip install imagecodecs.") from error
        if "allow_pickle" in text or "Object arrays" in text:
            text = "it holds Python objects (a pickle), which can run code when they are loaded"
        raise BadInputError(f"{path} cannot be read: {text}. The file is damaged or of another format.") from error


def pick_cube(path: Path, arrays: Mapping[str, tuple[int, ...]], key: str) -> str:
    """The name of the cube among arrays and their shapes."""
    if key:
        if key not in arrays:
            raise BadInputError(f"{path} has no array {key!r}; it has {', '.join(sorted(arrays)) or 'none'}.")
        return key
    cubes = {name: shape for name, shape in arrays.items() if len(shape) == 3}
    for name in CUBE_KEYS:
        if named := [found for found in cubes if found.lower().rpartition("/")[2] == name]:
            return named[0]
    if not cubes:
        shapes = ", ".join(f"{name} {shape}" for name, shape in sorted(arrays.items())) or "none"
        raise BadInputError(f"{path} has no array with rows, columns and bands; its arrays: {shapes}.")
    return max(sorted(cubes), key=lambda name: math.prod(cubes[name]))


def check_size(path: Path, announced: int, limit: int) -> None:
    """Refuses a file that unpacks to more bytes than allowed."""
    if announced > limit:
        raise BadInputError(
            f"{path} has {path.stat().st_size} bytes and announces {announced / 1e9:.1f} GB once unpacked, more than "
            f"the {limit / 1e9:.1f} GB allowed; it is not opened. Pass max_gb= if the file is trustworthy."
        )


def find_name(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names that is there, in any case."""
    return next((name for want in wanted for name in names if name.lower() == want), None)
