"""From the store to the long tables: one row a figure of a sample, with its status and reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .cell_plan import CellPlan
from .cell_run import CellResult
from .contract import Metric, Spec
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .score_array import DRAW
from .store import Artefact, Store
from .suite import Board, Suite, broken
from .tasks import Cell, Clean, Cost, Score

SCORE_TYPES = {
    "board": "category",
    "dataset": "category",
    "model": "category",
    "kind": "category",
    "explainer": "category",
    "status_label": "category",
    "own_model": "bool",
    "sample": "category",
    "target": "int64",
    "label": "int64",
    "prediction": "int64",
    "metric": "category",
    "column": "category",
    "value": "float64",
    "status": "category",
    "reason": "category",
}
COST_TYPES = {
    "board": "category",
    "dataset": "category",
    "model": "category",
    "kind": "category",
    "explainer": "category",
    "column": "category",
    "value": "float64",
    "machine": "category",
}
UNKNOWN = -1
Names = Mapping[Spec, str]


@dataclass(frozen=True)
class _Truth:
    """What the rows of a chunk say of each sample besides scores."""

    targets: Sequence[int]
    labels: Sequence[int]
    predictions: Sequence[int]

    @classmethod
    def unknown(cls, count: int) -> _Truth:
        """Of samples whose clean responses failed."""
        return cls(*([UNKNOWN] * count,) * 3)


class _Rows:
    """The rows of a long table, gathered in blocks: what a block has in common is kept once.

    Args:
        types: of the table's columns, in order.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self._common: list[Mapping[str, Any]] = []
        self._lengths: list[int] = []
        self._vectors: dict[str, list[Any]] = {}

    def add(self, common: Mapping[str, Any], vectors: Mapping[str, Sequence[Any]]) -> None:
        """A block: values of all its rows, and one value a row of the same columns in every block."""
        self._common.append(common)
        self._lengths.append(len(next(iter(vectors.values()))))
        for name, values in vectors.items():
            self._vectors.setdefault(name, []).extend(values)

    def frame(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame({name: self._column(name, dtype) for name, dtype in self._types.items()})

    def _column(self, name: str, dtype: str) -> pd.Series:
        if name in self._vectors:
            return _repeated(self._vectors[name], None, dtype)
        return _repeated([common[name] for common in self._common], self._lengths, dtype)


def _repeated(values: Sequence[Any], lengths: Sequence[int] | None, dtype: str) -> pd.Series:
    """A column in which each value stands as often as its length says, or once; texts become categories."""
    if dtype == "category":
        column, texts = pd.factorize(np.array(values, dtype=object), sort=True)
    else:
        column, texts = np.array(values, dtype=dtype), None
    column = column if lengths is None else np.repeat(column, lengths)
    return pd.Series(column if texts is None else pd.Categorical.from_codes(column, pd.Index(texts, dtype="str")))


def scores_frame(suite: Suite, results: Sequence[CellResult], store: Store) -> pd.DataFrame:
    """The rows of scores.parquet, in the order of the suite; tasks that a stopped run did not reach have none."""
    boards = {board.name: board for board in suite.boards}
    names = metric_names(suite)
    rows = _Rows(SCORE_TYPES)
    for result in results:
        board = boards[result.cell.board]
        if result.plan is not None:
            _add_cell(rows, names, suite, board, result, result.plan, store)
        elif result.failure is not None:
            _add_failed_cell(rows, names, suite, board, result.cell, result.failure)
    return rows.frame()


def costs_frame(results: Sequence[CellResult]) -> pd.DataFrame:
    """The rows of costs.parquet; explainer "" is the plain forward, as measured beside each explainer (its median)."""
    rows = _Rows(COST_TYPES)
    for result in results:
        measured = _measured(result)
        if result.plan and measured:
            plain = _plain_costs([costs for _, costs, _ in measured], result.plan.facts.parameters)
            measured.insert(0, ("", plain, measured[0][2]))
        for explainer, costs, machine in measured:
            common = {**_where(result.cell), "explainer": explainer, "machine": machine}
            rows.add(common, {"column": list(costs), "value": list(costs.values())})
    return rows.frame()


def metric_names(suite: Suite) -> dict[Spec, str]:
    """What the tables call each metric: its name, or its whole spec where the suite has several of that name."""
    specs = dict.fromkeys(spec for board in suite.boards for spec in suite.metrics_of(board))
    names = Counter(spec.name for spec in specs)
    return {spec: spec.name if names[spec.name] == 1 else str(spec) for spec in specs}


def declared(metric: Spec) -> type[Metric] | None:
    """The metric's class; None where it could not be loaded."""
    return None if broken(metric_registry, metric) else metric_registry.get(metric.name)


def column_names(metric: Spec) -> tuple[str, ...]:
    """Declared columns; a metric that could not be loaded has one of its own name."""
    plugin = declared(metric)
    return (metric.name,) if plugin is None else tuple(column.name for column in plugin.columns)


def _add_cell(
    rows: _Rows, names: Names, suite: Suite, board: Board, result: CellResult, plan: CellPlan, store: Store
) -> None:
    explainers = {spec: i for i, spec in enumerate(suite.explainers_of(board))}
    metrics = {spec: i for i, spec in enumerate(suite.metrics_of(board))}
    chunks = {ids: i for i, ids in enumerate(plan.chunks)}
    truths = {task.key: _truth(result, task, store) for task in plan.tasks if isinstance(task, Clean)}

    def place(task: Score) -> tuple[int, bool, int, int]:
        explainer = -1 if task.explainer is None else explainers[task.explainer]
        return explainer, task.own, metrics[task.metric], chunks[task.ids]

    # Sorted, so that the order in which tasks were run leaves no trace.
    for task in sorted((task for task in plan.tasks if isinstance(task, Score)), key=place):
        if (header := result.status_of(task)) is not None:
            _add_scores(rows, names, result.cell, task, header, truths[task.clean])


def _add_scores(rows: _Rows, names: Names, cell: Cell, task: Score, header: Artefact, truth: _Truth) -> None:
    figures = header.record["columns"] if header.status == "ok" else {}
    count = len(task.ids)
    block = {**_where(cell), **_who(task.explainer, task.own), "metric": names[task.metric]}
    per_sample = {
        "sample": task.ids, "target": truth.targets, "label": truth.labels, "prediction": truth.predictions,
    }  # fmt: skip
    for column in column_names(task.metric):
        values, statuses, reasons = [math.nan] * count, [str(header.status)] * count, [header.reason] * count
        if column in figures:
            values = [math.nan if value is None else value for value in figures[column]["values"]]
            statuses = ["undefined" if math.isnan(value) else "ok" for value in values]
            reasons = figures[column]["reasons"]
        rows.add({**block, "column": column}, {**per_sample, "value": values, "status": statuses, "reason": reasons})


def _add_failed_cell(rows: _Rows, names: Names, suite: Suite, board: Board, cell: Cell, failure: Artefact) -> None:
    """One row a column of a cell that could not be loaded: its samples are unknown."""
    unknown: dict[str, list[Any]] = {"sample": [""], "target": [UNKNOWN], "label": [UNKNOWN], "prediction": [UNKNOWN]}
    known: dict[str, list[Any]] = {"value": [math.nan], "status": [str(failure.status)], "reason": [failure.reason]}
    for explainer in suite.explainers_of(board):
        for metric in suite.metrics_of(board):
            block = {**_where(cell), **_who(explainer, False), "metric": names[metric]}
            for column in column_names(metric):
                rows.add({**block, "column": column}, {**unknown, **known})


def _where(cell: Cell) -> dict[str, str]:
    return {"board": cell.board, "dataset": str(cell.dataset), "model": str(cell.model), "kind": cell.kind}


def _who(explainer: Spec | None, own: bool) -> dict[str, Any]:
    return {"explainer": str(explainer or ""), "status_label": _status_label(explainer), "own_model": own}


def _status_label(explainer: Spec | None) -> str:
    if explainer is None:
        return ""
    if explainer.draw:
        return DRAW
    if broken(explainer_registry, explainer):
        return "broken"
    return str(explainer_registry.get(explainer.name).status)


def _truth(result: CellResult, task: Clean, store: Store) -> _Truth:
    header = result.status_of(task)
    artefact = store.read("probe", task.key) if header is not None and header.status == "ok" else None
    if artefact is None:
        return _Truth.unknown(len(task.ids))
    tensors = artefact.tensors
    return _Truth(tensors["targets"].tolist(), tensors["labels"].tolist(), tensors["logits"].argmax(1).tolist())


def _measured(result: CellResult) -> list[tuple[str, Mapping[str, float], str]]:
    """(explainer, costs by column, machine) of what was measured."""
    found = []
    for task in result.plan.tasks if result.plan else ():
        header = result.status_of(task)
        if isinstance(task, Cost) and header is not None and header.status == "ok":
            found.append((str(task.explainer), header.record["columns"], header.record["machine"]))
    return found


RATIOS = (
    ("latency_ms", "latency_ratio"),
    ("peak_mb", "memory_ratio"),
    ("gflops", "flops_ratio"),
    ("energy_joules", "energy_ratio"),
)


def _plain_costs(measured: Sequence[Mapping[str, float]], parameters: int) -> dict[str, float]:
    """Costs of the plain forward, from each explainer's figure and its ratio; what none of them tells is left out."""
    plain: dict[str, float] = {}
    for column, ratio in RATIOS:
        values = [costs[column] / costs[ratio] for costs in measured if costs.get(ratio, 0) > 0]
        if values:
            plain |= {column: float(pd.Series(values).median()), ratio: 1.0}
    return {**plain, "forwards": 1.0, "backwards": 0.0, "parameters": float(parameters), "parameters_ratio": 1.0}
