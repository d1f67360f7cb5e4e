"""From paired scores to the verdicts of `bench compare`, and to what could not be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from . import compare_statistics as cs
from .board_figures import tuned_on
from .comparison import ONE_SIDED, Gap, Settings, Verdict
from .gate_findings import FAILED
from .paired_scores import FIGURE
from .score_array import ColumnFacts

Facts = Mapping[tuple[str, str], ColumnFacts]


@dataclass(frozen=True, eq=False)
class Known:
    """What the runs say of the figures.

    Attributes:
        facts: (metric, column) -> its declaration, of the columns to compare, in table order.
        names: (metric, column) -> its name in tables.
        unfit: (board, metric, column) -> why it must not rank methods there.
        tuned: explainer -> what it was tuned on.
        boards: in the run's order.
        seed: of the bootstrap.
    """

    facts: Facts
    names: Mapping[tuple[str, str], str]
    unfit: Mapping[tuple[str, str, str], str]
    tuned: Mapping[str, str]
    boards: tuple[str, ...]
    seed: int


def verdicts(pairs: pd.DataFrame, known: Known, settings: Settings, explainers: tuple[str, ...]) -> tuple[Verdict, ...]:
    """One verdict a figure, board by board in table order.

    Args:
        pairs: of ``paired_scores.paired`` with ``reason_after``; only rows that count.
        explainers: the two that are compared; empty where each explainer is compared with itself.
    """
    scale = ("before", "after") if explainers else ("before",)
    tested = cs.tested_figures(pairs, known.facts, known.seed, settings.rope, settings.bayes, scale)
    q = cs.adjusted(tested)
    either = pairs[pairs["value_before"].notna() | pairs["value_after"].notna()]
    of = either.groupby(FIGURE, sort=False)["sample"].nunique().to_dict()
    lost = {} if explainers else _lost(pairs)
    found = [
        _verdict(t, float(q[place]), of[t.figure], lost.pop(t.figure, ""), known, explainers)
        for place, t in enumerate(tested)
    ]
    found += [_gone(figure, of[figure], reason, known) for figure, reason in lost.items()]
    columns = list(known.names.values())
    return tuple(
        sorted(found, key=lambda v: (known.boards.index(v.board), v.explainer, v.own_model, columns.index(v.column)))
    )


def _verdict(t: cs.Tested, q: float, of: int, lost: str, known: Known, explainers: tuple[str, ...]) -> Verdict:
    board, explainer, own, metric, column = t.figure
    better = known.facts[metric, column].better
    outcome, why = cs.decide(t, q, better, same_explainer=not explainers)
    if lost:
        outcome, why = "regressed", lost
    tuned = [f"{e} was tuned on it" for e in explainers or (explainer,) if tuned_on(known.tuned.get(e, ""), column)]
    return Verdict(
        board, explainer, own, metric, known.names[metric, column], better, outcome, t.n, of,
        first=t.first, second=t.second, difference=t.difference, low=_number(t.low), high=_number(t.high),
        spread=_number(t.spread), rope=t.rope, test=t.test, p=_number(t.p), q=_number(q), effect=_number(t.effect),
        cliffs_delta=_number(t.cliffs_delta), separable=_number(t.separable), posterior=t.posterior,
        unfit=known.unfit.get((board, metric, column), ""), note="; ".join([*([why] if why else []), *tuned]),
    )  # fmt: skip


def _gone(figure: cs.Figure, of: int, reason: str, known: Known) -> Verdict:
    """A figure that was there and is not: worse than any number."""
    board, explainer, own, metric, column = figure
    name, better = known.names[metric, column], known.facts[metric, column].better
    unfit = known.unfit.get((board, metric, column), "")
    return Verdict(board, explainer, own, metric, name, better, "regressed", 0, of, unfit=unfit, note=reason)


def _lost(pairs: pd.DataFrame) -> dict[cs.Figure, str]:
    """Figures that failed now where they had a value before, or are nowhere defined any more; and why."""
    had = pairs[pairs["value_before"].notna()]
    failed = had[had["status_after"].isin(FAILED)]
    alive = had.groupby(FIGURE, sort=False)["value_after"].count()
    dead = had.set_index(FIGURE).loc[alive[alive == 0].index].reset_index()
    lost: dict[cs.Figure, str] = {}
    for rows in (failed, dead):
        for key, here in rows.groupby(FIGURE, sort=False):
            status, reason = here[["status_after", "reason_after"]].value_counts(sort=True).index[0]
            said = " ".join(str(reason).split())[:160]
            lost.setdefault(_figure(key), f"{status} now on {len(here)} scores: {said}")
    return lost


def gaps(
    before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame, judged: Iterable[Verdict], known: Known
) -> tuple[Gap, ...]:
    """Figures that one side lacks, or that no counted sample has on both; not those that neither side has."""
    names = known.names
    found: dict[tuple[str, str, str], list[str]] = {}
    sides = [_figures(before), _figures(after)]
    for only, text in zip((sides[0] - sides[1], sides[1] - sides[0]), ONE_SIDED, strict=True):
        for board, explainer, _, metric, column in sorted(only):
            found.setdefault((board, explainer, text), []).append(names[metric, column])
    done = {(v.board, v.explainer, v.own_model, v.column) for v in judged}
    values = pairs.groupby(FIGURE, sort=False)[["value_before", "value_after"]].count()
    some = [_figure(key) for key in values.index[values.any(axis=1)]]
    for figure in some:
        board, explainer, own, metric, column = figure
        if (board, explainer, own, names[metric, column]) not in done:
            rows = pairs[(pairs[FIGURE] == list(figure)).all(axis=1)]
            reasons = pd.concat([rows["reason_before"], rows["reason_after"]]).fillna("")
            commonest = next(iter(reasons[reasons != ""].mode()), "")
            text = f"no sample has both: {' '.join(str(commonest).split())[:160]}"
            found.setdefault((board, explainer, text), []).append(names[metric, column])
    return tuple(Gap(b, e, tuple(dict.fromkeys(columns)), text) for (b, e, text), columns in found.items())


def _figures(rows: pd.DataFrame) -> set[cs.Figure]:
    return set(rows[FIGURE].drop_duplicates().itertuples(index=False, name=None))


def _figure(key: Any) -> cs.Figure:
    """A group's key, which pandas leaves untyped."""
    board, explainer, own, metric, column = key
    return str(board), str(explainer), bool(own), str(metric), str(column)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
