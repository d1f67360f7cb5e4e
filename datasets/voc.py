"""Any data set in the Pascal VOC layout: photographs with palette masks, read in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..bench.contract import DatasetInfo, dataset
from ._catalogue import Recipe
from ._image_files import Fit
from ._voc_layout import VocLayout


@dataset("voc")
class Voc(VocLayout):
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
        strict: a photograph or mask that cannot be read, or a name of no class, is an error; else it is left out with
            a warning.

    Raises:
        BadInputError: a folder, file, mask value or name does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="your own pictures with masks, in the Pascal VOC layout",
        get="Export your annotations as palette masks in this layout; nothing has to be fetched.",
        layout=(
            "JPEGImages/x.jpg ...\n"
            "SegmentationClass/x.png ...                  one value a pixel: 0 background, 255 void\n"
            "ImageSets/Segmentation/train.txt, val.txt    optional: the split\n"
            "class_names.txt                              optional: names of the values 1, 2, ..."
        ),
        size="yours",
        licence="of the files at this path",
        citation="the files' own; the layout: Everingham et al., The PASCAL VOC Challenge, IJCV 2010",
        lacks="band truth",
        notes=("The published VOC 2012 has a reader of its own, voc2012.",),
    )
    path: Path
    labels: Literal["mask", "prefix"] = "mask"
    classes: str = ""
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    splits: Literal["lists", "hash", "test"] = "lists"
    strict: bool = False

    def info(self) -> DatasetInfo:
        """Classes by the ``labels`` rule; licence and citation are the folder's own."""
        return DatasetInfo(
            classes=self._class_names,
            channels=3,
            has=frozenset({"labels", "mask", "ignore"}),
            licence=self.recipe.licence,
            citation=f"{self.path.name}, in the layout of Everingham et al., The PASCAL VOC Challenge, IJCV 2010",
        )
