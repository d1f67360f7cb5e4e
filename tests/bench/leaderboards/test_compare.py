"""`bench compare`: verdicts on runs with known differences, what is refused, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from vitxai.bench import compare_summary
from vitxai.bench.compare import compare_explainers, compare_runs
from vitxai.bench.comparison import Comparison, Settings, Verdict
from vitxai.bench.contract import BadInputError, UnknownNameError
from vitxai.bench.paired_scores import judge
from vitxai.bench.paired_tests import benjamini_hochberg

Change = Callable[[pd.DataFrame], pd.DataFrame]
NAN = np.nan


def shifted(explainer: str, column: str, by: float, noise: float = 0.0, seed: int = 9) -> Change:
    def change(scores: pd.DataFrame) -> pd.DataFrame:
        here = (scores.explainer == explainer) & (scores.column == column)
        scores.loc[here, "value"] += by + noise * np.random.default_rng(seed).normal(size=here.sum())
        return scores

    return change


def without_values(explainer: str, status: str, reason: str, samples: tuple[str, ...] = ()) -> Change:
    def change(scores: pd.DataFrame) -> pd.DataFrame:
        here = scores.explainer == explainer
        if samples:
            here &= scores["sample"].isin(samples)
        scores.loc[here, ["value", "status", "reason"]] = [NAN, status, reason]
        return scores

    return change


@pytest.fixture
def runs(made, tmp_path: Path) -> Callable[..., Comparison]:
    """Compares a changed run with an unchanged one."""
    before = made.write(tmp_path / "before")

    def run(change: Change | None = None, settings: Settings | None = None, **facts: object) -> Comparison:
        made.facts = facts
        return compare_runs(before, made.write(tmp_path / "after", change), settings)

    return run


@pytest.fixture
def pair(made, tmp_path: Path) -> Callable[..., Comparison]:
    """Compares two explainers of one run."""

    def run(first: str, second: str, settings: Settings | None = None, change: Change | None = None) -> Comparison:
        return compare_explainers(made.write(tmp_path / "run", change), first, second, settings)

    return run


def of(result: Comparison, column: str, explainer: str = "rollout") -> Verdict:
    return next(v for v in result.verdicts if (v.explainer, v.column) == (explainer, column))


def verdicts(result: Comparison, but: str = "equivalent") -> set[tuple[str, str, str]]:
    return {(v.explainer, v.column, v.verdict) for v in result.verdicts if v.verdict != but}


class TestJudge:
    """Oriented so that more is better; the region of practical equivalence is +-.01, q must be below .05."""

    @pytest.mark.parametrize(
        ("gain", "low", "high", "q", "verdict"),
        [
            (0.05, 0.03, 0.07, 0.001, "improved"),
            (-0.05, -0.07, -0.03, 0.001, "regressed"),
            (0.005, 0.002, 0.008, 1e-9, "equivalent"),  # certain, and of no consequence
            (0.0, -0.01, 0.01, 0.9, "equivalent"),
            (0.008, 0.002, 0.014, 0.001, "inconclusive"),  # there is a difference; whether it matters is open
            (0.05, 0.03, 0.07, 0.06, "inconclusive"),  # not after adjustment
            (0.05, -0.01, 0.11, 0.04, "inconclusive"),  # the interval holds zero
            (NAN, NAN, NAN, NAN, "inconclusive"),
        ],
    )
    def test_by_hand(self, gain: float, low: float, high: float, q: float, verdict: str) -> None:
        assert judge(gain, low, high, q, 0.01, 0.05) == verdict


class TestRuns:
    def test_the_same_run_is_equivalent_in_everything(self, runs) -> None:
        result = runs()
        assert (result.status, result.exit_code, verdicts(result)) == ("ok", 0, set())
        assert result.count()["equivalent"] == len(result.verdicts) == 7 * 4
        assert of(result, "auprc").note == "identical on every sample"

    @pytest.mark.parametrize(("by", "verdict", "code"), [(-0.05, "regressed", 1), (0.05, "improved", 0)])
    def test_a_real_difference(self, runs, by: float, verdict: str, code: int) -> None:
        result = runs(shifted("rollout", "auprc", by, noise=0.02))
        assert verdicts(result) == {("rollout", "auprc", verdict)}
        assert result.exit_code == code

    def test_lower_may_be_better(self, runs) -> None:
        assert verdicts(runs(shifted("rollout", "deletion_auc", 0.05))) == {("rollout", "deletion_auc", "regressed")}
        assert verdicts(runs(shifted("rollout", "deletion_auc", -0.05))) == {("rollout", "deletion_auc", "improved")}

    def test_certain_but_tiny_is_equivalent(self, runs) -> None:
        result = runs(shifted("rollout", "auprc", -0.005, noise=1e-4))
        assert verdicts(result) == set()
        assert of(result, "auprc").q < 1e-4

    def test_what_matters_can_be_set(self, runs) -> None:
        change = shifted("rollout", "auprc", -0.05, noise=1e-3)
        assert verdicts(runs(change, Settings(rope=0.2))) == set()
        assert of(runs(change, Settings(rope=0.2)), "auprc").rope == pytest.approx(0.2)

    def test_noise_is_inconclusive(self, runs) -> None:
        result = runs(shifted("rollout", "auprc", 0.0, noise=0.2))
        assert verdicts(result) == {("rollout", "auprc", "inconclusive")}
        assert result.exit_code == 0

    @pytest.mark.parametrize("seed", range(12))
    def test_noise_around_zero_regresses_nothing(self, runs, seed: int) -> None:
        """Every score redrawn around the same mean; at 5 % over 28 figures, twelve seeds pass."""
        rng = np.random.default_rng(seed)
        result = runs(lambda s: s.assign(value=s.value + np.where(s.explainer == "", 0, rng.normal(0, 0.1, len(s)))))
        assert result.count()["regressed"] == result.count()["improved"] == 0

    def test_numbers_by_an_independent_route(self, made, runs) -> None:
        result = runs(shifted("rollout", "auprc", -0.03, noise=0.05))
        v = of(result, "auprc")
        scores = made.scores()
        here = (scores.explainer == "rollout") & (scores.column == "auprc")
        out = {f"test/{s:05d}" for s in (*made.unused_truth, *made.misclassified)}
        before = scores[here & ~scores["sample"].isin(out)]
        after = shifted("rollout", "auprc", -0.03, noise=0.05)(made.scores())[here & ~scores["sample"].isin(out)]
        by_sample = [side.groupby("sample")["value"].mean().dropna() for side in (before, after)]
        change = (by_sample[1] - by_sample[0]).to_numpy()
        assert (v.n, v.of) == (len(change), len(change)) == (33, 33)
        assert (v.first, v.second) == pytest.approx([side.mean() for side in by_sample])
        assert v.difference == pytest.approx(change.mean())
        test = scipy.stats.wilcoxon(change, zero_method="zsplit", correction=False, method="asymptotic")
        assert v.p == pytest.approx(test.pvalue, rel=1e-6)
        bootstrap = scipy.stats.bootstrap((change,), np.mean, method="percentile", rng=0).confidence_interval
        assert (v.low, v.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=1.5e-3)
        by_model = (after.groupby("model")["value"].mean() - before.groupby("model")["value"].mean()).to_numpy()
        assert v.spread == pytest.approx(by_model.std(ddof=1))
        assert v.separable == pytest.approx((1.959964 + 0.841621) * change.std(ddof=1) / np.sqrt(33), rel=1e-6)
        assert v.effect < 0
        u = scipy.stats.mannwhitneyu(by_sample[1], by_sample[0]).statistic
        assert v.cliffs_delta == pytest.approx(2 * u / 33**2 - 1)

    def test_q_is_adjusted_over_all_of_them(self, runs) -> None:
        rng = np.random.default_rng(1)
        result = runs(lambda s: s.assign(value=s.value + rng.normal(0, 0.05, len(s))))
        p = np.array([v.p for v in result.verdicts])
        assert [v.q for v in result.verdicts] == pytest.approx(benjamini_hochberg(p).tolist())
        assert result.family == len(result.verdicts)

    def test_samples_that_do_not_count_decide_nothing(self, made, runs) -> None:
        out = [f"test/{s:05d}" for s in (*made.unused_truth, *made.misclassified)]

        def change(scores: pd.DataFrame) -> pd.DataFrame:
            scores.loc[(scores.explainer == "rollout") & scores["sample"].isin(out), "value"] -= 0.5
            return scores

        assert {v[1] for v in verdicts(runs(change))} == {"deletion_auc", "sparseness"}

    def test_an_unfit_column_decides_nothing(self, runs) -> None:
        result = runs(shifted("rollout", "sparseness", -0.2))
        assert verdicts(result) == {("rollout", "sparseness", "regressed")}
        assert "random" in of(result, "sparseness").unfit
        assert (result.status, result.exit_code) == ("ok", 0)

    def test_columns_without_direction_are_left_out(self, made, runs) -> None:
        made.declared[-1]["better"] = "none"
        made.write(Path(str(runs().first)))
        assert "sparseness" not in {v.column for v in runs().verdicts}

    def test_five_samples_decide_nothing(self, made, tmp_path: Path) -> None:
        made.samples, made.unused_truth, made.misclassified = 5, (), ()
        before = made.write(tmp_path / "few before")
        result = compare_runs(before, made.write(tmp_path / "few after", shifted("rollout", "deletion_auc", 0.3)))
        assert of(result, "deletion_auc").verdict == "inconclusive"
        assert "fewer than 6" in of(result, "deletion_auc").note

    def test_the_rows_order_is_of_no_consequence(self, runs) -> None:
        change = shifted("rollout", "auprc", -0.03, noise=0.05)
        shuffled = runs(lambda s: change(s).sample(frac=1, random_state=3))
        assert compare_summary.as_json(shuffled) == compare_summary.as_json(runs(change))

    def test_a_tuned_figure_is_flagged(self, made, tmp_path: Path) -> None:
        made.facts = {"fits": [{"explainer": "focusvit", "facts": {"criterion": "deletion"}}]}
        run = made.write(tmp_path / "tuned")
        result = compare_runs(run, run)
        assert "was tuned on it" in of(result, "deletion_auc", "focusvit").note
        assert "tuned" not in of(result, "auprc", "focusvit").note


class TestLosses:
    def test_a_job_that_fails_now_is_a_regression(self, runs) -> None:
        result = runs(without_values("rollout", "timeout", "after 60 s"))
        assert verdicts(result) == {("rollout", c, "regressed") for c in ("auprc", "spatial_iou", "deletion_auc",
                                                                         "sparseness")}  # fmt: skip
        assert of(result, "deletion_auc").note == "timeout now on 120 scores: after 60 s"
        assert of(result, "deletion_auc").p is None
        assert result.exit_code == 1

    def test_be_it_on_some_samples_only(self, runs) -> None:
        v = of(runs(without_values("rollout", "error", "boom", ("test/00007",))), "deletion_auc")
        assert (v.verdict, v.n, v.of, v.note) == ("regressed", 39, 40, "error now on 3 scores: boom")

    def test_a_figure_that_is_nowhere_defined_any_more_too(self, runs) -> None:
        result = runs(without_values("rollout", "undefined", "the map is zero"))
        assert of(result, "deletion_auc").note == "undefined now on 120 scores: the map is zero"
        assert result.exit_code == 1

    def test_samples_that_became_undefined_leave_both_sides(self, runs) -> None:
        v = of(runs(without_values("rollout", "undefined", "the map is zero", ("test/00007",))), "deletion_auc")
        assert (v.verdict, v.n, v.of) == ("equivalent", 39, 40)

    def test_what_only_one_run_has_is_listed_and_decides_nothing(self, runs) -> None:
        result = runs(lambda s: s[s.explainer != "rollout"])
        assert result.exit_code == 0
        (gap,) = result.gaps
        assert (gap.explainer, gap.reason) == ("rollout", "only on the first side")
        assert compare_summary.lost_explainers(result) == {"rollout"}
        assert set(gap.columns) == {"auprc", "spatial_iou", "deletion_auc", "sparseness"}

    def test_an_explainer_with_values_on_one_side_only_is_not_lost(self, runs, made, tmp_path: Path) -> None:
        nowhere = without_values("rollout", "undefined", "the map is zero")
        result = compare_runs(made.write(tmp_path / "nowhere", nowhere), made.write(tmp_path / "defined"))
        assert {gap.explainer for gap in result.gaps} == {"rollout"}
        assert compare_summary.lost_explainers(result) == set()


class TestNotComparable:
    @pytest.mark.parametrize(
        ("facts", "text"),
        [
            (
                {"suite": {"name": "other", "target": "prediction", "seed": 0, "n": 40}},
                "suite name: toy in the baseline",
            ),
            ({"suite": {"name": "toy", "target": "label", "seed": 0, "n": 40}}, "suite target: prediction"),
            ({"suite": {"name": "toy", "target": "prediction", "seed": 1, "n": 40}}, "suite seed: 0"),
            (
                {"suite": {"name": "toy", "target": "prediction", "seed": 0, "n": 40, "split": "validation"}},
                "suite split: test in the baseline, validation now",
            ),
            (
                {"cells": [{"board": "leaves_spectral", "model": "builtin,id=toy,seed=0", "weights_hash": "new"}]},
                "weights of builtin,id=toy,seed=0",
            ),
            (
                {"cells": [{"board": "leaves_spectral", "model": "builtin,id=toy,seed=0", "dataset_hash": "new"}]},
                "data set of builtin,id=toy,seed=0",
            ),
        ],
        ids=["suite", "target", "seed", "split", "weights", "data"],
    )
    def test_it_says_which(self, runs, facts: dict[str, object], text: str) -> None:
        result = runs(**facts)
        assert (result.status, result.exit_code, result.verdicts) == ("not_comparable", 3, ())
        assert text in result.obstacles[0].text

    def test_other_samples_and_models(self, made, runs) -> None:
        result = runs(lambda s: s[s["sample"] != "test/00003"])
        assert "1 samples of the baseline missing" in result.obstacles[0].text
        result = runs(lambda s: s[s.model != made.models[1]])
        assert result.exit_code == 3
        assert made.models[1] in result.obstacles[0].text

    def test_another_direction_of_a_column(self, made, runs) -> None:
        made.declared[-1]["better"] = "lower"
        result = runs()
        assert result.exit_code == 3
        assert result.obstacles[0].text == "better of sparseness: higher in the baseline, lower now"

    def test_nothing_in_common(self, runs) -> None:
        result = runs(lambda s: s[s.explainer == ""])
        assert result.exit_code == 3
        assert "defined on both sides" in result.obstacles[0].text

    def test_no_run_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match=r"no run\.json"):
            compare_runs(tmp_path, tmp_path)


class TestExplainers:
    def test_the_better_one_improves_and_the_other_way_round(self, pair) -> None:
        up, down = pair("rollout", "chefer_lrp"), pair("chefer_lrp", "rollout")
        assert (up.exit_code, down.exit_code) == (0, 1)
        for column in ("auprc", "deletion_auc"):
            a, b = of(up, column, "chefer_lrp"), of(down, column)
            assert (a.verdict, b.verdict) == ("improved", "regressed")
            assert (a.difference, a.effect, a.cliffs_delta) == pytest.approx(
                (-b.difference, -b.effect, -b.cliffs_delta)
            )
            assert (a.low, a.high) == pytest.approx((-b.high, -b.low))

    def test_what_is_of_no_consequence_does_not_depend_on_the_order(self, made, pair) -> None:
        """A column without bounds is as wide as both explainers' scores, be those of one all alike."""
        made.declared = [c | {"range": [None, None]} if c["column"] == "auprc" else c for c in made.declared]
        flat = lambda s: s.assign(value=s.value.where((s.explainer != "rollout") | (s.column != "auprc"), 0.5))  # noqa: E731
        up, down = pair("rollout", "chefer_lrp", change=flat), pair("chefer_lrp", "rollout", change=flat)
        assert of(up, "auprc", "chefer_lrp").rope == pytest.approx(of(down, "auprc").rope)
        assert of(down, "auprc").rope > 0

    def test_equal_ones_are_not_told_apart(self, pair) -> None:
        """The made-up rollout and raw_attention have the same mean; their noise is no equivalence within 1 %."""
        assert {v.verdict for v in pair("rollout", "raw_attention").verdicts} <= {"inconclusive", "equivalent"}

    def test_a_plugins_name_is_enough_where_one_spec_bears_it(self, pair) -> None:
        assert pair("rollout", "healed_difference").second == "healed_difference,steps=20"

    def test_two_specs_of_one_plugin(self, made, pair) -> None:
        made.explainers["rollout,start_layer=1"] = ("exact", 0.5)
        assert pair("rollout", "rollout,start_layer=1").second == "rollout,start_layer=1"
        made.explainers["focusvit,layers=2"] = made.explainers.pop("focusvit")
        made.explainers["focusvit,layers=3"] = ("reconstruction", 0.5)
        with pytest.raises(BadInputError, match="several explainers focusvit: focusvit,layers=2; focusvit,layers=3"):
            pair("rollout", "focusvit")

    def test_unknown_or_the_same(self, pair) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean rollout"):
            pair("rolout", "random")
        with pytest.raises(BadInputError, match="cannot be compared with itself"):
            pair("rollout", "rollout")

    def test_a_method_with_its_own_model_competes_on_the_frozen_one(self, pair) -> None:
        def change(scores: pd.DataFrame) -> pd.DataFrame:
            mine = scores[scores.explainer == "rollout"]
            own = mine.assign(own_model=True, value=mine["value"] - 0.4)
            frozen = scores[~((scores.explainer == "rollout") & (scores.column == "sparseness"))]
            return pd.concat([frozen, own], ignore_index=True)

        plain, changed = pair("chefer_lrp", "rollout"), pair("chefer_lrp", "rollout", change=change)
        assert of(changed, "auprc").second == of(plain, "auprc").second
        assert of(changed, "sparseness").second == pytest.approx(of(plain, "sparseness").second - 0.4)
        assert changed.marks["rollout"] == ("own model",)

    def test_what_one_of_them_lacks_is_listed(self, pair) -> None:
        def change(scores: pd.DataFrame) -> pd.DataFrame:
            here = (scores.explainer == "rollout") & (scores.column == "auprc")
            scores.loc[here, ["value", "status", "reason"]] = [NAN, "unsupported", "no spatial axis"]
            return scores

        result = pair("chefer_lrp", "rollout", change=change)
        assert [(g.columns, g.reason) for g in result.gaps] == [(("auprc",), "no sample has both: no spatial axis")]
        assert "auprc" not in {v.column for v in result.verdicts}

    def test_columns_can_be_chosen_and_make_the_family(self, pair) -> None:
        result = pair("chefer_lrp", "rollout", Settings(columns=("auprc", "deletion_auc")))
        assert [v.column for v in result.verdicts] == ["auprc", "deletion_auc"]
        assert result.family == 2
        with pytest.raises(UnknownNameError, match=r"column with a direction 'auprx'\. Did you mean auprc"):
            pair("chefer_lrp", "rollout", Settings(columns=("auprx",)))
        with pytest.raises(UnknownNameError, match="'truth_used'"):
            pair("chefer_lrp", "rollout", Settings(columns=("truth_used",)))

    def test_probabilities_are_those_of_worse_the_same_and_better(self, pair) -> None:
        result = pair("chefer_lrp", "rollout", Settings(columns=("auprc", "deletion_auc"), bayes=True))
        for v in result.verdicts:
            assert v.posterior is not None
            assert v.posterior.below > 0.999
            assert v.posterior.below + v.posterior.within + v.posterior.above == pytest.approx(1)
        assert all(v.posterior is None for v in pair("chefer_lrp", "rollout").verdicts)


