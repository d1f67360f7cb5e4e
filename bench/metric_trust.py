"""Which metrics to trust, from a run's files: ``python -m vitxai.bench.metric_trust --results DIR``.

A metric is worth reading where it puts the oracle above the floors, tells methods apart, and says the same on models
trained apart. Whether it agrees with other metrics says what it measures, not whether it is right.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import statistics as st
from .contract import Spec, VitxaiError
from .contract import metrics as metric_registry
from .counted import counted_samples
from .fitness import Fitness, fitness
from .report.run_files import RunFiles, read_run
from .score_array import ColumnFacts, Entry, ScoreArray, board_array
from .tables import column_names, competing, headline_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .speed_metrics import MetricRow

    Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

TRUTH = "healing_auc"
"""The column whose ranking the others are held against: the effect of undoing what a map marks, on the model itself."""
MIN_SHARED = 5
"""Explainers that two columns must share before their ranks are correlated."""


@dataclass(frozen=True)
class Standing:
    """Where one column puts oracle, floors and methods; a place is 1 and the rows with a better mean.

    Attributes:
        rows: methods that compete, floors and oracles, those with a mean.
        oracle: place of the best oracle; None without one.
        floor: the best floor, and ``floor_place``; empty and None without floors.
        above: methods separably better than every floor; None without floors or without methods.
        methods: that compete.
        first: the method with the best mean, and ``first_place``; empty and None without methods.
    """

    rows: int
    oracle: int | None
    floor: str
    floor_place: int | None
    above: int | None
    methods: int
    first: str
    first_place: int | None


@dataclass(frozen=True)
class Trust:
    """What a board says of one column.

    Attributes:
        column: name in the tables; ``metric`` is the metric's.
        primary: shown in the short tables.
        defined: share of the (sample, model, explainer) scores that are defined, of those that count.
        oracle: ``above`` the floors, ``not above`` (charter 8: unfit), or ``untested`` without an oracle or floors.
        unfit: which floors the oracle is not above.
        methods: that compete.
        separated: share of the pairs of methods that paired tests separate at this n; None below two methods. The mean
            width of the rank intervals, over the largest, is 1 less this.
        resolution: smallest separable difference of a pair (80 % power) over the range of the methods' means.
        models_agree: mean Spearman correlation between models of the methods' means; None with one model.
        spread: median over methods of the models' sd, over the range of the methods' means.
        means: explainer -> mean, higher is better, methods and floors; the oracle's would agree by construction.
        standing: of a figure that holds the map against the model's own answers (faithfulness); else None.
    """

    board: str
    metric: str
    column: str
    primary: bool
    defined: float
    oracle: str
    unfit: str
    methods: int
    separated: float | None
    resolution: float | None
    models_agree: float | None
    spread: float | None
    means: Mapping[str, float]
    standing: Standing | None = None


def trust(run: RunFiles) -> tuple[Trust, ...]:
    """Every column with a direction that explanations have, board by board."""
    names = dict(zip(run.columns, column_names(run.columns).values(), strict=True))
    asking = {metric for metric in dict.fromkeys(c.metric for c in run.columns) if _queries_model(metric)}
    return tuple(
        line
        for board, (scores, _) in run.boards.items()
        for line in _board(board_array(scores, run.columns), names, board, asking)
    )


def _queries_model(metric: str) -> bool:
    """Whether a metric runs the model, which its plug-in knows and the run's files do not."""
    try:
        return metric_registry.get(Spec.parse(metric).name).queries_model
    except VitxaiError as error:
        log.warning("%s is left out of the table of faithfulness: %s", metric, error)
        return False


def _board(array: ScoreArray, names: Mapping[ColumnFacts, str], board: str, asking: Collection[str]) -> Iterator[Trust]:
    explained = [i for i, e in enumerate(array.entries) if e.explainer]
    counted = counted_samples(array)
    present, alone = array.present[:, explained], [i for i, e in enumerate(array.entries) if not e.explainer]
    columns = [
        i
        for i, facts in enumerate(array.columns)
        if facts.better != "none" and not array.present[i, alone].any() and np.isfinite(array.of(i, explained)).any()
    ]
    primary = headline_columns([array.columns[i] for i in columns])
    for c in columns:
        facts = array.columns[c]
        every = array.of(c, explained)
        keep = counted if facts.truth else np.ones(every.shape[:2], dtype=bool)
        scores = np.where(keep[:, :, None], every, np.nan)
        ranked = competing(array, explained, scores)
        entries = [array.entries[e] for e in explained]
        fit = fitness(entries, scores, ranked, facts.better)
        floors = [k for k, e in enumerate(entries) if e.label == "floor"]
        here = scores[keep][:, present[c]]
        oriented = scores if facts.better == "higher" else -scores
        yield Trust(
            board, facts.metric, names[facts], facts in primary, float(np.isfinite(here).mean()) if here.size else 0.0,
            "untested" if not fit.tested else "not above" if fit.unfit else "above", fit.unfit, len(ranked),
            *separation(scores[:, :, ranked], facts.better == "higher"), *over_models(oriented[:, :, ranked]),
            _means(oriented, {entries[k].explainer: k for k in (*ranked, *floors)}),
            _standing(entries, oriented, ranked, fit) if facts.metric in asking else None,
        )  # fmt: skip


