"""Leaderboards from per-sample scores, by the rules that docs/leaderboards.md tells: pure functions over frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import statistics as st
from .board_aggregates import Contest, aggregates
from .board_figures import BOUNDS, ColumnSummary, Estimate, Figure, Leaderboard, ModelSummary, Omnibus, Row
from .contract import Spec
from .counted import ACCURACY, TRUTH_USED, counted_samples, of_frozen_model
from .fitness import fitness
from .rank_tests import friedman
from .score_array import DRAW, ColumnFacts, ScoreArray, board_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# The short table of a leaderboard; a metric with none of these shows its first column there.
HEADLINE = (
    "bio_at_5", "spatial_iou", "auprc", "otsu_jaccard", "faithfulness_correlation", "insertion_auc", "deletion_auc",
    "sparseness", "infidelity_normalised",
)  # fmt: skip


def leaderboard(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    declared: Sequence[ColumnFacts],
    policy: str,
    seed: int,
    criteria: Mapping[str, str] | None = None,
    split: str = "test",
) -> Leaderboard:
    """The leaderboard of one board.

    Args:
        scores, costs: this board's rows of scores.parquet and costs.parquet.
        declared: columns of the run, in the suite's order.
        policy: target policy, for the text only.
        seed: of the bootstrap's generator.
        criteria: what fitted explainers were tuned on.
        split: of the samples, for the text only.
    """
    array = board_array(scores, declared, draws=True)
    counts = st.resample_counts(len(array.samples), np.random.default_rng(seed))
    alone = scores.loc[scores["explainer"] == "", ["metric", "column"]].drop_duplicates()
    of_model = {(str(metric), str(column)) for metric, column in alone.itertuples(index=False, name=None)}
    explained = [i for i, c in enumerate(array.columns) if (c.metric, c.column) not in of_model]
    run_names = column_names(declared)
    names = {i: run_names[declared.index(column)] for i, column in enumerate(array.columns)}
    counted = counted_samples(array)
    entries = [i for i, e in enumerate(array.entries) if e.explainer and e.label != DRAW]
    draws = _draws(array)
    figures: dict[int, dict[str, Figure]] = {e: {} for e in entries}
    primary = headline_columns([array.columns[i] for i in explained])
    columns: dict[str, ColumnSummary] = {}
    contests: dict[str, Contest] = {}
    for c in explained:
        keep = counted if array.columns[c].truth else None
        summary, cells, contest = _column(array, c, entries, keep, counts, array.columns[c] in primary)
        columns[names[c]] = summary
        if summary.primary and contest is not None:
            contests[names[c]] = contest
        for entry, cell in cells.items():
            others = draws.get((array.entries[entry].explainer, array.entries[entry].own_model), [])
            means = _means(_kept(array.of(c, others), keep)) if others else ()
            figures[entry][names[c]] = replace(cell, by_draw=(cell.headline.mean, *means)) if others else cell
    lead = _lead(columns, figures)
    cost_table = (
        costs.groupby(["explainer", "column"], sort=False)["value"].mean() if len(costs) else pd.Series(dtype=float)
    )
    own = {array.entries[e].explainer for e in entries if array.entries[e].own_model}
    rows = []
    for e in entries:
        name = array.entries[e].explainer
        paid = array.entries[e].own_model or name not in own
        cost = _costs(cost_table, name) if paid else {}
        failure = _failure(figures[e])
        rows.append(
            Row(array.entries[e], figures[e], cost, _accuracy(array, e), failure, (criteria or {}).get(name, ""))
        )
    first = scores.iloc[0]
    return Leaderboard(
        board=str(first["board"]),
        dataset=str(first["dataset"]),
        kind=str(first["kind"]),
        policy=policy,
        split=split,
        n=sum(sample != "" for sample in array.samples),
        models=_models(array),
        lead=lead,
        columns=columns,
        rows=tuple(sorted(rows, key=lambda r: _order(r, lead, columns))),
        model_figures=_model_figures(array, names, of_model, counts),
        cost_names=tuple(dict.fromkeys(costs.loc[costs["explainer"] != "", "column"])),
        plain_costs=_costs(cost_table, ""),
        aggregates=aggregates(
            contests, counts, lead, {r.entry.explainer: r.costs for r in rows if r.costs}, array.entries
        ),
    )


def column_names(columns: Sequence[ColumnFacts]) -> dict[int, str]:
    """Index -> unique name: the column's own, with its metric's spec where two metrics share it."""
    shared = pd.Series([c.column for c in columns]).value_counts()
    return {i: c.column if shared[c.column] == 1 else f"{c.column} ({c.metric})" for i, c in enumerate(columns)}


def headline_columns(columns: Sequence[ColumnFacts]) -> set[ColumnFacts]:
    """Columns of the short table: those named in ``HEADLINE``, and the first column of every other metric."""
    named = {c for c in columns if c.column in HEADLINE}
    first: dict[str, ColumnFacts] = {}
    for column in columns:
        first.setdefault(column.metric, column)
    return named | {c for metric, c in first.items() if metric not in {n.metric for n in named}}


def _column(
    array: ScoreArray, c: int, entries: list[int], keep: NDArray[np.bool_] | None, counts: Floats, primary: bool
) -> tuple[ColumnSummary, dict[int, Figure], Contest | None]:
    """Summary and cells of a column, and its methods' contest, if it may rank any."""
    facts = array.columns[c]
    every = array.of(c, entries)
    scores = _kept(every, keep)
    eligible = len(array.samples) if keep is None else int(keep.any(1).sum())
    headline = _estimates(scores, counts, eligible)
    everything = None if keep is None else _estimates(every, counts, len(array.samples))
    spread, by_model = st.spread_over_models(scores), st.means_by_model(scores)
    ranked = competing(array, entries, scores) if facts.better != "none" else []
    rank, separable = _ranks(scores, ranked, facts.better)
    behind = _behind(scores, ranked, facts.better, counts, eligible)
    fit = fitness([array.entries[e] for e in entries], scores, ranked, facts.better)
    rank = {} if fit.unfit else rank
    cells = {}
    for k, entry in enumerate(entries):
        if not array.present[c, entry]:
            continue
        status, reason = array.refusals.get((c, entry), ("ok", ""))
        cells[entry] = Figure(
            headline[k], everything[k] if everything else None, rank.get(k), _number(spread[k]),
            tuple(map(_number, by_model[:, k])), behind.get(k), fit.above.get(k), status, reason,
        )  # fmt: skip
    pairs = np.prod(every.shape[:2]).item()
    summary = ColumnSummary(
        facts, primary, (pairs if keep is None else int(keep.sum()), pairs), separable, fit.unfit, fit.tested,
        _omnibus(scores, ranked, facts.better),
    )  # fmt: skip
    names = tuple(array.entries[entries[k]].explainer for k in ranked)
    contest = Contest(names, scores[:, :, ranked], facts.better == "higher") if ranked and not fit.unfit else None
    return summary, cells, contest


