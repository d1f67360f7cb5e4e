"""Cubes and arrays in .mat files of any version and in HDF5 files, which MATLAB 7.3 writes too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._cube_header import (
    MASK_KEY,
    WAVELENGTH_KEYS,
    CubeHeader,
    StoredArray,
    check_size,
    faults_named,
    find_name,
    package,
    pick_cube,
)
from ._wavelengths import Nanometres, in_nanometres

MAT_SIZES = {
    "double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8,
    "uint64": 8, "logical": 1,
}  # fmt: skip
HDF5_MAGIC, MAT_MAGIC = b"\x89HDF\r\n\x1a\n", b"MATLAB 5.0"


def is_hdf5(path: Path) -> bool:
    """Whether a .mat file is of version 7.3.

    Raises:
        BadInputError: it is no .mat file at all.
    """
    with path.open("rb") as stream:
        start = stream.read(1024)
    if start.startswith(HDF5_MAGIC) or start[512:].startswith(HDF5_MAGIC):
        return True
    if start.lstrip()[:1] == b"<":
        raise BadInputError(
            f"{path} is a web page, not a .mat file: the server answered with an error. Fetch it again."
        )
    if not start.startswith(MAT_MAGIC):
        raise BadInputError(f"{path} is no .mat file; it begins with {start[:8]!r}. Fetch it again.")
    return False


def inspect_mat(path: Path, key: str, max_bytes: int) -> StoredArray:
    """What the file announces of its cube."""
    from scipy.io import loadmat, whosmat

    kinds = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    arrays = {name: shape for name, (shape, kind) in kinds.items() if kind in MAT_SIZES}
    if key and key in kinds and key not in arrays:
        raise BadInputError(f"{key!r} in {path} is a {kinds[key][1]}, not an array of numbers.")
    cube = pick_cube(path, arrays, key)
    check_size(path, math.prod(arrays[cube]) * MAT_SIZES[kinds[cube][1]], max_bytes)
    named = find_name(list(arrays), WAVELENGTH_KEYS)
    if named:
        check_size(path, math.prod(arrays[named]) * 8, max_bytes)
    listed = loadmat(path, variable_names=[named])[named].ravel() if named else ()
    kind = {"double": "float64", "single": "float32", "logical": "bool"}.get(kinds[cube][1], kinds[cube][1])
    return StoredArray(
        arrays[cube], np.dtype(kind), (0, 1, 2), wavelengths=in_nanometres(listed, str(path), named) if named else (),
        key=cube, mask_shape=arrays.get(MASK_KEY) if cube != MASK_KEY else None,
    )  # fmt: skip


def open_mat(header: CubeHeader, stack: ExitStack) -> Any:
    """The cube, unpacked."""
    from scipy.io import loadmat

    return loadmat(header.path, variable_names=[header.key])[header.key]


def hdf5_file(stack: ExitStack, path: Path) -> Any:
    """The HDF5 file, closed with the stack."""
    return stack.enter_context(package("h5py").File(path, "r"))


def inspect_hdf5(path: Path, key: str, max_bytes: int) -> StoredArray:
    """What the file announces of its cube."""
    h5py = package("h5py")
    with ExitStack() as stack:
        file = hdf5_file(stack, path)
        found: dict[str, Any] = {}
        # Visits hard links only: soft and external links are not followed, so that no loop and no other file is met.
        file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
        numeric = {name: node for name, node in found.items() if node.dtype.kind in "uifb" and node.shape}
        name = pick_cube(path, {name: node.shape for name, node in numeric.items()}, key)
        cube = numeric[name]
        for used in {name, MASK_KEY} & set(numeric):
            _refuse_foreign(path, used, numeric[used])
        announced = cube.size * cube.dtype.itemsize
        if cube.chunks is None and cube.id.get_storage_size() < announced:
            raise BadInputError(f"{path}: {name} announces {announced} bytes, but fewer are stored: damaged.")
        if cube.chunks is not None:
            check_size(path, announced, max_bytes)
        matlab = "MATLAB_class" in cube.attrs or path.suffix.lower() == ".mat"
        mask = numeric[MASK_KEY].shape if MASK_KEY in numeric and name != MASK_KEY else None
        return StoredArray(
            cube.shape, cube.dtype, (2, 1, 0) if matlab else (0, 1, 2),
            wavelengths=_wavelengths_in(path, file, cube, numeric), key=name,
            mask_shape=mask[::-1] if matlab and mask else mask, certain=cube.chunks is None,
        )  # fmt: skip


def _refuse_foreign(path: Path, name: str, node: Any) -> None:
    if node.external or node.is_virtual:
        raise BadInputError(f"{path}: {name} keeps its numbers in other files; that is refused. Copy them in.")


def _wavelengths_in(path: Path, file: Any, cube: Any, arrays: Mapping[str, Any]) -> Nanometres:
    for holder in (cube.attrs, cube.parent.attrs, file.attrs):
        if named := find_name(list(holder), WAVELENGTH_KEYS):
            unit = next((str(holder[key]) for key in holder if "unit" in key.lower()), named)
            return in_nanometres(np.ravel(holder[named]), str(path), unit)
    short = {name.rpartition("/")[2]: name for name in arrays}
    if named := find_name(list(short), WAVELENGTH_KEYS):
        node = arrays[short[named]]
        _refuse_foreign(path, named, node)
        if node.size > 1 << 20:
            raise BadInputError(f"{path}: {named} holds {node.size} values, which is no list of bands.")
        unit = next((str(node.attrs[key]) for key in node.attrs if "unit" in key.lower()), named)
        return in_nanometres(np.ravel(node[()]), str(path), unit)
    return ()


def open_hdf5(header: CubeHeader, stack: ExitStack) -> Any:
    """The cube, read when indexed."""
    return hdf5_file(stack, header.path)[header.key]


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the numeric arrays of a .mat file of any version.

    Raises:
        BadInputError: it is no .mat file, or cannot be read.
    """
    with faults_named(path):
        if is_hdf5(path):
            with ExitStack() as stack:
                file, h5py = hdf5_file(stack, path), package("h5py")
                return {
                    name: file[name].shape[::-1]
                    for name in file
                    if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Dataset)
                }
        from scipy.io import whosmat

        return {name: shape for name, shape, kind in whosmat(path) if kind in MAT_SIZES}


def read_arrays(path: Path, names: Sequence[str], max_bytes: int) -> dict[str, NDArray[np.float64]]:
    """Arrays of a .mat file of any version as float64, axes as MATLAB has them.

    Raises:
        BadInputError: one of them is missing, too large or damaged.
    """
    shapes = array_shapes(path)
    if absent := [name for name in names if name not in shapes]:
        raise BadInputError(f"{path} has no array {', '.join(absent)}; it has {', '.join(sorted(shapes)) or 'none'}.")
    check_size(path, sum(math.prod(shapes[name]) * 8 for name in names), max_bytes)
    with faults_named(path):
        if is_hdf5(path):
            with ExitStack() as stack:
                file = hdf5_file(stack, path)
                for name in names:
                    _refuse_foreign(path, name, file[name])
                return {name: np.asarray(file[name], dtype=np.float64).T for name in names}
        from scipy.io import loadmat

        loaded = loadmat(path, variable_names=list(names))
        return {name: np.asarray(loaded[name], dtype=np.float64) for name in names}