class TestBinary:
    """Yes-or-no scores of one model: McNemar's test and Newcombe's interval."""

    @pytest.fixture
    def hits(self, made, pair) -> Callable[..., Verdict]:
        made.models = made.models[:1]

        def run(first: list[float], second: list[float]) -> Verdict:
            def change(scores: pd.DataFrame) -> pd.DataFrame:
                for explainer, values in (("rollout", first), ("chefer_lrp", second)):
                    here = (scores.explainer == explainer) & (scores.column == "deletion_auc")
                    scores.loc[here, "value"] = values
                return scores

            return of(pair("rollout", "chefer_lrp", change=change), "deletion_auc", "chefer_lrp")

        return run

    def test_by_hand(self, hits) -> None:
        v = hits([1.0] * 20 + [0.0] * 20, [1.0] * 6 + [0.0] * 34)
        assert (v.test, v.verdict) == ("McNemar", "improved")
        assert v.p == pytest.approx(2 / 2**14)
        assert v.difference == pytest.approx(-14 / 40)
        assert -0.55 < v.low < v.difference < v.high < -0.15

    def test_few_samples_without_a_difference_do_not_show_that_there_is_none(self, hits) -> None:
        v = hits([1.0] * 38 + [0.0] * 2, [1.0] * 38 + [0.0] * 2)
        assert (v.difference, v.p, v.verdict) == (0, 1, "inconclusive")
        assert v.high > 0.01


