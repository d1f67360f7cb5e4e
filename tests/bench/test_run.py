"""A run on the tiny world: what its files hold, what is computed once, what a new plug-in or more samples cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitxai.bench.cell_run import Event
from vitxai.bench.collect import COST_TYPES, SCORE_TYPES, _plain_costs, _Rows
from vitxai.bench.contract import BadInputError, datasets
from vitxai.bench.local import LocalWorker
from vitxai.bench.report import RunFiles, write_report
from vitxai.bench.run import RunResult
from vitxai.bench.store import Store

N, CHUNK, MODELS = 8, 4, 2
NEWCOMER = """
from vitxai.bench.contract import Explainer, Explanation, explainer

@explainer("newcomer")
class Newcomer(Explainer):
    def explain(self, model, batch, ctx):
        return Explanation(batch.inputs.mean(1), "pixel", model.geometry)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def result(make_suite: Callable, run_tiny: Callable, folder: Path, events: list[Event]) -> RunResult:
    """Two models, costs measured, two workers."""
    run: RunResult = run_tiny(make_suite(models=MODELS, costs=True), folder, workers=2, on_event=events.append)
    return run


class TestRows:
    """Long tables from blocks."""

    TYPES = {"metric": "str", "own": "bool", "sample": "str", "label": "int64", "value": "float64"}

    def test_blocks_follow_each_other_whole(self) -> None:
        rows = _Rows(self.TYPES)
        rows.add({"metric": "a", "own": False}, {"sample": ["x", "y"], "label": [1, 0], "value": [0.5, np.nan]})
        rows.add({"metric": "b", "own": True}, {"sample": ["z"], "label": [2], "value": [7.0]})
        rows.add({"metric": "b", "own": True}, {"sample": ["x", "y"], "label": [1, 0], "value": [-1.0, 2.0]})
        expected = pd.DataFrame(
            {
                "metric": ["a", "a", "b", "b", "b"],
                "own": [False, False, True, True, True],
                "sample": ["x", "y", "z", "x", "y"],
                "label": [1, 0, 2, 1, 0],
                "value": [0.5, np.nan, 7.0, -1.0, 2.0],
            }
        ).astype(self.TYPES)
        pd.testing.assert_frame_equal(rows.frame(), expected)

    def test_without_blocks_the_columns_are_there(self) -> None:
        assert _Rows(self.TYPES).frame().dtypes.astype(str).to_dict() == self.TYPES


class TestScores:
    """scores.parquet."""

    def test_the_file_is_the_table_and_has_the_agreed_columns(self, result: RunResult) -> None:
        stored = pd.read_parquet(result.out / "scores.parquet")
        plain = {dtype for dtype in SCORE_TYPES.values() if dtype != "category"}
        assert set(map(str, stored.dtypes)) == {*plain, "str"}
        for name, column in result.scores.items():
            pd.testing.assert_series_equal(stored[name], column.astype(stored[name].dtype))
        assert list(stored) == list(SCORE_TYPES)

    def test_one_row_a_model_method_sample_and_column(self, result: RunResult) -> None:
        counts = result.scores.groupby(["explainer", "own_model", "metric"]).size()
        assert set(counts) == {N * MODELS}
        assert set(counts.index) == {
            *(
                (name, False, metric)
                for name in ("tiny_gradient", "tiny_attention", "tiny_noise")
                for metric in METRICS
            ),
            ("", False, "tiny_accuracy"),
            # a method with a model of its own: everything on it, what queries the model on the frozen one too
            *(("tiny_fitted", True, metric) for metric in (*METRICS, "tiny_accuracy")),
            ("tiny_fitted", False, "tiny_drop"),
        }

    def test_targets_are_the_predictions_by_default(self, result: RunResult) -> None:
        scores = result.scores
        assert (scores["target"] == scores["prediction"]).all()
        assert set(scores["label"]) == {0, 1, 2, 3}
        frozen = scores[(scores["metric"] == "tiny_accuracy") & ~scores["own_model"]]
        assert ((frozen["label"] == frozen["prediction"]) == frozen["value"].astype(bool)).all()

    def test_what_the_data_lack_is_refused_with_a_reason(self, result: RunResult) -> None:
        refused = result.scores[result.scores["metric"] == "tiny_bands"]
        assert set(refused["status"]) == {"unsupported"}
        assert set(refused["reason"]) == {"data set tiny_squares has no bands"}
        assert refused["value"].isna().all()

    def test_labels_tell_floors_from_methods(self, result: RunResult) -> None:
        labels = result.scores.groupby("explainer")["status_label"].unique().map(list).to_dict()
        assert labels["tiny_noise"] == ["floor"]
        assert labels["tiny_gradient"] == ["exact"]

    def test_a_score_is_what_the_metric_says_of_the_map(self, result: RunResult, tiny_models: tuple[str, str]) -> None:
        """Recomputed here by hand, without the engine."""
        import torch

        from vitxai.bench.contract import datasets
        from vitxai.models.load import load_model
        from vitxai.models.preprocess import collate

        model = load_model(tiny_models[0])
        batch = collate([datasets.create("tiny_squares").sample("test/005")], model)
        inputs = batch.inputs.clone().requires_grad_()
        logits = model(inputs)
        logits[0, logits[0].argmax()].backward()
        map_ = (inputs.grad * batch.inputs).sum(1).clamp(min=0)  # type: ignore[operator]
        expected = (map_ * batch.mask).sum() / map_.sum()
        rows = result.scores.set_index(["explainer", "metric", "model", "sample"])["value"]
        assert rows["tiny_gradient", "tiny_mass", tiny_models[0], "test/005"] == pytest.approx(
            float(expected), abs=1e-5
        )
        assert torch.is_grad_enabled()


