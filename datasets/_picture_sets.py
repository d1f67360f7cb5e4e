"""What published sets of pictures share: lists that name files, ids in splits, truths fitted like their picture."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split
from ._catalogue import Recipe
from ._file_splits import Splits, fingerprint
from ._image_files import Fit, file_facts, folder_at, read_rgb
from ._safe_paths import inside

log = logging.getLogger(__name__)
TOLD_FILES = 20
Truth = tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]
"""Evidence and pixels without truth."""


@dataclass(frozen=True)
class Entry:
    """One picture of a set.

    Attributes:
        picture: its file.
        label: class index; None where unknown.
        truth: file of its mask, outline or boxes; None where it has none.
    """

    picture: Path
    label: int | None
    truth: Path | None = None


@dataclass(frozen=True)
class Listing:
    """All that a set's lists say.

    Attributes:
        root: folder that no file may lie outside of.
        classes: names in label order.
        entries: by id.
        splits: ids of each split.
    """

    root: Path
    classes: tuple[str, ...]
    entries: Mapping[str, Entry]
    splits: Splits


class PictureSet(Dataset):
    """Pictures named by a listing; a subclass says how the listing is read and what a truth file means."""

    recipe: ClassVar[Recipe]
    path: Path
    size: int
    fit: Fit
    strict: bool

    def info(self) -> DatasetInfo:
        """Classes of the listing, labels and the truths that its files hold."""
        return DatasetInfo(
            classes=self._listing.classes,
            channels=3,
            has=frozenset({"labels", *self._truths()}),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """Ids of the listing."""
        return self._listing.splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Picture, label and truths of one id."""
        if id not in self._listing.entries:
            raise BadInputError(f"{str(self.path)!r} has no sample {id!r}; take ids from ids(split).")
        entry = self._listing.entries[id]
        for file in (entry.picture, entry.truth):
            if file is not None:
                inside(file, self._listing.root)
        mask, ignore = self._truth(entry)
        picture = read_rgb(entry.picture, self.size, self.fit)
        return Sample(id=id, input=picture, label=entry.label, mask=mask, ignore=ignore)

    def content_hash(self) -> str:
        """Over names, sizes and times of all pictures and truths, and over labels and splits."""
        entries = self._listing.entries
        files = [file for entry in entries.values() for file in (entry.picture, entry.truth) if file is not None]
        labels = [f"{id}\0{entry.label}" for id, entry in entries.items()]
        splits = [f"{split}:{' '.join(ids)}" for split, ids in self._listing.splits.items()]
        return fingerprint([*file_facts(files, self._listing.root), *labels, *splits, *self._listing.classes])

    def left_out(self) -> Mapping[str, str]:
        """Pictures that the lists name and that are no samples, with the reason."""
        return self._there[1]

    def _list(self) -> Listing:
        raise NotImplementedError

    def _truths(self) -> tuple[str, ...]:
        """Those that :meth:`_truth` gives."""
        return ()

    def _truth(self, entry: Entry) -> Truth:
        return None, None

    @property
    def _listing(self) -> Listing:
        return self._there[0]

    @cached_property
    def _there(self) -> tuple[Listing, Mapping[str, str]]:
        listing = self._list()
        if not listing.entries:
            raise BadInputError(f"{str(listing.root)!r} holds no pictures of this data set.")
        wanted = {id: [entry.picture, *([entry.truth] if entry.truth else [])] for id, entry in listing.entries.items()}
        missing = missing_files(wanted, listing.root, self.name, self.strict)
        if not missing:
            return listing, missing
        entries = {id: entry for id, entry in listing.entries.items() if id not in missing}
        splits = {split: tuple(id for id in ids if id not in missing) for split, ids in listing.splits.items()}
        return replace(listing, entries=entries, splits=splits), missing