class TestWritten:
    def test_json_holds_everything_and_no_nan(self, runs) -> None:
        result = runs(without_values("rollout", "error", "boom"))
        facts = json.loads(compare_summary.as_json(result), parse_constant=pytest.fail)
        assert (facts["status"], facts["exit_code"]) == ("regression", 1)
        assert facts["counts"]["regressed"] == 4
        assert len(facts["verdicts"]) == len(result.verdicts)
        assert facts["settings"]["rope"] == 0.01

    def test_markdown_says_what_a_reader_must_know(self, runs) -> None:
        text = compare_summary.as_markdown(runs(shifted("focusvit", "auprc", -0.1, noise=0.02)))
        for needed in (
            "1 regressed, 0 improved", "| regressed | leaves_spectral | `focusvit` (reconstruction) | auprc ↑ |",
            "± 0.01 of the figure's range", "Samples are the blocks", "Benjamini and Hochberg over 28 tests",
        ):  # fmt: skip
            assert needed in text, needed
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert len({line.count("|") for line in rows}) == 1
        assert [line.split(" | ")[0] for line in rows[2:]] == ["| regressed", *["| equivalent"] * 27]

    def test_markdown_of_explainers_names_both_with_their_marks(self, pair) -> None:
        text = compare_summary.as_markdown(pair("chefer_lrp", "focusvit"))
        assert text.startswith("## `focusvit` (reconstruction) against `chefer_lrp`: regressed")
        assert "unfit here" in text

    def test_what_is_not_comparable_says_why(self, runs) -> None:
        text = compare_summary.as_markdown(runs(suite={"name": "toy", "target": "label", "seed": 0, "n": 40}))
        assert "nothing was decided" in text
        assert "suite target: prediction in the baseline, label now" in text

    @pytest.mark.parametrize(
        ("change", "failures"),
        [(None, 0), (shifted("rollout", "auprc", -0.1), 1), (shifted("rollout", "sparseness", -0.2), 0)],
    )
    def test_junit_counts(self, runs, change: Change | None, failures: int) -> None:
        suite = ElementTree.fromstring(compare_summary.as_junit(runs(change)))
        assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("8", str(failures), "0")
        assert len(suite.findall(".//failure")) == failures

    def test_junit_skips_an_explainer_that_one_run_lacks(self, runs) -> None:
        suite = ElementTree.fromstring(compare_summary.as_junit(runs(lambda s: s[s.explainer != "rollout"])))
        (case,) = [case for case in suite if case.find("skipped") is not None]
        assert case.get("name") == "rollout, not compared"
        assert "auprc" in case.find("skipped").text

    def test_junit_skips_what_cannot_be_compared(self, runs) -> None:
        text = compare_summary.as_junit(runs(suite={"name": "toy", "target": "label", "seed": 0, "n": 40}))
        assert ElementTree.fromstring(text).get("skipped") == "1"