METRICS = ("tiny_mass", "tiny_drop", "tiny_bands")


class TestOtherFiles:
    """costs.parquet, run.json and the gallery."""

    def test_costs_of_the_first_model_and_of_the_plain_forward(
        self, result: RunResult, tiny_models: tuple[str, str]
    ) -> None:
        costs = pd.read_parquet(result.out / "costs.parquet")
        assert list(costs) == list(COST_TYPES)
        assert set(costs["model"]) == {tiny_models[0]}
        table = costs.pivot(index="explainer", columns="column", values="value")
        assert set(table.index) == {"", "tiny_gradient", "tiny_attention", "tiny_noise", "tiny_fitted"}
        assert table.loc["", ["forwards", "latency_ratio", "backwards"]].tolist() == [1, 1, 0]
        assert table.loc["tiny_gradient", ["forwards", "backwards"]].tolist() == [1, 1]
        assert table.loc["tiny_noise", "forwards"] == 0
        assert table.loc["tiny_fitted", "parameters"] == 4  # its bias
        assert (costs["machine"] == costs["machine"].iloc[0]).all()

    def test_the_report_of_the_run_at_hand_is_that_of_its_files(self, result: RunResult, tmp_path: Path) -> None:
        folders = [tmp_path / "at_hand", tmp_path / "files"]
        for folder in folders:
            shutil.copytree(result.out, folder)
        write_report(folders[0], RunFiles(folders[0], result.scores, result.costs, result.facts))
        for path in write_report(folders[1]):
            assert path.read_bytes() == (folders[0] / path.relative_to(folders[1])).read_bytes()

    def test_run_json_names_all_that_the_numbers_hang_on(self, result: RunResult) -> None:
        facts = json.loads((result.out / "run.json").read_text())
        assert facts["suite"]["boards"][0]["dataset"] == "tiny_squares"
        assert {"torch", "timm", "numpy"} <= set(facts["versions"])
        assert facts["seed"] == 0
        assert facts["interrupted"] is False
        assert facts["failures"] == []
        assert len({cell["weights_hash"] for cell in facts["cells"]}) == MODELS
        assert {fit["facts"]["samples"] for fit in facts["fits"]} == {8}
        declared = {column["column"]: column for column in facts["columns"]}
        assert declared["tiny_mass"] == {
            "metric": "tiny_mass", "column": "tiny_mass", "better": "higher", "range": [0, 1], "truth": True,
            "description": "positive mass in the mask",
        }  # fmt: skip

    def test_the_gallery_shows_pictures_masks_and_maps(self, result: RunResult, tiny_models: tuple[str, str]) -> None:
        with np.load(result.out / "gallery" / "squares.npz") as gallery:
            assert str(gallery["model"]) == tiny_models[0]
            assert gallery["samples"].tolist() == ["test/000", "test/001", "test/002"]  # no spatial_iou here
            assert gallery["images"].shape == (3, 16, 16, 3)
            assert gallery["images"].dtype == np.uint8
            assert gallery["masks"].sum((1, 2)).tolist() == [16, 16, 16]
            assert gallery["maps"].shape == (4, 3, 16, 16)
            assert (gallery["maps"] >= 0).all()
            # the square is the bright part of its picture
            assert (
                gallery["images"][0][gallery["masks"][0]].mean()
                > 150
                > gallery["images"][0][~gallery["masks"][0]].mean()
            )

    def test_progress_is_told_task_by_task(self, result: RunResult, events: list[Event]) -> None:
        opened = [event for event in events if event.total == 0]
        closed = [event for event in events if event.closed]
        assert len(opened) == len(closed) == MODELS
        for cell in {event.cell for event in closed}:
            ended = [event for event in events if event.cell == cell and event.label]
            assert [event.done for event in ended] == list(range(1, ended[0].total + 1))


