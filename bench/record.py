"""run.json: suite, declarations, environment, what was computed and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .cell_run import CellResult
from .collect import declared, metric_names
from .contract import explainers as explainer_registry
from .provenance import provenance
from .store import Artefact
from .suite import Suite, broken
from .tasks import Fit


def run_facts(
    suite: Suite, results: Sequence[CellResult], *, interrupted: bool, failures: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """JSON values: all that a reader needs besides the tables; report and gate import no plug-in."""
    return {
        "suite": suite.model_dump(mode="json"),
        "columns": _columns(suite),
        **provenance(),
        "machine": next((dict(r.plan.facts.machine) for r in results if r.plan), {}),
        "seed": suite.seed,
        "interrupted": interrupted,
        "counts": _counts(results),
        "cells": [_cell_facts(result) for result in results],
        "explainers": _explainer_facts(suite),
        "fits": [dict(fit) for fit in _fits(results)],
        "failures": [dict(failure) for failure in failures],
    }


def _columns(suite: Suite) -> list[dict[str, Any]]:
    """Declarations of all figures, in the suite's order; the report needs no plug-in."""
    specs = dict.fromkeys(spec for board in suite.boards for spec in suite.metrics_of(board))
    names = metric_names(suite)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for spec in specs:
        plugin = declared(spec)
        if plugin is None:
            broken_column = {
                "better": "none",
                "range": (None, None),
                "truth": False,
                "description": "could not be loaded",
            }
            found[names[spec], spec.name] = {"metric": names[spec], "column": spec.name, **broken_column}
            continue
        for column in plugin.columns:
            found[names[spec], column.name] = {
                "metric": names[spec],
                "column": column.name,
                "better": column.better,
                "range": column.range,
                "truth": column.truth,
                "description": column.description,
            }
    return list(found.values())


def _counts(results: Sequence[CellResult]) -> dict[str, Any]:
    """Artefacts by what became of them: ``kinds`` over all, ``explainers`` for each one."""
    kinds: dict[str, dict[str, int]] = {}
    explainers: dict[str, dict[str, dict[str, int]]] = {}
    for result in results:
        for (kind, explainer, how), number in result.counts.items():
            _add(kinds.setdefault(kind, {}), how, number)
            if explainer:
                _add(explainers.setdefault(explainer, {}).setdefault(kind, {}), how, number)
    return {"kinds": kinds, "explainers": explainers}


def _add(counts: dict[str, int], how: str, number: int) -> None:
    counts[how] = counts.get(how, 0) + number


def _cell_facts(result: CellResult) -> dict[str, Any]:
    cell = result.cell
    facts: dict[str, Any] = {
        "board": cell.board,
        "dataset": str(cell.dataset),
        "model": str(cell.model),
        "kind": cell.kind,
    }
    if result.plan is None:
        return {**facts, "failure": result.failure.reason if result.failure else "interrupted"}
    known = result.plan.facts
    return {
        **facts,
        "samples": len(known.ids),
        "left_out": dict(known.left_out),
        "classes": list(known.info.classes),
        "licence": known.info.licence,
        "citation": known.info.citation,
        "dataset_hash": known.dataset_hash,
        "weights_hash": known.weights_hash,
        "parameters": known.parameters,
        "provenance": dict(known.provenance),
        "device": known.device,
        "dtype": known.dtype,
        "max_rows": known.max_rows,
    }


def _explainer_facts(suite: Suite) -> dict[str, Any]:
    """Status, paper and needs of each explainer."""
    facts: dict[str, Any] = {}
    for spec in dict.fromkeys(spec for board in suite.boards for spec in suite.explainers_of(board)):
        if broken(explainer_registry, spec):
            facts[str(spec)] = {"status": "broken"}
            continue
        plugin = explainer_registry.get(spec.name)
        paper = plugin.paper
        facts[str(spec)] = {
            "status": plugin.status,
            "paper": None
            if paper is None
            else {"title": paper.title, "year": paper.year, "reference": paper.reference},
            "needs": sorted(plugin.needs),
        }
    return facts


def _fits(results: Sequence[CellResult]) -> Iterator[Mapping[str, Any]]:
    for result in results:
        for task in result.plan.tasks if result.plan else ():
            header = result.status_of(task)
            if isinstance(task, Fit) and header is not None and header.status == "ok":
                where = {"board": result.cell.board, "model": str(result.cell.model), "explainer": str(task.explainer)}
                yield {**where, "facts": header.record["facts"]}


def failures_of(results: Sequence[CellResult]) -> Iterator[Mapping[str, str]]:
    """The first failure of each plug-in in each cell, with its traceback."""
    for result in results:
        where = {"board": result.cell.board, "model": str(result.cell.model)}
        if result.failure is not None:
            yield {**where, "what": "the whole cell", **_failure(result.failure)}
        seen: set[str] = set()
        for task in result.plan.tasks if result.plan else ():
            header = result.status_of(task)
            if header is None or header.status in ("ok", "unsupported") or (task.group or task.label) in seen:
                continue
            if any(key in result.outcomes and result.outcomes[key].status != "ok" for key in task.needs):
                continue  # told by what it needs
            seen.add(task.group or task.label)
            yield {**where, "what": task.label, **_failure(header)}


def _failure(header: Artefact) -> dict[str, str]:
    return {"status": header.status, "reason": header.reason, "traceback": header.traceback}
