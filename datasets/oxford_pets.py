"""Oxford-IIIT Pets, with the trimaps as masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._file_splits import official_splits
from ._image_files import Fit, check_same_size, read_classes
from ._picture_sets import (
    Entry,
    Listing,
    PictureSet,
    Truth,
    check_apart,
    listed_file,
    names_by_number,
    read_lines,
    root_with,
)

PET, BACKGROUND, BORDER = 1, 2, 3
SPECIES = ("cat", "dog")
LISTS = ("trainval.txt", "test.txt")


@dataset("oxford_pets")
class OxfordPets(PictureSet):
    """Cats and dogs of 37 breeds, with trimaps as masks.

    ``images/*.jpg``, ``annotations/{trainval,test}.txt`` and ``annotations/trimaps/*.png``.

    Test data are test.txt; fit : validation = 80 : 20 of trainval.txt by a hash. Trimaps: 1 is the pet and becomes the
    mask, 3 is the unsure border and becomes ``ignore``, 2 is background.

    Attributes:
        path: folder that holds images and annotations, or the one above (oxford-iiit-pet).
        labels: ``breed`` (37) or ``species`` (cat, dog).
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing or damaged, a line or trimap does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Oxford-IIIT Pets",
        get=(
            "Fetch images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/ and "
            "unpack both into one folder."
        ),
        layout=(
            "images/Abyssinian_1.jpg ...\n"
            "annotations/trainval.txt, test.txt   NAME BREED SPECIES NUMBER\n"
            "annotations/trimaps/Abyssinian_1.png ...   1 pet, 2 background, 3 border"
        ),
        size="790 MB and 19 MB of annotations; 3,680 learning and 3,669 test pictures",
        licence="CC BY-SA 4.0",
        citation="Parkhi, Vedaldi, Zisserman, Jawahar, Cats and Dogs, CVPR 2012",
        lacks="band truth",
        notes=(
            "The border (3) is unsure and is left out of every localisation figure.",
            "Copies on model hubs often lack the trimaps.",
        ),
    )
    path: Path
    labels: Literal["breed", "species"] = "breed"
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    strict: bool = False

    def _list(self) -> Listing:
        root = root_with(self.path, "oxford_pets", ("images", "annotations"), ("oxford-iiit-pet",))
        notes, trimaps = root / "annotations", root / "annotations" / "trimaps"
        lists = {name: _read(notes / name) for name in LISTS}
        check_apart(lists, notes)
        listed = {stem: numbers for rows in lists.values() for stem, numbers in rows.items()}
        numbered = ((breed, stem.rpartition("_")[0]) for stem, (breed, _) in listed.items())
        breeds = names_by_number(numbered, "breed", notes)
        entries = {
            stem: Entry(
                picture=listed_file(root / "images", f"{stem}.jpg", notes),
                label=breed - 1 if self.labels == "breed" else species - 1,
                truth=listed_file(trimaps, f"{stem}.png", notes) if trimaps.is_dir() else None,
            )
            for stem, (breed, species) in listed.items()
        }
        learn, test = (tuple(lists[name]) for name in LISTS)
        classes = breeds if self.labels == "breed" else SPECIES
        return Listing(root, classes, entries, official_splits(learn, test))

    def _truths(self) -> tuple[str, ...]:
        return ("mask", "ignore") if (self._listing.root / "annotations" / "trimaps").is_dir() else ()

    def _truth(self, entry: Entry) -> Truth:
        if entry.truth is None:
            return None, None
        check_same_size(entry.picture, entry.truth)
        unknown = sorted(set(np.unique(read_classes(entry.truth)).tolist()) - {PET, BACKGROUND, BORDER})
        if unknown:
            raise BadInputError(
                f"trimap {entry.truth} holds value {unknown[0]}; known are 1 pet, 2 background, 3 border."
            )
        values = read_classes(entry.truth, self.size, self.fit)
        return values == PET, values == BORDER


def _read(path: Path) -> dict[str, tuple[int, int]]:
    """Breed from 1 and species from 1 by file stem."""
    rows: dict[str, tuple[int, int]] = {}
    for line in read_lines(path):
        words = line.split()
        if len(words) != 4 or not all(word.isdigit() for word in words[1:]) or int(words[1]) < 1:
            raise BadInputError(f"{path} has line {line!r}; lines are NAME BREED SPECIES NUMBER.")
        if int(words[2]) not in (1, 2):
            raise BadInputError(f"{path} has species {words[2]} for {words[0]}; known are 1 cat and 2 dog.")
        if words[0] in rows:
            raise BadInputError(f"{path} lists {words[0]!r} twice.")
        rows[words[0]] = int(words[1]), int(words[2])
    return rows
