"""Cubes in TIFF files: mapped where the pixels lie in one piece, else page by page."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._cube_header import CubeHeader, StoredArray, check_size, package


class _Pages:
    """Pages of a TIFF as bands, read when asked for."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        pages, inner = index[0], index[1:]
        wanted = list(range(*pages.indices(len(self._file.pages)))) if isinstance(pages, slice) else list(pages)
        return np.stack([self._file.pages[page].asarray() for page in wanted])[(slice(None), *inner)]


def inspect_tiff(path: Path, key: str, max_bytes: int) -> StoredArray:
    """What the file announces of its cube: its first series, or all pages where they were written one by one."""
    with package("tifffile").TiffFile(path) as file:
        series = file.series[0]
        shape, dtype, letters = tuple(series.shape), series.dtype, series.axes
        pages = list(series.pages)
        if _one_by_one(file):
            pages = list(file.pages)
            shape, letters = (len(pages), *shape), "QYX"
        packed = any(page.compression != 1 for page in pages)
        ends = [
            start + length
            for page in pages
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    if dtype is None or not ends:
        raise BadInputError(f"{path} holds no pixels.")
    if max(ends) > path.stat().st_size:
        raise BadInputError(f"{path} ends at byte {path.stat().st_size}, but its pixels run to {max(ends)}: truncated.")
    if packed:
        check_size(path, math.prod(shape) * dtype.itemsize, max_bytes)
    return StoredArray(shape, dtype, (0, 1, 2), bands_first=not re.match("YX", letters), certain=not packed)


def open_tiff(header: CubeHeader, stack: ExitStack) -> Any:
    """The cube, mapped or read when indexed where its pages allow it."""
    file = stack.enter_context(package("tifffile").TiffFile(header.path))
    if _one_by_one(file):
        return _Pages(file)
    series = file.series[0]
    if series.dataoffset is not None:
        kind = np.dtype(file.byteorder + series.dtype.char)
        return np.memmap(header.path, kind, "r", series.dataoffset, tuple(series.shape))
    by_page = header.axes[2] == 0 and len(file.pages) == header.shape[2] and file.pages[0].ndim == 2
    return _Pages(file) if by_page else series.asarray()


def _one_by_one(file: Any) -> bool:
    """Whether each page is a series of its own, and all are planes of one shape and type."""
    series = file.series
    alike = {(tuple(one.shape), one.dtype) for one in series}
    return len(series) == len(file.pages) > 1 == len(alike) and len(series[0].shape) == 2
