"""Caltech-101, with the clicked outlines as masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import split_by_hash
from ._image_files import Fit, fit_mask, pictures_in, stored_size
from ._mat_lists import read_mat
from ._picture_sets import Entry, Listing, PictureSet, Truth, root_with
from ._safe_paths import folders_in

CLUTTER = "BACKGROUND_Google"
OUTLINES = {"Faces": "Faces_2", "Faces_easy": "Faces_3", "Motorbikes": "Motorbikes_16", "airplanes": "Airplanes_Side_2"}
"""Folders of Annotations that are called otherwise than the pictures' ones."""


@dataset("caltech101")
class Caltech101(PictureSet):
    """Objects of 101 classes, with clicked outlines as masks.

    ``101_ObjectCategories/CLASS/image_0001.jpg`` and ``Annotations/CLASS/annotation_0001.mat``.

    The set has no split of its own: 60 : 20 : 20 by a hash of each file's name. Outlines are stored relative to their
    box; the mask is the outline moved to the box's corner.

    Attributes:
        path: folder that holds 101_ObjectCategories, or the one above (caltech101, caltech-101).
        background: adds the clutter pictures of BACKGROUND_Google as a class of their own, with empty masks.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, an outline does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Caltech-101",
        get=(
            "Fetch caltech-101.zip from https://data.caltech.edu/records/mzrjq-6wc02 (doi 10.22002/D1.20086), then "
            "unpack 101_ObjectCategories.tar.gz and Annotations.tar inside it."
        ),
        layout=(
            "101_ObjectCategories/accordion/image_0001.jpg ...\n"
            "Annotations/accordion/annotation_0001.mat ...   optional: box_coord, obj_contour"
        ),
        size="137 MB; 8,677 pictures of 101 classes and 467 of background",
        licence="CC BY 4.0",
        citation="Li, Andreeto, Ranzato, Perona, Caltech 101, CaltechDATA, doi 10.22002/D1.20086, 2022",
        lacks="an official split: 60 : 20 : 20 by a hash of the name; band truth",
        notes=(
            "Outlines are stored relative to their box and are moved to it here; many readers forget that.",
            "Four folders of outlines have other names than their pictures: Faces_2, Faces_3, Motorbikes_16, "
            "Airplanes_Side_2.",
        ),
    )
    path: Path
    background: bool = False
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    strict: bool = False

    @property
    def _outlined(self) -> bool:
        return (self._listing.root / "Annotations").is_dir()

    def _list(self) -> Listing:
        root = root_with(self.path, "caltech101", ("101_ObjectCategories",), ("caltech101", "caltech-101"))
        folders = folders_in(root / "101_ObjectCategories", root)
        if not self.background:
            folders.pop(CLUTTER, None)
        outlines = root / "Annotations"
        entries = {
            f"{name}/{stem}": Entry(picture, label, _outline(outlines, name, picture) if outlines.is_dir() else None)
            for label, (name, folder) in enumerate(folders.items())
            for stem, picture in pictures_in(folder).items()
        }
        return Listing(root, tuple(folders), entries, split_by_hash(entries))

    def _truths(self) -> tuple[str, ...]:
        return ("mask",) if self._outlined else ()

    def _truth(self, entry: Entry) -> Truth:
        if not self._outlined:
            return None, None
        if entry.truth is None:
            return np.zeros((self.size, self.size), dtype=bool), None
        return fit_mask(_drawn(entry.truth, entry.picture), self.size, self.fit, entry.picture), None


def _outline(outlines: Path, name: str, picture: Path) -> Path | None:
    number = re.fullmatch(r"image_(\d+)", picture.stem)
    if number is None:
        raise BadInputError(f"{picture} is called otherwise than image_0001.jpg, so that it has no outline.")
    return None if name == CLUTTER else outlines / OUTLINES.get(name, name) / f"annotation_{number[1]}.mat"


def _drawn(path: Path, picture: Path) -> NDArray[np.bool_]:
    """The inside of an outline over the picture's stored pixels; MATLAB counts these from 1, at their centres."""
    from skimage.draw import polygon2mask

    width, height = stored_size(picture)
    found = read_mat(path, "box_coord", "obj_contour")
    box, contour = found["box_coord"], found["obj_contour"]
    if box.size != 4 or contour.ndim != 2 or contour.shape[0] != 2 or contour.shape[1] < 3:
        raise BadInputError(f"{path} has a box of {box.size} numbers and an outline of {contour.shape}; 4 and 2 x N.")
    top, bottom, left, right = (float(value) for value in box.ravel())
    columns, rows = contour.astype(float) + np.array([[left], [top]]) - 1
    if not (np.isfinite(columns).all() and np.isfinite(rows).all() and 0 <= left < right and 0 <= top < bottom):
        raise BadInputError(f"{path} has the box {top, bottom, left, right}; it is top, bottom, left, right.")
    mask: NDArray[np.bool_] = polygon2mask((height, width), np.stack([rows, columns], axis=1))
    if not mask.any():
        raise BadInputError(f"the outline of {path} holds no pixel of {picture} ({width}x{height}).")
    return mask
