"""Pascal VOC 2012 segmentation, by its own split lists."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from ..bench.contract import DatasetInfo, dataset
from ._catalogue import Recipe
from ._file_splits import Splits, official_splits
from ._image_files import Fit
from ._picture_sets import check_apart, listed_file, missing_files, read_lines, root_with
from ._voc_layout import PASCAL, VocLayout

LISTS = ("train", "val")


@dataset("voc2012")
class Voc2012(VocLayout):
    """Pascal VOC 2012, segmentation: objects of 20 classes with masks and void borders.

    ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/{train,val}.txt``, all that these lists name.

    Test data are val.txt (1,449), as the server's test masks are not public; fit : validation = 80 : 20 of train.txt
    (1,464) by a hash. The label is the class that covers most pixels, the mask all pixels of that class, and void
    pixels (255) are ``ignore``. For other data in this layout see ``voc``.

    Attributes:
        path: VOC2012, or a folder above (VOCdevkit).
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a mask value is unknown; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Pascal VOC 2012, segmentation",
        get="Fetch https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar and unpack it.",
        layout=(
            "VOCdevkit/VOC2012/JPEGImages/*.jpg\n"
            "VOCdevkit/VOC2012/SegmentationClass/*.png   0 background, 1..20 classes, 255 void\n"
            "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt, val.txt"
        ),
        size="1.9 GB; 1,464 learning and 1,449 test pictures",
        licence="Flickr's terms of use; for research",
        citation=(
            "Everingham, Eslami, Van Gool, Williams, Winn, Zisserman, The PASCAL Visual Object Classes Challenge: "
            "A Retrospective, IJCV 2015"
        ),
        lacks="band truth; masks of the true test set are not public, so that val is the test data",
        notes=(
            "Many pictures show several classes: the label is the one that covers most pixels, and the mask is its "
            "own.",
            "Void (255) is left out of every localisation figure.",
        ),
    )
    labels, classes, splits = "mask", "+".join(PASCAL), "lists"  # without annotations, so that they are no parameters
    path: Path
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    strict: bool = False

    def info(self) -> DatasetInfo:
        """Pascal's twenty classes."""
        return DatasetInfo(
            classes=PASCAL,
            channels=3,
            has=frozenset({"labels", "mask", "ignore"}),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
        )

    @cached_property
    def _root(self) -> Path:
        needed = ("JPEGImages", "SegmentationClass", *(f"ImageSets/Segmentation/{name}.txt" for name in LISTS))
        return root_with(self.path, "voc2012", needed, ("VOC2012", "VOCdevkit/VOC2012"))

    @cached_property
    def _lists(self) -> Mapping[str, tuple[str, ...]]:
        folder = self._root / "ImageSets" / "Segmentation"
        lists = {name: tuple(line.split()[0] for line in read_lines(folder / f"{name}.txt")) for name in LISTS}
        check_apart(lists, folder)
        return lists

    @cached_property
    def _found(self) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
        """All that the lists name; what has no files is left out."""
        files = {
            stem: _files(self._root, stem)
            for stem in sorted(stem for listed in self._lists.values() for stem in listed)
        }
        missing = missing_files(files, self._root, self.name, self.strict)
        return {stem: pair for stem, pair in files.items() if stem not in missing}, missing

    @cached_property
    def _splits(self) -> Splits:
        learn, test = (tuple(stem for stem in self._lists[name] if stem in self._files) for name in LISTS)
        return official_splits(learn, test)


def _files(root: Path, stem: str) -> tuple[Path, Path]:
    source = root / "ImageSets" / "Segmentation"
    return (
        listed_file(root / "JPEGImages", f"{stem}.jpg", source),
        listed_file(root / "SegmentationClass", f"{stem}.png", source),
    )
