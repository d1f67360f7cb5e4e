"""What claims are computed from: one column of a run over all its boards, explainer by explainer, and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .board_figures import BOUNDS
from .contract import BadInputError, Spec
from .counted import counted_samples
from .report.run_files import RunFiles
from .score_array import ScoreArray, board_array
from .statistics import bootstrap_means, mean_over_models, resample_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Pooled boards may hold ten thousand samples; the matrix of resamples is this many times as long.
RESAMPLES = 1_999
FROZEN = ""
"""Stands for the frozen model where others are explainers."""


@dataclass(frozen=True, eq=False)
class BoardColumn:
    """One column on one board.

    Attributes:
        samples: names, [n].
        scores: explainer -> [n, m] samples x models, NaN where undefined or not counted (charter 2); of a method with
            its own model the scores on the frozen one where it has any.
    """

    samples: tuple[str, ...]
    scores: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class ColumnScores:
    """One column of a run.

    Attributes:
        boards: by name.
        rivals: explainers that compete: neither floors nor the oracle.
        reconstructions: explainers whose exact formula is not public (charter 10).
        why_not: explainer -> why it has no score, where it has none.
    """

    name: str
    better: str
    boards: Mapping[str, BoardColumn]
    rivals: tuple[str, ...]
    reconstructions: frozenset[str]
    why_not: Mapping[str, str]

    @property
    def explainers(self) -> tuple[str, ...]:
        """All that have a score, bounds included."""
        return tuple(dict.fromkeys(name for board in self.boards.values() for name in board.scores if name))

    def paired(self, first: str, second: str) -> tuple[Floats, Floats]:
        """First minus second, and second, of every (board, sample), on models where both are defined; [n of all]."""
        differences, seconds = [np.empty(0)], [np.empty(0)]
        for board in self.boards.values():
            if {first, second} <= board.scores.keys():
                difference = board.scores[first] - board.scores[second]
                differences.append(_averaged(difference))
                seconds.append(_averaged(np.where(np.isfinite(difference), board.scores[second], np.nan)))
        return np.concatenate(differences), np.concatenate(seconds)

    def values(self, explainer: str) -> Floats:
        """Every (board, sample), averaged over models; [n of all]."""
        parts = [_averaged(b.scores[explainer]) for b in self.boards.values() if explainer in b.scores]
        return np.concatenate(parts) if parts else np.empty(0)

    def on_board(self, board: str, explainer: str) -> pd.Series[float]:
        """Samples of one board, averaged over models."""
        column = self.boards[board]
        return pd.Series(_averaged(column.scores[explainer]), index=list(column.samples))

    def best(self, names: Iterable[str], beside: str, sign: float) -> str | None:
        """The one with the largest mean, times ``sign``, where ``beside`` has a score too; None where none has."""
        scores = {name: self.paired(beside, name)[1] for name in names}
        means = {name: float(np.nanmean(values)) for name, values in scores.items() if np.isfinite(values).any()}
        return max(means, key=lambda name: sign * means[name], default=None)


def read_column(run: RunFiles, name: str, every: bool = False) -> ColumnScores:
    """A column over all boards of a run.

    Args:
        every: all samples, also those that do not count where a truth is compared with.

    Raises:
        BadInputError: the run declares no such column.
    """
    declared = [column for column in run.columns if column.column == name]
    if not declared:
        raise BadInputError(f"{run.out} declares no column {name!r}; run the suite that the claim names.")
    wanted = {name, "accuracy", "truth_used"}
    boards: dict[str, BoardColumn] = {}
    labels: dict[str, str] = {}
    why_not: dict[str, str] = {}
    for board, (rows, _) in run.boards.items():
        array = board_array(
            rows[rows["column"].isin(wanted)], [column for column in run.columns if column.column in wanted]
        )
        boards[str(board)] = _board(array, name, every, why_not)
        labels |= {entry.explainer: entry.label for entry in array.entries}
    scored = dict.fromkeys(who for board in boards.values() for who in board.scores)
    return ColumnScores(
        name,
        declared[0].better,
        boards,
        tuple(who for who in scored if who and labels[who] not in BOUNDS),
        frozenset(who for who in scored if labels[who] == "reconstruction"),
        {who: reason for who, reason in why_not.items() if who not in scored},
    )


def _board(array: ScoreArray, name: str, every: bool, why_not: dict[str, str]) -> BoardColumn:
    places = [c for c, facts in enumerate(array.columns) if facts.column == name]
    scores: dict[str, Floats] = {}
    if places:
        counted = counted_samples(array) if array.columns[places[0]].truth and not every else None
        # Own models come first and are then replaced by the scores on the frozen model.
        for place, entry in sorted(enumerate(array.entries), key=lambda pair: not pair[1].own_model):
            values = array.of(places[0], [place])[:, :, 0]
            values = values if counted is None else np.where(counted, values, np.nan)
            if np.isfinite(values).any():
                scores[entry.explainer] = values
            elif (places[0], place) in array.refusals:
                why_not[entry.explainer] = array.refusals[places[0], place][1]
    return BoardColumn(array.samples, scores)


def costs_of(run: RunFiles, column: str, board: str | None = None) -> Mapping[str, float]:
    """Explainer -> cost, the mean over boards; the plain forward of the frozen model is ``FROZEN``."""
    rows = run.costs[run.costs["column"] == column]
    rows = rows if board is None else rows[rows["board"] == board]
    means = rows.groupby("explainer", sort=False)["value"].mean()
    return {str(name): float(value) for name, value in means.items() if np.isfinite(value)}


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Explainers of a pattern: a plug-in's name, then what its spec must say of parameters, or must not.

    ``focus,isolate=false,sink!=false`` is every ``focus`` with that ``isolate`` whose spec does not say ``sink=false``.
    """
    plugin, *conditions = pattern.split(",")
    return [name for name in names if name.partition(",")[0] == plugin and _meets(parameters(name), conditions)]


def parameters(explainer: str) -> dict[str, str]:
    """Those that a spec names, in lower case."""
    return {key: str(value).lower() for key, value in Spec.parse(explainer).params.items()} if explainer else {}


def _meets(given: Mapping[str, str], conditions: Iterable[str]) -> bool:
    for condition in conditions:
        key, _, value = condition.partition("=")
        if (given.get(key.removesuffix("!")) == value) == key.endswith("!"):
            return False
    return True


def _averaged(scores: Floats) -> Floats:
    return mean_over_models(scores[:, :, None])[:, 0]


@dataclass(frozen=True)
class Mean:
    """A figure with its 95 % bootstrap interval over n samples; NaN where there is none."""

    value: float
    low: float
    high: float
    n: int


def mean(values: Floats, seed: int) -> Mean:
    """Of the defined values."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Mean(np.nan, np.nan, np.nan, 0)
    found = bootstrap_means(defined[:, None], resamples(len(defined), seed))
    return Mean(float(found.mean[0]), float(found.low[0]), float(found.high[0]), len(defined))


def mean_ratio(values: Floats, over: Floats, seed: int) -> Mean:
    """Mean over mean, of the samples where both are defined, resampled together."""
    both = np.isfinite(values) & np.isfinite(over)
    values, over = values[both], over[both]
    if len(values) < 2 or not over.mean():
        return Mean(np.nan, np.nan, np.nan, len(values))
    counts = resamples(len(values), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (counts @ values) / (counts @ over)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Mean(float(values.mean() / over.mean()), float(low), float(high), len(values))


def resamples(n: int, seed: int) -> Floats:
    """How often each of n samples is drawn, [resamples, n]."""
    return resample_counts(n, np.random.default_rng(seed), RESAMPLES)
