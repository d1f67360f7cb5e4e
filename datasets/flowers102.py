"""Oxford Flowers-102, with the segmentations as masks where they are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import mixed
from ._image_files import Fit, fit_mask, read_colours
from ._mat_lists import read_mat, whole_numbers
from ._picture_sets import Entry, Listing, PictureSet, Truth, check_apart, root_with

log = logging.getLogger(__name__)
LISTS = ("trnid", "valid", "tstid")
PAPER = 255 - 64, 64
"""The background is painted (0, 0, 254); JPEG moves it: blue above the first, red and green below the second."""
# fmt: off
CLASSES = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea",
    "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)
# fmt: on


@dataset("flowers102")
class Flowers102(PictureSet):
    """Flowers of 102 kinds, with segmentations as masks where they are there.

    ``jpg/image_00001.jpg``, ``imagelabels.mat``, ``setid.mat`` and, if there, ``segmim/segmim_00001.jpg``.

    Splits are the authors': fit = trnid (1,020), validation = valid (1,020), test = tstid (6,149). Much published code
    swaps trnid and tstid to train on the larger list; its accuracies do not compare.

    Attributes:
        path: folder that holds jpg, or the one above (flowers-102).
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        splits: ``official``, or ``swapped`` to repeat experiments that were trained on tstid and tested on trnid.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a number has no picture; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Oxford Flowers-102",
        get=(
            "Fetch 102flowers.tgz, imagelabels.mat, setid.mat and, for masks, 102segmentations.tgz from "
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ and unpack them into one folder."
        ),
        layout=(
            "jpg/image_00001.jpg ... image_08189.jpg\n"
            "imagelabels.mat   labels 1..102\n"
            "setid.mat   trnid, valid, tstid\n"
            "segmim/segmim_00001.jpg ...   optional: background painted blue"
        ),
        size="330 MB and 190 MB of masks; 1,020 fit, 1,020 validation and 6,149 test pictures",
        licence="research use; the photographs belong to their authors",
        citation="Nilsback, Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
        lacks="band truth; without segmim no masks",
        notes=(
            "Much published code trains on tstid and tests on trnid, because tstid is larger: splits=swapped "
            "repeats that.",
            "The segmentations were made by an algorithm, not by hand, and a few are poor.",
        ),
    )
    path: Path
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    splits: Literal["official", "swapped"] = "official"
    strict: bool = False

    def _list(self) -> Listing:
        root = root_with(self.path, "flowers102", ("jpg", "imagelabels.mat", "setid.mat"), ("flowers-102",))
        labels_file, sets_file = root / "imagelabels.mat", root / "setid.mat"
        labels = whole_numbers(read_mat(labels_file, "labels")["labels"], labels_file, "labels")
        if max(labels) > len(CLASSES):
            raise BadInputError(f"{labels_file} has label {max(labels)}; Flowers-102 has 1 to {len(CLASSES)}.")
        sets = read_mat(sets_file, *LISTS)
        lists = {name: whole_numbers(sets[name], sets_file, name) for name in LISTS}
        check_apart({name: [f"image_{n:05d}" for n in numbers] for name, numbers in lists.items()}, sets_file)
        if len(lists["trnid"]) > len(lists["tstid"]):
            log.warning(
                "flowers102: trnid of %s is longer than tstid; the published file is the other way round", sets_file
            )
        beyond = [number for numbers in lists.values() for number in numbers if number > len(labels)]
        if beyond:
            raise BadInputError(f"{sets_file} names picture {beyond[0]}, but {labels_file} has {len(labels)} labels.")
        segmentations = root / "segmim"
        entries = {
            f"image_{number:05d}": Entry(
                picture=root / "jpg" / f"image_{number:05d}.jpg",
                label=labels[number - 1] - 1,
                truth=segmentations / f"segmim_{number:05d}.jpg" if segmentations.is_dir() else None,
            )
            for numbers in lists.values()
            for number in numbers
        }
        fit, validation, test = (mixed(f"image_{number:05d}" for number in lists[name]) for name in LISTS)
        if self.splits == "swapped":
            fit, test = test, fit
        return Listing(root, CLASSES, entries, {"fit": fit, "validation": validation, "test": test})

    def _truths(self) -> tuple[str, ...]:
        return ("mask",) if (self._listing.root / "segmim").is_dir() else ()

    def _truth(self, entry: Entry) -> Truth:
        if entry.truth is None:
            return None, None
        red, green, blue = read_colours(entry.truth).transpose(2, 0, 1)
        background = (blue > PAPER[0]) & (red < PAPER[1]) & (green < PAPER[1])
        return fit_mask(~background, self.size, self.fit, entry.picture), None
