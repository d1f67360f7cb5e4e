"""Any pictures or cubes that a table lists: path, label, and where there are any, mask and split."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from ..bench.contract import BadInputError, DatasetInfo, Sample, Split, dataset
from ._catalogue import Recipe
from ._cube_dataset import CubeDataset
from ._cube_files import KINDS, stem_of
from ._cube_listing import Entry, Listing, is_one_of, tell_faults
from ._file_splits import LEARNING, SPLIT_NAMES, Splits, fingerprint, mixed, split_by_hash
from ._image_files import SUFFIXES, check_same_size, file_facts, folder_at, read_classes, read_rgb
from ._safe_paths import inside

MAX_TABLE_BYTES = 256 << 20
PICTURE_SIZE = 224


@dataclass(frozen=True)
class Row:
    """One line of the table; ``number`` counts from 1 with the header."""

    number: int
    path: str
    label: str
    mask: str
    split: str


@dataset("csv")
class Csv(CubeDataset):
    """A table with the columns ``path,label`` and, if there, ``mask`` and ``split``, of pictures or of cubes.

    Paths count from the table's folder and lead nowhere else. Splits are named train, val and test; without the column
    60 : 20 : 20 by a hash of each path; with train but no val, validation is 20 % of train. A row that does not fit
    (unknown label or split, missing or broken file) is left out with a warning. Bands, reflectance, leaf masks and size
    of cubes: see the parameters of ``CubeDataset``; pictures use ``size`` (224 where it is 0) and ``fit``.

    Attributes:
        classes: labels joined by ``+``, in the model's logit order; others are unknown; else all, sorted:
            as numbers where all are whole numbers (0, 1, 2, 10), else as text.
        root: folder that paths count from; else the table's.
        kind: what the files are; ``auto`` tells by their suffixes.

    Raises:
        BadInputError: the table cannot be read, no row is usable, or a parameter does not fit.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="your own table of pictures or cubes",
        get="Write a table; nothing has to be fetched.",
        layout="table.csv   path,label[,mask][,split] with a line a sample; paths count from the table's folder",
        size="yours",
        licence="of the files that the table lists",
        citation="the files' own",
    )
    classes: str = ""
    root: Path | None = None
    kind: Literal["auto", "pictures", "cubes"] = "auto"

    def info(self) -> DatasetInfo:
        """Classes, channels and truths of the usable rows."""
        if not self._of_pictures:
            return super().info()
        entries = self._pictures[0].values()
        has = {"labels": bool(self._classes), "mask": any(entry.mask for entry in entries)}
        return DatasetInfo(self._classes, 3, frozenset(truth for truth, there in has.items() if there), *self._terms)

    def sample(self, id: str) -> Sample:
        """Picture or cube, class and mask of one row."""
        if not self._of_pictures:
            return super().sample(id)
        if id not in self._pictures[0]:
            raise BadInputError(f"{str(self.path)!r} has no sample {id!r}; take ids from ids(split).")
        entry, size = self._pictures[0][id], self.size or PICTURE_SIZE
        mask = None
        if "mask" in self.info().has:
            mask = read_classes(entry.mask, size, self.fit) > 0 if entry.mask else np.zeros((size, size), dtype=bool)
        return Sample(id=id, input=read_rgb(entry.path, size, self.fit), label=entry.label, mask=mask)

    def content_hash(self) -> str:
        """Over names, sizes and times of all files used, and the table's labels and splits."""
        splits = [f"{split}\0{' '.join(ids)}" for split, ids in self._splits.items()]
        if not self._of_pictures:
            return fingerprint([super().content_hash(), *splits])
        facts = []
        for id, entry in self._pictures[0].items():
            files = [entry.path, *([entry.mask] if entry.mask else [])]
            facts += [f"{id}\0{entry.label}", *(fact for file in files for fact in file_facts([file], file.parent))]
        return fingerprint([*facts, *self._classes, *splits])

    def left_out(self) -> Mapping[str, str]:
        """Files that are no samples, with the reason."""
        return self._pictures[1] if self._of_pictures else super().left_out()

    @property
    def _terms(self) -> tuple[str, str]:
        return self.recipe.licence, f"files listed in {self.path}"

    # --- the table

    @cached_property
    def _root(self) -> Path:
        return folder_at(self.root, "csv") if self.root is not None else self._table.parent

    @property
    def _table(self) -> Path:
        table = self.path.expanduser()
        if not table.is_file():
            raise BadInputError(f"no table at {str(self.path)!r}; csv needs path=FILE with the columns path,label.")
        return table

    @cached_property
    def _rows(self) -> list[Row]:
        table = self._table
        if table.stat().st_size > MAX_TABLE_BYTES:
            raise BadInputError(f"{table} has {table.stat().st_size} bytes; a table of samples is smaller.")
        try:
            text = table.read_text(encoding="utf-8-sig")
            head = text.partition("\n")[0]
            lines = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise BadInputError(f"{table} cannot be read as a table: {error}.") from error
        names = [name.strip().lower() for name in lines[0]] if lines else []
        if "path" not in names:
            raise BadInputError(f"{table} has the columns {', '.join(names) or 'none'}; it needs path and label.")
        rows = []
        for number, line in enumerate(lines[1:], start=2):
            cells = dict(zip(names, (cell.strip() for cell in line), strict=False))
            if any(cells.values()):
                rows.append(Row(number, *(cells.get(name, "") for name in ("path", "label", "mask", "split"))))
        return [row for row in rows if not is_one_of(self._root / row.path, self._reference_files)]

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        labels = {row.label for row in self._rows if row.label}
        whole = all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in labels)
        listed = sorted(labels, key=lambda label: (int(label) if whole else 0, label))
        return tuple(name for name in self.classes.split("+") if name) or tuple(listed)

    @cached_property
    def _of_pictures(self) -> bool:
        if self.kind != "auto":
            return self.kind == "pictures"
        suffixes = {Path(row.path).suffix.lower() for row in self._rows}
        if suffixes <= {".tif", ".tiff"} and suffixes:
            raise BadInputError(f"{self.path} lists TIFF files only; pass kind=pictures or kind=cubes.")
        cubes, pictures = suffixes & (set(KINDS) - set(SUFFIXES)), suffixes & (set(SUFFIXES) - set(KINDS))
        if cubes and pictures:
            raise BadInputError(
                f"{self.path} lists pictures ({', '.join(sorted(pictures))}) and cubes ({', '.join(sorted(cubes))}); "
                "pass kind=pictures or kind=cubes, or split the table."
            )
        return not cubes

    @cached_property
    def _read_rows(self) -> tuple[dict[str, tuple[Entry, Split | None]], dict[str, str]]:
        found = dict[str, tuple[Entry, Split | None]]()
        faults = dict[str, str]()
        for row in self._rows:
            where = f"line {row.number} of {self.path}"
            if reason := self._fault(row):
                faults[where] = f"{where}: {reason}"
                continue
            path, label = self._root / row.path, self._classes.index(row.label) if self._classes else None
            mask = self._root / row.mask if row.mask else None
            id = (Path(row.path).parent / stem_of(path)).as_posix()
            if id in found:
                faults[where] = f"{where}: {row.path} is listed before, or shares its name with another file."
                continue
            found[id] = (Entry(path, label, mask, self._root), SPLIT_NAMES.get(row.split.lower()))
        return found, faults

    def _fault(self, row: Row) -> str:
        if not row.path:
            return "it has no path."
        if row.label not in self._classes and self._classes:
            return f"unknown label {row.label!r}; labels are {', '.join(self._classes)}."
        if row.split.lower() not in SPLIT_NAMES and any(other.split for other in self._rows):
            return f"unknown split {row.split!r}; splits are {', '.join(SPLIT_NAMES)}."
        return ""

    def _listing(self) -> Listing:
        found, faults = self._read_rows
        return Listing({id: entry for id, (entry, _) in found.items()}, faults)

    # --- pictures

    @cached_property
    def _pictures(self) -> tuple[Mapping[str, Entry], Mapping[str, str]]:
        listing = self._listing()
        usable, faults = dict[str, Entry](), dict(listing.faults)
        masked = any(entry.mask for entry in listing.entries.values())
        for id, entry in listing.entries.items():
            try:
                inside(entry.path, self._root)
                if self.check == "pixels":
                    read_rgb(entry.path, 8, "squash")
                if entry.mask:
                    check_same_size(entry.path, inside(entry.mask, self._root))
                    read_classes(entry.mask)
                elif masked and self.no_mask == "error":
                    raise BadInputError(f"{entry.path} has no mask, as others have; add it, or pass no_mask=empty.")
                usable[id] = entry
            except BadInputError as error:
                faults[str(entry.path)] = str(error)
        tell_faults(self.name, self.path, faults, len(usable), self.strict)
        return usable, faults

    @cached_property
    def _splits(self) -> Splits:
        return self._split(tuple(self._pictures[0] if self._of_pictures else self._usable))

    def _split(self, ids: Sequence[str]) -> Splits:
        named = {id: self._read_rows[0][id][1] for id in ids}
        if not any(named.values()):
            return split_by_hash(ids)
        found: Splits = {split: mixed(id for id in ids if named[id] == split) for split in set(SPLIT_NAMES.values())}
        if not found["test"] and found["validation"]:
            found["test"], found["validation"] = found["validation"], ()
        if not found["validation"]:
            found |= split_by_hash(found["fit"], LEARNING)
        return found
