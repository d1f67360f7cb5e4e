"""Cubes in .npy and .npz files, held to what they announce before anything is unpacked; pickles are refused."""

from __future__ import annotations

import math
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..bench.contract import BadInputError
from ._cube_header import (
    MASK_KEY,
    WAVELENGTH_KEYS,
    CubeHeader,
    StoredArray,
    check_size,
    find_name,
    pick_cube,
)
from ._wavelengths import in_nanometres

MAX_ZIP_MEMBERS = 1000


def _npy_header(stream: Any, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise BadInputError(f"{path} is of .npy version {version}, which only arrays with named fields need.")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise BadInputError(f"{path} holds Python objects (a pickle), which can run code; it is refused.")
    return shape, fortran, dtype


def inspect_npy(path: Path, key: str, max_bytes: int) -> StoredArray:
    """What the file announces of its cube."""
    with path.open("rb") as stream:
        shape, _, dtype = _npy_header(stream, path)
        announced = stream.tell() + math.prod(shape) * dtype.itemsize
    if announced != path.stat().st_size:
        raise BadInputError(
            f"{path} holds {path.stat().st_size} bytes, but announces {announced}: it is truncated or damaged."
        )
    return StoredArray(shape, dtype, (0, 1, 2), certain=True)


def inspect_npz(path: Path, key: str, max_bytes: int) -> StoredArray:
    """What the file announces of its cube."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ZIP_MEMBERS:
            raise BadInputError(f"{path} has {len(members)} members; a cube with its facts has a few.")
        check_size(path, sum(member.file_size for member in members), max_bytes)
        arrays, dtypes = {}, {}
        for member in members:
            if not member.filename.endswith(".npy") or member.flag_bits & 0x1:
                raise BadInputError(f"{path} holds {member.filename!r}, which is no plain array.")
            with archive.open(member) as stream:
                shape, _, dtype = _npy_header(stream, path)
                announced = stream.tell() + math.prod(shape) * dtype.itemsize
            if announced != member.file_size:
                raise BadInputError(
                    f"{path}: {member.filename} has {member.file_size} bytes, but announces {announced}: damaged."
                )
            arrays[member.filename[:-4]], dtypes[member.filename[:-4]] = shape, dtype
        cube = pick_cube(path, arrays, key)
        named = find_name(list(arrays), WAVELENGTH_KEYS)
        with np.load(path, allow_pickle=False) as loaded:
            listed = in_nanometres(loaded[named].ravel(), str(path), named) if named else ()
    mask = arrays.get(MASK_KEY) if cube != MASK_KEY else None
    return StoredArray(arrays[cube], dtypes[cube], (0, 1, 2), wavelengths=listed, key=cube, mask_shape=mask)


def open_npz(header: CubeHeader, stack: ExitStack) -> Any:
    """The cube, unpacked."""
    with np.load(header.path, allow_pickle=False) as members:
        return members[header.key]


def open_npy(header: CubeHeader, stack: ExitStack) -> Any:
    """The cube, mapped."""
    return np.load(header.path, mmap_mode="r", allow_pickle=False)
