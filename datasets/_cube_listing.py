"""Which of the files that a layout of cubes names are samples, their masks, and what is wrong with the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._cube_files import read_mask_in
from ._cube_header import CubeHeader
from ._cube_steps import Spectrum, is_finite, told
from ._image_files import read_classes
from ._safe_paths import inside
from ._wavelengths import Nanometres

log = logging.getLogger(__name__)
TOLD_FILES = 20
SAME_NM = 0.05


@dataclass(frozen=True)
class Entry:
    """A sample that the layout names, before its files are looked at.

    Attributes:
        path: the cube, for ENVI its header.
        label: class index; None where unknown.
        mask: a picture or .npy file of evidence; None where there is none.
        mask_root: folder that the mask must lie in.
        traits: continuous truths; None where the data set has none.
    """

    path: Path
    label: int | None = None
    mask: Path | None = None
    mask_root: Path | None = None
    traits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """Entries by id, and what the layout itself leaves out, by file with the reason."""

    entries: Mapping[str, Entry]
    faults: Mapping[str, str]


@dataclass(frozen=True)
class Usable:
    """An entry whose files were found sound."""

    entry: Entry
    header: CubeHeader
    spectrum: Spectrum

    @property
    def has_mask(self) -> bool:
        """A file beside it or the cube's own file says where the evidence is."""
        return self.entry.mask is not None or self.header.has_mask


def is_one_of(path: Path, files: Iterable[Path]) -> bool:
    """Whether the path is one of these files, by whatever name; what cannot be opened is none of them."""
    try:
        return any(path.samefile(file) for file in files)
    except OSError:
        return False


def tell_faults(name: str, path: Path, faults: Mapping[str, str], usable: int, strict: bool) -> None:
    """Warns of the files that are left out.

    Raises:
        BadInputError: no file is usable, or one is not and ``strict`` asks for all.
    """
    first = next(iter(faults.values()), "")
    if faults and strict:
        raise BadInputError(f"{first} {len(faults)} bad files in all; without strict=true they are left out.")
    if not usable:
        why = f"{len(faults)} files cannot be used, the first: {first}" if faults else "no file is a cube."
        raise BadInputError(f"{name} found nothing to use in {str(path)!r}: {why}")
    for reason in list(faults.values())[:TOLD_FILES]:
        log.warning("%s leaves a file out: %s", name, reason)
    if len(faults) > TOLD_FILES:
        log.warning("%s leaves %d more files out; bench data lists them", name, len(faults) - TOLD_FILES)


def with_masks(usable: dict[str, Usable], faults: dict[str, str]) -> dict[str, Usable]:
    """All where no file has a mask, else those with one; the others become faults."""
    masked = {id: one for id, one in usable.items() if one.has_mask}
    if not masked:
        return usable
    for id, one in usable.items():
        if id not in masked:
            path = one.entry.path
            faults[str(path)] = f"{path} has no mask, as other files have; add it, or pass no_mask=empty."
    return masked


def of_one_spectrum(usable: dict[str, Usable], faults: dict[str, str]) -> dict[str, Usable]:
    """Those whose bands are the commonest; the others become faults."""
    kinds = Counter(_bands_of(one) for one in usable.values())
    if len(kinds) < 2:
        return usable
    total = len(usable)
    (count, _), _ = common = kinds.most_common(1)[0]
    pattern = next(one.spectrum for one in usable.values() if _bands_of(one) == common[0])
    for id, one in list(usable.items()):
        if _bands_of(one) != common[0]:
            theirs = told(one.spectrum.centres) if one.spectrum.centres else f"{len(one.spectrum.low)} bands"
            ours = told(pattern.centres) if pattern.centres else f"{count} bands"
            faults[str(one.entry.path)] = (
                f"{one.header.path} has {theirs}, but {common[1]} of {total} files have {ours}; pass "
                "resample= to bring all to the same bands."
            )
            del usable[id]
    return usable


def check_mask(usable: Usable, root: Path) -> None:
    """Refuses a mask file that leads out of its root or is of another size than its cube."""
    entry, shape = usable.entry, usable.header.shape[:2]
    if entry.mask is None:
        return
    inside(entry.mask, entry.mask_root or root)
    found = _mask_file(entry.mask).shape
    if found != shape:
        raise BadInputError(
            f"mask {entry.mask} has {found[0]} x {found[1]} pixels, cube {entry.path} {shape[0]} x {shape[1]}."
        )


def read_mask(usable: Usable) -> NDArray[np.bool_]:
    """The evidence of a cube, [rows, columns]; nothing where it has no mask."""
    if usable.entry.mask is not None:
        return _mask_file(usable.entry.mask)
    if usable.header.has_mask:
        return read_mask_in(usable.header)
    return np.zeros(usable.header.shape[:2], dtype=bool)


def _mask_file(path: Path) -> NDArray[np.bool_]:
    if path.suffix.lower() != ".npy":
        return read_classes(path) > 0
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInputError(f"mask {path} cannot be read: {error}.") from error
    if stored.ndim != 2 or stored.dtype.kind not in "buif":
        raise BadInputError(f"mask {path} is {stored.dtype} {stored.shape}; a mask has rows and columns of numbers.")
    return np.asarray(stored != 0)


def _bands_of(usable: Usable) -> tuple[int, Nanometres]:
    centres = usable.spectrum.centres
    return len(usable.spectrum.low), tuple(round(nm / SAME_NM) * SAME_NM for nm in centres)


@lru_cache(maxsize=100_000)
def refuse_broken(header: CubeHeader, changed: int, refuse: bool) -> None:
    """Reads all numbers once a process; ``changed`` makes a file that was mended count as another."""
    if not is_finite(header) and refuse:
        raise BadInputError(
            f"{header.path} holds NaN or infinite values; mend the file, or pass nan=zero to ignore such pixels."
        )


def without_twins(paths: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], dict[str, str]]:
    """Files by id, and faults of files that share one."""
    found, faults = dict[str, Path](), dict[str, str]()
    twins = set()
    for id, path in paths:
        if id in found:
            twins.add(id)
            faults[str(path)] = f"{found[id].name} and {path.name} in {path.parent} share one id; rename one of them."
        else:
            found[id] = path
    return {id: path for id, path in found.items() if id not in twins}, faults
