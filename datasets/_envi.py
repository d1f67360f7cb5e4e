"""ENVI cubes (a text header beside raw numbers), read in place; tolerant where the header leaves no doubt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._wavelengths import Nanometres, in_nanometres

log = logging.getLogger(__name__)
DATA_SUFFIXES = (".raw", ".img", ".dat", ".bil", ".bsq", ".bip", ".bin", ".cube", "")
DATA_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
AXES = {
    "bsq": ("bands", "lines", "samples"),
    "bil": ("lines", "bands", "samples"),
    "bip": ("lines", "samples", "bands"),
}
MAX_HEADER_BYTES = 16 << 20


@dataclass(frozen=True)
class EnviHeader:
    """What a header says of its data file.

    Attributes:
        data: the file of numbers.
        shape: rows, columns, bands.
        dtype: with its byte order.
        interleave: order of the axes in the file.
        offset: bytes before the first number.
        scale: divide by it to get reflectance; 1 where the header names none.
        ignored: value of pixels without data; None where there is none, or where it is 0.
        wavelengths: in nm; empty where the header has none.
    """

    data: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    interleave: Literal["bsq", "bil", "bip"]
    offset: int
    scale: float
    ignored: float | None
    wavelengths: Nanometres

    def numbers(self) -> NDArray[Any]:
        """The file as [rows, columns, bands], memory-mapped."""
        axes = AXES[self.interleave]
        sizes = dict(zip(("lines", "samples", "bands"), self.shape, strict=True))
        stored = np.memmap(self.data, self.dtype, "r", self.offset, tuple(sizes[axis] for axis in axes))
        return stored.transpose([axes.index(axis) for axis in ("lines", "samples", "bands")])


def read_header(path: Path) -> EnviHeader:
    """The header, held against its data file.

    A missing byte order means little endian, a missing interleave BSQ, a missing offset 0.

    Raises:
        BadInputError: no header, a missing or impossible entry, no data file, or one of another size.
    """
    entries = _entries(path)
    rows, columns, bands = (_whole(entries, key, path) for key in ("lines", "samples", "bands"))
    code = _whole(entries, "data type", path)
    if code not in DATA_TYPES:
        raise BadInputError(f"{path} has data type {code}; real numbers are {', '.join(map(str, DATA_TYPES))}.")
    order = _whole(entries, "byte order", path, 0)
    interleave = entries.get("interleave", "bsq").lower()
    if interleave not in AXES or order not in (0, 1):
        raise BadInputError(
            f"{path} has interleave {interleave!r} and byte order {order}; allowed are bsq, bil, bip and 0, 1."
        )
    if _whole(entries, "file compression", path, 0):
        raise BadInputError(f"{path} says that its data are compressed; unpack them and remove `file compression`.")
    dtype = np.dtype(("<", ">")[order] + DATA_TYPES[code])
    offset = _whole(entries, "header offset", path, 0)
    data = _data_file(path)
    announced, there = offset + rows * columns * bands * dtype.itemsize, data.stat().st_size
    if there != announced:
        kind = "truncated" if there < announced else "of another shape or type"
        raise BadInputError(
            f"{data} holds {there} bytes, but {path.name} announces {announced} ({rows} x {columns} x {bands} "
            f"{dtype.name}): the data are {kind}."
        )
    ignored = _number(entries, "data ignore value", path)
    return EnviHeader(
        data=data,
        shape=(rows, columns, bands),
        dtype=dtype,
        interleave=interleave,  # type: ignore[arg-type]
        offset=offset,
        scale=_scale(entries, path),
        ignored=ignored or None,
        wavelengths=_wavelengths(entries, bands, path),
    )


def _entries(path: Path) -> Mapping[str, str]:
    size = path.stat().st_size
    if size > MAX_HEADER_BYTES:
        raise BadInputError(f"{path} has {size} bytes; an ENVI header is a short text.")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if "\0" in text:
        raise BadInputError(f"{path} is no text, so it is no ENVI header.")
    found: dict[str, str] = {}
    key, pieces = "", list[str]()
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith(";")]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not key:
            name, equals, value = line.partition("=")
            if not equals:
                continue
            key, line = " ".join(name.split()).lower(), value.strip()
            if not line and following.startswith("{"):
                continue
        pieces.append(line)
        if pieces[0].startswith("{") and "}" not in line:
            continue
        found[key] = " ".join(pieces)
        key, pieces = "", []
    if key:
        raise BadInputError(f"{path} ends within the braces of {key!r}; the header is truncated.")
    return found


def _whole(entries: Mapping[str, str], key: str, path: Path, default: int | None = None) -> int:
    text = entries.get(key)
    if text is None and default is not None:
        return default
    least = 0 if default is not None else 1
    if text is None or not text.isascii() or not text.isdigit() or not least <= int(text[:19]) < 1 << 60:
        raise BadInputError(f"{path} has {key} = {text}; an ENVI header needs a whole number there.")
    return int(text)


def _number(entries: Mapping[str, str], key: str, path: Path) -> float | None:
    if key not in entries:
        return None
    try:
        return float(entries[key])
    except ValueError:
        raise BadInputError(f"{path} has {key} = {entries[key]}, which is no number.") from None


def _scale(entries: Mapping[str, str], path: Path) -> float:
    scale = _number(entries, "reflectance scale factor", path)
    if scale is None:
        return 1.0
    if not 0 < scale < float("inf"):
        raise BadInputError(f"{path} has reflectance scale factor = {scale:g}; it is a positive number.")
    return scale


def _wavelengths(entries: Mapping[str, str], bands: int, path: Path) -> Nanometres:
    listed = [piece for piece in entries.get("wavelength", "").strip("{} ").replace(",", " ").split() if piece]
    unit = entries.get("wavelength units", "")
    if not listed or unit.lower() == "index":
        return ()
    if len(listed) != bands:
        raise BadInputError(f"{path} lists {len(listed)} wavelengths for {bands} bands.")
    try:
        values = [float(piece) for piece in listed]
        if unit.lower() in ("", "unknown") and values in (list(range(bands)), list(range(1, bands + 1))):
            _tell_numbers(path, bands)
            return ()
        return in_nanometres(values, str(path), unit)
    except ValueError as error:
        raise BadInputError(str(error) if isinstance(error, BadInputError) else f"{path}: {error}.") from None


@cache
def _tell_numbers(path: Path, bands: int) -> None:
    """Once a process: headers are read again with every sample."""
    log.warning(
        "wavelengths of %s are the numbers of its %d bands without a unit, so none are known; pass wavelengths=",
        path, bands,
    )  # fmt: skip


def _data_file(header: Path) -> Path:
    """``x.raw`` or ``x`` of ``x.hdr``, and ``x.img`` of ``x.img.hdr``."""
    base = header.with_suffix("")
    double = base.suffix.lower() in DATA_SUFFIXES[:-1]
    names = [base.name] if double else []
    names += [base.name + cased for suffix in DATA_SUFFIXES for cased in dict.fromkeys((suffix, suffix.upper()))]
    found = [path for path in (header.with_name(name) for name in dict.fromkeys(names)) if _there(path)]
    if not found:
        raise BadInputError(f"{header} has no data file beside it; expected {base.name} with .raw, .img, .bil or none.")
    if len(found) > 1 and not double and not found[0].samefile(found[1]):
        raise BadInputError(f"{header} may belong to {' or '.join(path.name for path in found)}; keep one of them.")
    return found[0]


def _there(path: Path) -> bool:
    """Whether a file or a link of this name exists; where a link leads is judged by the caller."""
    return path.is_symlink() or path.is_file()
