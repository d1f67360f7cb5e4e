"""The numbers of `bench compare`: differences, intervals, tests and effect sizes of paired scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import statistics as st
from .bayesian_signed_rank import Posterior, bayesian_signed_rank, gamma_weights
from .paired_scores import FIGURE, Outcome, both_defined, judge, sample_differences, widths
from .paired_tests import benjamini_hochberg, cliffs_delta, is_binary, mcnemar, paired_proportions
from .score_array import ColumnFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Below six samples no exact two-sided signed-rank test reaches 5 % (2 / 2^5 = 0.0625).
LEAST = 6
Figure = tuple[str, str, bool, str, str]


@dataclass(frozen=True, eq=False)
class Tested:
    """The numbers of one figure; see ``comparison.Verdict``. All but ``gain`` have the figure's own sign."""

    figure: Figure
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    spread: float
    rope: float
    test: str
    p: float
    effect: float
    cliffs_delta: float
    separable: float
    identical: bool
    posterior: Posterior | None


def tested_figures(
    pairs: pd.DataFrame,
    facts: Mapping[tuple[str, str], ColumnFacts],
    seed: int,
    rope: float,
    bayes: bool,
    scale: Sequence[str],
) -> list[Tested]:
    """Everything but the family's adjustment, for each figure with a sample that is defined on both sides.

    Args:
        pairs: of ``paired_scores.paired``; only rows that count.
        seed: of the bootstrap, with the board's name.
        rope: part of a column's width.
        scale: the sides whose scores say how wide a column without bounds is: ``before``, a baseline, or both.
    """
    differences = sample_differences(pairs)
    if differences.empty:
        return []
    defined = both_defined(pairs)
    means = defined.groupby([*FIGURE, "sample"], sort=False)[["value_before", "value_after"]].mean()
    first, second = (means[side].unstack("sample") for side in ("value_before", "value_after"))
    spread = _spread_over_models(defined)
    width = widths(defined, facts, scale)
    found: list[Tested] = []
    for board in differences.index.unique("board"):
        here = differences.index.get_level_values("board") == board
        table = differences[here].dropna(axis=1, how="all")
        sides = first.reindex(table.index)[table.columns], second.reindex(table.index)[table.columns]
        found += _board(table, sides, _Keyed(seed, str(board)), spread, width, facts, rope, bayes)
    return found


@dataclass(frozen=True)
class _Keyed:
    """Generators of one board: SHA-256 of (seed, board, component)."""

    seed: int
    board: str

    def generator(self, component: str) -> np.random.Generator:
        key = hashlib.sha256(f"{self.seed}\0{self.board}\0{component}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:8], "little"))


def _board(
    table: pd.DataFrame,
    sides: tuple[pd.DataFrame, pd.DataFrame],
    keyed: _Keyed,
    spread: Mapping[Figure, float],
    width: Mapping[Figure, float],
    facts: Mapping[tuple[str, str], ColumnFacts],
    rope: float,
    bayes: bool,
) -> Iterable[Tested]:
    differences = table.to_numpy(float).T
    first, second = (side.to_numpy(float).T for side in sides)
    interval = st.bootstrap_means(differences, st.resample_counts(len(differences), keyed.generator("bootstrap")))
    ranks = st.signed_rank(differences)
    separable = st.detectable_difference(st.mean_and_sd(differences)[1], interval.n_ok)
    weights = gamma_weights(len(differences), keyed.generator("posterior")) if bayes else None
    for place, figure in enumerate(table.index):
        there = np.isfinite(differences[:, place])
        a, b, change = first[there, place], second[there, place], differences[there, place]
        low, high, p, test = interval.low[place], interval.high[place], ranks.p[place], "signed-rank"
        if is_binary(np.concatenate([a, b])):
            low, high = paired_proportions(a, b)
            p, test = mcnemar(int((b > a).sum()), int((b < a).sum())), "McNemar"
        half = rope * width[figure]
        # The posterior speaks of better and worse, so its differences are oriented.
        sign = 1.0 if facts[figure[3], figure[4]].better == "higher" else -1.0
        posterior = None if weights is None else bayesian_signed_rank(sign * differences[:, place], half, weights)
        yield Tested(
            figure, int(there.sum()), float(a.mean()), float(b.mean()), float(interval.mean[place]), float(low),
            float(high), spread[figure], half, test, float(p), float(ranks.effect[place]), cliffs_delta(b, a),
            float(separable[place]), not change.any(), posterior,
        )  # fmt: skip


def _spread_over_models(defined: pd.DataFrame) -> dict[Figure, float]:
    """Figure -> sd (ddof=1) of the models' mean differences; NaN for one model."""
    change = defined.assign(change=defined["value_after"] - defined["value_before"])
    by_model = change.groupby([*FIGURE, "model"], sort=False)["change"].mean()
    spread = by_model.groupby(level=FIGURE, sort=False).std(ddof=1)
    return dict(zip(spread.index.to_list(), spread, strict=True))


def adjusted(tested: list[Tested]) -> Floats:
    """q-values over all of them, [len(tested)]."""
    return benjamini_hochberg(np.array([t.p for t in tested], dtype=float))


def decide(tested: Tested, q: float, better: str, same_explainer: bool) -> tuple[Outcome, str]:
    """The verdict on one figure, and the reason where it is not the numbers alone.

    Scores that are identical on every sample are equivalent; yes-or-no scores of two explainers are judged by their
    interval even then, because few samples without a difference do not show that there is none.
    """
    if tested.identical and (same_explainer or tested.test != "McNemar"):
        return "equivalent", "identical on every sample"
    if tested.n < LEAST:
        return "inconclusive", f"fewer than {LEAST} samples"
    sign = 1.0 if better == "higher" else -1.0
    low, high = sorted((sign * tested.low, sign * tested.high))
    verdict = judge(sign * tested.difference, low, high, q, tested.rope, st.ALPHA)
    if verdict in ("regressed", "improved") and np.sign(tested.effect) != np.sign(tested.difference):
        return "inconclusive", "mean and ranks disagree"
    return verdict, ""
