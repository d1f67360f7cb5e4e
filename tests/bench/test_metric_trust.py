"""Which metrics to trust: figures by hand on made-up boards, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vitxai.bench.metric_trust import (
    Standing,
    Trust,
    agreement,
    main,
    mean_agreement,
    over_models,
    separation,
    spearman,
    trust,
)
from vitxai.bench.metric_trust_page import as_markdown
from vitxai.bench.report import read_run
from vitxai.bench.speed_metrics import MetricRow

from .leaderboards.conftest import Made

BLANK = Trust("b", "m", "one", True, 1.0, "above", "", 3, 1.0, 0.1, 1.0, 0.1, {})


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trust]:
    run = read_run(Made().write(tmp_path_factory.mktemp("run")))
    return {line.column: line for line in trust(run)}


def noisy(means: list[float], n: int = 30, models: int = 2, sd: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array(means) + sd * rng.normal(size=(n, models, len(means)))


class TestSeparation:
    def test_clear_differences_are_all_separated(self) -> None:
        separated, resolution = separation(noisy([0.1, 0.5, 0.9]), True)
        assert separated == 1.0
        # Paired differences of means over two models: sd 0.01; (1.96 + 0.842) * 0.01 / sqrt(30) over a range of 0.8.
        assert resolution == pytest.approx(2.802 * 0.01 / 30**0.5 / 0.8, rel=0.3)

    def test_equal_methods_are_not(self) -> None:
        same = noisy([0.5])
        assert separation(np.concatenate([same, same], 2), True) == (0.0, None)

    def test_a_share_of_the_pairs(self) -> None:
        scores = noisy([0.1, 0.5])
        separated, _ = separation(np.concatenate([scores, scores[:, :, 1:]], 2), False)
        assert separated == pytest.approx(2 / 3)

    def test_one_method_has_no_pair(self) -> None:
        assert separation(noisy([0.5]), True) == (None, None)


class TestOverModels:
    def test_models_that_rank_alike_agree(self) -> None:
        scores = np.stack([noisy([0.1, 0.5, 0.9], models=1)[:, 0], noisy([0.2, 0.6, 1.0], models=1)[:, 0]], 1)
        agree, spread = over_models(scores)
        assert agree == pytest.approx(1.0)
        assert spread == pytest.approx(0.1 / 2**0.5 / 0.8, rel=0.02)

    def test_models_that_rank_in_reverse_disagree(self) -> None:
        first = noisy([0.1, 0.5, 0.9], models=1)[:, 0]
        assert over_models(np.stack([first, first[:, ::-1]], 1))[0] == pytest.approx(-1.0)

    @pytest.mark.parametrize("shape", [(5, 1, 4), (5, 3, 2)])
    def test_one_model_or_two_methods_say_nothing(self, shape: tuple[int, int, int]) -> None:
        assert over_models(np.zeros(shape)) == (None, None)

    def test_a_method_undefined_on_a_model_is_left_out(self) -> None:
        scores = noisy([0.1, 0.5, 0.9, 0.3])
        scores[:, 1, 3] = np.nan
        assert over_models(scores)[0] == over_models(scores[:, :, :3])[0] == pytest.approx(1.0)


class TestAgreement:
    def test_spearman_by_hand(self) -> None:
        assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 30, 20])) == pytest.approx(0.5)
        assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0.0

    def test_over_the_explainers_that_both_have(self) -> None:
        one = replace(BLANK, means={name: float(i) for i, name in enumerate("abcdef")})
        other = replace(BLANK, means={name: float(-i) for i, name in enumerate("abcde")})
        assert agreement(one, other) == pytest.approx(-1.0)
        assert agreement(one, replace(BLANK, means={"a": 1.0, "b": 2.0})) is None

    def test_mean_over_the_boards_that_have_both(self) -> None:
        rising = {name: float(i) for i, name in enumerate("abcde")}
        falling = {name: -mean for name, mean in rising.items()}
        lines = [
            replace(BLANK, means=rising),
            replace(BLANK, column="two", means=rising),
            replace(BLANK, board="c", means=rising),
            replace(BLANK, board="c", column="two", means=falling),
            replace(BLANK, board="d", means=rising),
        ]
        assert mean_agreement(lines, "one", "two") == pytest.approx(0.0)
        assert mean_agreement(lines, "one", "three") is None


class TestRun:
    def test_columns_with_a_direction_that_explanations_have(self, lines: dict[str, Trust]) -> None:
        assert list(lines) == ["auprc", "spatial_iou", "deletion_auc", "sparseness"]

    def test_the_oracle_decides(self, lines: dict[str, Trust]) -> None:
        assert [line.oracle for line in lines.values()] == ["above", "above", "above", "not above"]
        assert "random" in lines["sparseness"].unfit

    def test_separation_is_that_of_the_methods(self, lines: dict[str, Trust]) -> None:
        # chefer_lrp is above the three others, which are within 0.05 of one another; noise has no winner.
        assert lines["auprc"].methods == 4
        assert lines["auprc"].separated is not None
        assert 3 / 6 <= lines["auprc"].separated <= 5 / 6
        assert lines["sparseness"].separated == 0.0

    def test_lower_is_turned_round(self, lines: dict[str, Trust]) -> None:
        assert agreement(lines["auprc"], lines["deletion_auc"]) == pytest.approx(1.0, abs=0.2)
        assert "healed_difference,steps=20" not in lines["auprc"].means

    def test_what_is_undefined_is_counted_over_what_counts(self, lines: dict[str, Trust]) -> None:
        assert lines["auprc"].defined == pytest.approx(33 / 37)
        assert lines["deletion_auc"].defined == 1.0


METHODS = {"chefer_lrp": ("exact", 0.7), "rollout": ("exact", 0.5), "focusvit": ("reconstruction", 0.3)}


class TestStanding:
    def standing(self, out: Path, bounds: dict[str, tuple[str, float]], **kinds: object) -> Standing | None:
        run = read_run(Made(explainers=METHODS | bounds).write(out, **kinds))
        return {line.column: line for line in trust(run)}["deletion_auc"].standing

    def test_only_figures_that_ask_the_model(self, lines: dict[str, Trust]) -> None:
        assert {name for name, line in lines.items() if line.standing} == {"deletion_auc"}

    def test_a_figure_of_which_lower_is_better(self, lines: dict[str, Trust]) -> None:
        assert lines["deletion_auc"].standing == Standing(7, 1, "center_prior", 6, 4, 4, "chefer_lrp", 2)

    def test_floors_and_methods_before_the_oracle(self, tmp_path: Path) -> None:
        bounds = {"healed_difference": ("oracle", 0.2), "center_prior": ("floor", 0.6), "random": ("floor", 0.1)}
        assert self.standing(tmp_path, bounds) == Standing(6, 5, "center_prior", 2, 1, 3, "chefer_lrp", 1)

    def test_without_bounds(self, tmp_path: Path) -> None:
        assert self.standing(tmp_path, {}) == Standing(3, None, "", None, None, 3, "chefer_lrp", 1)

    def test_bounds_alone(self, tmp_path: Path) -> None:
        bounds = {"healed_difference": ("oracle", 0.9), "random": ("floor", 0.1)}
        only = {"change": lambda scores: scores[~scores["explainer"].isin(METHODS)]}
        assert self.standing(tmp_path, bounds, **only) == Standing(2, 1, "random", 2, None, 0, "", None)

    def test_a_method_competes_once(self, tmp_path: Path) -> None:
        def on_its_own_model_too(scores: pd.DataFrame) -> pd.DataFrame:
            own = scores[scores["explainer"] == "focusvit"].assign(own_model=True, value=0.0)
            return pd.concat([scores, own])

        bounds = {"healed_difference": ("oracle", 0.9), "random": ("floor", 0.1)}
        expected = Standing(5, 1, "random", 5, 3, 3, "chefer_lrp", 2)
        assert self.standing(tmp_path, bounds, change=on_its_own_model_too) == expected

    def test_a_metric_that_is_not_installed_is_told(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        made = Made()
        made.declared = [c | {"metric": c["metric"].replace("insertion_deletion", "of_mine")} for c in made.declared]
        run = read_run(
            made.write(tmp_path, lambda scores: scores.replace({"metric": {"insertion_deletion": "of_mine"}}))
        )
        assert [line.standing for line in trust(run) if line.column == "deletion_auc"] == [None]
        assert "of_mine is left out of the table of faithfulness" in caplog.text
        assert "## Faithfulness" not in as_markdown(run, trust(run), {})


def test_the_page(tmp_path: Path) -> None:
    run = read_run(Made(boards=("leaves_spectral", "glyphs")).write(tmp_path))
    costs = {"glyphs": {"localisation": MetricRow("localisation", 0, 0, 0, (0.5,), 0.25)}}
    page = as_markdown(run, trust(run), costs)
    assert "| `auprc` | 2 of 2 |" in page
    assert "| `sparseness` | not above: " in page
    assert "| `deletion_auc` | glyphs | 1 of 7 | `center_prior` (6) | 4 of 4 | `chefer_lrp` (2) |" in page
    assert "| `localisation` | 0 rows / 0 rows · 0.5 |" in page
    assert "## Costs" not in as_markdown(run, trust(run), {})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Made().write(tmp_path)
    main(["--results", str(out), "--no-costs"])
    assert (out / "metrics.md").read_text(encoding="utf-8").startswith("# Metrics of suite toy: which to trust\n\n40")
    assert "metrics.md" in capsys.readouterr().out