class TestReuse:
    """What is stored is not computed again."""

    def test_everything_is_computed_once(self, result: RunResult) -> None:
        kinds = result.counts["kinds"]
        chunks = N // CHUNK * MODELS
        assert kinds["probe"] == {"computed": chunks}
        assert kinds["fit"] == {"computed": MODELS}
        assert kinds["explanation"] == {"computed": 4 * chunks}
        # tiny_drop's response under common masks: one a chunk for all frozen-model methods, one for the own model
        assert kinds["shared probe"] == {"computed": 2 * chunks}

    def test_the_same_run_again_computes_nothing_and_starts_no_worker(
        self,
        result: RunResult,
        make_suite: Callable,
        run_tiny: Callable,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delattr(LocalWorker, "open")
        read: list[Event] = []
        again = run_tiny(make_suite(models=MODELS, costs=True), folder, workers=2, on_event=read.append)
        cells = [event.cell for event in read if not event.closed]
        assert sum(one != next for one, next in pairwise(cells)) == MODELS - 1  # one cell after the other
        assert {how for hows in again.counts["kinds"].values() for how in hows} == {"reused", "refused"}
        pd.testing.assert_frame_equal(again.scores, result.scores)
        pd.testing.assert_frame_equal(again.costs, result.costs)

    def test_a_new_plug_in_computes_only_its_own_explanations_and_scores(
        self, result: RunResult, make_suite: Callable, run_tiny: Callable, folder: Path, tmp_path: Path
    ) -> None:
        plugin = tmp_path / "newcomer.py"
        plugin.write_text(NEWCOMER)
        more = run_tiny(make_suite(models=MODELS), folder, plugins=[plugin])
        chunks = N // CHUNK * MODELS
        assert more.counts["kinds"]["explanation"] == {"computed": chunks, "reused": 4 * chunks}
        assert more.counts["explainers"]["newcomer"] == {
            "explanation": {"computed": chunks},
            "score": {"computed": 2 * chunks, "refused": chunks},
            "shared probe": {"reused": chunks},  # no model response is computed anew
        }
        others = [counts for name, counts in more.counts["explainers"].items() if name != "newcomer"]
        assert not any("computed" in hows for counts in others for hows in counts.values())
        assert more.counts["kinds"]["probe"] == {"reused": chunks}
        old = more.scores[more.scores["explainer"] != "newcomer"].reset_index(drop=True)
        pd.testing.assert_frame_equal(old, result.scores, check_categorical=False)

    def test_more_samples_compute_only_the_new_chunks(
        self, result: RunResult, make_suite: Callable, run_tiny: Callable, folder: Path
    ) -> None:
        more = run_tiny(make_suite(models=1, n=N + CHUNK), folder)
        assert more.counts["kinds"]["explanation"] == {"computed": 4, "reused": 4 * N // CHUNK}
        assert more.counts["kinds"]["fit"] == {"reused": 1}

    def test_a_damaged_artefact_is_computed_again(
        self, result: RunResult, make_suite: Callable, run_tiny: Callable, folder: Path
    ) -> None:
        for path in (folder / "store" / "explanation").glob("*/*"):
            path.write_bytes(path.read_bytes()[:-10])
        again = run_tiny(make_suite(models=MODELS), folder)
        kinds = again.counts["kinds"]
        assert kinds["explanation"] == {"computed": 4 * N // CHUNK * MODELS}
        assert "computed" not in kinds["score"]
        pd.testing.assert_frame_equal(again.scores, result.scores)

    def test_a_damaged_map_behind_a_missing_score_is_mended(
        self, result: RunResult, make_suite: Callable, run_tiny: Callable, folder: Path
    ) -> None:
        store = Store(folder / "store")
        for path in (store.root / "explanation").glob("*/*"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 0xFF  # of the same length: only reading it in full tells
            path.write_bytes(bytes(content))
        store.clear("score")
        again = run_tiny(make_suite(models=MODELS), folder)
        assert set(again.scores["status"]) == {"ok", "unsupported"}
        pd.testing.assert_frame_equal(again.scores, result.scores)


def test_the_plain_forward_has_the_costs_that_some_explainer_is_a_multiple_of() -> None:
    free = {"latency_ms": 1.0, "latency_ratio": 0.5, "gflops": 0.0, "flops_ratio": 0.0}
    assert _plain_costs([free], parameters=7) == {
        "latency_ms": 2.0, "latency_ratio": 1.0, "forwards": 1.0, "backwards": 0.0, "parameters": 7.0,
        "parameters_ratio": 1.0,
    }  # fmt: skip
    dear = {**free, "gflops": 3.0, "flops_ratio": 1.5}
    assert _plain_costs([free, dear], parameters=7)["gflops"] == 2.0


def test_a_target_policy_by_label(make_suite: Callable, run_tiny: Callable, tmp_path: Path) -> None:
    result = run_tiny(make_suite(n=4, target="label", explainers=("tiny_noise",), metrics=("tiny_mass",)), tmp_path)
    assert (result.scores["target"] == result.scores["label"]).all()
    result = run_tiny(make_suite(n=4, target="runner_up", explainers=("tiny_noise",), metrics=("tiny_mass",)), tmp_path)
    assert (result.scores["target"] != result.scores["prediction"]).all()


def test_validation_samples_are_explained_where_the_suite_says_so(
    make_suite: Callable, run_tiny: Callable, tmp_path: Path
) -> None:
    settings = {"n": 4, "explainers": ["rollout"], "metrics": ["model_response"]}
    of = {
        split: set(run_tiny(make_suite(**settings, split=split), tmp_path / split).scores["sample"]) - {""}
        for split in ("test", "validation")
    }
    data = datasets.create("tiny_squares")
    assert of == {split: set(data.ids(split, 4)) for split in of}
    assert not of["test"] & of["validation"]
    with pytest.raises(BadInputError, match=r"split.*'test' or 'validation'"):
        make_suite(**settings, split="fit")


def test_another_draw_is_the_method_with_another_seed_under_the_same_masks(
    make_suite: Callable, run_tiny: Callable, tmp_path: Path
) -> None:
    settings = {"n": 4, "metrics": ["tiny_mass", "tiny_drop"]}
    names = ["tiny_noise", "tiny_noise@1", "tiny_fitted", "tiny_fitted@1"]
    drawn = run_tiny(make_suite(**settings, explainers=names, costs=True), tmp_path / "drawn")
    seeded = run_tiny(make_suite(**settings, explainers=["tiny_noise"], seed=1), tmp_path / "seeded")

    def values(result: RunResult, explainer: str, column: str, own: bool = False) -> list[float]:
        rows = result.scores[(result.scores["explainer"] == explainer) & (result.scores["column"] == column)]
        return rows[rows["own_model"] == own].sort_values("sample")["value"].tolist()

    assert values(drawn, "tiny_noise@1", "tiny_mass") == values(seeded, "tiny_noise", "tiny_mass")
    assert values(drawn, "tiny_noise@1", "tiny_mass") != values(drawn, "tiny_noise", "tiny_mass")
    # The fit draws nothing, so that its maps are the same: then so is what the metric draws.
    assert values(drawn, "tiny_fitted@1", "tiny_drop", own=True) == values(drawn, "tiny_fitted", "tiny_drop", own=True)
    labels = drawn.scores.drop_duplicates("explainer").set_index("explainer")["status_label"]
    assert labels["tiny_noise"] == "floor"
    assert labels["tiny_noise@1"] == labels["tiny_fitted@1"] == "draw"
    measured = set(drawn.costs["explainer"])
    assert {"tiny_noise", "tiny_fitted"} <= measured
    assert not {"tiny_noise@1", "tiny_fitted@1"} & measured


def test_a_plug_in_file_that_cannot_be_loaded_is_an_error_of_usage(
    make_suite: Callable, run_tiny: Callable, tmp_path: Path
) -> None:
    plugin = tmp_path / "half.py"
    plugin.write_text("def broken(:\n")
    with pytest.raises(BadInputError, match=r"half\.py cannot be loaded: SyntaxError"):
        run_tiny(make_suite(), tmp_path, plugins=[plugin])
    with pytest.raises(BadInputError, match=r"no plug-in file at .*missing\.py"):
        run_tiny(make_suite(), tmp_path, plugins=[tmp_path / "missing.py"])
