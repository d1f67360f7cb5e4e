"""The gate: what it lets pass, what it stops, and with which exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from vitxai.bench.contract import BadInputError
from vitxai.bench.fingerprint import Fingerprint
from vitxai.bench.gate import GateResult, compare, update_baseline
from vitxai.bench.gate_summary import as_junit, as_markdown

OTHER_MACHINE = {
    "machine": {
        "cpu": "Other CPU", "capability": "AVX512", "platform": "Linux-x86_64", "python": "3.11",
        "versions": {"torch": "2.6.0"}, "device": "cpu",
    }
}  # fmt: skip
Change = Callable[[pd.DataFrame], pd.DataFrame]


def shifted(explainer: str, column: str, by: float, noise: float = 0.0) -> Change:
    def change(scores: pd.DataFrame) -> pd.DataFrame:
        here = (scores.explainer == explainer) & (scores.column == column)
        scores.loc[here, "value"] += by + noise * np.random.default_rng(9).normal(size=here.sum())
        return scores

    return change


def failed(explainer: str) -> Change:
    def change(scores: pd.DataFrame) -> pd.DataFrame:
        scores.loc[scores.explainer == explainer, ["value", "status", "reason"]] = [np.nan, "timeout", "after 60 s"]
        return scores

    return change


@pytest.fixture
def gate(made, tmp_path: Path) -> Callable[..., GateResult]:
    """Gates a changed run against an unchanged one."""
    baseline = made.write(tmp_path / "baseline")

    def run(change: Change | None = None, **facts: object) -> GateResult:
        made.facts = facts
        return compare(baseline, made.write(tmp_path / "fresh", change))

    return run


def kinds(result: GateResult) -> set[str]:
    return {finding.kind for finding in result.findings} - {"note"}


class TestExact:
    def test_the_same_run_passes(self, gate) -> None:
        result = gate()
        assert (result.status, result.mode, result.exit_code, kinds(result)) == ("ok", "exact", 0, set())
        assert result.checked["leaves_spectral", "rollout"] == 4 * 40 * 3

    def test_rounding_passes(self, gate) -> None:
        assert gate(lambda scores: scores.assign(value=scores.value * (1 + 3e-6))).status == "ok"

    @pytest.mark.parametrize("by", [1e-4, -1e-4])
    def test_any_other_change_of_one_figure_stops(self, gate, by: float) -> None:
        result = gate(shifted("rollout", "auprc", by))
        assert (result.status, result.exit_code) == ("regression", 1)
        (finding,) = [f for f in result.findings if f.kind != "note"]
        assert (finding.board, finding.explainer, finding.column) == ("leaves_spectral", "rollout", "auprc")
        assert finding.kind == ("changed" if by > 0 else "worse")

    def test_direction_is_that_of_the_column(self, gate) -> None:
        assert kinds(gate(shifted("rollout", "deletion_auc", 0.1))) == {"worse"}

    def test_one_changed_sample_is_enough(self, gate) -> None:
        def change(scores: pd.DataFrame) -> pd.DataFrame:
            scores.loc[scores.index[scores.column == "sparseness"][7], "value"] += 0.01
            return scores

        assert gate(change).status == "regression"

    def test_a_figure_that_becomes_undefined_stops(self, gate) -> None:
        def change(scores: pd.DataFrame) -> pd.DataFrame:
            here = (scores.explainer == "rollout") & (scores.column == "sparseness")
            scores.loc[here, ["value", "status", "reason"]] = [np.nan, "undefined", "zero map"]
            return scores

        result = gate(change)
        assert result.status == "regression"
        assert any("ok before, undefined now" in f.text for f in result.findings)


class TestGoldenMaps:
    @pytest.fixture
    def runs(self, made, tmp_path: Path) -> tuple[Path, Path]:
        folders = made.write(tmp_path / "baseline"), made.write(tmp_path / "fresh")
        for folder in folders:
            (folder / "maps").mkdir()
            save_file({"rollout|m": np.eye(4, dtype=np.float32)}, folder / "maps/leaves_spectral.safetensors")
        return folders

    def test_equal_maps_pass(self, runs: tuple[Path, Path]) -> None:
        assert compare(*runs).status == "ok"

    def test_a_moved_patch_stops(self, runs: tuple[Path, Path]) -> None:
        save_file({"rollout|m": np.roll(np.eye(4, dtype=np.float32), 1)}, runs[1] / "maps/leaves_spectral.safetensors")
        result = compare(*runs)
        assert result.status == "regression"
        assert [(f.explainer, f.column) for f in result.findings] == [("rollout", "map")]

    def test_differences_are_relative_to_the_map(self, runs: tuple[Path, Path]) -> None:
        for folder, scale in zip(runs, (1e-9, 1.2e-9), strict=True):
            save_file({"rollout|m": scale * np.eye(4, dtype=np.float32)}, folder / "maps/leaves_spectral.safetensors")
        assert compare(*runs).status == "regression"

    def test_a_missing_or_broken_map_stops(self, runs: tuple[Path, Path]) -> None:
        save_file(
            {"rollout|m": np.full((4, 4), np.nan, dtype=np.float32)}, runs[1] / "maps/leaves_spectral.safetensors"
        )
        assert compare(*runs).status == "regression"
        (runs[1] / "maps/leaves_spectral.safetensors").unlink()
        assert kinds(compare(*runs)) == {"missing"}


class TestOtherMachine:
    def test_small_differences_pass(self, gate) -> None:
        result = gate(shifted("rollout", "auprc", 0.0, noise=1e-3), **OTHER_MACHINE)
        assert (result.status, result.mode) == ("ok", "statistical")
        assert any("cpu: Toy CPU / Other CPU" in f.text for f in result.findings)

    def test_certain_but_tiny_differences_pass(self, gate) -> None:
        assert gate(shifted("rollout", "auprc", -5e-3), **OTHER_MACHINE).status == "ok"

    def test_a_real_loss_stops(self, gate) -> None:
        result = gate(shifted("rollout", "auprc", -0.05, noise=0.02), **OTHER_MACHINE)
        assert result.status == "regression"
        assert [(f.kind, f.explainer, f.column) for f in result.findings if f.kind != "note"] == [
            ("worse", "rollout", "auprc")
        ]

    def test_a_gain_is_reported_and_passes(self, gate) -> None:
        result = gate(shifted("rollout", "auprc", 0.05, noise=0.02), **OTHER_MACHINE)
        assert (result.status, kinds(result)) == ("ok", {"better"})

    @pytest.mark.parametrize("seed", range(20))
    def test_noise_around_zero_is_no_alarm(self, made, tmp_path: Path, seed: int) -> None:
        """Twenty A/A pairs: every score redrawn around the same means, far noisier than rounding."""
        made.samples, made.noise = 24, 0.0
        baseline = made.write(tmp_path / "baseline")
        made.facts = OTHER_MACHINE
        rng = np.random.default_rng(100 + seed)
        fresh = made.write(tmp_path / "fresh", lambda s: s.assign(value=s.value + rng.normal(0, 0.05, len(s))))
        assert kinds(compare(baseline, fresh)) == set()


class TestCoverage:
    def test_a_new_explainer_is_named_and_passes(self, gate) -> None:
        def change(scores: pd.DataFrame) -> pd.DataFrame:
            return pd.concat(
                [scores, scores[scores.explainer == "rollout"].assign(explainer="mine")], ignore_index=True
            )

        result = gate(change)
        assert (result.status, kinds(result)) == ("ok", {"new"})

    def test_a_lost_explainer_stops(self, gate) -> None:
        result = gate(lambda s: s[s.explainer != "rollout"])
        assert (result.status, kinds(result)) == ("regression", {"missing"})

    def test_a_failed_job_has_its_own_exit_code(self, gate) -> None:
        result = gate(failed("rollout"))
        assert (result.status, result.exit_code, kinds(result)) == ("failed_jobs", 4, {"failed"})
        assert any(f.text == "timeout: after 60 s" for f in result.findings)


class TestNotComparable:
    @pytest.mark.parametrize(
        "facts",
        [
            {"suite": {"name": "toy", "target": "label", "seed": 0, "n": 40}},
            {"suite": {"name": "toy", "target": "prediction", "seed": 1, "n": 40}},
            {"cells": [{"board": "leaves_spectral", "model": "builtin,id=toy,seed=0", "weights_hash": "another"}]},
            {"cells": [{"board": "leaves_spectral", "model": "builtin,id=toy,seed=0", "dataset_hash": "another"}]},
        ],
        ids=["target", "seed", "weights", "data"],
    )
    def test_other_settings(self, gate, facts: dict[str, object]) -> None:
        result = gate(**facts)
        assert (result.status, result.exit_code) == ("not_comparable", 3)

    def test_other_samples(self, gate) -> None:
        result = gate(lambda s: s[s["sample"] != "test/00003"])
        assert result.status == "not_comparable"
        assert "1 samples of the baseline missing" in result.findings[0].text


class TestCosts:
    def costs(self, made, tmp_path: Path, column: str, factor: float) -> GateResult:
        baseline, fresh = made.write(tmp_path / "baseline"), made.write(tmp_path / "fresh")
        costs = made.costs()
        costs.loc[costs.column == column, "value"] *= factor
        costs.to_parquet(fresh / "costs.parquet")
        return compare(baseline, fresh)

    @pytest.mark.parametrize("column", ["forwards", "gflops"])
    @pytest.mark.parametrize("factor", [2, 0.5])
    def test_counts_gate_exactly(self, made, tmp_path: Path, column: str, factor: float) -> None:
        assert self.costs(made, tmp_path, column, factor).status == "regression"

    def test_latency_never_gates(self, made, tmp_path: Path) -> None:
        assert self.costs(made, tmp_path, "latency_ms", 10).status == "ok"


class TestBaseline:
    def test_the_updated_baseline_passes(self, made, tmp_path: Path) -> None:
        fresh = made.write(tmp_path / "fresh", shifted("rollout", "auprc", 0.1))
        baseline = made.write(tmp_path / "baseline")
        (fresh / "maps").mkdir()
        save_file({"rollout|m": np.eye(2, dtype=np.float32)}, fresh / "maps/leaves_spectral.safetensors")
        assert compare(baseline, fresh).status == "regression"
        update_baseline(fresh, baseline)
        assert compare(baseline, fresh).status == "ok"
        assert (baseline / "maps/leaves_spectral.safetensors").is_file()
        assert not (baseline / "gallery/fresh").exists()

    def test_it_holds_no_failure(self, made, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match="rollout failed"):
            update_baseline(made.write(tmp_path / "fresh", failed("rollout")), tmp_path / "baseline")
        assert not (tmp_path / "baseline").exists()


class TestSummaries:
    def test_markdown_names_verdict_finding_and_remedy(self, gate) -> None:
        text = as_markdown(gate(shifted("rollout", "auprc", -0.1)))
        assert "Regression" in text
        assert "| worse | leaves_spectral | rollout | auprc |" in text
        assert "--update-baseline" in text

    @pytest.mark.parametrize(
        ("change", "failures", "errors"),
        [(None, 0, 0), (shifted("rollout", "auprc", -0.1), 1, 0), (failed("rollout"), 0, 1)],
    )
    def test_junit_counts(self, gate, change: Change | None, failures: int, errors: int) -> None:
        suite = ElementTree.fromstring(as_junit(gate(change)))
        assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (str(failures), str(errors), "0")
        assert int(suite.get("tests", 0)) == len(suite.findall("testcase"))
        assert len(suite.findall(".//failure")) == failures
        assert len(suite.findall(".//error")) == errors

    def test_junit_skips_what_cannot_be_compared(self, gate) -> None:
        result = gate(cells=[{"board": "leaves_spectral", "model": "builtin,id=toy,seed=0", "weights_hash": "another"}])
        assert ElementTree.fromstring(as_junit(result)).get("skipped") == "1"


class TestFingerprint:
    def test_it_survives_json(self) -> None:
        facts = OTHER_MACHINE["machine"]
        assert Fingerprint.of_json(facts).as_json() == facts

    def test_its_key_changes_with_every_part(self) -> None:
        facts = OTHER_MACHINE["machine"]
        keys = {Fingerprint.of_json(facts).key}
        for name in facts:
            value = {"torch": "2.7"} if name == "versions" else "other"
            keys.add(Fingerprint.of_json({**facts, name: value}).key)
        assert len(keys) == 1 + len(facts)

    def test_a_missing_part_is_refused(self) -> None:
        with pytest.raises(BadInputError, match="capability"):
            Fingerprint.of_json({"cpu": "x"})

    def test_this_machine_has_one(self) -> None:
        from vitxai.bench.fingerprint import fingerprint

        mine = fingerprint()
        assert mine.cpu
        assert mine.versions["torch"] != "absent"
        assert mine.differences(mine) == ()