def _draws(array: ScoreArray) -> dict[tuple[str, bool], list[int]]:
    """(Explainer, on its own model) -> the entries of its other draws, by number."""
    drawn = [(Spec.parse(e.explainer), e.own_model, i) for i, e in enumerate(array.entries) if e.label == DRAW]
    found: dict[tuple[str, bool], list[int]] = {}
    for spec, own, entry in sorted(drawn, key=lambda each: each[0].draw):
        found.setdefault((str(spec.method), own), []).append(entry)
    return found


def _means(scores: Floats) -> tuple[float | None, ...]:
    """Of each entry of [n, m, k], scores averaged over models first; None where undefined."""
    return tuple(map(_number, st.mean_and_sd(st.mean_over_models(scores))[0]))


def _kept(scores: Floats, keep: NDArray[np.bool_] | None) -> Floats:
    return scores if keep is None else np.where(keep[:, :, None], scores, np.nan)


def _estimates(scores: Floats, counts: Floats, n: int) -> list[Estimate]:
    interval = st.bootstrap_means(st.mean_over_models(scores), counts)
    return [
        Estimate(_number(m), _number(lo), _number(hi), int(k), n)
        for m, lo, hi, k in zip(interval.mean, interval.low, interval.high, interval.n_ok, strict=True)
    ]


def competing(array: ScoreArray, entries: list[int], scores: Floats) -> list[int]:
    """Places of the methods that compete: no bounds, something defined, and once each.

    A method with its own model competes with its scores on the frozen model, which all others are scored on; on its own
    model only where a metric does not query the model, so that there is no second score.
    """
    alive = [k for k in range(len(entries)) if np.isfinite(scores[:, :, k]).any()]
    methods = [k for k in alive if array.entries[entries[k]].label not in BOUNDS]
    frozen = {array.entries[entries[k]].explainer for k in methods if not array.entries[entries[k]].own_model}
    return [
        k
        for k in methods
        if not array.entries[entries[k]].own_model or array.entries[entries[k]].explainer not in frozen
    ]


def _ranks(scores: Floats, ranked: list[int], better: str) -> tuple[dict[int, tuple[int, int]], float | None]:
    if not ranked or better == "none":
        return {}, None
    pairs = st.compare_pairs(scores[:, :, ranked], better == "higher")
    low, high = st.rank_intervals(pairs, len(ranked))
    ranks = {k: (int(a), int(b)) for k, a, b in zip(ranked, low, high, strict=True)}
    return ranks, _number(st.separable_difference(pairs))


