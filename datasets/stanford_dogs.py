"""Stanford Dogs, with the annotated boxes as coarse masks on request."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import official_splits
from ._image_files import Fit, fit_mask, stored_size
from ._mat_lists import read_mat, texts, whole_numbers
from ._picture_sets import Entry, Listing, PictureSet, Truth, check_apart, listed_file, names_by_number, root_with

LISTS = ("train_list.mat", "test_list.mat")
MAX_XML_BYTES = 2**20


@dataset("stanford_dogs")
class StanfordDogs(PictureSet):
    """Dogs of 120 breeds, with annotated boxes as coarse masks on request.

    ``Images/n02085620-Chihuahua/*.jpg``, ``{train,test}_list.mat``, ``Annotation/n02085620-Chihuahua/*`` (XML).

    Test data are test_list.mat; fit : validation = 80 : 20 of train_list.mat by a hash. The pictures are training
    pictures of ImageNet: models pretrained there have seen the test data.

    Attributes:
        path: folder that holds Images and the lists.
        masks: ``none``, or ``boxes``: everything inside the annotated boxes. A box holds background too, so that
            localisation figures on boxes do not compare with those on outlines; the choice is part of the spec and
            thereby of every result.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a list or box does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Stanford Dogs",
        get=(
            "Fetch images.tar, annotation.tar and lists.tar from http://vision.stanford.edu/aditya86/ImageNetDogs/ "
            "and unpack them into one folder."
        ),
        layout=(
            "Images/n02085620-Chihuahua/n02085620_10074.jpg ...\n"
            "Annotation/n02085620-Chihuahua/n02085620_10074   XML without suffix, boxes\n"
            "train_list.mat, test_list.mat   file_list, labels 1..120"
        ),
        size="757 MB and 21 MB of annotations; 12,000 learning and 8,580 test pictures",
        licence="ImageNet's terms: non-commercial research and education",
        citation=(
            "Khosla, Jayadevaprakash, Yao, Li, Novel Dataset for Fine-Grained Image Categorization, FGVC workshop, "
            "CVPR 2011"
        ),
        lacks="outlines: masks=boxes gives boxes, which hold background too",
        notes=("All pictures are training pictures of ImageNet: models pretrained there have seen the test data.",),
    )
    path: Path
    masks: Literal["none", "boxes"] = "none"
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    strict: bool = False

    def _list(self) -> Listing:
        needed = ("Images", *LISTS, *(("Annotation",) if self.masks == "boxes" else ()))
        root = root_with(self.path, "stanford_dogs", needed)
        lists = {name: _read(root / name) for name in LISTS}
        check_apart(lists, root)
        listed = {file: label for rows in lists.values() for file, label in rows.items()}
        entries = {
            _id(file): Entry(
                picture=listed_file(root / "Images", file, root),
                label=label - 1,
                truth=listed_file(root / "Annotation", _id(file), root) if self.masks == "boxes" else None,
            )
            for file, label in listed.items()
        }
        learn, test = (tuple(map(_id, lists[name])) for name in LISTS)
        return Listing(root, _breeds(listed, root), entries, official_splits(learn, test))

    def _truths(self) -> tuple[str, ...]:
        return ("mask",) if self.masks == "boxes" else ()

    def _truth(self, entry: Entry) -> Truth:
        if entry.truth is None:
            return None, None
        return fit_mask(_boxes(entry.truth, entry.picture), self.size, self.fit, entry.picture), None


def _read(path: Path) -> dict[str, int]:
    """Label from 1 by ``FOLDER/FILE.jpg``."""
    found = read_mat(path, "file_list", "labels")
    files = texts(found["file_list"], path, "file_list")
    labels = whole_numbers(found["labels"], path, "labels")
    if len(files) != len(labels):
        raise BadInputError(f"{path} lists {len(files)} files and {len(labels)} labels.")
    check_apart({path.name: files}, path)
    return dict(zip(files, labels, strict=True))


def _id(file: str) -> str:
    return file.removesuffix(".jpg")


def _breeds(listed: dict[str, int], root: Path) -> tuple[str, ...]:
    folders = names_by_number(((label, file.partition("/")[0]) for file, label in listed.items()), "label", root)
    return tuple(folder.partition("-")[2] or folder for folder in folders)


def _boxes(path: Path, picture: Path) -> NDArray[np.bool_]:
    """True inside any box of a Pascal annotation; its pixels are counted from 1, corners included."""
    content = path.read_bytes()
    # Entities are where XML becomes dangerous, and no annotation has any.
    if len(content) > MAX_XML_BYTES or b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise BadInputError(f"{path} is no annotation: it is larger than 1 MiB or declares XML entities.")
    width, height = stored_size(picture)
    try:
        tree = ElementTree.fromstring(content)
        announced = tuple(int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        corners = [
            [round(float(box.findtext(name, ""))) for name in ("xmin", "ymin", "xmax", "ymax")]
            for box in tree.iterfind("object/bndbox")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as an annotation: {error}.") from error
    if all(announced) and announced != (width, height):
        raise BadInputError(
            f"{path} describes a picture of {announced[0]}x{announced[1]}, but {picture} is {width}x{height}."
        )
    mask = np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in corners:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise BadInputError(
                f"{path} has the box {left, top, right, bottom}, which does not lie in {picture} ({width}x{height})."
            )
        mask[max(top - 1, 0) : bottom, max(left - 1, 0) : right] = True
    if not corners:
        raise BadInputError(f"{path} has no box.")
    return mask
