"""The claims ledger: figures by hand, verdicts at their bounds, files in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vitxai.bench import claims_papers as papers
from vitxai.bench.claims import VERDICTS, Claim, find_runs, keep, ledger
from vitxai.bench.claims_catalogue import CLAIMS
from vitxai.bench.claims_costs import CostLevel, CostRatio
from vitxai.bench.claims_scores import matching, mean_ratio
from vitxai.bench.claims_tests import BoardGain, Gain, LargestArea, Level
from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError
from vitxai.bench.report import write_report
from vitxai.bench.report.claims import as_json, as_markdown, as_page, figure
from vitxai.bench.report.run_files import RunFiles, read_run
from vitxai.bench.suite import suite_names

TRUTH = ("bio_at_5",)
LOWER = ("noise_uptake",)
MODELS = ("builtin,id=toy,seed=0", "builtin,id=toy,seed=1")
Values = Mapping[tuple[str, str, bool], Sequence[float]]
"""(explainer, column, own model) -> one value a sample, the same on both models."""


def made(
    folder: Path,
    values: Values | Mapping[str, Values],
    costs: Mapping[tuple[str, str, str], float] | None = None,
    suite: str = "toy",
    dataset: str = "leaves",
    wrong: Sequence[int] = (),
    labels: Mapping[str, str] | None = None,
) -> RunFiles:
    """A run's files: boards, or one board; samples of ``wrong`` are misclassified by the frozen model."""
    boards: Mapping[str, Any] = values if all(isinstance(key, str) for key in values) else {"here": values}
    rows = []
    for board, of_board in boards.items():
        for model in MODELS:
            for (explainer, column, own), scores in of_board.items():
                for s, value in enumerate(scores):
                    missing = not np.isfinite(value)
                    rows.append(
                        {"board": board, "dataset": dataset, "model": model, "kind": "", "explainer": explainer,
                         "status_label": (labels or {}).get(explainer, "exact" if explainer else ""), "own_model": own,
                         "sample": f"test/{s}", "target": 0, "label": 0, "prediction": int(s in wrong), "metric": "m",
                         "column": column, "value": value, "status": "undefined" if missing else "ok",
                         "reason": "healthy" if missing else ""}
                    )  # fmt: skip
    frame = pd.DataFrame(rows)
    folder.mkdir(parents=True)
    frame.to_parquet(folder / "scores.parquet", index=False)
    names = ("board", "dataset", "model", "kind", "explainer", "column", "value", "machine")
    table = [(b, dataset, MODELS[0], "", e, c, v, "here") for (b, e, c), v in (costs or {}).items()]
    pd.DataFrame(table, columns=list(names)).to_parquet(folder / "costs.parquet", index=False)
    columns = [
        {"metric": "m", "column": c, "better": "lower" if c in LOWER else "higher", "range": [None, None],
         "truth": c in TRUTH, "description": c}
        for c in frame["column"].unique()
    ]  # fmt: skip
    cells = [{"board": b, "dataset": dataset, "model": m} for b in boards for m in MODELS]
    facts = {"suite": {"name": suite, "seed": 0, "target": "prediction", "n": 8}, "columns": columns, "cells": cells}
    (folder / "run.json").write_text(json.dumps(facts))
    return read_run(folder)


