"""The best configuration of each method: means of figures, validation samples only, equal numbers of trials."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from vitxai.bench.board_figures import Leaderboard
from vitxai.bench.choice import choices
from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError
from vitxai.bench.report import leaderboards, read_run, write_report

BOARDS = [{"name": name, "dataset": "leaves", "models": ["builtin,id=toy,seed=0"]} for name in ("one", "two")]
VALIDATION = {
    "suite": {"name": "toy", "target": "prediction", "seed": 0, "n": 40, "split": "validation", "boards": BOARDS}
}
TRIALS = {
    "rollout": ("exact", 0.5),
    "rollout,heads=max": ("exact", 0.7),
    "focusvit": ("reconstruction", 0.6),
    "focusvit,skip=1": ("reconstruction", 0.3),
    "grad_cam": ("exact", 0.9),
    "random": ("floor", 0.95),
    "healed_difference,steps=20": ("oracle", 0.99),
}


def written(made, folder, **changes):
    made.explainers, made.facts, made.boards = dict(TRIALS), VALIDATION, ("one", "two")
    for name, value in changes.items():
        setattr(made, name, value)
    return read_run(made.write(folder))


def headline(board: Leaderboard, explainer: str, column: str) -> float:
    return next(r for r in board.rows if r.entry.explainer == explainer).figures[column].headline.mean


def test_the_mean_over_figures_and_boards_decides_within_each_method(made, tmp_path) -> None:
    run = written(made, tmp_path)
    found = {choice.method: choice for choice in choices(run, ["auprc", "spatial_iou"])}
    assert set(found) == {"rollout", "focusvit", "grad_cam"}, "bounds are not chosen"
    assert found["rollout"].best.explainer == "rollout,heads=max"
    assert found["focusvit"].best.explainer == "focusvit"
    assert {m: len(choice.trials) for m, choice in found.items()} == {"rollout": 2, "focusvit": 2, "grad_cam": 1}
    assert list(found) == ["grad_cam", "rollout", "focusvit"], "best first"
    boards = leaderboards(run)
    best = found["rollout"].best
    for figure, column in zip(best.figures, ["auprc", "spatial_iou"], strict=True):
        assert figure == pytest.approx(sum(headline(board, best.explainer, column) for board in boards) / 2)
    assert best.score == pytest.approx(sum(best.figures) / 2)
    assert best.accuracy is None, "rollout explains the frozen model"


def test_a_trial_that_is_undefined_on_a_board_is_not_chosen(made, tmp_path) -> None:
    def failed(scores):
        rows = (scores["explainer"] == "rollout,heads=max") & (scores["board"] == "two")
        scores.loc[rows, ["value", "status", "reason"]] = [float("nan"), "failed", "no memory"]
        return scores

    made.explainers, made.facts, made.boards = dict(TRIALS), VALIDATION, ("one", "two")
    run = read_run(made.write(tmp_path, failed))
    rollout = next(choice for choice in choices(run, ["auprc"]) if choice.method == "rollout")
    assert rollout.best.explainer == "rollout"
    assert rollout.trials[-1].score is None
    everything = made.explainers
    made.explainers = {"rollout,heads=max": everything["rollout,heads=max"]}
    (alone,) = choices(read_run(made.write(tmp_path / "alone", failed)), ["auprc"])
    assert alone.best is None


def test_a_trial_below_every_bound_is_better_than_one_without_a_score(made, tmp_path) -> None:
    def change(scores):
        scores.loc[scores["column"] == "auprc", "value"] -= 5.0
        rows = (scores["explainer"] == "rollout,heads=max") & (scores["column"] == "auprc")
        scores.loc[rows, ["value", "status", "reason"]] = [float("nan"), "failed", "no memory"]
        return scores

    made.explainers, made.facts = dict(TRIALS), VALIDATION
    found = {choice.method: choice for choice in choices(read_run(made.write(tmp_path, change)), ["auprc"])}
    assert found["rollout"].best.explainer == "rollout"
    assert found["rollout"].best.score < -1


def test_accuracy_is_that_of_the_own_model(made, tmp_path) -> None:
    def own(scores):
        scores.loc[scores["explainer"].str.startswith("focusvit"), "own_model"] = True
        answers = scores[(scores["explainer"] == "") & (scores["board"] == "one")].copy()
        answers["explainer"], answers["own_model"] = "focusvit", True
        answers.loc[answers["column"] == "accuracy", "value"] = 0.25
        return pd.concat([scores, answers], ignore_index=True)

    made.explainers, made.facts = dict(TRIALS), VALIDATION
    board = leaderboards(read_run(made.write(tmp_path, own)))[0]
    wanted = next(r.accuracy for r in board.rows if r.entry.explainer == "focusvit" and r.entry.own_model)
    found = {choice.method: choice for choice in choices(read_run(tmp_path), ["auprc"])}
    assert found["focusvit"].best.accuracy == wanted


def test_test_samples_and_unfit_columns_are_refused(made, tmp_path) -> None:
    run = written(made, tmp_path)
    for column in ("deletion_auc", "speed"):
        with pytest.raises(BadInputError, match=f"{column}.*cannot decide on board one.*auprc"):
            choices(run, ["auprc", column])
    for suite in ({**VALIDATION["suite"], "split": "test"}, {"name": "toy", "target": "prediction", "seed": 0}):
        with pytest.raises(BadInputError, match=r"holds test samples.*validation"):
            choices(written(made, tmp_path / suite.get("split", "unsaid"), facts={"suite": suite}), ["auprc"])


def test_the_command_marks_the_choice_and_unequal_budgets(made, tmp_path) -> None:
    written(made, tmp_path)
    said = CliRunner().invoke(app, ["choose", str(tmp_path), "--by", "auprc,spatial_iou"])
    assert said.exit_code == 0, said.output
    assert "rollout,heads=max (chosen)" in said.output.replace("\n", "")
    assert "focusvit: 2 trials" in said.output
    assert "grad_cam: 1 trial" in said.output
    assert "unequal" not in said.output, "one trial is no tuning"
    made.explainers = {**TRIALS, "focusvit,skip=2": ("reconstruction", 0.2)}
    written(made, tmp_path, explainers=made.explainers)
    page = tmp_path / "pages" / "choice.md"
    said = CliRunner().invoke(app, ["choose", str(tmp_path), "--by", "auprc", "--markdown", str(page)])
    text = page.read_text()
    for told in (said.output, text):
        assert "unequal numbers of trials" in told.replace("\n", " ")
    assert "| `rollout,heads=max` **chosen** |" in text
    assert "## focusvit: 3 trials" in text
    assert "40 validation samples" in text


def test_a_report_of_validation_samples_says_so(made, tmp_path) -> None:
    written(made, tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "leaderboards" / "one.md").read_text()
    assert "These are validation samples" in text
    assert "These are validation samples" in (tmp_path / "index.html").read_text()
