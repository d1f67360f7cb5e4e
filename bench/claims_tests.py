"""How claims about scores are put to the test: gains over rivals, levels and areas, with the rule that decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from .aggregates import area_under_radar, normalised
from .claims import Finding, Verdict
from .claims_scores import (
    FROZEN,
    ColumnScores,
    Mean,
    matching,
    mean,
    mean_ratio,
    parameters,
    read_column,
    resamples,
)
from .report.run_files import RunFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Better = Literal["higher", "lower"]
MIN_SAMPLES = 20
"""Fewer decide nothing: percentile intervals are too narrow then."""


@dataclass(frozen=True)
class Gain:
    """How far a method is better than its best rival, in paired differences over samples.

    Attributes:
        column: of scores.parquet.
        method: pattern of ``claims_scores.matching``; every explainer that fits is a finding of its own.
        rivals: patterns, empty for the frozen model; without any all other methods of the run, floors and oracle left
            out. The rival is the one with the best mean on the same samples.
        at_least: what the gain must exceed.
        relative: the gain as a share of the rival's mean.
        same_but: only rivals whose parameters equal the method's in all but these.
        better: the claim's direction, where the column has none or another.
        every: also samples that do not count by charter 1 and 2, as papers have it.
    """

    column: str
    method: str
    rivals: tuple[str, ...] = ()
    at_least: float = 0.0
    relative: bool = False
    same_but: tuple[str, ...] | None = None
    better: Better | None = None
    every: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def rule(self) -> str:
        who = " or ".join(shown(r) for r in self.rivals) if self.rivals else "the best other method"
        what = f"less {self.column}" if self.better == "lower" else f"gain in {self.column}"
        bound = f"{100 * self.at_least:g} % of the latter's" if self.relative else f"{self.at_least:g}"
        return f"{what}, {shown(self.method)} against {who}: above {bound}"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        scores = read_column(run, self.column, self.every)
        sign = _sign(scores, self.better)
        known = [FROZEN, *scores.explainers]
        methods = matching(self.method, known)
        if not methods:
            yield _absent(self.method, scores)
        for method in methods:
            rival = scores.best(self._rivals(method, scores), method, sign)
            if rival is None:
                yield _absent(" or ".join(map(shown, self.rivals)) or "another method", scores, method)
                continue
            difference, beside = scores.paired(method, rival)
            seed = int(run.suite["seed"])
            found = mean_ratio(sign * difference, beside, seed) if self.relative else mean(sign * difference, seed)
            open_formula = [f"{name} is a reconstruction" for name in (method, rival) if name in scores.reconstructions]
            subject = f"{shown(method)} against {shown(rival)}"
            yield judged(subject, found, self.at_least, "; ".join(open_formula))

    def _rivals(self, method: str, scores: ColumnScores) -> list[str]:
        if not self.rivals:
            return [name for name in scores.rivals if name.partition(",")[0] != method.partition(",")[0]]
        known = [FROZEN, *scores.explainers]
        found = [name for pattern in self.rivals for name in matching(pattern, known) if name != method]
        if self.same_but is None:
            return found
        return [name for name in found if _without(name, self.same_but) == _without(method, self.same_but)]


@dataclass(frozen=True)
class BoardGain:
    """A method on one board against the same method on the best other one, sample by sample.

    The boards show the same samples to different models, so differences are taken after averaging over models.

    Attributes:
        method: pattern; empty for the frozen model.
        board: the one that is claimed to be better; ``others`` the rest.
    """

    column: str
    method: str
    board: str
    others: tuple[str, ...]
    at_least: float = 0.0
    better: Better | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def rule(self) -> str:
        others = " or ".join(self.others)
        what = f"less {self.column}" if self.better == "lower" else f"gain in {self.column}"
        return f"{what} of {shown(self.method)}, board {self.board} against {others}: above {self.at_least:g}"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        scores = read_column(run, self.column)
        sign = _sign(scores, self.better)
        missing = [board for board in (self.board, *self.others) if board not in scores.boards]
        if missing:
            yield Finding("", "not run", note=f"the run has no board {', '.join(missing)}")
            return
        known = [name for name in (FROZEN, *scores.explainers) if name in scores.boards[self.board].scores]
        methods = matching(self.method, known)
        if not methods:
            yield _absent(self.method, scores)
        for method in methods:
            mine = scores.on_board(self.board, method)
            others = {b: scores.on_board(b, method) for b in self.others if method in scores.boards[b].scores}
            best = max(others, key=lambda board: sign * float(others[board].mean()), default=None)
            if best is None:
                yield _absent(self.method, scores, f"boards {', '.join(self.others)}")
                continue
            difference = np.asarray(sign * (mine - others[best]), dtype=np.float64)
            subject = f"{shown(method)}: {self.board} against {best}"
            yield judged(subject, mean(difference, int(run.suite["seed"])), self.at_least)


@dataclass(frozen=True)
class Level:
    """A column's mean against a number.

    Attributes:
        above: what it must exceed; or
        equal: a published figure that its interval must hold, on this data set only (other data give other figures).
    """

    column: str
    method: str
    above: float | None = None
    equal: float | None = None
    dataset: str = ""
    every: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def rule(self) -> str:
        if self.equal is not None:
            return f"the interval of {self.column} of {shown(self.method)} on {self.dataset} holds {self.equal:g}"
        return f"{self.column} of {shown(self.method)} exceeds {self.above:g}"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        scores = read_column(run, self.column, self.every)
        methods = matching(self.method, [FROZEN, *scores.explainers])
        if not methods:
            yield _absent(self.method, scores)
        for method in methods:
            found = mean(scores.values(method), int(run.suite["seed"]))
            if self.equal is None:
                yield judged(shown(method), found, self.above or 0.0)
            elif any(str(name).partition(",")[0] != self.dataset for name in run.scores["dataset"].unique()):
                yield _finding(shown(method), found, "not testable", f"the figure {self.equal:g} is of {self.dataset}")
            else:
                inside = found.low <= self.equal <= found.high
                yield _finding(shown(method), found, "holds" if inside else "does not hold")


@dataclass(frozen=True)
class LargestArea:
    """Area under the radar of several columns, min-max over the methods: by how much a method's exceeds the next.

    Attributes:
        axes: (column, direction) in the radar's order.
        methods: patterns of those that take part; the first is claimed to have the largest area.
    """

    axes: tuple[tuple[str, Better], ...]
    methods: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for column, _ in self.axes)

    @property
    def rule(self) -> str:
        axes = ", ".join(f"{column} ({better} is better)" for column, better in self.axes)
        return f"area under the radar of {axes}: that of {self.methods[0]} exceeds the next largest"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        columns = [read_column(run, column) for column in self.columns]
        shared = set.intersection(*(set(scores.explainers) for scores in columns))
        names = [name for pattern in self.methods for name in matching(pattern, sorted(shared))]
        if len(names) < 2 or not matching(self.methods[0], names):
            absent = [pattern for pattern in self.methods if not matching(pattern, sorted(shared))]
            yield Finding("", "not run", note=f"{', '.join(absent)}: no score in one of {', '.join(self.columns)}")
            return
        values = np.stack([np.stack([scores.values(name) for name in names]) for scores in columns])
        higher = np.array([better == "higher" for _, better in self.axes])
        counts = resamples(values.shape[-1], int(run.suite["seed"]))
        areas = area_under_radar(normalised(_means(values, None), higher))
        drawn = area_under_radar(normalised(_means(values, counts), higher))
        rival = 1 + int(areas[1:].argmax())
        low, high = np.percentile(drawn[:, 0] - drawn[:, 1:].max(1), [2.5, 97.5])
        found = Mean(float(areas[0] - areas[rival]), float(low), float(high), values.shape[-1])
        order = sorted(zip(names, areas, strict=True), key=lambda pair: -pair[1])
        note = "areas: " + ", ".join(f"{name} {area:.2f}" for name, area in order)
        yield judged(f"{names[0]} minus {names[rival]}", found, 0.0, note)


def judged(subject: str, found: Mean, bound: float, note: str = "") -> Finding:
    """Holds where the whole interval lies above the bound, does not where none of it does; else undecided."""
    verdict: Verdict = "undecided"
    if not found.n:
        verdict, note = "not run", note or "no sample has a score of both"
    elif found.n < MIN_SAMPLES:
        note = "; ".join(filter(None, (note, f"fewer than {MIN_SAMPLES} samples decide nothing")))
    elif found.low > bound:
        verdict = "holds"
    elif found.high <= bound:
        verdict = "does not hold"
    return _finding(subject, found, verdict, note)


def _finding(subject: str, found: Mean, verdict: Verdict, note: str = "") -> Finding:
    value, low, high = (None if np.isnan(x) else x for x in (found.value, found.low, found.high))
    return Finding(subject, verdict, value, low, high, found.n, note)


def _absent(who: str, scores: ColumnScores, subject: str = "") -> Finding:
    reasons = [reason for name, reason in scores.why_not.items() if name.partition(",")[0] == who.partition(",")[0]]
    why = f": {reasons[0]}" if reasons else ""
    return Finding(shown(subject) if subject else "", "not run", note=f"no {scores.name} of {shown(who)}{why}")


def _means(values: Floats, counts: Floats | None) -> Floats:
    """[K, k, n] -> [K, k], or [R, K, k] over resamples."""
    defined = np.isfinite(values)
    filled = np.where(defined, values, 0.0)
    with np.errstate(invalid="ignore"):
        if counts is None:
            return np.asarray(filled.sum(-1) / defined.sum(-1))
        drawn = np.einsum("rn,akn->rak", counts, defined.astype(np.float64))
        return np.asarray(np.einsum("rn,akn->rak", counts, filled) / drawn)


def _sign(scores: ColumnScores, better: Better | None) -> float:
    return -1.0 if (better or scores.better) == "lower" else 1.0


def _without(explainer: str, keys: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in parameters(explainer).items() if key not in keys}


def shown(explainer: str) -> str:
    """A spec, or what stands for none."""
    return explainer or "the frozen model"
