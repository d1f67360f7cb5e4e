"""HyperLeaf2024: wheat leaves of four cultivars and three levels of fertilizer in 204 bands."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._cube_dataset import CubeDataset
from ._cube_listing import Entry, Listing
from ._file_splits import Splits, split_by_hash
from ._wavelengths import Nanometres

BANDS = 204
CULTIVARS = ("Heerup", "Kvium", "Rembrandt", "Sheriff")
FERTILIZER = (0.0, 0.5, 1.0)
TRAITS = ("GrainWeight", "Gsw", "PhiPS2")


def band_centres() -> Nanometres:
    """The published centres, which the files do not hold, by a formula that gives them to their rounding."""
    return tuple(round(397.3206 + 2.881397 * i + 5.17673e-4 * i * i, 2) for i in range(BANDS))


@dataset("hyperleaf2024")
class Hyperleaf2024(CubeDataset):
    """``images/00000.tiff`` with 204 pages each and ``train.csv``: 1,590 labelled leaves, 48 x 352 pixels.

    Labels of the competition's test images were withheld, so samples are its training images, 60 : 20 : 20 by a hash of
    their number. Leaves of one plot cannot be told from the table, and may lie in two splits: accuracy is optimistic.
    Values are divided by 65535. The leaf is where any band is above 0. Bands, size and what happens to bad files: see
    the parameters of ``CubeDataset``.

    Attributes:
        task: classes: four cultivars, three levels of fertilizer, or both together (twelve); or ``traits``, the grain
            weight, stomatal conductance and PhiPS2 of the table, for regression.

    Raises:
        BadInputError: no usable image; the text names it and the reason.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="HyperLeaf2024",
        get="Accept the rules of the Kaggle competition HyperLeaf2024, then: kaggle competitions download -c "
        "hyperleaf2024. It may not be passed on, so it is not shipped or fetched here.",
        layout="images/00000.tiff ... 02409.tiff   204 pages of 48 x 352, uint16\ntrain.csv   ImageId,GrainWeight,Gsw,"
        "PhiPS2,Fertilizer,Heerup,Kvium,Rembrandt,Sheriff",
        size="16.7 GB unpacked; 1,590 labelled images and 820 without labels",
        licence="rules of the Kaggle competition",
        citation="Laprade et al., HyperLeaf2024, CVPR workshop on Fine-Grained Visual Categorization (FGVC11), 2024",
        lacks="masks and band truth: localisation and spectral truth cannot be scored on it, faithfulness can",
        notes=(
            "Splits by plot are not possible from the table; random splits leak plots.",
            "TIFF needs pip install 'vitxai[hsi]'; files saved with LZW compression also need imagecodecs.",
            "Grain weight, stomatal conductance and PhiPS2 are regressions: task=traits, and no classes.",
        ),
    )
    leaf: Literal["none", "ndvi", "nir", "nonzero"] = "nonzero"
    threshold: float = 0.0
    task: Literal["cultivar", "fertilizer", "both", "traits"] = "cultivar"

    @property
    def _known_wavelengths(self) -> Nanometres:
        return band_centres()

    @property
    def _known_scale(self) -> float:
        return 65535.0

    @property
    def _traits(self) -> tuple[str, ...]:
        return TRAITS if self.task == "traits" else ()

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        if self.task == "traits":
            return ()
        levels = tuple(f"fertilizer_{level:g}" for level in FERTILIZER)
        if self.task == "cultivar":
            return CULTIVARS
        return levels if self.task == "fertilizer" else tuple(f"{c}_{level}" for c in CULTIVARS for level in levels)

    def _listing(self) -> Listing:
        table = self._root / "train.csv"
        if not table.is_file():
            raise BadInputError(f"no train.csv in {str(self._root)!r}; `bench data hyperleaf2024` shows the layout.")
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
        needed = TRAITS if self.task == "traits" else ("Fertilizer", *CULTIVARS)
        absent = [name for name in ("ImageId", *needed) if not rows or name not in rows[0]]
        if absent:
            raise BadInputError(f"{table} has no column {', '.join(absent)}.")
        entries, faults = dict[str, Entry](), dict[str, str]()
        for row in rows:
            # Spreadsheets drop the leading zeros.
            id = (row["ImageId"] or "").strip().zfill(5)
            try:
                if not id.isdigit() or id in entries:
                    raise BadInputError(f"ImageId {id!r} of {table} is no number, or stands there twice.")
                if self.task == "traits":
                    entries[id] = Entry(self._image(id), traits=_traits_of(row, id))
                else:
                    entries[id] = Entry(self._image(id), self._label(row, id))
            except BadInputError as error:
                faults[id] = str(error)
        return Listing(entries, faults)

    def _image(self, id: str) -> Path:
        for suffix in (".tiff", ".tif"):
            if (path := self._root / "images" / f"{id}{suffix}").exists():
                return path
        raise BadInputError(f"{self._root / 'images' / id}.tiff is missing, though train.csv lists it.")

    def _label(self, row: dict[str, str], id: str) -> int:
        try:
            marks = [float(row[name]) for name in CULTIVARS]
            level = FERTILIZER.index(float(row["Fertilizer"]))
        except (ValueError, TypeError):
            raise BadInputError(
                f"image {id} has Fertilizer={row['Fertilizer']} and cultivars {[row[name] for name in CULTIVARS]} in "
                f"train.csv; allowed are {', '.join(f'{known:g}' for known in FERTILIZER)} and one 1 among zeros."
            ) from None
        if sorted(marks) != [0.0, 0.0, 0.0, 1.0]:
            raise BadInputError(f"image {id} has cultivars {marks} in train.csv; exactly one of them is 1.")
        cultivar = marks.index(1.0)
        return {"cultivar": cultivar, "fertilizer": level, "both": cultivar * len(FERTILIZER) + level}[self.task]

    def _split(self, ids: Sequence[str]) -> Splits:
        return split_by_hash(ids)


def _traits_of(row: dict[str, str], id: str) -> tuple[float, ...]:
    try:
        values = tuple(float(row[name]) for name in TRAITS)
    except (ValueError, TypeError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise BadInputError(f"image {id} has {', '.join(f'{name}={row[name]!r}' for name in TRAITS)} in train.csv.")
    return values
