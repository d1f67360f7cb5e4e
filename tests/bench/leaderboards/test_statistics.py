"""Uncertainty: hand-computed cases, scipy as the independent reference, and coverage on known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from vitxai.bench import statistics as st

NAN = np.nan


def counts(n: int, seed: int = 0, resamples: int = 9_999) -> np.ndarray:
    return st.resample_counts(n, np.random.default_rng(seed), resamples)


class TestBootstrap:
    def test_a_resample_draws_n_samples(self) -> None:
        drawn = counts(7, resamples=50)
        assert drawn.shape == (50, 7)
        assert (drawn.sum(1) == 7).all()

    def test_agrees_with_scipys_percentile_bootstrap(self) -> None:
        values = np.random.default_rng(1).gamma(2, size=60)
        ours = st.bootstrap_means(values[:, None], counts(60))
        theirs = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=9_999, method="percentile", rng=3
        ).confidence_interval
        assert ours.mean[0] == pytest.approx(values.mean())
        assert ours.low[0] == pytest.approx(theirs.low, abs=0.02)
        assert ours.high[0] == pytest.approx(theirs.high, abs=0.02)

    def test_covers_the_true_mean_in_95_of_100_cases(self) -> None:
        rng = np.random.default_rng(5)
        values = rng.normal(0.3, 1, (50, 1000))
        interval = st.bootstrap_means(values, counts(50, 2, 2000))
        covered = ((interval.low <= 0.3) & (interval.high >= 0.3)).mean()
        assert 0.91 <= covered <= 0.97

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -7e5])
    def test_constant_data_give_a_point(self, constant: float) -> None:
        interval = st.bootstrap_means(np.full((11, 1), constant), counts(11))
        assert (interval.mean[0], interval.low[0], interval.high[0]) == (constant, constant, constant)

    @pytest.mark.parametrize("kind", ["normal", "cauchy", "two values", "constant", "short"])
    @pytest.mark.parametrize("alpha", [0.05, 0.5])
    def test_ends_are_numpys_percentiles_to_the_last_bit(self, kind: str, alpha: float) -> None:
        rng = np.random.default_rng(4)
        draws = {
            "normal": rng.normal(size=(5, 9_999)),
            "cauchy": rng.standard_cauchy((5, 9_999)),
            "two values": rng.integers(0, 2, (5, 1_000)).astype(float),
            "constant": np.full((2, 100), 0.1),
            "short": rng.normal(size=(4, 3)),
        }[kind]
        expected = np.percentile(draws, [50 * alpha, 100 - 50 * alpha], axis=1)
        for off in (0.0, 5.0, NAN):  # where to look first may be wrong
            assert np.array_equal(st._percentiles(draws, alpha, draws.mean(1) + off, draws.std(1)), expected)

    def test_resamples_without_a_defined_sample_are_left_out(self) -> None:
        draws = np.random.default_rng(0).normal(size=(3, 500))
        draws[0, :100] = NAN
        draws[2] = NAN
        ends = st._percentiles(draws, 0.05, np.zeros(3), np.ones(3))
        assert ends[:, 0].tolist() == np.percentile(draws[0, 100:], [2.5, 97.5]).tolist()
        assert ends[:, 1].tolist() == np.percentile(draws[1], [2.5, 97.5]).tolist()
        assert np.isnan(ends[:, 2]).all()

    def test_undefined_samples_are_left_out_and_counted(self) -> None:
        values = np.array([[1.0, 1.0], [NAN, 2.0], [3.0, 3.0], [NAN, 4.0]])
        interval = st.bootstrap_means(values, counts(4))
        assert interval.n_ok.tolist() == [2, 4]
        assert interval.mean.tolist() == [2.0, 2.5]
        assert (interval.low[0], interval.high[0]) == (1.0, 3.0)

    def test_columns_that_miss_other_samples_stand_beside_each_other(self) -> None:
        values = np.random.default_rng(3).normal(size=(9, 5))
        values[2, [0, 3]] = values[[4, 7], 1] = NAN
        interval, drawn = st.bootstrap_means(values, counts(9)), counts(9)
        for column, low, high in zip(values.T, interval.low, interval.high, strict=True):
            there = np.isfinite(column)
            means = drawn[:, there] @ column[there] / drawn[:, there].sum(1)
            assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]))

    def test_fewer_than_two_samples_have_no_interval(self) -> None:
        interval = st.bootstrap_means(np.array([[NAN, 5.0], [NAN, NAN]]), counts(2))
        assert interval.n_ok.tolist() == [0, 1]
        assert np.isnan(interval.mean[0])
        assert interval.mean[1] == 5
        assert np.isnan(interval.low).all()
        assert np.isnan(interval.high).all()

    def test_paired_intervals_are_narrower_than_unpaired_ones(self) -> None:
        rng = np.random.default_rng(0)
        difficulty = rng.normal(size=40)
        a, b = difficulty + 0.3 + rng.normal(0, 0.1, 40), difficulty + rng.normal(0, 0.1, 40)
        interval = st.bootstrap_means(np.stack([a, b, a - b], 1), counts(40))
        width = interval.high - interval.low
        assert width[2] < 0.3 * min(width[0], width[1])
        assert interval.low[2] > 0


class TestSignedRank:
    @pytest.mark.parametrize("seed", range(6))
    def test_agrees_with_scipy_on_ties_and_zeros(self, seed: int) -> None:
        differences = np.random.default_rng(seed).integers(-3, 5, (40, 3)).astype(float)
        ours = st.signed_rank(differences)
        for column in range(3):
            theirs = scipy.stats.wilcoxon(
                differences[:, column], zero_method="zsplit", correction=False, method="asymptotic"
            )
            assert ours.p[column] == pytest.approx(theirs.pvalue, rel=1e-9)

    def test_undefined_pairs_are_left_out(self) -> None:
        differences = np.random.default_rng(0).normal(0.2, 1, 30)
        with_gaps = np.concatenate([differences, [NAN, NAN]])[:, None]
        assert st.signed_rank(with_gaps).p[0] == pytest.approx(st.signed_rank(differences[:, None]).p[0])

    def test_effect_by_hand(self) -> None:
        # |d| ranks 1, 2, 3; positive ones 1 + 3, negative 2: (4 - 2) / 6.
        assert st.signed_rank(np.array([[0.1], [-0.2], [0.3]])).effect[0] == pytest.approx(1 / 3)

    def test_identical_methods_cannot_be_told_apart(self) -> None:
        test = st.signed_rank(np.zeros((10, 1)))
        assert test.p[0] == 1
        assert test.effect[0] == 0

    def test_nothing_defined_has_no_p_value(self) -> None:
        assert np.isnan(st.signed_rank(np.full((4, 1), NAN)).p[0])


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then made monotone.
        assert st.holm(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])

    def test_missing_tests_count_for_nothing(self) -> None:
        assert st.holm(np.array([NAN, 0.02, 0.5]))[1] == pytest.approx(0.04)
        assert np.isnan(st.holm(np.array([NAN, 0.02]))[0])

    def test_never_exceeds_one(self) -> None:
        assert st.holm(np.array([0.9, 0.8])).max() == 1


def scores_of(means: list[float], sd: float = 0.05, n: int = 60, models: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 0.2, (n, 1, 1))
    return np.array(means) + difficulty + rng.normal(0, sd, (n, models, len(means)))


class TestRanks:
    def test_clear_order_gives_single_ranks(self) -> None:
        pairs = st.compare_pairs(scores_of([0.2, 0.8, 0.5]), higher_is_better=True)
        low, high = st.rank_intervals(pairs, 3)
        assert low.tolist() == high.tolist() == [3, 1, 2]

    def test_lower_is_better_turns_the_order(self) -> None:
        pairs = st.compare_pairs(scores_of([0.2, 0.8, 0.5]), higher_is_better=False)
        assert st.rank_intervals(pairs, 3)[0].tolist() == [1, 3, 2]

    def test_equal_methods_share_an_interval(self) -> None:
        scores = scores_of([0.9, 0.5, 0.5, 0.1], seed=1)
        low, high = st.rank_intervals(st.compare_pairs(scores, True), 4)
        assert list(zip(low.tolist(), high.tolist(), strict=True)) == [(1, 1), (2, 3), (2, 3), (4, 4)]

    def test_intervals_are_not_groups(self) -> None:
        """A beats C; B, in between and noisy, can be told apart from neither."""
        rng = np.random.default_rng(3)
        a, c = rng.normal(0.6, 0.01, 30), rng.normal(0.5, 0.01, 30)
        b = 0.55 + 0.5 * rng.permutation(np.linspace(-1, 1, 30))
        low, high = st.rank_intervals(st.compare_pairs(np.stack([a, b, c], 1)[:, None], True), 3)
        assert list(zip(low.tolist(), high.tolist(), strict=True)) == [(1, 2), (1, 3), (2, 3)]

    def test_false_winners_are_rarer_than_five_in_a_hundred_tables(self) -> None:
        wrong = sum((st.compare_pairs(scores_of([0.5] * 5, seed=s, n=30), True).winner >= 0).any() for s in range(200))
        assert wrong <= 18

    def test_differences_are_taken_within_a_model(self) -> None:
        """An explainer undefined on the easy model is not punished for it."""
        scores = np.empty((20, 2, 2))
        scores[:, 0], scores[:, 1] = 0.9, 0.1
        scores[:, 0, 1] = NAN
        pairs = st.compare_pairs(scores, True)
        assert pairs.difference[0] == 0
        assert pairs.winner[0] == -1

    def test_a_method_without_scores_beats_and_loses_to_nobody(self) -> None:
        scores = scores_of([0.2, 0.8, 0.5])
        scores[:, :, 1] = NAN
        pairs = st.compare_pairs(scores, True)
        assert st.rank_intervals(pairs, 3)[0].tolist() == [2, 1, 1]


class TestPower:
    def test_separable_difference_by_hand(self) -> None:
        pairs = st.compare_pairs(np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [3.0, 0.0]])[:, None], True)
        sd = np.sqrt(4 / 3)
        assert st.separable_difference(pairs) == pytest.approx((1.959964 + 0.841621) * sd / 2, rel=1e-6)

    def test_that_difference_is_found_in_80_of_100_cases(self) -> None:
        n, rng = 64, np.random.default_rng(0)
        shift = (1.959964 + 0.841621) / np.sqrt(n)
        found = (st.signed_rank(rng.normal(shift, 1, (n, 2000))).p < 0.05).mean()
        assert 0.74 <= found <= 0.83

    def test_undefined_for_one_method(self) -> None:
        assert np.isnan(st.separable_difference(st.compare_pairs(scores_of([0.5]), True)))


class TestAboveAll:
    def test_only_the_one_above_every_rival_passes(self) -> None:
        scores = scores_of([0.9, 0.3, 0.1, 0.4])
        p = st.above_all(scores, [0, 1], [2, 3], True)
        assert p[0] < 0.05
        assert p[1] == 1

    def test_direction_counts(self) -> None:
        assert st.above_all(scores_of([0.9, 0.1]), [0], [1], False)[0] == 1


class TestSpread:
    def test_sd_of_the_models_means_by_hand(self) -> None:
        scores = np.array([[[1.0], [3.0]], [[2.0], [4.0]]])  # model means 1.5 and 3.5
        assert st.spread_over_models(scores)[0] == pytest.approx(np.sqrt(2))

    def test_undefined_for_one_model(self) -> None:
        assert np.isnan(st.spread_over_models(np.ones((5, 1, 1)))[0])
        scores = np.ones((5, 2, 1))
        scores[:, 1] = NAN
        assert np.isnan(st.spread_over_models(scores)[0])


class TestPairedT:
    def test_agrees_with_scipy(self) -> None:
        a, b = np.random.default_rng(0).normal(0, 1, (2, 25))
        ours, theirs = st.paired_t((a - b)[:, None]), scipy.stats.ttest_rel(a, b)
        assert ours.p[0] == pytest.approx(theirs.pvalue)
        assert (ours.low[0], ours.high[0]) == pytest.approx(tuple(theirs.confidence_interval()))

    def test_without_spread_nothing_is_left_to_chance(self) -> None:
        assert st.paired_t(np.array([[0.0, 0.1], [0.0, 0.1], [0.0, 0.1]])).p.tolist() == [1, 0]

    def test_one_sample_decides_nothing(self) -> None:
        assert np.isnan(st.paired_t(np.array([[0.4]])).p[0])
