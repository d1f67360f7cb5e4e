"""Hyperspectral cubes from files: what a file announces is checked first, numbers are read band by band if it allows.

Every fault is a ``BadInputError`` that names the file and the reason. Pickles are never loaded; compressed files are
held to their announced size before anything is unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._cube_header import MASK_KEY, CubeHeader, Kind, StoredArray, faults_named
from ._cube_matlab import hdf5_file, inspect_hdf5, inspect_mat, is_hdf5, open_hdf5, open_mat
from ._cube_numpy import inspect_npy, inspect_npz, open_npy, open_npz
from ._cube_tiff import inspect_tiff, open_tiff
from ._envi import DATA_SUFFIXES, read_header
from ._safe_paths import inside

Axis = Literal["auto", "first", "last"]
Bands = Callable[[Sequence[int]], NDArray[np.float32]]
"""Reads these bands, in this order, as [n, rows, columns]."""

KINDS: Mapping[str, Kind] = {
    ".hdr": "envi", ".mat": "mat", ".h5": "hdf5", ".hdf5": "hdf5", ".he5": "hdf5", ".npz": "npz", ".npy": "npy",
    ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip
BARE_SUFFIXES = tuple(suffix for suffix in DATA_SUFFIXES if suffix)
"""Data files that are worth nothing without a header."""


def is_cube(path: Path) -> bool:
    """Whether the suffix is one of a cube."""
    return path.suffix.lower() in KINDS


def stem_of(path: Path) -> str:
    """The name without the suffixes: ``x`` of ``x.npz``, ``x.hdr`` and ``x.img.hdr``."""
    base = path.with_suffix("")
    double = path.suffix.lower() == ".hdr" and base.suffix.lower() in BARE_SUFFIXES
    return base.with_suffix("").name if double else base.name


def inspect_cube(
    path: Path,
    root: Path,
    *,
    key: str = "",
    axis: Axis = "auto",
    bands: int = 0,
    expected: int = 0,
    max_bytes: int = 4 << 30,
) -> CubeHeader:
    """Reads what a file announces, without its numbers.

    Args:
        path: the file; for ENVI the header.
        root: folder that nothing may lead out of.
        key: name of the array in .mat, HDF5 and .npz files; else the usual names, else the largest with three axes.
        axis: where the bands lie; ``auto`` is the one axis as long as the list of wavelengths, else the format's habit.
        bands: number of bands that the caller knows, whatever wavelengths the file lists; 0 where unknown.
        expected: number of bands of a file that lists no wavelengths; 0 where unknown.
        max_bytes: announced size up to which a compressed cube is unpacked.

    Raises:
        BadInputError: the file is damaged, hostile, too large or no cube; the text names it and the reason.
        MissingPackageError: an optional package is not installed.
    """
    inside(path, root)
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise BadInputError(f"{path} is no cube; suffixes are {', '.join(KINDS)}.")
    with faults_named(path):
        if kind == "envi":
            return _inspect_envi(path, root)
        if kind == "mat" and is_hdf5(path):
            kind = "hdf5"
        stored = _INSPECT[kind](path, key, max_bytes)
    if len(stored.shape) != 3 or 0 in stored.shape:
        raise BadInputError(f"{path} holds an array of shape {stored.shape}; a cube has rows, columns and bands.")
    axes = _axes(path, stored, axis, bands or len(stored.wavelengths) or expected)
    rows, columns, count = (stored.shape[place] for place in axes)
    if stored.wavelengths and not bands and len(stored.wavelengths) != count:
        raise BadInputError(f"{path} lists {len(stored.wavelengths)} wavelengths for {count} bands.")
    if stored.mask_shape not in (None, (rows, columns)):
        raise BadInputError(f"the mask in {path} has shape {stored.mask_shape}, the cube {rows} x {columns} pixels.")
    if stored.dtype.kind not in "uifb":
        raise BadInputError(f"{path} holds {stored.dtype} values; a cube holds real numbers.")
    return CubeHeader(
        path=path, kind=kind, shape=(rows, columns, count), axes=axes, dtype=stored.dtype,
        wavelengths=stored.wavelengths, key=stored.key, has_mask=stored.mask_shape is not None,
        certain=stored.certain and stored.dtype.kind != "f",
    )  # fmt: skip


@contextmanager
def open_cube(header: CubeHeader) -> Iterator[Bands]:
    """A reader of bands, raw: neither scaled nor calibrated. Formats that can be mapped read only what is asked for.

    Raises:
        BadInputError: the numbers cannot be read.
    """
    with ExitStack() as stack:
        with faults_named(header.path):
            array = _OPEN[header.kind](header, stack)
        place = header.axes[2]

        def read(bands: Sequence[int]) -> NDArray[np.float32]:
            with faults_named(header.path):
                # Rising numbers, which is all that HDF5 takes, and a slice where there are no gaps.
                rising = sorted(set(bands))
                whole = rising == list(range(rising[0], rising[-1] + 1))
                index: list[Any] = [slice(None)] * 3
                index[place] = slice(rising[0], rising[-1] + 1) if whole else rising
                part = np.asarray(array[tuple(index)]).transpose(place, header.axes[0], header.axes[1])
                numbers = part.astype(np.float32)
                if rising != list(bands):
                    numbers = numbers[[rising.index(band) for band in bands]]
                if header.ignored is not None:
                    numbers[numbers == np.float32(header.ignored)] = np.nan
                return numbers

        yield read


def read_mask_in(header: CubeHeader) -> NDArray[np.bool_]:
    """The ``mask`` that the file itself holds, [rows, columns]."""
    with faults_named(header.path):
        if header.kind == "npz":
            with np.load(header.path, allow_pickle=False) as members:
                return _evidence(members[MASK_KEY])
        if header.kind == "mat":
            from scipy.io import loadmat

            return _evidence(loadmat(header.path, variable_names=[MASK_KEY])[MASK_KEY])
        with ExitStack() as stack:
            array = _evidence(hdf5_file(stack, header.path)[MASK_KEY])
            return array.T if header.axes[0] > header.axes[1] else array


def _evidence(values: Any) -> NDArray[np.bool_]:
    marked: NDArray[np.bool_] = np.asarray(values) != 0
    return marked


def _axes(path: Path, stored: StoredArray, axis: Axis, bands: int) -> tuple[int, int, int]:
    logical = [stored.shape[place] for place in stored.order]
    if axis == "auto" and bands:
        fitting = [place for place, length in enumerate(logical) if length == bands]
        if not fitting:
            raise BadInputError(f"{path} has shape {tuple(logical)}; no axis is as long as its {bands} wavelengths.")
        if len(fitting) > 1:
            raise BadInputError(
                f"{path} has shape {tuple(logical)}; several axes are as long as its {bands} wavelengths: pass "
                "axis=first or axis=last."
            )
        place = fitting[0]
    else:
        place = 0 if axis == "first" or (axis == "auto" and stored.bands_first) else 2
    rows, columns = (other for other in range(3) if other != place)
    return stored.order[rows], stored.order[columns], stored.order[place]


def _inspect_envi(path: Path, root: Path) -> CubeHeader:
    header = read_header(path)
    inside(header.data, root)
    return CubeHeader(
        path=path, kind="envi", shape=header.shape, axes=(0, 1, 2), dtype=header.dtype,
        wavelengths=header.wavelengths, scale=header.scale, ignored=header.ignored, companions=(header.data,),
        certain=header.dtype.kind != "f" and header.ignored is None,
    )  # fmt: skip


def _open_envi(header: CubeHeader, stack: ExitStack) -> Any:
    return read_header(header.path).numbers()


_INSPECT: Mapping[str, Callable[[Path, str, int], StoredArray]] = {
    "npy": inspect_npy, "npz": inspect_npz, "mat": inspect_mat, "hdf5": inspect_hdf5, "tiff": inspect_tiff,
}  # fmt: skip
_OPEN: Mapping[str, Callable[[CubeHeader, ExitStack], Any]] = {
    "envi": _open_envi, "npy": open_npy, "npz": open_npz, "mat": open_mat, "hdf5": open_hdf5, "tiff": open_tiff,
}  # fmt: skip