def _standing(entries: Sequence[Entry], oriented: Floats, ranked: list[int], fit: Fitness) -> Standing:
    """From scores [n, m, k] of which higher is better."""
    means, _ = st.mean_and_sd(st.mean_over_models(oriented))
    bounds = {
        label: [k for k, e in enumerate(entries) if e.label == label and not e.own_model and np.isfinite(means[k])]
        for label in ("oracle", "floor")
    }
    rows = [*ranked, *bounds["oracle"], *bounds["floor"]]

    def best(places: Sequence[int]) -> tuple[str, int | None]:
        if not places:
            return "", None
        top = max(places, key=lambda k: means[k])
        return entries[top].explainer, 1 + int((means[rows] > means[top]).sum())

    above = sum(fit.above.values()) if fit.above else None
    return Standing(len(rows), best(bounds["oracle"])[1], *best(bounds["floor"]), above, len(ranked), *best(ranked))


def separation(scores: Floats, higher_is_better: bool) -> tuple[float | None, float | None]:
    """Share of separated pairs, and smallest separable difference over the range of the means; of [n, m, k]."""
    if scores.shape[2] < 2:
        return None, None
    pairs = st.compare_pairs(scores, higher_is_better)
    means, _ = st.mean_and_sd(st.mean_over_models(scores))
    least, range_ = st.separable_difference(pairs), np.ptp(means)
    return float((pairs.winner >= 0).mean()), float(least / range_) if np.isfinite(least) and range_ > 0 else None


def over_models(scores: Floats) -> tuple[float | None, float | None]:
    """Agreement of the models on the ranking, and spread over models over the range of the means; of [n, m, k]."""
    by_model = st.means_by_model(scores)
    known = np.isfinite(by_model).all(0)
    by_model = by_model[:, known]
    if len(by_model) < 2 or by_model.shape[1] < 3:
        return None, None
    rho = [spearman(a, b) for a, b in combinations(by_model, 2)]
    range_ = np.ptp(by_model.mean(0))
    return float(np.mean(rho)), float(np.median(by_model.std(0, ddof=1)) / range_) if range_ > 0 else None


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation of two rows, ties averaged; 0 where one of them is constant: it ranks nothing."""
    ranks = st.midranks(np.stack([a, b], 1))
    ranks = ranks - ranks.mean(0)
    norm = np.sqrt((ranks**2).sum(0).prod())
    return float((ranks[:, 0] * ranks[:, 1]).sum() / norm) if norm > 0 else 0.0


def agreement(one: Trust, other: Trust) -> float | None:
    """Rank correlation of the means of the explainers that both have; None below ``MIN_SHARED`` of them."""
    shared = sorted(one.means.keys() & other.means.keys())
    if len(shared) < MIN_SHARED:
        return None
    return spearman(*(np.array([line.means[name] for name in shared]) for line in (one, other)))


def mean_agreement(lines: Sequence[Trust], one: str, other: str) -> float | None:
    """Mean of :func:`agreement` of two columns over the boards that have both."""
    by_place = {(line.board, line.column): line for line in lines}
    pairs = [(by_place[b, one], by_place.get((b, other))) for b, c in by_place if c == one]
    found = [rho for a, b in pairs if b is not None and (rho := agreement(a, b)) is not None]
    return float(np.mean(found)) if found else None


def _means(oriented: Floats, places: Mapping[str, int]) -> dict[str, float]:
    means, _ = st.mean_and_sd(st.mean_over_models(oriented))
    return {name: float(means[k]) for name, k in places.items() if np.isfinite(means[k])}


def costs(run: RunFiles, pairs: int = 3) -> dict[str, dict[str, MetricRow]]:
    """Board -> metric -> what it costs there, on the board's first model with maps of the suite's first explainer.

    A metric that refuses a board has no line there.
    """
    from .cell import load_cell
    from .cell_plan import cells_of
    from .contract import explainers
    from .speed_metrics import MetricBench, MetricRow, measured
    from .suite import parse_suite

    suite = parse_suite(dict(run.suite), "run.json")
    found: dict[str, dict[str, MetricRow]] = {}
    with tempfile.TemporaryDirectory() as store:
        for board, cell in cells_of(suite, store=Path(store), device="cpu", plugins=()):
            if board.name in found:
                continue
            work, facts = load_cell(cell)
            batch = work.samples.collate(facts.ids[: cell.batch_size])
            batch = replace(batch, targets=work.samples.targets(work.samples.logits(batch.inputs), batch.labels))
            method = explainers.create(suite.explainers_of(board)[0])
            bench = MetricBench(work.frozen.model, batch, method, pairs, facts.max_rows, work.samples.fit_data)
            specs = [str(spec) for spec in suite.metrics_of(board)]
            found[board.name] = {row.name: row for row in measured(bench, specs) if isinstance(row, MetricRow)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page, one part a run."""
    from .metric_trust_page import as_markdown

    parser = argparse.ArgumentParser(prog="python -m vitxai.bench.metric_trust", description=__doc__)
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[Path("results")], metavar="DIR", help="runs' folders"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: metrics.md in the first folder")
    parser.add_argument("--no-costs", action="store_true", help="leave the models alone: no table of costs")
    given = parser.parse_args(arguments)
    if not given.no_costs:
        from .memory import keep_freed_memory  # takes torch's import

        keep_freed_memory()  # as workers do
    runs = [read_run(folder) for folder in given.results]
    out = given.out or given.results[0] / "metrics.md"
    pages = [as_markdown(run, trust(run), {} if given.no_costs else costs(run)) for run in runs]
    out.write_text("\n".join(pages), encoding="utf-8")
    sys.stdout.write(f"wrote {out}\n")


if __name__ == "__main__":
    main()
