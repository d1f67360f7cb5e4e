"""What the page shows of a board: pictures, masks and spatial maps of three samples, for one of its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cell_plan import CellPlan
from .cell_run import CellResult
from .contract import Explanation, Spec
from .store import Artefact, Store
from .tasks import Clean, Explain

LEAD = "spatial_iou"
"""Samples are the best, the median and the worst by this column, averaged over the explainers."""
SHOWN = 3


def write_gallery(folder: Path, result: CellResult, scores: pd.DataFrame, store: Store) -> Path | None:
    """Writes ``<board>.npz``; returns None when the cell has nothing to show.

    It holds model, samples [S], images [S,H,W,3] uint8, explainers [E], maps [E,S,H,W] float32 (mean of the positive
    part, not normalised; NaN where there is none), and where the data have them masks [S,H,W] bool and infrared
    [S,H,W,3] uint8.
    """
    if result.plan is None:
        return None
    samples = _chosen(result, scores)
    shown = _Shown(result, result.plan, store)
    pictures = [shown.pictures(sample) for sample in samples]
    if not samples or any(picture is None for picture in pictures):
        return None
    size = pictures[0]["image"].shape[:2]  # type: ignore[index]
    explainers = list(dict.fromkeys(t.explainer for t in result.plan.tasks if isinstance(t, Explain) and t.explainer))
    maps = [shown.maps(explainer, samples, size) for explainer in explainers]
    stacked: dict[str, Any] = {
        f"{name}s" if name in ("image", "mask") else name: np.stack([picture[name] for picture in pictures])  # type: ignore[index]
        for name in ("image", "mask", "infrared")
        if name in (pictures[0] or {})
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.cell.board}.npz"
    np.savez_compressed(
        path,
        model=np.array(str(result.cell.model)),
        samples=np.array(samples),
        explainers=np.array([str(explainer) for explainer in explainers]),
        maps=np.array(maps, dtype=np.float32),
        **stacked,
    )
    return path


def _chosen(result: CellResult, scores: pd.DataFrame) -> list[str]:
    """Ids of the samples shown, best first; the first ones where nothing is scored against a mask."""
    here = scores[(scores["board"] == result.cell.board) & (scores["model"] == str(result.cell.model))]
    lead = here[(here["column"] == LEAD) & (here["status"] == "ok")]
    lead = lead[lead["metric"] == lead["metric"].iloc[0]] if len(lead) else lead  # the first, where two metrics have it
    means = lead.groupby("sample", sort=False)["value"].mean().sort_values(ascending=False, kind="stable")
    if len(means) < SHOWN:
        assert result.plan is not None
        return list(result.plan.facts.ids[:SHOWN])
    return [str(means.index[place]) for place in (0, (len(means) - 1) // 2, len(means) - 1)]


class _Shown:
    """Reads pictures and maps of single samples from the store."""

    def __init__(self, result: CellResult, plan: CellPlan, store: Store) -> None:
        self._result, self._plan, self._store = result, plan, store
        self._cleans = {task.ids: task for task in plan.tasks if isinstance(task, Clean)}
        self._explains = {(t.explainer, t.ids): t for t in plan.tasks if isinstance(t, Explain)}

    def pictures(self, sample: str) -> dict[str, NDArray] | None:
        """``image``, ``mask``, ``infrared`` of a sample; None when its chunk failed."""
        ids = self._chunk(sample)
        artefact = self._store.read("probe", self._cleans[ids].key)
        if artefact is None or artefact.status != "ok":
            return None
        row = ids.index(sample)
        return {
            name: artefact.tensors[name][row].numpy()
            for name in ("image", "mask", "infrared")
            if name in artefact.tensors
        }

    def maps(self, explainer: Spec, samples: Sequence[str], size: Sequence[int]) -> list[NDArray[np.float32]]:
        """Spatial maps at the model's input size, NaN throughout where there is none; each chunk is read once."""
        chunks = [self._chunk(sample) for sample in samples]
        read = {ids: self._explanation(explainer, ids) for ids in dict.fromkeys(chunks)}
        return [self._map(read[ids], ids.index(sample), size) for ids, sample in zip(chunks, samples, strict=True)]

    def _explanation(self, explainer: Spec, ids: tuple[str, ...]) -> Artefact | None:
        task = self._explains[explainer, ids]
        header = self._result.status_of(task)
        return self._store.read("explanation", task.key) if header is not None and header.status == "ok" else None

    def _map(self, artefact: Artefact | None, row: int, size: Sequence[int]) -> NDArray[np.float32]:
        geometry = self._plan.facts.geometry
        if artefact is None or geometry is None:
            return np.full(tuple(size), np.nan, dtype=np.float32)
        native = artefact.tensors["native"][row : row + 1]
        explanation = Explanation(native, artefact.record["layout"], geometry)
        return explanation.spatial("mean_positive")[0].float().numpy()

    def _chunk(self, sample: str) -> tuple[str, ...]:
        return next(ids for ids in self._plan.chunks if sample in ids)
