"""MIT Indoor-67: scenes, split by the authors' lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import official_splits
from ._image_files import Fit
from ._picture_sets import Entry, Listing, PictureSet, check_apart, listed_file, read_lines, root_with

LISTS = ("TrainImages.txt", "TestImages.txt")


@dataset("mit_indoor67")
class MitIndoor67(PictureSet):
    """Indoor scenes of 67 classes, without masks.

    ``Images/CLASS/*.jpg`` with ``TrainImages.txt`` and ``TestImages.txt``, lines ``CLASS/FILE.jpg``.

    Test data are TestImages.txt (20 a class); fit : validation = 80 : 20 of TrainImages.txt (80 a class) by a hash.
    Pictures that neither list names are no samples. There are no masks.

    Attributes:
        path: folder that holds Images and both lists.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a line does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="MIT Indoor-67",
        get=(
            "Fetch indoorCVPR_09.tar, TrainImages.txt and TestImages.txt from "
            "https://web.mit.edu/torralba/www/indoor.html and unpack them into one folder."
        ),
        layout=("Images/airport_inside/*.jpg ...\nTrainImages.txt, TestImages.txt   CLASS/FILE.jpg"),
        size="2.4 GB; 5,360 learning and 1,340 test pictures of 15,620",
        licence="research use; the photographs belong to their authors",
        citation="Quattoni, Torralba, Recognizing Indoor Scenes, CVPR 2009",
        lacks="masks, so that nothing about localisation can be scored (the LabelMe outlines of a part are not read)",
        notes=("Pictures that neither list names are no samples.",),
    )
    path: Path
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    strict: bool = False

    def _list(self) -> Listing:
        root = root_with(self.path, "mit_indoor67", ("Images", *LISTS))
        lists = {name: read_lines(root / name) for name in LISTS}
        check_apart(lists, root)
        for name, files in lists.items():
            if wrong := [file for file in files if file.count("/") != 1]:
                raise BadInputError(f"{root / name} has line {wrong[0]!r}; lines are CLASS/FILE.jpg.")
        classes = tuple(sorted({file.partition("/")[0] for files in lists.values() for file in files}))
        entries = {
            file: Entry(listed_file(root / "Images", file, root / name), classes.index(file.partition("/")[0]))
            for name, files in lists.items()
            for file in files
        }
        learn, test = (lists[name] for name in LISTS)
        return Listing(root, classes, entries, official_splits(learn, test))
