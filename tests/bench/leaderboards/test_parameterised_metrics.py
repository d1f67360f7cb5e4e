"""One metric with several parameters on a board: every figure says which it is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from vitxai.bench.collect import metric_names
from vitxai.bench.comparability import obstacles
from vitxai.bench.contract import BadInputError, Spec
from vitxai.bench.report import leaderboards, read_run
from vitxai.bench.suite import Suite, parse_suite

OTHER = "localisation,reduction=focus"


def suite(*metrics: str, second: tuple[str, ...] | None = None) -> Suite:
    board = {"dataset": "glyphs", "models": ["builtin,id=glyphs"]}
    boards = [{"name": "one", **board}, *([{"name": "two", **board, "metrics": second}] if second else [])]
    return parse_suite({"name": "s", "n": 1, "explainers": ["rollout"], "metrics": metrics, "boards": boards})


def test_a_suite_may_name_a_metric_twice_with_other_parameters() -> None:
    names = metric_names(suite("otsu", "otsu,reduction=focus", "sparseness"))
    assert [names[spec] for spec in names] == ["otsu", "otsu,reduction=focus", "sparseness"]


def test_and_not_with_the_same() -> None:
    with pytest.raises(BadInputError, match="otsu stands twice in metrics"):
        suite("otsu", "otsu")


def test_parameters_are_left_out_where_nothing_else_bears_the_name() -> None:
    assert metric_names(suite("healing,steps=8")) == {Spec.parse("healing,steps=8"): "healing"}


def test_other_parameters_on_another_board_count() -> None:
    names = metric_names(suite("healing,steps=8", second=("healing,steps=4",)))
    assert list(names.values()) == ["healing,steps=8", "healing,steps=4"]


class TestTables:
    @pytest.fixture
    def run(self, made, tmp_path: Path):
        """The made-up run with half of each overlap under other parameters, on its second board only."""
        made.boards = ("leaves_spectral", "glyphs")
        made.declared += [{**c, "metric": OTHER} for c in made.declared if c["metric"] == "localisation"]

        def second(scores: pd.DataFrame) -> pd.DataFrame:
            more = scores[(scores["metric"] == "localisation") & (scores["board"] == "glyphs")]
            return pd.concat([scores, more.assign(metric=OTHER, value=more["value"] / 2)])

        return read_run(made.write(tmp_path, second))

    def test_every_figure_says_which_it_is(self, run) -> None:
        first, second = leaderboards(run)
        assert "spatial_iou" not in first.columns
        assert "spatial_iou (localisation)" in first.columns
        assert {"spatial_iou (localisation)", f"spatial_iou ({OTHER})"} <= second.columns.keys()

    def test_each_has_its_own_values(self, run) -> None:
        _, board = leaderboards(run)
        (row,) = (row for row in board.rows if row.entry.explainer == "rollout")
        whole, half = (row.figures[f"auprc ({name})"].headline.mean for name in ("localisation", OTHER))
        assert half == pytest.approx(whole / 2)

    def test_a_column_that_one_metric_has_keeps_its_name(self, run) -> None:
        assert "deletion_auc" in leaderboards(run)[0].columns


def test_runs_with_other_parameters_under_one_name_are_not_compared(made, tmp_path: Path) -> None:
    runs = []
    for steps in (8, 12):
        boards = [{"name": "leaves_spectral", "metrics": [f"insertion_deletion,steps={steps}", "sparseness"]}]
        made.facts = {"suite": {"name": "toy", "target": "prediction", "seed": 0, "n": 40, "boards": boards}}
        runs.append(read_run(made.write(tmp_path / str(steps))))
    assert [o.text for o in obstacles(*runs)] == [
        "metric insertion_deletion: insertion_deletion,steps=8 in the baseline, insertion_deletion,steps=12 now"
    ]
