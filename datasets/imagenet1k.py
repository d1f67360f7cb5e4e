"""The validation pictures of ImageNet-1k, in class folders or flat with a file of the truth."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import Splits, mixed, split_by_hash
from ._image_files import Fit, folder_at, pictures_in
from ._imagenet_names import class_names, label_of, wordnet_ids
from ._mat_lists import read_mat
from ._picture_sets import Entry, Listing, PictureSet, read_lines
from ._safe_paths import folders_in, inside

VALIDATION = ("val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val")
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTHS = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",
    "ILSVRC2012_validation_ground_truth.txt",
    f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt",
)
WORDS = ("synset_words.txt", "LOC_synset_mapping.txt")
WORDNET = re.compile(r"n\d{8}")
Labels = Callable[[str], int | None]
"""Class index by file stem."""


@dataset("imagenet1k")
class Imagenet1k(PictureSet):
    """The 50,000 validation photographs of ImageNet-1k, without masks.

    ``val/n01440764/*.JPEG``, or ``val/ILSVRC2012_val_00000001.JPEG`` with a file of the truth beside ``val``.

    Known truths: ``LOC_val_solution.csv`` (Kaggle), ``imagenet_2012_validation_synset_labels.txt`` (one WordNet id a
    picture), ``val.txt`` (``FILE LABEL`` from 0, as Caffe counts), and the devkit's
    ``ILSVRC2012_validation_ground_truth.txt``, whose numbers are **not** the labels of any checkpoint and are
    translated by the devkit's meta.mat. Everything is test data. Names of classes come from synset_words.txt or
    LOC_synset_mapping.txt where they are, else from timm.

    Accuracy on it is not the published one: ``crop`` takes the whole central square, evaluations of published weights
    its middle only (timm's ``crop_pct``, 0.9 for augreg weights).

    Attributes:
        path: folder that holds val, or val itself.
        truth: file of the truth; else the first known one that is there.
        size: side in pixels of the square samples.
        fit: ``crop`` keeps the aspect ratio of the central square, ``squash`` the whole picture.
        splits: ``test``, or ``hash`` for 60 : 20 : 20 by a hash of the name, where methods have to learn.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a class is unknown; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="ImageNet-1k (ILSVRC 2012), validation",
        get=(
            "Register at https://image-net.org, fetch ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, "
            "unpack the first into val; or use class folders or the Kaggle copy."
        ),
        layout=(
            "val/n01440764/*.JPEG ...   or val/ILSVRC2012_val_00000001.JPEG ... with one of:\n"
            "LOC_val_solution.csv, imagenet_2012_validation_synset_labels.txt, val.txt,\n"
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt and meta.mat\n"
            "synset_words.txt or LOC_synset_mapping.txt   optional: names of the classes"
        ),
        size="6.7 GB; 50,000 pictures",
        licence="ImageNet's terms: non-commercial research and education",
        citation="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015, 211-252",
        lacks="masks (see imagenet_segmentation); a split: all is test data",
        notes=(
            "The numbers of the devkit's ground truth count in another order than every checkpoint; they are "
            "translated by meta.mat.",
            "Accuracy is not comparable with published ones: fit=crop takes the whole central square, they its middle "
            "only (timm's crop_pct, 0.9 for augreg weights).",
        ),
    )
    path: Path
    truth: Path | None = None
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "crop"
    splits: Literal["test", "hash"] = "test"
    strict: bool = False

    def _list(self) -> Listing:
        root = folder_at(self.path, "imagenet1k")
        folder = next((root / name for name in VALIDATION if (root / name).is_dir()), root)
        classes = folders_in(folder, root)
        entries = _foldered(classes, folder) if any(map(WORDNET.fullmatch, classes)) else self._flat(root, folder)
        ids = tuple(entries)
        everything: Splits = {"fit": (), "validation": (), "test": mixed(ids)}
        splits = split_by_hash(ids) if self.splits == "hash" else everything
        words = next((root / name for name in WORDS if (root / name).is_file()), None)
        return Listing(root, class_names(words), entries, splits)

    def _flat(self, root: Path, folder: Path) -> dict[str, Entry]:
        pictures = pictures_in(folder)
        if not pictures:
            raise BadInputError(f"{folder} holds neither folders like n01440764 nor pictures. Pass path=FOLDER.")
        places = (root, folder.parent) if folder == root else (root,)
        known = (inside(place / name, place) for place in places for name in TRUTHS if (place / name).is_file())
        truth = self.truth or next(known, None)
        if truth is None:
            raise BadInputError(f"{folder} has no class folders and {root} no file of the truth ({', '.join(TRUTHS)}).")
        label = _labels(truth.expanduser())
        found = {stem: Entry(picture, label(stem)) for stem, picture in pictures.items()}
        if unknown := [stem for stem, entry in found.items() if entry.label is None]:
            raise BadInputError(f"{truth} has no label for {len(unknown)} of {len(found)} pictures, e.g. {unknown[0]}.")
        return found


def _foldered(classes: Mapping[str, Path], folder: Path) -> dict[str, Entry]:
    if unknown := sorted(set(classes) - set(wordnet_ids())):
        raise BadInputError(f"{folder / unknown[0]} is no class of ImageNet-1k; folders are like n01440764.")
    return {
        f"{name}/{stem}": Entry(picture, label_of()[name])
        for name, child in classes.items()
        for stem, picture in pictures_in(child).items()
    }


def _labels(truth: Path) -> Labels:
    """The reader of a file of the truth, by what its lines look like."""
    lines = read_lines(truth)
    if lines[0].lower().startswith("imageid,"):
        return _by_name({row[0]: row[1].split()[0] for row in csv.reader(lines[1:]) if len(row) == 2 and row[1]}, truth)
    words = [line.split() for line in lines]
    if all(len(word) == 2 for word in words):
        return _by_name({Path(name).stem: value for name, value in words}, truth)
    if any(len(word) != 1 for word in words):
        raise BadInputError(f"{truth} has lines of different kinds, e.g. {lines[0]!r}.")
    if WORDNET.fullmatch(lines[0]):
        return _by_number(lines, label_of(), truth)
    return _by_number(lines, _devkit(truth), truth)


def _by_name(values: Mapping[str, str], truth: Path) -> Labels:
    labels = {}
    for stem, value in values.items():
        label = int(value) if value.isdigit() else label_of().get(value, -1)
        if not 0 <= label < len(wordnet_ids()):
            raise BadInputError(f"{truth} has the unknown class {value!r} for {stem}.")
        labels[stem] = label
    return labels.get


def _by_number(lines: tuple[str, ...], labels: Mapping[str, int], truth: Path) -> Labels:
    """Line n belongs to the picture whose name ends with n."""
    if unknown := [line for line in lines if line not in labels]:
        raise BadInputError(f"{truth} has the unknown class {unknown[0]!r}.")

    def label(stem: str) -> int | None:
        number = re.search(r"(\d+)$", stem)
        line = int(number[1]) if number else 0
        return labels[lines[line - 1]] if 1 <= line <= len(lines) else None

    return label


def _devkit(truth: Path) -> dict[str, int]:
    """Label by the devkit's own number, which counts in another order."""
    meta = truth.with_name("meta.mat")
    if not meta.is_file():
        raise BadInputError(
            f"{truth} holds numbers of the ILSVRC2012 devkit, which are no labels; put its meta.mat beside it."
        )
    synsets = read_mat(meta, "synsets")["synsets"].ravel()
    try:
        named = {str(int(row["ILSVRC2012_ID"].item())): str(row["WNID"].item()) for row in synsets}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise BadInputError(f"{meta} has no synsets with ILSVRC2012_ID and WNID: {error}.") from error
    return {number: label_of()[name] for number, name in named.items() if name in label_of()}
