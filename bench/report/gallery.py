"""The gallery of one board: best, median and worst sample, one heat map an explainer, from ``gallery/<board>.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..board_figures import Leaderboard
from ..contract import BadInputError
from . import figures_text as text
from .heatmaps import data_uri, heat_map, picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROLES = ("best", "median", "worst")
# The run chooses its samples by this column, averaged over the explainers, and writes them in this order.
CHOSEN_BY = "spatial_iou"


@dataclass(frozen=True, eq=False)
class GalleryFile:
    """What the run kept for the page.

    Attributes:
        model: spec of the one model shown.
        samples: [S] ids, best first.
        images: [S, H, W, 3] uint8.
        masks: [S, H, W] bool; None where the data have no truth.
        maps: explainer -> [S, h, w] spatial maps; NaN where there is none.
        infrared: [S, H, W, 3] uint8, false colours from bands that the eye does not see; None where there are none.
    """

    model: str
    samples: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None
    maps: Mapping[str, NDArray[np.float64]]
    infrared: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Picture:
    """One inline picture with its caption and its text for those who do not see it."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of a board: a head of samples, then one line of heat maps an explainer."""

    model: str
    column: str
    head: tuple[tuple[str, Picture, Picture | None], ...]
    lines: tuple[tuple[str, tuple[str, ...], tuple[Picture | None, ...]], ...]
    has_masks: bool


def read_gallery(path: Path) -> GalleryFile:
    """Reads ``gallery/<board>.npz``.

    Raises:
        BadInputError: an array is missing.
    """
    with np.load(path, allow_pickle=False) as file:
        missing = [key for key in ("model", "samples", "images", "explainers", "maps") if key not in file]
        if missing:
            raise BadInputError(f"{path} lacks {', '.join(missing)}; it has {', '.join(file)}. Run `bench run` again.")
        maps = file["maps"].astype(np.float64)
        return GalleryFile(
            model=str(file["model"]),
            samples=tuple(map(str, file["samples"])),
            images=file["images"],
            masks=file.get("masks"),
            maps={str(name): maps[i] for i, name in enumerate(file["explainers"])},
            infrared=file.get("infrared"),
        )


def gallery(file: GalleryFile, board: Leaderboard, scores: pd.DataFrame) -> Gallery:
    """Draws the samples that the run chose, one line of heat maps an explainer, each with its own score.

    Args:
        scores: this board's rows of scores.parquet.
    """
    values = _scores_shown(file, scores)
    places = range(len(file.samples))
    scored = values.reindex(file.samples).notna().any(axis=1).all() and len(file.samples) == len(ROLES)
    head = tuple((ROLES[p] if scored else "", _picture(file, p), _infrared(file, p)) for p in places)
    lines = []
    shown = dict.fromkeys((r.entry.explainer, r.entry.label) for r in board.rows if r.entry.explainer in file.maps)
    for name, label in shown:
        maps = tuple(_map(file, name, place, values) for place in places)
        if any(maps):
            lines.append((name, text.label_marks(label), maps))
    return Gallery(file.model, CHOSEN_BY if scored else "", head, tuple(lines), file.masks is not None)


def _scores_shown(file: GalleryFile, scores: pd.DataFrame) -> pd.DataFrame:
    """[sample x explainer] values of the choosing column on the model shown, or on the method's own."""
    here = scores[(scores["column"] == CHOSEN_BY) & (scores["model"] == file.model)]
    return here.pivot_table(index="sample", columns="explainer", values="value", aggfunc="first")


def _picture(file: GalleryFile, place: int) -> Picture:
    sample = file.samples[place]
    mask = None if file.masks is None else file.masks[place]
    return Picture(data_uri(picture(file.images[place], mask)), sample, f"sample {sample}")


def _infrared(file: GalleryFile, place: int) -> Picture | None:
    if file.infrared is None:
        return None
    mask = None if file.masks is None else file.masks[place]
    uri = data_uri(picture(file.infrared[place], mask))
    return Picture(uri, "infrared, false colours", f"sample {file.samples[place]} in infrared false colours")


def _map(file: GalleryFile, name: str, place: int, values: pd.DataFrame) -> Picture | None:
    map_ = file.maps[name][place]
    if not np.isfinite(map_).all():
        return None
    mask = None if file.masks is None else file.masks[place]
    sample = file.samples[place]
    value = values[name].to_dict().get(sample, float("nan")) if name in values else float("nan")
    caption = text.number(value) if np.isfinite(value) else ""
    return Picture(data_uri(heat_map(map_, file.images[place], mask)), caption, f"{name} on {sample} {caption}".strip())
