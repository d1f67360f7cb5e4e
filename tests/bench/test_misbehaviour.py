"""Plug-ins that break the contract: each costs its own labelled rows, all else completes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from vitxai.bench.run import RunResult

BAD = Path(__file__).parent / "plugins" / "misbehaving.py"
BAD_METRICS = Path(__file__).parent / "plugins" / "bad_metrics.py"
GOOD = ("tiny_gradient", "tiny_attention")
METRICS = ("tiny_mass", "tiny_drop")
# explainer -> (status, what its reason says)
EXPECTED = {
    "bad_raises": ("error", "ZeroDivisionError: seven over nothing"),
    "bad_nan": ("error", "NaN or infinite values in the map of test/000 (1 of 2)"),
    "bad_shape": ("error", "a token map of this model has shape [B, 4, 4], not [2, 7, 5]"),
    "bad_hangs": ("timeout", "no answer within 8 s"),
    "bad_exits": ("error", "ended with exit code 3"),
    "bad_eats": ("memory", "can't allocate memory"),
    "bad_eats_numpy": ("memory", "Unable to allocate"),
    "bad_parameters": ("error", "changed parameters"),
    "bad_hooks": ("error", "changed hooks"),
    "bad_mode": ("error", "their modes or settings"),
    "bad_inputs": ("error", "the tensors that it was given"),
    "bad_tape": ("error", "changed data, a tape or a probe that others share"),
    "bad_random": ("error", "changed torch's global random state"),
    "bad_raises_and_hooks": ("error", "after leaving a hook"),
    "refuses": ("unsupported", "not for models like this"),
}
KILLS = {"bad_hangs", "bad_exits", "bad_eats", "bad_eats_numpy"}
SPOILS = {"bad_parameters", "bad_hooks", "bad_mode", "bad_inputs", "bad_tape", "bad_random"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("misbehaviour")


@pytest.fixture(scope="module")
def result(make_suite: Callable, run_tiny: Callable, folder: Path) -> RunResult:
    """One run with every offender before, between and after the good ones."""
    suite = make_suite(
        n=4,
        chunk=2,
        batch_size=2,
        timeout_s=8,
        memory_gb=0.7,
        explainers=(GOOD[0], *EXPECTED, GOOD[1]),
        metrics=(*METRICS, "bad_metric", "bad_columns"),
    )
    result: RunResult = run_tiny(suite, folder, plugins=[BAD, BAD_METRICS])
    return result


def rows(result: RunResult, explainer: str, metric: str) -> pd.DataFrame:
    scores = result.scores
    return scores[(scores["explainer"] == explainer) & (scores["metric"] == metric)]


@pytest.mark.parametrize("offender", EXPECTED)
def test_an_offender_has_a_labelled_row_for_every_sample(result: RunResult, offender: str) -> None:
    status, reason = EXPECTED[offender]
    for metric in METRICS:
        found = rows(result, offender, metric)
        assert found["sample"].tolist() == [f"test/{i:03d}" for i in range(4)]
        assert set(found["status"]) == {status}
        assert found["value"].isna().all()
        assert reason in found["reason"].iloc[0]


@pytest.mark.parametrize("offender", sorted(KILLS | SPOILS))
def test_what_cost_a_worker_is_not_tried_on_the_next_chunk(result: RunResult, offender: str) -> None:
    first, last = rows(result, offender, METRICS[0])["reason"].iloc[[0, -1]]
    assert not first.startswith("not tried")
    assert last.startswith("not tried")
    assert first[:40] in last
    assert result.counts["explainers"][offender]["explanation"] == {"failed": 1, "skipped": 1}


@pytest.mark.parametrize("offender", sorted(set(EXPECTED) - KILLS - SPOILS - {"refuses"}))
def test_what_only_raises_is_tried_on_every_chunk(result: RunResult, offender: str) -> None:
    assert result.counts["explainers"][offender]["explanation"] == {"failed": 2}


def test_all_else_completes_and_is_not_touched(
    result: RunResult, make_suite: Callable, run_tiny: Callable, tmp_path: Path
) -> None:
    clean = run_tiny(make_suite(n=4, chunk=2, batch_size=2, explainers=GOOD, metrics=METRICS), tmp_path)
    for explainer in GOOD:
        for metric in METRICS:
            found = rows(result, explainer, metric)
            assert set(found["status"]) == {"ok"}
            assert found["value"].tolist() == rows(clean, explainer, metric)["value"].tolist()


@pytest.mark.parametrize(
    ("metric", "reason"), [("bad_metric", "KeyError: 'no such thing'"), ("bad_columns", "declared are ['bad_columns']")]
)
def test_a_metric_that_breaks_costs_its_own_columns(result: RunResult, metric: str, reason: str) -> None:
    found = rows(result, GOOD[0], metric)
    assert len(found) == 4
    assert set(found["status"]) == {"error"}
    assert reason in found["reason"].iloc[0]


def test_failures_are_told_once_each_with_a_traceback(result: RunResult) -> None:
    told = {failure["what"].split(",")[0]: failure for failure in result.failures}
    assert set(EXPECTED) - {"refuses"} <= set(told)
    assert "refuses" not in told
    assert "ZeroDivisionError" in told["bad_raises"]["traceback"]
    assert len(result.failures) == len(told)
    assert result.facts["failures"] == list(map(dict, result.failures))


def test_failures_are_kept_until_they_are_asked_for_again(
    result: RunResult, make_suite: Callable, run_tiny: Callable, folder: Path
) -> None:
    settings = {"n": 4, "chunk": 2, "batch_size": 2, "timeout_s": 8, "memory_gb": 0.7, "metrics": METRICS}
    suite = make_suite(explainers=("bad_raises", "bad_exits", "refuses"), **settings)
    again = run_tiny(suite, folder, plugins=[BAD])
    counts = again.counts["explainers"]
    assert counts["bad_raises"]["explanation"] == {"reused": 2}
    assert counts["bad_exits"]["explanation"] == {"reused": 1, "skipped": 1}
    retried = run_tiny(suite, folder, plugins=[BAD], retry_failed=True)
    counts = retried.counts["explainers"]
    assert counts["bad_raises"]["explanation"] == {"failed": 2}
    assert counts["bad_exits"]["explanation"] == {"failed": 1, "skipped": 1}
    assert counts["refuses"]["explanation"] == {"reused": 2}  # a refusal is no failure


def test_a_plug_in_that_cannot_be_loaded_is_a_row(
    make_suite: Callable, run_tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitxai.bench.contract import Broken, explainers

    told = Broken("cannot_load", "acme", "ImportError: no module named acme", "Traceback ...")
    monkeypatch.setitem(explainers.broken, "cannot_load", told)
    monkeypatch.setattr(explainers, "_complete", True)
    result = run_tiny(make_suite(n=2, explainers=("cannot_load", "tiny_noise"), metrics=("tiny_mass",)), tmp_path)
    broken = rows(result, "cannot_load", "tiny_mass")
    assert broken["reason"].unique().tolist() == ["could not be loaded: ImportError: no module named acme"]
    assert set(broken["status_label"]) == {"broken"}
    assert set(rows(result, "tiny_noise", "tiny_mass")["status"]) == {"ok"}


def test_a_model_that_cannot_be_loaded_costs_its_own_cell(
    make_suite: Callable, run_tiny: Callable, tmp_path: Path
) -> None:
    suite = make_suite(n=2, explainers=("tiny_noise",), metrics=("tiny_mass",))
    (board,) = suite.boards
    missing = type(board.models[0]).parse(f"file,path={tmp_path / 'gone.pt'}")
    suite = suite.model_copy(update={"boards": (board.model_copy(update={"models": (missing, *board.models)}),)})
    result = run_tiny(suite, tmp_path)
    lost, kept = (result.scores[result.scores["model"] == str(model)] for model in suite.boards[0].models)
    assert set(lost["status"]) == {"error"}
    assert "no checkpoint at" in lost["reason"].iloc[0]
    assert set(kept[(kept["explainer"] == "tiny_noise") & (kept["metric"] == "tiny_mass")]["status"]) == {"ok"}
    assert result.failures[0]["what"] == "the whole cell"