def missing_files(wanted: Mapping[str, Sequence[Path]], root: Path, name: str, strict: bool) -> dict[str, str]:
    """Ids that lack a file, with a sentence that names it; told in a warning.

    Raises:
        BadInputError: all lack one, or any does and ``strict`` asks for all.
    """
    lacking = {id: next(file for file in files if not file.is_file()) for id, files in wanted.items() if _lacks(files)}
    if lacking and (strict or len(lacking) == len(wanted)):
        names = [file.relative_to(root).as_posix() for file in lacking.values()]
        raise BadInputError(
            f"{len(lacking)} of {len(wanted)} samples lack a file that the lists name in {str(root)!r}: "
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}. Fetch and unpack the data set again."
        )
    faults = {id: f"{file} is not there, though the lists name it." for id, file in lacking.items()}
    for reason in list(faults.values())[:TOLD_FILES]:
        log.warning("%s leaves a sample out: %s", name, reason)
    if len(faults) > TOLD_FILES:
        log.warning("%s leaves %d more samples out; bench data lists them", name, len(faults) - TOLD_FILES)
    return faults


def _lacks(files: Sequence[Path]) -> bool:
    return not all(file.is_file() for file in files)


def root_with(path: Path, what: str, needed: Sequence[str], within: Sequence[str] = ()) -> Path:
    """The folder, or the first of its usual inner folders, that holds all that is needed.

    Raises:
        BadInputError: none does, or a part is a link to elsewhere; the text names it.
    """
    base = folder_at(path, what)
    for folder in (base, *(base / name for name in within)):
        if all((folder / name).exists() for name in needed):
            real = folder.resolve()
            if outside := [name for name in needed if not (folder / name).resolve().is_relative_to(real)]:
                raise BadInputError(f"{folder / outside[0]} leads out of {folder}; put the files into the folder.")
            return folder
    missing = ", ".join(name for name in needed if not (base / name).exists())
    raise BadInputError(f"{str(base)!r} has no {missing}; {what} needs path=FOLDER that holds {', '.join(needed)}.")


def read_lines(path: Path) -> tuple[str, ...]:
    """Lines of a list that are not empty and no ``#`` remarks.

    Raises:
        BadInputError: the file is missing, empty or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read as a list: {error}. Fetch the file again.") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not lines:
        raise BadInputError(f"{path} lists nothing. Fetch the file again.")
    return lines


def listed_file(folder: Path, name: str, source: Path) -> Path:
    """The file of a folder that a list names.

    Raises:
        BadInputError: the name leads out of the folder.
    """
    inner = PurePosixPath(name)
    if inner.is_absolute() or not inner.parts or ".." in inner.parts or "\\" in name:
        raise BadInputError(f"{source} lists {name!r}, which leads out of {folder}; names are like CLASS/FILE.jpg.")
    return folder / inner


def names_by_number(found: Iterable[tuple[int, str]], what: str, source: Path) -> tuple[str, ...]:
    """Names in the order of their numbers, which count from 1.

    Raises:
        BadInputError: a number has two names, or one below the largest has none.
    """
    names: dict[int, str] = {}
    for number, name in found:
        if names.setdefault(number, name) != name:
            raise BadInputError(f"lists in {source} give {what} {number} to {names[number]} and to {name}.")
    if absent := sorted(set(range(1, max(names) + 1)) - set(names)):
        raise BadInputError(f"lists in {source} have no picture of {what} {absent[0]}; the last is {max(names)}.")
    return tuple(names[number] for number in sorted(names))


def check_apart(lists: Mapping[str, Iterable[str]], source: Path) -> None:
    """Refuses lists that repeat a name or share one."""
    seen: dict[str, str] = {}
    for title, names in lists.items():
        for name in names:
            if name in seen:
                where = f"twice in {title}" if seen[name] == title else f"in both {seen[name]} and {title}"
                raise BadInputError(f"{name!r} is {where} of {source}; a picture belongs to one split.")
            seen[name] = title
