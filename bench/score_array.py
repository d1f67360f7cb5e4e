"""The per-sample scores of one board as one dense array, from the rows of ``scores.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .contract import BadInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SCORE_COLUMNS = (
    "board", "dataset", "model", "kind", "explainer", "status_label", "own_model", "sample", "target", "label",
    "prediction", "metric", "column", "value", "status", "reason",
)  # fmt: skip
DRAW = "draw"
"""Label of an explainer's other draws (``rise@1``)."""
Refusals = Mapping[tuple[int, int], tuple[str, str]]


@dataclass(frozen=True)
class ColumnFacts:
    """What a metric declares of one figure, as the run wrote it down; see ``contract.Column``."""

    metric: str
    column: str
    better: str
    range: tuple[float | None, float | None]
    truth: bool
    description: str

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> ColumnFacts:
        """From one entry of ``columns`` in run.json.

        Raises:
            BadInputError: a field is missing.
        """
        missing = [f.name for f in fields(cls) if f.name not in facts]
        if missing:
            raise BadInputError(
                f"a column in run.json lacks {', '.join(missing)}: {dict(facts)}. Run `bench run` again."
            )
        low, high = facts["range"]
        return cls(**{f.name: facts[f.name] for f in fields(cls)} | {"range": (low, high)})


@dataclass(frozen=True, order=True)
class Entry:
    """One row of a leaderboard.

    Attributes:
        explainer: spec; empty for a model without an explainer.
        own_model: scored on the method's own model, not on the frozen one.
        label: ``exact``, ``reconstruction``, ``floor``, ``oracle`` or ``test``; ``draw`` for another draw.
    """

    explainer: str
    own_model: bool
    label: str


@dataclass(frozen=True, eq=False)
class ScoreArray:
    """Scores of one board.

    Attributes:
        entries, columns, samples, models: the axes' names.
        values: [columns, samples, models, entries] float64; NaN where undefined, refused or failed.
        present: [columns, entries], whether the run says anything of it, were it a failure.
        refusals: (column, entry) -> the commonest (status, reason) where any value is missing.
        correct: [samples, models], 1.0 where the frozen model is right, NaN where the label is unknown.
    """

    entries: tuple[Entry, ...]
    columns: tuple[ColumnFacts, ...]
    samples: tuple[str, ...]
    models: tuple[str, ...]
    values: Floats
    present: NDArray[np.bool_]
    refusals: Refusals
    correct: Floats

    def of(self, column: int, entries: Sequence[int]) -> Floats:
        """[samples, models, entries] of one column."""
        return np.asarray(self.values[column][:, :, list(entries)])


def board_array(rows: pd.DataFrame, declared: Sequence[ColumnFacts], *, draws: bool = False) -> ScoreArray:
    """The dense array of one board's rows, which are at least one.

    Columns stand in declared order, all else is sorted: the rows' order is of no consequence. Other draws of an
    explainer are left out unless asked for; they compete with nothing.

    Raises:
        BadInputError: a column has no declaration, or a figure appears twice.
    """
    rows = rows if draws else rows[rows["status_label"] != DRAW]
    facts = {(c.metric, c.column): c for c in declared}
    held = set(rows[["metric", "column"]].drop_duplicates().itertuples(index=False, name=None))
    unknown = sorted(held - facts.keys())
    if unknown:
        raise BadInputError(
            f"scores.parquet holds {', '.join('/'.join(u) for u in unknown)}, which run.json does not declare under "
            "`columns`. The two files come from different runs; run `bench run` again."
        )
    columns = tuple(c for key, c in facts.items() if key in held)
    who = rows[["explainer", "own_model", "status_label"]].drop_duplicates(["explainer", "own_model"])
    entries = tuple(sorted(Entry(e, bool(o), s) for e, o, s in who.itertuples(index=False, name=None)))
    column_of = {(c.metric, c.column): i for i, c in enumerate(columns)}
    entry_of = {(e.explainer, e.own_model): i for i, e in enumerate(entries)}
    # A model that could not be loaded has rows without a sample; they are no sample, unless there is nothing else.
    named = (rows["sample"] != "").to_numpy()
    whole, rows = rows, rows[named] if named.any() else rows
    samples, sample_names = pd.factorize(rows["sample"], sort=True)
    models, model_names = pd.factorize(rows["model"], sort=True)
    column = _places(rows, ["metric", "column"], column_of)
    entry = _places(rows, ["explainer", "own_model"], entry_of)
    values = np.full((len(columns), len(sample_names), len(model_names), len(entries)), np.nan)
    seen = np.zeros(values.shape, dtype=np.int8)
    np.add.at(seen, (column, samples, models, entry), 1)
    if (seen > 1).any():
        c, s, m, e = np.argwhere(seen > 1)[0]
        raise BadInputError(
            f"scores.parquet holds {columns[c].column} of {entries[e].explainer or 'the model'} on {sample_names[s]} "
            f"({model_names[m]}) more than once."
        )
    values[column, samples, models, entry] = rows["value"].to_numpy(np.float64)
    correct = np.full(values.shape[1:3], np.nan)
    label, prediction = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    # A method's own model predicts for itself; the frozen model's predictions decide what counts.
    known = (label >= 0) & (prediction >= 0) & ~rows["own_model"].to_numpy(bool)
    correct[samples[known], models[known]] = label[known] == prediction[known]
    if len(whole) > len(rows):
        column = _places(whole, ["metric", "column"], column_of)
        entry = _places(whole, ["explainer", "own_model"], entry_of)
    present = np.zeros((len(columns), len(entries)), dtype=bool)
    present[column, entry] = True
    refusals = _refusals(whole, column, entry)
    return ScoreArray(entries, columns, tuple(sample_names), tuple(model_names), values, present, refusals, correct)


def _places(rows: pd.DataFrame, names: list[str], place: Mapping[tuple[Any, Any], int]) -> NDArray[np.int64]:
    """Index of each row's pair of names; pairs are few, so they are looked up once each."""
    first, first_names = pd.factorize(rows[names[0]])
    second, second_names = pd.factorize(rows[names[1]])
    table = np.full((len(first_names), len(second_names)), -1, dtype=np.int64)
    for i, a in enumerate(first_names):
        for j, b in enumerate(second_names):
            table[i, j] = place.get((a, b), -1)
    return table[first, second]


def _refusals(rows: pd.DataFrame, column: NDArray[np.int64], entry: NDArray[np.int64]) -> Refusals:
    bad = (rows["status"] != "ok").to_numpy()
    if not bad.any():
        return {}
    table = pd.DataFrame(
        {
            "column": column[bad],
            "entry": entry[bad],
            "status": rows["status"].to_numpy(object)[bad],
            "reason": rows["reason"].fillna("").to_numpy(object)[bad],
        }
    )
    counts = table.value_counts(sort=True)
    commonest: dict[tuple[int, int], tuple[str, str]] = {}
    for c, e, status, reason in counts.index:
        commonest.setdefault((int(c), int(e)), (str(status), str(reason)))
    return commonest
