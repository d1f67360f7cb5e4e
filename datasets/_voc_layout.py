"""The Pascal VOC layout: photographs with palette masks; what ``voc`` and ``voc2012`` share."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError, Dataset, Sample, Split
from ._file_splits import Splits, fingerprint, mixed, official_splits, split_by_hash
from ._image_files import Fit, check_same_size, file_facts, folder_at, pictures_in, read_classes, read_rgb
from ._safe_paths import inside

log = logging.getLogger(__name__)
VOID = 255
# fmt: off
PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "potted_plant", "sheep", "sofa", "train", "tv_monitor",
)
# fmt: on


class VocLayout(Dataset):
    """``JPEGImages``, ``SegmentationClass`` and lists in ``ImageSets/Segmentation``; a subclass has the parameters."""

    path: Path
    labels: Literal["mask", "prefix"]
    classes: str
    size: int
    fit: Fit
    splits: Literal["lists", "hash", "test"]
    strict: bool

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """File stems."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Picture, label, object mask and void border of one file stem."""
        if id not in self._files:
            raise BadInputError(f"{str(self._root)!r} has no sample {id!r}; take ids from ids(split).")
        picture, mask = (inside(file, self._root) for file in self._files[id])
        check_same_size(picture, mask)
        label = self._label_of_mask(mask) if self.labels == "mask" else self._label_of_name[id]
        values = read_classes(mask, self.size, self.fit)
        evidence = values == (label + 1) if self.labels == "mask" and label is not None else _objects(values)
        return Sample(
            id=id,
            input=read_rgb(picture, self.size, self.fit),
            label=label,
            mask=evidence,
            ignore=values == VOID,
        )

    def content_hash(self) -> str:
        """Over names, sizes and times of all files used, and over the lists."""
        paths = [path for pair in self._files.values() for path in pair]
        facts = file_facts(paths, self._root)
        return fingerprint([*facts, *(f"{split}:{' '.join(ids)}" for split, ids in self._splits.items())])

    def left_out(self) -> Mapping[str, str]:
        """Photographs that are no samples though they have a mask, with the reason."""
        return self._found[1]

    @cached_property
    def _root(self) -> Path:
        root = folder_at(self.path, self.name)
        for name in ("JPEGImages", "SegmentationClass"):
            if not (root / name).is_dir():
                inner = sorted(str(found.parent) for found in root.glob(f"**/{name}"))
                hint = f" Did you mean path={inner[0]}?" if inner else ""
                raise BadInputError(f"{str(root)!r} has no {name} folder, so it is not in the VOC layout.{hint}")
        return root

    @property
    def _files(self) -> dict[str, tuple[Path, Path]]:
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
        """Photograph and mask by stem, and what is left out."""
        pictures, masks = pictures_in(self._root / "JPEGImages"), pictures_in(self._root / "SegmentationClass")
        both = {stem: (pictures[stem], masks[stem]) for stem in pictures if stem in masks}
        if not both:
            raise BadInputError(f"no file of JPEGImages has a mask of the same name in {self._root}/SegmentationClass.")
        if bare := len(pictures) - len(both):
            log.info("voc %s: %d of %d photographs have no mask and are no samples", self._root, bare, len(pictures))
        if self.labels == "mask" or not self.classes:
            return both, {}
        return self._with_known_prefix(both)

    def _with_known_prefix(
        self, files: dict[str, tuple[Path, Path]]
    ) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
        wanted = tuple(_letters(name) for name in self._named)
        kept = {stem: pair for stem, pair in files.items() if _letters(stem).startswith(wanted)}
        if not kept:
            raise BadInputError(
                f"no file name begins with one of {', '.join(self._named)}; for example {min(files)!r}."
            )
        left = sorted(set(files) - set(kept))
        faults = {stem: f"{files[stem][0]} begins with none of {', '.join(self._named)}." for stem in left}
        if faults and self.strict:
            raise BadInputError(
                f"{faults[left[0]]} {len(left)} such files in all; without strict=true they are left out."
            )
        if faults:
            log.warning(
                "voc %s: %d files begin with none of %s and are left out: %s",
                self._root,
                len(left),
                self.classes,
                ", ".join(left[:5]),
            )
        return kept, faults

    @cached_property
    def _named(self) -> tuple[str, ...]:
        return tuple(name for name in self.classes.split("+") if name)

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        if self._named:
            return self._named
        if self.labels == "prefix":
            return tuple(sorted({_beginning(stem) for stem in self._files}))
        for listed in (self._root / "class_names.txt", self._root.parent / "class_names.txt"):
            if listed.is_file():
                names = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
                return tuple(name for name in names if name not in ("_background_", "background", "__ignore__"))
        return PASCAL

    @cached_property
    def _label_of_name(self) -> dict[str, int]:
        if not self._named:
            return {stem: self._class_names.index(_beginning(stem)) for stem in self._files}
        # The longest beginning wins, so that `leaf+leaf_blast` sorts leaf_blast_3 into leaf_blast.
        ranked = sorted(enumerate(self._named), key=lambda item: -len(_letters(item[1])))
        return {
            stem: next(label for label, name in ranked if _letters(stem).startswith(_letters(name)))
            for stem in self._files
        }

    def _label_of_mask(self, mask: Path) -> int | None:
        values = read_classes(mask)
        pixels = np.bincount(values[_objects(values)], minlength=2)
        if not pixels.any():
            return None
        value = int(pixels.argmax())
        if len(pixels) - 1 > len(self._class_names):
            raise BadInputError(
                f"mask {mask} holds value {len(pixels) - 1}, but there are {len(self._class_names)} class names; "
                "pass classes=NAME+NAME+... or put class_names.txt beside JPEGImages."
            )
        return value - 1

    @cached_property
    def _splits(self) -> Splits:
        if self.splits == "test":
            return {"fit": (), "validation": (), "test": mixed(self._files)}
        train, val = self._listed("train"), self._listed("val")
        if self.splits == "lists" and train and val:
            shared = sorted(set(train) & set(val))
            if shared:
                raise BadInputError(
                    f"{len(shared)} names are in both train.txt and val.txt of {self._root}: {shared[:3]}."
                )
            return official_splits(train, val)
        return split_by_hash(self._files)

    def _listed(self, name: str) -> tuple[str, ...]:
        path = self._root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if not path.is_file():
            return ()
        listed = dict.fromkeys(line.split()[0] for line in path.read_text().splitlines() if line.strip())
        there = tuple(stem for stem in listed if stem in self._files)
        if len(there) < len(listed):
            log.warning(
                "voc: %s lists %d names, %d of them have no files here", path, len(listed), len(listed) - len(there)
            )
        return there


def _objects(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    objects: NDArray[np.bool_] = (values != 0) & (values != VOID)
    return objects


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]", "", name).lower()


def _beginning(stem: str) -> str:
    return re.split(r"[\W\d_]", stem, maxsplit=1)[0].lower() or "other"