N = 24
BASE = np.tile([0.30, 0.34, 0.38, 0.42, 0.28, 0.36, 0.40, 0.32], 3)
WAYS = np.tile([0.01, -0.01], N // 2)
LEADING: Values = {
    ("focus", "bio_at_5", True): list(BASE + 0.10 + WAYS),
    ("diff_cam", "bio_at_5", False): list(BASE),
    ("grad_cam", "bio_at_5", False): list(BASE - 0.2),
    ("healed_difference", "bio_at_5", False): [0.9] * N,
}
LABELS = {"healed_difference": "oracle", "diff_cam": "reconstruction"}


class TestGain:
    """Paired differences to the best rival."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFiles:
        return made(tmp_path / "run", LEADING, labels=LABELS)

    def test_the_rival_is_the_best_method_and_no_bound(self, run: RunFiles) -> None:
        (found,) = Gain("bio_at_5", "focus").findings(run)
        assert found.subject == "focus against diff_cam"
        assert found.value == pytest.approx(0.10)
        assert (found.verdict, found.n) == ("holds", N)
        assert found.low is not None
        assert found.high is not None
        assert 0.09 <= found.low < 0.10 < found.high <= 0.11
        assert found.note == "diff_cam is a reconstruction"

    @pytest.mark.parametrize(
        ("at_least", "relative", "verdict"),
        [
            (0.08, False, "holds"),
            (0.10, False, "undecided"),
            (0.12, False, "does not hold"),
            (0.25, True, "holds"),  # .10 of .35: 28.6 %
            (0.34, True, "does not hold"),
        ],
    )
    def test_the_verdict_is_that_of_the_whole_interval(
        self, run: RunFiles, at_least: float, relative: bool, verdict: str
    ) -> None:
        (found,) = Gain("bio_at_5", "focus", at_least=at_least, relative=relative).findings(run)
        assert found.verdict == verdict
        if relative:
            assert found.value == pytest.approx(0.10 / 0.35)

    def test_misclassified_samples_do_not_count_where_a_truth_is_compared_with(self, tmp_path: Path) -> None:
        run = made(tmp_path / "run", LEADING, wrong=(0, 1), labels=LABELS)
        (found,) = Gain("bio_at_5", "focus").findings(run)
        (every,) = Gain("bio_at_5", "focus", every=True).findings(run)
        assert (found.n, every.n) == (N - 2, N)

    def test_an_undefined_sample_leaves_both_sides(self, tmp_path: Path) -> None:
        values = {**LEADING, ("diff_cam", "bio_at_5", False): [np.nan, *BASE[1:]]}
        (found,) = Gain("bio_at_5", "focus", at_least=0.2, relative=True).findings(
            made(tmp_path / "run", values, labels=LABELS)
        )
        assert found.n == N - 1
        gain = 0.10 + WAYS
        assert found.value == pytest.approx(gain[1:].mean() / BASE[1:].mean())

    def test_where_lower_is_better_a_gain_is_a_fall(self, tmp_path: Path) -> None:
        values = {("focus", "noise_uptake", True): [0.1] * N, ("grad_cam", "noise_uptake", False): [0.3] * N}
        (found,) = Gain("noise_uptake", "focus").findings(made(tmp_path / "run", values))
        assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
        (turned,) = Gain("noise_uptake", "focus", better="higher").findings(read_run(tmp_path / "run"))
        assert turned.verdict == "does not hold"

    def test_accuracy_is_that_of_the_own_model_against_the_frozen_one(self, tmp_path: Path) -> None:
        values: Values = {("", "accuracy", False): [1.0] * N, ("focus", "accuracy", True): [1.0] * (N - 1) + [0.0]}
        run = made(tmp_path / "run", values)
        (found,) = Gain("accuracy", "focus", ("",), at_least=-0.01).findings(run)
        assert found.subject == "focus against the frozen model"
        assert found.value == pytest.approx(-1 / N)
        assert found.verdict == "undecided"
        (kept,) = Gain("accuracy", "focus", ("",), at_least=-0.5).findings(run)
        assert kept.verdict == "holds"

    def test_rows_of_one_method_are_paired_by_their_other_parameters(self, tmp_path: Path) -> None:
        rows = {
            "focus,isolate=false,sink=false": 0.4,
            "focus,isolate=false,sink_weight=0": 0.35,
            "focus,isolate=false": 0.2,
            "focus,isolate=false,depth=shallow,sink=false": 0.9,
        }
        values = {(name, "sink_mass", True): [mass] * N for name, mass in rows.items()}
        test = Gain(
            "sink_mass", "focus,isolate=false,sink!=false,sink_weight!=0", ("focus,isolate=false,sink=false",), 0.4,
            True, ("sink", "sink_weight"), "lower",
        )  # fmt: skip
        (found,) = test.findings(made(tmp_path / "run", values))
        assert found.subject == "focus,isolate=false against focus,isolate=false,sink=false"
        assert found.value == pytest.approx(0.5)
        assert found.verdict == "holds"

    def test_a_method_that_the_run_lacks_is_not_run_and_says_why(self, run: RunFiles, tmp_path: Path) -> None:
        (found,) = Gain("bio_at_5", "prompt_cam").findings(run)
        assert (found.verdict, found.note) == ("not run", "no bio_at_5 of prompt_cam")
        values = {**LEADING, ("focus", "bio_at_5", True): [np.nan] * N}
        (found,) = Gain("bio_at_5", "focus").findings(made(tmp_path / "other", values))
        assert (found.verdict, found.note) == ("not run", "no bio_at_5 of focus: healthy")

    def test_few_samples_decide_nothing(self, tmp_path: Path) -> None:
        few = {key: scores[:19] for key, scores in LEADING.items()}
        (found,) = Gain("bio_at_5", "focus").findings(made(tmp_path / "run", few, labels=LABELS))
        assert found.verdict == "undecided"
        assert found.value == pytest.approx(0.10, abs=0.001)
        assert "fewer than 20 samples" in found.note

    def test_boards_are_pooled_sample_by_sample(self, tmp_path: Path) -> None:
        worse: Values = {("focus", "bio_at_5", True): list(BASE), ("diff_cam", "bio_at_5", False): list(BASE)}
        (found,) = Gain("bio_at_5", "focus").findings(made(tmp_path / "run", {"a": LEADING, "b": worse}, labels=LABELS))
        assert found.n == 2 * N
        assert found.value == pytest.approx(0.05)


def test_a_ratio_of_means_moves_with_its_resamples() -> None:
    values, over = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 8.0])
    found = mean_ratio(values, over, seed=0)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 3)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("focus", ["focus", "focus,sink=False", "focus,isolate=false,sink_weight=0"]),
        ("focus,sink=false", ["focus,sink=False"]),
        ("focus,sink!=false", ["focus", "focus,isolate=false,sink_weight=0"]),
        ("focus,isolate=false,sink_weight!=0", []),
        ("", [""]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    names = ["", "focus", "focus,sink=False", "focus,isolate=false,sink_weight=0", "focusvit"]
    assert matching(pattern, names) == expected


def test_a_board_is_compared_with_the_best_other_one_on_the_same_samples(tmp_path: Path) -> None:
    boards = {f"g{g}": {("focus", "bio_at_5", True): list(BASE + gain)} for g, gain in ((2, 0), (5, 0.02), (10, 0.06))}
    run = made(tmp_path / "run", boards)
    (found,) = BoardGain("bio_at_5", "focus", "g10", ("g2", "g5")).findings(run)
    assert found.subject == "focus: g10 against g5"
    assert found.value == pytest.approx(0.04)
    assert (found.n, found.verdict) == (N, "holds")
    (absent,) = BoardGain("bio_at_5", "focus", "g10", ("g2", "g20")).findings(run)
    assert (absent.verdict, absent.note) == ("not run", "the run has no board g20")


def test_a_published_figure_is_compared_on_its_own_data_only(tmp_path: Path) -> None:
    values: Values = {("ag_cam", "otsu_jaccard", False): [0.1, 0.12, 0.14, 0.13]}
    test = Level("otsu_jaccard", "ag_cam", equal=0.1243, dataset="voc2012")
    (there,) = test.findings(made(tmp_path / "voc", values, dataset="voc2012,path=DIR"))
    assert there.verdict == "holds"
    (far,) = Level("otsu_jaccard", "ag_cam", equal=0.5, dataset="voc2012").findings(read_run(tmp_path / "voc"))
    assert far.verdict == "does not hold"
    (elsewhere,) = test.findings(made(tmp_path / "glyphs", values, dataset="glyphs"))
    assert (elsewhere.verdict, elsewhere.note) == ("not testable", "the figure 0.1243 is of voc2012")


def test_costs_are_means_over_boards_and_ratios_are_to_the_cheapest_rival(tmp_path: Path) -> None:
    costs = {
        ("a", "", "gflops"): 1.0, ("a", "focus", "gflops"): 1.02, ("a", "grad_cam", "gflops"): 3.0,
        ("b", "", "gflops"): 1.0, ("b", "focus", "gflops"): 1.04, ("b", "prompt_cam", "gflops"): 2.0,
    }  # fmt: skip
    run = made(tmp_path / "run", LEADING, costs)
    (added,) = CostLevel("gflops", "focus", 0.021, minus=1.0).findings(run)
    assert (added.value, added.verdict) == (pytest.approx(0.03), "does not hold")
    (ratio,) = CostRatio("gflops", "focus").findings(run)
    assert (ratio.subject, ratio.value, ratio.verdict) == ("focus over prompt_cam", pytest.approx(0.515), "holds")
    (between,) = CostRatio("gflops", "focus", ("",), 1.03, "b", "a").findings(run)
    assert (between.subject, between.verdict) == (
        "focus on b over the plain forward on a",
        "does not hold",
    )
    (absent,) = CostLevel("latency_ms", "focus", 1.0).findings(run)
    assert absent.verdict == "not run"


def test_the_largest_area_is_that_of_the_means_with_an_interval_over_samples(tmp_path: Path) -> None:
    values = {
        (name, column, False): list(level + 0.1 * place + WAYS * (place + 1))
        for place, column in enumerate(("faith", "sparse", "robust"))
        for name, level in (("focusvit", 0.8), ("rollout", 0.5), ("lime", 0.2))
    }
    test = LargestArea(
        (("faith", "higher"), ("sparse", "higher"), ("robust", "higher")), ("focusvit", "rollout", "lime")
    )
    (found,) = test.findings(made(tmp_path / "run", values))
    whole = 1.5 * np.sin(2 * np.pi / 3)
    assert found.subject == "focusvit minus rollout"
    assert found.value == pytest.approx(whole * (1 - 0.25))
    assert found.verdict == "holds"
    assert found.note == f"areas: focusvit {whole:.2f}, rollout {whole / 4:.2f}, lime 0.00"


class TestPapersNumbers:
    """FocusViT's Table 3 against its Table 2."""

    def test_five_of_six_entries_of_the_flower_row_follow(self) -> None:
        assert papers.follows("Flower", papers.recomputed("Flower")).tolist() == [True, False, True, True, True, True]

    def test_no_other_row_follows_under_any_order_or_direction(self) -> None:
        most = {name: papers._most(name) for name in papers.TABLE_3}
        assert most == {"Flower": 5, "Dog": 0, "MiT": 1, "Caltech": 1, "Pet": 0}

    def test_some_entries_cannot_be(self) -> None:
        found = {name: papers.impossible(name) for name in papers.TABLE_3}
        assert found["Flower"] == ("SHAP",)
        assert found["Dog"] == ("SHAP", "Attention")

    def test_focusvit_leads_on_every_data_set_all_the_same(self) -> None:
        assert {finding.verdict for finding in papers.first_findings()} == {"holds"}


class TestLedger:
    """Claims and runs together."""

    CLAIM = Claim("bio", "best | of all", "Paper, Table 1", "toy", Gain("bio_at_5", "focus"), unit="share")

    def test_without_a_run_the_command_is_told(self) -> None:
        ((finding,),) = (entry.findings for entry in ledger([self.CLAIM], []))
        assert (finding.verdict, finding.note) == ("not run", "bench run --suite toy --out results/papers/toy")

    def test_every_run_of_the_suite_is_told_with_its_data(self, tmp_path: Path) -> None:
        made(tmp_path / "runs" / "a", LEADING)
        made(tmp_path / "runs" / "b", LEADING, dataset="jasper_ridge,path=x")
        made(tmp_path / "runs" / "c", LEADING, suite="another")
        (entry,) = ledger([self.CLAIM], find_runs([tmp_path / "runs", tmp_path / "runs" / "a"]))
        assert [finding.data for finding in entry.findings] == ["leaves; 2 models", "jasper_ridge,path=x; 2 models"]

    def test_a_run_on_validation_samples_tests_no_claim(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        facts = made(tmp_path / "runs" / "a", LEADING).out / "run.json"
        told = json.loads(facts.read_text())
        told["suite"]["split"] = "validation"
        facts.write_text(json.dumps(told))
        assert find_runs([tmp_path / "runs"]) == ()
        assert "validation samples" in caplog.text

    def test_a_column_that_the_run_lacks_is_told(self, tmp_path: Path) -> None:
        (entry,) = ledger([Claim("x", "", "", "toy", Gain("auprc", "focus"))], [made(tmp_path / "run", LEADING)])
        assert entry.findings[0].verdict == "not run"
        assert "declares no column 'auprc'" in entry.findings[0].note

    def test_what_is_kept_gives_the_same_findings(self, tmp_path: Path) -> None:
        values = {**LEADING, ("focus", "auprc", True): [0.5] * N, ("", "accuracy", False): [1.0] * N}
        run = made(tmp_path / "run", values, {("here", "focus", "gflops"): 2.0}, wrong=(3,), labels=LABELS)
        (run.out / "leaderboards").mkdir()
        (run.out / "leaderboards" / "here.md").write_text("a table")
        folder = keep(run, [self.CLAIM], tmp_path / "kept")
        assert folder == tmp_path / "kept" / "run"
        assert (folder / "leaderboards" / "here.md").read_text() == "a table"
        again = read_run(folder)
        assert keep(again, [self.CLAIM], tmp_path / "kept") is None  # it lies there already
        assert set(again.scores["column"]) == {"bio_at_5", "accuracy"}
        assert len(again.costs) == 1
        assert ledger([self.CLAIM], [again]) == ledger([self.CLAIM], [run])
        assert keep(made(tmp_path / "other", LEADING, suite="another"), [self.CLAIM], tmp_path / "kept") is None

    def test_markdown_json_and_page_say_the_same(self, tmp_path: Path) -> None:
        entries = ledger([self.CLAIM], [made(tmp_path / "run", LEADING, labels=LABELS)])
        (finding,) = entries[0].findings
        told = figure(finding, self.CLAIM)
        assert told.startswith("10.0 % [9.")
        assert f"focus against diff_cam: {told}; n = {N}; leaves; 2 models" in as_markdown(entries)
        assert "best \\| of all" in as_markdown(entries)
        (row,) = json.loads(as_json(entries))
        assert row["findings"][0]["verdict"] == "holds"
        assert row["holds_if"] == "gain in bio_at_5, focus against the best other method: above 0"
        page = as_page(entries)
        assert told in page
        assert "best | of all" in page
        assert "http" not in page.replace("http://www.w3.org", "")

    def test_a_folder_that_is_not_there_is_an_error_of_usage(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="no folder"):
            find_runs([tmp_path / "gone"])


class TestCatalogue:
    """The shipped claims."""

    def test_ids_are_unique_and_every_claim_has_a_source_and_a_rule(self) -> None:
        assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
        for claim in CLAIMS:
            assert claim.words
            assert claim.source
            assert claim.holds_if or claim.told[0].verdict == "not testable"
            assert bool(claim.test) == bool(claim.suite)

    def test_every_suite_that_is_named_ships(self) -> None:
        assert {claim.suite for claim in CLAIMS if claim.suite} <= set(suite_names())

    def test_every_column_that_is_read_is_declared_by_a_metric_of_the_suite(self) -> None:
        from vitxai.bench.contract import metrics
        from vitxai.bench.suite import load_suite

        for claim in CLAIMS:
            if claim.test is not None:
                suite = load_suite(claim.suite)
                specs = {spec.name for board in suite.boards for spec in suite.metrics_of(board)}
                declared = {column.name for name in specs for column in metrics.get(name).columns}
                assert set(claim.test.columns) <= declared, claim.id

    def test_without_any_run_all_that_needs_none_is_told(self) -> None:
        entries = ledger(CLAIMS, [])
        verdicts = {entry.claim.id: [finding.verdict for finding in entry.findings] for entry in entries}
        assert verdicts["focusvit-table3"] == ["does not hold"] * 5
        assert verdicts["focus-hyperleaf-tomato"] == ["not testable"]
        assert verdicts["focus-bio"] == ["not run"]
        assert {verdict for found in verdicts.values() for verdict in found} <= set(VERDICTS)


def test_the_command_writes_the_ledger_and_the_results_page_links_to_it(tmp_path: Path) -> None:
    run = made(tmp_path / "runs" / "table1", LEADING, suite="focus-table1", labels=LABELS)
    out = tmp_path / "out"
    words = ["claims", "--results", str(tmp_path / "runs"), "--out", str(out), "--keep", str(tmp_path / "kept")]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "claims. Findings:" in result.stdout
    assert "focus against diff_cam" in (out / "claims.md").read_text()
    assert (tmp_path / "kept" / "table1" / "scores.parquet").is_file()
    assert {path.name for path in out.iterdir()} == {"claims.md", "claims.json", "claims.html"}
    write_report(run.out)
    assert "claims.html" not in (run.out / "index.html").read_text()
    (run.out / "claims.html").write_text("")
    write_report(run.out)
    assert 'href="claims.html"' in (run.out / "index.html").read_text()
