"""Tomato bacterial leaf spot: scans of inoculated tomato leaves over days, by two cameras."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..bench.contract import BadInputError, dataset
from ._catalogue import Recipe
from ._cube_dataset import CubeDataset
from ._cube_files import stem_of
from ._cube_listing import Entry, Listing, without_twins
from ._file_splits import Splits, split_by_hash
from ._safe_paths import files_in, folders_in

DEPTH = 3
REFERENCE = "cloth"


@dataset("tomato_bls")
class TomatoBls(CubeDataset):
    """Pairs ``X.bil`` + ``X.bil.hdr`` below the folder; camera and time point are read from the names.

    A sample is a whole scan. Files with ``cloth`` in their name are white references, no samples: pass one as
    ``white=``. Scans are 60 : 20 : 20 by a hash of their names; runs of one plant cannot be told apart, and may lie in
    two splits. Bands, size, leaf masks and what happens to bad files: see the parameters of ``CubeDataset``.

    Attributes:
        camera: ``swir`` (890 to 1720 nm in the header seen) or ``visnir``; their scans do not lie over each other.
        labels: ``time``: one class a time point, before, 2h, 1dai, 2dai, ... (days after inoculation);
            ``after``: before against after inoculation.

    Raises:
        BadInputError: no usable scan; the text names it and the reason.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Tomato bacterial leaf spot, hyperspectral",
        get="Fetch the files from USDA Ag Data Commons, doi 10.15482/USDA.ADC/26046328.v2.",
        layout="X.bil + X.bil.hdr, ENVI, in folders up to three deep; X holds the camera (visnir, vis or swir), the "
        "time (before inoculation or _bi_, 2h, Ndai or DN) and, for white references, cloth",
        size="not known here; one SWIR scan seen has 559 x 320 pixels and 168 bands, 60 MB",
        licence="see the record at Ag Data Commons; not readable from here",
        citation="Zhang, Vinatzer, Li, Hyperspectral imaging analysis for early detection of tomato bacterial leaf "
        "spot disease, Scientific Reports 14, 27666, 2024, doi 10.1038/s41598-024-78650-6; data: Li, 2024, doi "
        "10.15482/USDA.ADC/26046328.v2",
        lacks="masks and band truth: localisation and spectral truth cannot be scored on it, faithfulness can. Which "
        "leaves are controls does not follow from the names seen, so inoculated against control is not offered",
        notes=(
            "The reader follows published parsers and one header; the VIS-NIR files were not seen.",
            "Values are divided by the header's reflectance scale factor.",
        ),
    )
    size: Annotated[int, Field(ge=0)] = 96
    camera: Literal["swir", "visnir"] = "swir"
    labels: Literal["time", "after"] = "time"

    @cached_property
    def _scans(self) -> tuple[Mapping[str, tuple[Path, str]], Mapping[str, str]]:
        """Header and time point by id, and faults."""
        folders, level = [self._root], [self._root]
        for _ in range(DEPTH):
            level = [inner for folder in level for inner in folders_in(folder, self._root).values()]
            folders += level
        headers = [p for folder in folders for p in files_in(folder, lambda path: path.suffix.lower() == ".hdr")]
        ids = (((p.parent.relative_to(self._root) / stem_of(p)).as_posix(), p) for p in headers)
        found, faults = without_twins(ids)
        scans = {}
        for id, path in found.items():
            try:
                if REFERENCE not in path.name.lower() and camera_of(path) == self.camera:
                    scans[id] = (path, time_of(path))
            except BadInputError as error:
                faults[str(path)] = str(error)
        return scans, faults

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        if self.labels == "after":
            return "before", "after"
        return tuple(sorted({time for _, time in self._scans[0].values()}, key=_order))

    def _listing(self) -> Listing:
        scans, faults = self._scans
        entries = {
            id: Entry(path, self._classes.index(time) if self.labels == "time" else int(time != "before"))
            for id, (path, time) in scans.items()
        }
        return Listing(entries, faults)

    def _split(self, ids: Sequence[str]) -> Splits:
        return split_by_hash(ids)


def camera_of(path: Path) -> str:
    """``swir`` or ``visnir``.

    Raises:
        BadInputError: the name says neither.
    """
    name = path.name.lower()
    for token, camera in (("swir", "swir"), ("vis", "visnir"), ("vnir", "visnir")):
        if token in name:
            return camera
    raise BadInputError(f"{path} names no camera; expected swir, visnir or vis.")


def time_of(path: Path) -> str:
    """``before``, ``2h`` or ``Ndai``.

    Raises:
        BadInputError: the name says none of these.
    """
    name = re.sub(r"[\s_.-]+", " ", path.name.lower())
    if re.search(r"before|\bbi\b", name):
        return "before"
    if re.search(r"(?<!\d)2 ?h", name):
        return "2h"
    if days := re.search(r"(?<!\d)(\d+) ?dai\b|\bd(\d+)\b", name):
        return f"{int(days[1] or days[2])}dai"
    raise BadInputError(f"{path} names no time point; expected before inoculation, bi, 2h, or days such as 3dai or D3.")


def _order(time: str) -> tuple[int, int]:
    return {"before": (0, 0), "2h": (1, 0)}.get(time) or (2, int(time.removesuffix("dai")))