def _omnibus(scores: Floats, ranked: list[int], better: str) -> Omnibus | None:
    means = st.mean_over_models(scores[:, :, ranked])
    if len(ranked) < 3 or np.isfinite(means).all(1).sum() < 2:
        return None
    test = friedman(means, better == "higher")
    return Omnibus(_number(test.f), test.p, test.n, test.k)


def _behind(scores: Floats, ranked: list[int], better: str, counts: Floats, n: int) -> dict[int, Estimate]:
    if len(ranked) < 2:
        return {}
    means, _ = st.mean_and_sd(st.mean_over_models(scores[:, :, ranked]))
    leader = ranked[int(np.nanargmax(means if better == "higher" else -means))]
    others = [k for k in ranked if k != leader]
    estimates = _estimates(scores[:, :, others] - scores[:, :, [leader]], counts, n)
    return dict(zip(others, estimates, strict=True))


def _models(array: ScoreArray) -> tuple[ModelSummary, ...]:
    accuracy, used = of_frozen_model(array, ACCURACY), of_frozen_model(array, TRUTH_USED)
    return tuple(
        ModelSummary(
            model,
            _mean(accuracy[:, m]) if accuracy is not None else _mean(array.correct[:, m]),
            None if used is None else _mean(used[:, m]),
        )
        for m, model in enumerate(array.models)
    )


def _model_figures(
    array: ScoreArray, names: Mapping[int, str], of_model: set[tuple[str, str]], counts: Floats
) -> dict[str, Figure]:
    entries = [i for i, e in enumerate(array.entries) if not e.explainer]
    figures = {}
    for c, facts in enumerate(array.columns):
        if (facts.metric, facts.column) in of_model and entries:
            scores = array.of(c, entries)
            status, reason = array.refusals.get((c, entries[0]), ("ok", ""))
            figures[names[c]] = Figure(
                _estimates(scores, counts, len(array.samples))[0], None, None,
                _number(st.spread_over_models(scores)[0]), tuple(map(_number, st.means_by_model(scores)[:, 0])),
                None, None, status, reason,
            )  # fmt: skip
    return figures


def _accuracy(array: ScoreArray, entry: int) -> float | None:
    """Accuracy of the model that this row explains: of the method's own model where it brings one."""
    places = [i for i, c in enumerate(array.columns) if c.column == ACCURACY]
    if array.entries[entry].own_model:
        return _mean(array.of(places[0], [entry])) if places else None
    frozen = of_frozen_model(array, ACCURACY)
    return _mean(array.correct if frozen is None else frozen)


def _costs(table: pd.Series, explainer: str) -> dict[str, float]:
    if explainer not in table.index.get_level_values(0) if len(table) else True:
        return {}
    return {str(k): float(v) for k, v in table[explainer].items() if np.isfinite(v)}


def _failure(figures: Mapping[str, Figure]) -> str:
    """Why a row has no figure at all; empty where it has one."""
    if any(f.headline.n_ok or (f.all_samples and f.all_samples.n_ok) for f in figures.values()):
        return ""
    causes = [(f.status, f.reason) for f in figures.values() if f.status != "ok"]
    if not causes:
        return "not run: the run was stopped before it"
    status, reason = max(causes, key=causes.count)
    return f"{status}: {reason}"


def _lead(columns: Mapping[str, ColumnSummary], figures: Mapping[int, Mapping[str, Figure]]) -> str | None:
    """The column that orders the rows: the first primary one with truth, known to be fit, that half of the rows have.

    Where there is none, these wishes are dropped one by one, the last first.
    """
    alive = [f for f in figures.values() if any(cell.headline.n_ok for cell in f.values())]
    common = {n for n in columns if 2 * sum(n in f and f[n].headline.n_ok > 0 for f in alive) >= len(alive)}
    directed = [(n, c) for n, c in columns.items() if c.facts.better != "none" and c.primary]
    wishes = (
        lambda n, c: n in common and c.tested and not c.unfit and c.facts.truth,
        lambda n, c: n in common and not c.unfit and c.facts.truth,
        lambda n, c: n in common and not c.unfit,
        lambda n, c: n in common,
        lambda n, c: True,
    )
    return next((name for wish in wishes for name, column in directed if wish(name, column)), None)


def _order(row: Row, lead: str | None, columns: Mapping[str, ColumnSummary]) -> tuple[int, float, str, bool]:
    place = ("oracle", "method", "floor", "failed").index(row.group)
    figure = row.figures.get(lead) if lead else None
    mean = figure.headline.mean if figure else None
    if mean is None or lead is None:
        return place, float("inf"), row.entry.explainer, row.entry.own_model
    return place, -mean if columns[lead].facts.better == "higher" else mean, row.entry.explainer, row.entry.own_model


def _mean(values: Floats) -> float | None:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
