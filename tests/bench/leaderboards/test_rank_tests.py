"""Friedman's test and the critical difference: Demsar's worked example, scipy, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from vitxai.bench import rank_tests as rt
from vitxai.bench.contract import BadInputError

# AUC of four variants of C4.5 on 14 data sets (Demsar 2006, Table 6), whose ranks and statistics he works out in print.
# Of the two 0.975 his ranks put the third variant first: it was larger before rounding.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.97501, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


class TestFriedman:
    def test_demsars_mean_ranks(self) -> None:
        assert rt.friedman(DEMSAR, True).mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)

    def test_demsars_statistics(self) -> None:
        """His 9.28 and 3.69 leave out the correction for ties, which can only make the statistics larger."""
        test = rt.friedman(DEMSAR, True)
        uncorrected = 12 * 14 / (4 * 5) * ((test.mean_ranks**2).sum() - 4 * 25 / 4)
        assert uncorrected == pytest.approx(9.28, abs=5e-3)
        assert 13 * uncorrected / (14 * 3 - uncorrected) == pytest.approx(3.69, abs=5e-3)
        assert test.chi2 > uncorrected
        assert test.f == pytest.approx(13 * test.chi2 / (14 * 3 - test.chi2))
        assert test.p == pytest.approx(scipy.stats.f.sf(test.f, 3, 39))
        assert test.p < test.p_chi2

    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_scipy_ties_included(self, seed: int) -> None:
        scores = np.random.default_rng(seed).integers(0, 6, (25, 4)).astype(float)
        ours, theirs = rt.friedman(scores, True), scipy.stats.friedmanchisquare(*scores.T)
        assert (ours.chi2, ours.p_chi2) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)

    def test_direction_turns_the_ranks_and_nothing_else(self) -> None:
        up, down = rt.friedman(DEMSAR, True), rt.friedman(DEMSAR, False)
        assert down.mean_ranks == pytest.approx(5 - up.mean_ranks)
        assert (down.chi2, down.p) == pytest.approx((up.chi2, up.p))

    def test_incomplete_blocks_are_left_out_and_counted(self) -> None:
        gaps = np.concatenate([DEMSAR, [[0.1, np.nan, 0.2, 0.3]]])
        test = rt.friedman(gaps, True)
        assert (test.n, test.k) == (14, 4)
        assert test.chi2 == rt.friedman(DEMSAR, True).chi2

    def test_equal_methods_cannot_be_told_apart(self) -> None:
        test = rt.friedman(np.ones((6, 3)), True)
        assert (test.chi2, test.p_chi2, test.f, test.p) == (0, 1, 0, 1)

    def test_perfect_agreement_leaves_nothing_to_chance(self) -> None:
        test = rt.friedman(np.tile([1.0, 2.0, 3.0], (10, 1)), True)
        assert test.chi2 == pytest.approx(20)
        assert (test.f, test.p) == (float("inf"), 0)
        assert test.mean_ranks.tolist() == [3, 2, 1]

    def test_false_alarms_keep_to_the_level(self) -> None:
        rng = np.random.default_rng(0)
        alarms = np.mean([rt.friedman(rng.normal(size=(12, 5)), True).p < 0.05 for _ in range(1000)])
        assert 0.03 <= alarms <= 0.07

    @pytest.mark.parametrize("shape", [(9, 2), (1, 4)])
    def test_too_little_is_refused(self, shape: tuple[int, int]) -> None:
        with pytest.raises(BadInputError, match=f"here are {shape[1]} and {shape[0]}"):
            rt.friedman(np.random.default_rng(0).random(shape), True)


class TestCriticalDifference:
    @pytest.mark.parametrize(("k", "blocks", "expected"), [(4, 14, 1.25), (6, 60, 0.973)])
    def test_published_values(self, k: int, blocks: int, expected: float) -> None:
        assert rt.critical_difference(k, blocks) == pytest.approx(expected, abs=5e-3)

    # q of Demsar 2006, Table 5(a), at 5 %.
    @pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)])
    def test_quantiles(self, k: int, q: float) -> None:
        assert rt.critical_difference(k, 24) * np.sqrt(6 * 24 / (k * (k + 1))) == pytest.approx(q, abs=1e-3)

    @pytest.mark.parametrize("k", [2, 3, 8, 21, 60])
    @pytest.mark.parametrize("alpha", [0.05, 0.1])
    def test_the_studentised_range_agrees_with_scipy(self, k: int, alpha: float) -> None:
        expected = scipy.stats.studentized_range.ppf(1 - alpha, k, np.inf)
        assert rt.studentised_range(k, alpha) == pytest.approx(expected, rel=1e-10)

    def test_agrees_with_scikit_posthocs(self) -> None:
        """A pair at exactly the critical difference has p = 5 % there."""
        posthocs = pytest.importorskip("scikit_posthocs")
        p = posthocs.posthoc_nemenyi_friedman(DEMSAR).to_numpy()
        ranks = rt.friedman(DEMSAR, True).mean_ranks
        apart = np.abs(ranks[:, None] - ranks) > rt.critical_difference(4, 14)
        assert np.array_equal(apart, p < 0.05)

    def test_few_blocks_are_refused(self) -> None:
        with pytest.raises(BadInputError, match=r"at least 2 methods and 8 blocks; here are 6 and 5"):
            rt.critical_difference(6, 5)
