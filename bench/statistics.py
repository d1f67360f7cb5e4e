"""Uncertainty of means and ranks over samples: paired bootstrap, signed-rank tests with Holm, rank intervals.

Samples are the blocks. Every array has samples first; NaN marks a sample that is undefined, and a comparison uses the
samples that are defined for both of its sides (complete blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 9_999
ALPHA = 0.05
# Normal quantiles of a two-sided test at 5 % and of 80 % power.
_Z_ALPHA, _Z_POWER = 1.959963984540054, 0.8416212335729143
# Standard deviations from the mean within which no end of a 95 % interval lies, but for odd distributions.
_TAIL_STARTS = 1.6


@dataclass(frozen=True, eq=False)
class Interval:
    """Means over samples with percentile bootstrap intervals; all arrays [k].

    Attributes:
        mean: over the defined samples; NaN where there is none.
        low, high: 95 % interval; NaN where fewer than two samples are defined.
        n_ok: defined samples.
    """

    mean: Floats
    low: Floats
    high: Floats
    n_ok: NDArray[np.int64]


def resample_counts(n: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """How often each sample is drawn in each resample, [resamples, n]; rows sum to n.

    One matrix for all columns of a table keeps their resamples paired: a resampled mean is ``counts @ values / n``.
    """
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def bootstrap_means(values: Floats, counts: Floats, alpha: float = ALPHA) -> Interval:
    """Means of [n, k] over samples with percentile intervals (Efron 1979); constant data give (c, c).

    A sample that is NaN in a column leaves that column's resamples, numerator and denominator.
    """
    defined = np.isfinite(values)
    n_ok = defined.sum(0)
    origin = _first_defined(values, defined)
    # Centred on a value of the column itself, so that constant columns stay exactly constant after rounding.
    centred = np.where(defined, values - origin, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = origin + centred.sum(0) / n_ok
    ends = np.full((2, len(n_ok)), np.nan)
    enough = n_ok >= 2
    if enough.any():
        draws = _resampled_means(centred[:, enough], defined[:, enough], counts)
        _, sd = mean_and_sd(values[:, enough])
        ends[:, enough] = _percentiles(draws, alpha, (mean - origin)[enough], sd / np.sqrt(n_ok[enough]))
    low, high = origin + ends
    return Interval(mean, low, high, n_ok)


def _first_defined(values: Floats, defined: NDArray[np.bool_]) -> Floats:
    first = values[defined.argmax(0), np.arange(values.shape[1])]
    return np.where(defined.any(0), first, np.nan)


def _resampled_means(values: Floats, defined: NDArray[np.bool_], counts: Floats) -> Floats:
    """Means of the resamples, [k, resamples]; NaN where one has no defined sample. ``values`` [n, k] hold 0 there."""
    sums = values.T @ counts.T
    if defined.all():
        return np.divide(sums, counts.shape[1], out=sums)
    # Most often the same samples are undefined in all columns.
    patterns = defined[:, :1] if (defined == defined[:, :1]).all() else defined
    with np.errstate(invalid="ignore"):
        return np.divide(sums, (counts @ patterns.astype(np.float64)).T, out=sums)


def _percentiles(draws: Floats, alpha: float, middle: Floats, spread: Floats) -> Floats:
    """Central 1 - alpha of each row of [k, resamples], as [2, k]; resamples without any defined sample are left out.

    ``middle`` and ``spread`` [k], about the mean and the standard deviation of a row, tell where to look first.
    """
    rows = draws if np.isfinite(draws).all() else [row[np.isfinite(row)] for row in draws]
    reach = _TAIL_STARTS * spread
    return np.array([_central(*each, alpha) for each in zip(rows, middle - reach, middle + reach, strict=True)]).T


def _central(values: Floats, lower: float, upper: float, alpha: float) -> tuple[float, float]:
    """``np.quantile`` of a long row at alpha / 2 and 1 - alpha / 2, each sorted out of its own short tail."""
    if not len(values):
        return float("nan"), float("nan")
    below, above = values[values < lower], values[values > upper]
    n = len(values)
    return _interpolated(values, below, 0, alpha / 2), _interpolated(values, above, n - len(above), 1 - alpha / 2)


def _interpolated(values: Floats, tail: Floats, before: int, share: float) -> float:
    """The quantile, from a tail that ``before`` values lie below; from all values where the tail is too short."""
    place = share * (len(values) - 1)
    low, high = int(place), min(int(place) + 1, len(values) - 1)
    if low < before or high >= before + len(tail):
        tail, before = values, 0
    ordered = np.partition(tail, (low - before, high - before))
    a, b, part = ordered[low - before], ordered[high - before], place - low
    # numpy's own form, to the last bit.
    return float(a + (b - a) * part if part < 0.5 else b - (b - a) * (1 - part))


@dataclass(frozen=True, eq=False)
class SignedRank:
    """Wilcoxon signed-rank tests of [p] comparisons; NaN p-values where no sample is defined.

    Attributes:
        p: two-sided p-values.
        effect: matched rank-biserial correlation in [-1, 1]; positive where positive differences prevail.
    """

    p: Floats
    effect: Floats


def signed_rank(differences: Floats) -> SignedRank:
    """Tests each column of [n, p] against symmetry about zero (Wilcoxon 1945; Pratt's ranks, zeros split evenly).

    Normal approximation with the variance of the midranks, no continuity correction: what
    ``scipy.stats.wilcoxon(zero_method="zsplit", method="approx")`` computes, for all columns at once.
    """
    defined = np.isfinite(differences)
    ranks = midranks(np.where(defined, np.abs(differences), np.inf))
    ranks = np.where(defined, ranks, 0.0)
    balance = (np.sign(np.where(defined, differences, 0.0)) * ranks).sum(0)
    spread = np.sqrt((ranks**2).sum(0))
    total = ranks.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * ndtr(-np.abs(balance / spread))
        effect = balance / total
    return SignedRank(p, effect)


def midranks(values: Floats) -> Floats:
    """Average ranks from 1 in each column; equal values share theirs."""
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, 0)
    n = len(values)
    place = np.arange(n)[:, None]
    new = np.ones(values.shape, dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=0)
    ends = np.ones(values.shape, dtype=bool)
    ends[:-1] = new[1:]
    last = np.minimum.accumulate(np.where(ends, place, n)[::-1], axis=0)[::-1]
    ranks = np.empty_like(values)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, 0)
    return ranks


def holm(p: Floats) -> Floats:
    """Holm's step-down adjusted p-values (1979); NaN entries stay NaN and count for nothing."""
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of k methods in one column; arrays [p] unless said otherwise.

    Attributes:
        first, second: indices of the methods.
        difference: mean over the complete blocks of first minus second.
        p: Holm-adjusted over the pairs.
        winner: index of the significantly better method; -1 where the two cannot be told apart.
        n_ok: complete blocks.
        sd: standard deviation of the paired differences (ddof=1).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    difference: Floats
    p: Floats
    winner: NDArray[np.int64]
    n_ok: NDArray[np.int64]
    sd: Floats


def compare_pairs(scores: Floats, higher_is_better: bool, alpha: float = ALPHA) -> Pairs:
    """Signed-rank tests of all pairs with Holm over the pairs.

    Args:
        scores: [n, m, k], samples x models x methods. Differences are taken within (sample, model) and then averaged
            over models, so that an undefined value on one model never compares different sets of models.

    A pair has a winner when its adjusted p-value is below ``alpha`` and mean and ranks agree in their sign.
    """
    first, second = np.triu_indices(scores.shape[2], 1)
    differences = mean_over_models(scores[:, :, first] - scores[:, :, second])
    n_ok = np.isfinite(differences).sum(0)
    test = signed_rank(differences)
    p = holm(np.where(n_ok > 0, test.p, np.nan))
    difference, sd = mean_and_sd(differences)
    agreed = np.sign(difference) == np.sign(test.effect)
    sign = np.sign(difference) if higher_is_better else -np.sign(difference)
    with np.errstate(invalid="ignore"):
        significant = (p < alpha) & agreed & (sign != 0)
    winner = np.where(significant, np.where(sign > 0, first, second), -1)
    return Pairs(first, second, difference, p, winner, n_ok, sd)


def rank_intervals(pairs: Pairs, methods: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best and worst rank of each method, [k]: 1 + number significantly better, k - number significantly worse.

    Intervals, not groups, because "cannot be told apart" is not transitive.
    """
    decided = pairs.winner >= 0
    loser = np.where(pairs.winner == pairs.first, pairs.second, pairs.first)
    beaten = np.bincount(pairs.winner[decided], minlength=methods)
    lost = np.bincount(loser[decided], minlength=methods)
    return 1 + lost, methods - beaten


def separable_difference(pairs: Pairs) -> float:
    """The smallest true difference of one pair that this n finds with 80 % power at a two-sided 5 % level.

    ``(1.960 + 0.842) * sd / sqrt(n)``, the paired z-test's formula, with sd of the paired differences; the median over
    pairs. Holm's correction over many pairs asks for more. NaN without a pair of two complete blocks.
    """
    enough = pairs.n_ok >= 2
    if not enough.any():
        return float("nan")
    return float(np.median(detectable_difference(pairs.sd[enough], pairs.n_ok[enough])))


def detectable_difference(sd: Floats, n: NDArray[np.int64]) -> Floats:
    """``(1.960 + 0.842) * sd / sqrt(n)`` of each comparison; NaN below two complete blocks."""
    return np.where(n >= 2, (_Z_ALPHA + _Z_POWER) * sd / np.sqrt(np.maximum(n, 1)), np.nan)


def mean_over_models(scores: Floats) -> Floats:
    """[n, m, k] -> [n, k], over the models where a value is defined; NaN where none is."""
    defined = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, scores, 0.0).sum(1) / defined.sum(1))


def mean_and_sd(values: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation (ddof=1) of the defined entries of each column of [n, k]; NaN where undefined."""
    defined = np.isfinite(values)
    count = defined.sum(0)
    origin = _first_defined(values, defined)
    centred = np.where(defined, values - origin, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = centred.sum(0) / count
        squares = (np.where(defined, centred - shift, 0.0) ** 2).sum(0)
        sd = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
    return origin + shift, sd


def means_by_model(scores: Floats) -> Floats:
    """[n, m, k] -> [m, k], over the samples where a value is defined; NaN where none is."""
    samples, models, methods = scores.shape
    return mean_and_sd(scores.reshape(samples, models * methods))[0].reshape(models, methods)


def spread_over_models(scores: Floats) -> Floats:
    """How far a mean generalises over independently trained models: sd (ddof=1) of the models' means; [n, m, k] -> [k].

    NaN where fewer than two models have a defined sample.
    """
    return mean_and_sd(means_by_model(scores))[1]


@dataclass(frozen=True, eq=False)
class PairedT:
    """Paired t-tests of [p] comparisons: mean difference, 95 % interval and two-sided p (not adjusted)."""

    mean: Floats
    low: Floats
    high: Floats
    p: Floats
    n_ok: NDArray[np.int64]


def paired_t(differences: Floats, alpha: float = ALPHA) -> PairedT:
    """Student's paired test of each column of [n, p]; p is NaN below two samples.

    Without spread, a difference that is not zero has p = 0 and one that is has p = 1: then nothing is left to chance.
    """
    n_ok = np.isfinite(differences).sum(0)
    mean, sd = mean_and_sd(differences)
    freedom = np.maximum(n_ok - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = sd / np.sqrt(n_ok)
        p = np.where(error > 0, 2 * stdtr(freedom, -np.abs(mean) / error), np.where(mean == 0, 1.0, 0.0))
    reach = stdtrit(freedom, 1 - alpha / 2) * error
    return PairedT(mean, mean - reach, mean + reach, np.where(n_ok < 2, np.nan, p), n_ok)


def above_all(
    scores: Floats, challengers: list[int], rivals: list[int], higher_is_better: bool, alpha: float = ALPHA
) -> NDArray[np.float64]:
    """For each challenger, the p-value of "better than every rival", Holm-adjusted over the challengers; [challengers].

    The largest p-value over the rivals decides (intersection-union test); 1 where mean or ranks point the wrong way.

    Args:
        scores: [n, m, k], samples x models x methods.
        challengers, rivals: indices of methods.
    """
    pairs = scores[:, :, challengers, None] - scores[:, :, None, rivals]
    differences = mean_over_models(pairs.reshape(*scores.shape[:2], -1))
    test = signed_rank(differences)
    sign = 1.0 if higher_is_better else -1.0
    mean, _ = mean_and_sd(differences)
    with np.errstate(invalid="ignore"):
        right = (sign * mean > 0) & (sign * test.effect > 0)
    p = np.where(right, test.p, 1.0).reshape(len(challengers), len(rivals))
    return holm(p.max(1))
