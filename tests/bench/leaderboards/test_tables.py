"""Leaderboards obey the charter: whose samples count, what is ranked, what is marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vitxai.bench.board_figures import Leaderboard, Row
from vitxai.bench.contract import BadInputError
from vitxai.bench.report.figures_text import draws
from vitxai.bench.score_array import ColumnFacts, board_array
from vitxai.bench.tables import headline_columns, leaderboard


@pytest.fixture
def columns(made) -> list[ColumnFacts]:
    return [ColumnFacts.of_json(c) for c in made.declared]


def table(scores: pd.DataFrame, columns: list[ColumnFacts], costs: pd.DataFrame | None = None) -> Leaderboard:
    costs = pd.DataFrame(columns=["explainer", "column", "value"]) if costs is None else costs
    return leaderboard(scores, costs, columns, "prediction", seed=0)


def row(board: Leaderboard, explainer: str, own: bool = False) -> Row:
    return next(r for r in board.rows if r.entry.explainer == explainer and r.entry.own_model == own)


class TestWhoCounts:
    def test_truth_counts_correct_samples_whose_truth_the_model_uses(self, made, columns) -> None:
        scores = made.scores()
        figure = row(table(scores, columns), "rollout").figures["auprc"]
        left_out = {f"test/{s:05d}" for s in (*made.unused_truth, *made.misclassified)}
        mine = scores[(scores.explainer == "rollout") & (scores.column == "auprc")]
        counted = mine[~mine["sample"].isin(left_out)].groupby("sample")["value"].mean()
        assert figure.headline.mean == pytest.approx(counted.mean())
        assert (figure.headline.n_ok, figure.headline.n) == (40 - 3 - 4, 40 - 3)

    def test_the_other_row_keeps_all_samples(self, made, columns) -> None:
        scores = made.scores()
        figure = row(table(scores, columns), "rollout").figures["auprc"]
        mine = scores[(scores.explainer == "rollout") & (scores.column == "auprc")]
        assert figure.all_samples is not None
        assert figure.all_samples.mean == pytest.approx(mine.groupby("sample")["value"].mean().mean())
        assert (figure.all_samples.n_ok, figure.all_samples.n) == (36, 40)

    def test_columns_without_truth_count_all_samples(self, made, columns) -> None:
        figure = row(table(made.scores(), columns), "rollout").figures["deletion_auc"]
        assert figure.headline.n == figure.headline.n_ok == 40
        assert figure.all_samples is None

    def test_the_share_of_used_truth_is_given(self, made, columns) -> None:
        board = table(made.scores(), columns)
        assert board.share_truth_used() == pytest.approx(38 / 40)
        assert board.columns["auprc"].counted == (37 * 3, 120)

    def test_without_counterfactual_only_correctness_filters(self, made, columns) -> None:
        scores = made.scores()
        board = table(scores[scores.column != "truth_used"], columns)
        assert board.share_truth_used() is None
        assert board.columns["auprc"].counted == (39 * 3, 120)

    def test_unknown_labels_leave_nothing_out(self, made, columns) -> None:
        scores = made.scores().assign(label=-1)
        board = table(scores[scores.column != "truth_used"], columns)
        assert board.columns["auprc"].counted == (120, 120)

    def test_models_are_averaged_before_samples(self, made, columns) -> None:
        board = table(made.scores(), columns)
        figure = row(board, "rollout").figures["deletion_auc"]
        assert figure.headline.n == 40
        assert figure.spread == pytest.approx(0.02, abs=0.01)


class TestRanking:
    def test_methods_only_hold_ranks(self, made, columns) -> None:
        board = table(made.scores(), columns)
        ranks = {r.entry.explainer: r.figures["deletion_auc"].rank for r in board.rows}
        assert ranks["chefer_lrp"] == (1, 1)
        assert ranks["focusvit"] == (4, 4)
        assert ranks["rollout"] is not None
        assert ranks["rollout"][1] <= 3
        assert ranks["random"] is None
        assert ranks["healed_difference,steps=20"] is None

    def test_the_leader_is_behind_nobody(self, made, columns) -> None:
        board = table(made.scores(), columns)
        assert row(board, "chefer_lrp").figures["auprc"].behind is None
        behind = row(board, "rollout").figures["auprc"].behind
        assert behind is not None
        assert behind.high is not None
        assert behind.high < 0

    def test_methods_above_the_floors_are_told_from_the_rest(self, made, columns) -> None:
        made.explainers["hardly"] = ("exact", 0.1)
        board = table(made.scores(), columns)
        assert row(board, "rollout").figures["auprc"].above_floors is True
        assert row(board, "hardly").figures["auprc"].above_floors is False

    def test_the_order_is_oracle_methods_floors(self, made, columns) -> None:
        board = table(made.scores(), columns)
        groups = [r.group for r in board.rows]
        assert groups == ["oracle", *["method"] * 4, *["floor"] * 2]
        assert board.lead == "auprc"
        assert board.rows[1].entry.explainer == "chefer_lrp"
        assert board.rows[-1].entry.explainer == "random"

    def test_the_rows_order_is_of_no_consequence(self, made, columns) -> None:
        scores = made.scores()
        assert table(scores, columns) == table(scores.sample(frac=1, random_state=1), columns)


class TestUnfit:
    def test_a_column_that_misses_the_oracle_is_unfit_and_unranked(self, made, columns) -> None:
        board = table(made.scores(), columns)
        assert "random" in board.columns["sparseness"].unfit
        assert row(board, "rollout").figures["sparseness"].rank is None
        assert board.columns["auprc"].unfit == ""
        assert board.columns["auprc"].tested

    def test_without_oracle_fitness_is_not_tested(self, made, columns) -> None:
        del made.explainers["healed_difference,steps=20"]
        board = table(made.scores(), columns)
        assert not board.columns["sparseness"].tested
        assert board.columns["sparseness"].unfit == ""
        assert row(board, "rollout").figures["sparseness"].rank is not None


class TestOwnModels:
    def with_own_model(self, made) -> pd.DataFrame:
        scores = made.scores()
        own = scores[scores.explainer == "rollout"].assign(own_model=True)
        own = own.assign(value=own["value"] + 1)
        accuracy = scores[scores.column == "accuracy"].assign(
            explainer="rollout", own_model=True, status_label="exact", value=0.5
        )
        return pd.concat([scores, own, accuracy], ignore_index=True)

    def test_it_competes_with_its_scores_on_the_frozen_model(self, made, columns) -> None:
        board = table(self.with_own_model(made), columns)
        assert row(board, "rollout", own=True).figures["auprc"].rank is None
        assert row(board, "rollout").figures["auprc"].rank == (2, 3)

    def test_accuracy_of_both_stands_beside(self, made, columns) -> None:
        board = table(self.with_own_model(made), columns)
        assert row(board, "rollout", own=True).accuracy == 0.5
        assert row(board, "rollout").accuracy == pytest.approx(39 / 40)

    def test_costs_stand_once(self, made, columns) -> None:
        board = table(self.with_own_model(made), columns, made.costs())
        assert row(board, "rollout", own=True).costs
        assert row(board, "rollout").costs == {}

    def test_scored_on_its_own_model_alone_it_still_competes(self, made, columns) -> None:
        scores = self.with_own_model(made)
        board = table(scores[~((scores.explainer == "rollout") & ~scores.own_model)], columns)
        assert row(board, "rollout", own=True).figures["auprc"].rank == (1, 1)


class TestDraws:
    @staticmethod
    def with_draws(made, shifts: dict[str, float]) -> pd.DataFrame:
        """Other draws of rollout, whose scores are its own, shifted."""
        scores = made.scores()
        mine = scores[scores.explainer == "rollout"]
        others = [
            mine.assign(explainer=name, status_label="draw", value=mine["value"] + by) for name, by in shifts.items()
        ]
        return pd.concat([scores, *others], ignore_index=True)

    def test_their_means_and_spread_stand_beside_the_method(self, made, columns) -> None:
        board = table(self.with_draws(made, {"rollout@10": 0.3, "rollout@2": 0.1}), columns)
        figure = row(board, "rollout").figures["auprc"]
        mean = figure.headline.mean
        assert figure.by_draw == pytest.approx((mean, mean + 0.1, mean + 0.3))
        assert figure.draw_spread == pytest.approx(np.std([0, 0.1, 0.3], ddof=1))
        assert row(board, "chefer_lrp").figures["auprc"].by_draw == ()
        assert row(board, "chefer_lrp").figures["auprc"].draw_spread is None

    def test_they_are_no_rows_and_change_nothing_else(self, made, columns) -> None:
        plain = table(made.scores(), columns)
        drawn = table(self.with_draws(made, {"rollout@1": 9.0}), columns)
        assert drawn.columns == plain.columns
        assert drawn.aggregates == plain.aggregates
        assert [r.entry for r in drawn.rows] == [r.entry for r in plain.rows]
        for before, after in zip(plain.rows, drawn.rows, strict=True):
            assert {n: replace(f, by_draw=()) for n, f in after.figures.items()} == before.figures

    def test_another_draw_of_a_floor_is_no_floor(self, made, columns) -> None:
        scores = made.scores()
        lucky = scores[scores.explainer == "random"].assign(explainer="random@1", status_label="draw", value=1.0)
        board = table(pd.concat([scores, lucky]), columns)
        assert not board.columns["auprc"].unfit
        assert row(board, "chefer_lrp").figures["auprc"].above_floors

    def test_a_draw_without_a_figure_is_counted(self, made, columns) -> None:
        scores = self.with_draws(made, {"rollout@1": 0.1, "rollout@2": 0.2})
        scores.loc[scores.explainer == "rollout@1", ["value", "status", "reason"]] = [np.nan, "error", "boom"]
        figure = row(table(scores, columns), "rollout").figures["auprc"]
        assert figure.by_draw[1] is None
        assert draws(figure) == "± 0.141 over 2 of 3 draws"


class TestTuning:
    def test_a_method_tuned_on_a_figure_is_flagged_there_only(self, made, columns) -> None:
        costs = pd.DataFrame(columns=["explainer", "column", "value"])
        board = leaderboard(made.scores(), costs, columns, "prediction", 0, criteria={"focusvit": "deletion"})
        assert row(board, "focusvit").tuned_on("deletion_auc")
        assert not row(board, "focusvit").tuned_on("auprc")
        assert not row(board, "rollout").tuned_on("deletion_auc")


class TestFailures:
    @pytest.mark.parametrize("status", ["error", "timeout", "memory", "unsupported"])
    def test_a_failed_explainer_is_a_labelled_row(self, made, columns, status: str) -> None:
        scores = made.scores()
        mine = scores.explainer == "rollout"
        scores.loc[mine, ["value", "status", "reason"]] = [np.nan, status, "boom"]
        board = table(scores, columns)
        failed = row(board, "rollout")
        assert failed.group == "failed"
        assert failed.failed == f"{status}: boom"
        assert failed.figures["auprc"].headline.mean is None
        assert row(board, "chefer_lrp").figures["auprc"].rank == (1, 1)

    def test_a_refused_figure_keeps_its_reason(self, made, columns) -> None:
        scores = made.scores()
        mine = (scores.explainer == "rollout") & (scores.column == "auprc")
        scores.loc[mine, ["value", "status", "reason"]] = [np.nan, "unsupported", "no spectrum"]
        figure = row(table(scores, columns), "rollout").figures["auprc"]
        assert (figure.status, figure.reason, figure.headline.n_ok) == ("unsupported", "no spectrum", 0)

    def test_a_score_given_twice_is_refused(self, made, columns) -> None:
        scores = made.scores()
        with pytest.raises(BadInputError, match="more than once"):
            board_array(pd.concat([scores, scores.iloc[[5]]]), columns)

    def test_an_undeclared_column_is_refused(self, made, columns) -> None:
        with pytest.raises(BadInputError, match="auprc"):
            board_array(made.scores(), [c for c in columns if c.column != "auprc"])


def test_costs_are_means_over_models(made, columns) -> None:
    board = table(made.scores(), columns, made.costs())
    assert board.plain_costs["forwards"] == 1
    assert row(board, "chefer_lrp").costs["forwards"] == 3
    assert board.cost_names == ("forwards", "gflops", "latency_ms")


def test_costs_that_the_plain_forward_lacks_stand_in_the_explainers_order(made, columns) -> None:
    costs = made.costs()
    costs = costs[(costs["explainer"] != "") | (costs["column"] != "forwards")]
    board = table(made.scores(), columns, costs)
    assert "forwards" not in board.plain_costs
    assert board.cost_names == ("forwards", "gflops", "latency_ms")


def test_the_short_table_has_named_columns_and_one_of_each_other_metric() -> None:
    def column(metric: str, name: str) -> ColumnFacts:
        return ColumnFacts(metric, name, "higher", (0, 1), False, "")

    columns = [
        column("localisation", "spatial_iou"),
        column("localisation", "auroc"),
        column("mine", "a"),
        column("mine", "b"),
        column("infidelity", "infidelity"),  # in the map's units
        column("infidelity", "infidelity_normalised"),
    ]
    assert headline_columns(columns) == {columns[0], columns[2], columns[5]}
