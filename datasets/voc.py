"""Any data set in the Pascal VOC layout: photographs with palette masks, read in place."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._file_splits import LEARNING, Splits, fingerprint, mixed, split_by_hash
from ._image_files import Fit, check_same_size, file_facts, folder_at, pictures_in, read_classes, read_rgb

log = logging.getLogger(__name__)
VOID = 255
# fmt: off
PASCAL = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "potted_plant", "sheep", "sofa", "train", "tv_monitor",
)
# fmt: on


@dataset("voc")
class Voc(Dataset):
    """``JPEGImages/*.jpg`` with ``SegmentationClass/*.png`` (0 background, 255 void) and, if there, ``ImageSets``.

    Only photographs with a mask are samples. Void pixels become ``ignore``. The split lists
    ``ImageSets/Segmentation/{train,val}.txt`` give test = val and fit : validation = 80 : 20 of train; names that they
    hold beyond the existing files are counted in a warning. Without lists 60 : 20 : 20 by a hash of each file's name.

    Attributes:
        path: folder that holds JPEGImages.
        labels: ``mask``: the object class that covers most pixels, and the mask is that class's;
            ``prefix``: the class that the file's name begins with, and the mask is everything that is not background.
        classes: names joined by ``+``. For ``mask`` those of values 1, 2, ...; else class_names.txt, else Pascal's
            twenty. For ``prefix`` the beginnings, compared without case, digits and separators; photographs that
            begin with none of them are left out with a warning; else every beginning found, up to the first digit or
            separator.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        splits: ``lists`` where they exist, ``hash`` in any case, or ``test`` to make everything test data.

    Raises:
        BadInputError: a folder, file, mask value or name does not fit; the text names it.
    """

    path: Path
    labels: Literal["mask", "prefix"] = "mask"
    classes: str = ""
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    splits: Literal["lists", "hash", "test"] = "lists"

    def info(self) -> DatasetInfo:
        """Classes by the ``labels`` rule; licence and citation are the folder's own."""
        return DatasetInfo(
            classes=self._class_names,
            channels=3,
            has=frozenset({"labels", "mask", "ignore"}),
            licence="of the files at this path",
            citation=f"{self.path.name}, in the layout of Everingham et al., The PASCAL VOC Challenge, IJCV 2010",
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """File stems."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Picture, label, object mask and void border of one file stem."""
        if id not in self._files:
            raise BadInputError(f"{str(self._root)!r} has no sample {id!r}; take ids from ids(split).")
        picture, mask = self._files[id]
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

    @cached_property
    def _root(self) -> Path:
        root = folder_at(self.path, "voc")
        for name in ("JPEGImages", "SegmentationClass"):
            if not (root / name).is_dir():
                inner = sorted(str(found.parent) for found in root.glob(f"**/{name}"))
                hint = f" Did you mean path={inner[0]}?" if inner else ""
                raise BadInputError(f"{str(root)!r} has no {name} folder, so it is not in the VOC layout.{hint}")
        return root

    @cached_property
    def _files(self) -> dict[str, tuple[Path, Path]]:
        pictures, masks = pictures_in(self._root / "JPEGImages"), pictures_in(self._root / "SegmentationClass")
        both = {stem: (pictures[stem], masks[stem]) for stem in pictures if stem in masks}
        if not both:
            raise BadInputError(f"no file of JPEGImages has a mask of the same name in {self._root}/SegmentationClass.")
        if len(both) < len(pictures):
            log.info(
                "voc %s: %d of %d photographs have no mask and are no samples",
                self._root,
                len(pictures) - len(both),
                len(pictures),
            )
        if self.labels == "prefix" and self.classes:
            both = self._with_known_prefix(both)
        return both

    def _with_known_prefix(self, files: dict[str, tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
        wanted = tuple(_letters(name) for name in self._named)
        kept = {stem: pair for stem, pair in files.items() if _letters(stem).startswith(wanted)}
        if not kept:
            raise BadInputError(
                f"no file name begins with one of {', '.join(self._named)}; for example {min(files)!r}."
            )
        if left := sorted(set(files) - set(kept)):
            log.warning(
                "voc %s: %d files begin with none of %s and are left out: %s",
                self._root,
                len(left),
                self.classes,
                ", ".join(left[:5]),
            )
        return kept

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
            return {**split_by_hash(train, LEARNING), "test": mixed(val)}
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
