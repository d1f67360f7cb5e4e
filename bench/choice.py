"""Which configuration of each method is best on validation samples, and after how many trials (charter 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .board_figures import BOUNDS, Leaderboard, Row
from .contract import BadInputError, Spec
from .report.figures_text import grid
from .report.run_files import RunFiles, leaderboards

UNEQUAL = "The methods had unequal numbers of trials: the best of more trials looks better by luck alone."


@dataclass(frozen=True)
class Trial:
    """One configuration.

    Attributes:
        figures: its mean in each column, over the run's boards; None where it is undefined on one of them.
        score: the mean of ``figures``; None where one of them is undefined, and such a trial is not chosen.
        accuracy: of the model that it explains, mean over boards; None where it explains the frozen one.
    """

    explainer: str
    figures: tuple[float | None, ...]
    score: float | None
    accuracy: float | None

    def cells(self) -> tuple[str, ...]:
        """Figures, their mean and the accuracy, as text; empty where undefined."""
        return tuple("" if value is None else f"{value:.3f}" for value in (*self.figures, self.score, self.accuracy))


@dataclass(frozen=True)
class Choice:
    """The trials of one method, best first."""

    method: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The chosen trial; None where no trial has a score."""
        return self.trials[0] if self.trials[0].score is not None else None


def choices(run: RunFiles, columns: Sequence[str]) -> tuple[Choice, ...]:
    """The trials of each method of a run on validation samples, best first; floors and oracles left out.

    Args:
        columns: figures whose mean decides; all of them better when higher.

    Raises:
        BadInputError: the samples are of the test split, or a column is unknown or not better when higher.
    """
    if run.suite.get("split", "test") != "validation":
        raise BadInputError(
            f"{run.out} holds {run.suite.get('split', 'test')} samples; configurations are chosen on validation "
            'samples (charter 5). Put split = "validation" into the suite and run it.'
        )
    boards = leaderboards(run)
    for board in boards:
        _require(board, columns)
    rows: dict[str, list[Row]] = {}
    for board in boards:
        for row in _explained(board):
            rows.setdefault(row.entry.explainer, []).append(row)
    trials = [_trial(name, found, columns, len(boards)) for name, found in rows.items()]
    trials.sort(key=lambda trial: -math.inf if trial.score is None else trial.score, reverse=True)
    by_method: dict[str, list[Trial]] = {}
    for trial in trials:
        by_method.setdefault(Spec.parse(trial.explainer).name, []).append(trial)
    return tuple(Choice(method, tuple(found)) for method, found in by_method.items())


def _explained(board: Leaderboard) -> list[Row]:
    """One row a method: of its own model where it has one."""
    own = {row.entry.explainer for row in board.rows if row.entry.own_model}
    methods = [row for row in board.rows if row.entry.label not in BOUNDS]
    return [row for row in methods if row.entry.own_model or row.entry.explainer not in own]


def _require(board: Leaderboard, columns: Sequence[str]) -> None:
    rising = [name for name, column in board.columns.items() if column.facts.better == "higher"]
    for column in columns:
        if column not in rising:
            raise BadInputError(
                f"{column!r} cannot decide on board {board.board}: choose among columns that are better when higher: "
                f"{', '.join(rising)}."
            )


def _trial(explainer: str, rows: Sequence[Row], columns: Sequence[str], boards: int) -> Trial:
    figures = tuple(_mean([_figure(row, column) for row in rows], boards) for column in columns)
    accuracy = [row.accuracy for row in rows] if rows[0].entry.own_model else []
    return Trial(explainer, figures, _mean(figures, len(columns)), _mean(accuracy, boards))


def _figure(row: Row, column: str) -> float | None:
    figure = row.figures.get(column)
    return None if figure is None else figure.headline.mean


def _mean(values: Sequence[float | None], count: int) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / count if len(defined) == count else None


def unequal(found: Sequence[Choice]) -> bool:
    """Whether methods that were tuned had different numbers of trials."""
    return len({len(choice.trials) for choice in found} - {1}) > 1


def trials_of(choice: Choice) -> str:
    """How many, in words."""
    return "1 trial" if len(choice.trials) == 1 else f"{len(choice.trials)} trials"


def as_markdown(run: RunFiles, found: Sequence[Choice], columns: Sequence[str]) -> str:
    """All trials, with what they were run on."""
    suite = run.suite
    boards = "; ".join(
        f"`{board['dataset']}` with {', '.join(f'`{m}`' for m in board['models'])}" for board in suite["boards"]
    )
    lines = [
        f"# Configurations tried in suite {suite['name']}",
        f"{suite['n']} validation samples of each of: {boards}. Means over these boards; the mean of "
        f"{', '.join(columns)} decides.",
    ]
    if unequal(found):
        lines.append(UNEQUAL)
    for choice in found:
        rows = [
            (f"`{trial.explainer}`" + (" **chosen**" if trial is choice.best else ""), *trial.cells())
            for trial in choice.trials
        ]
        table = grid(("configuration", *columns, "mean", "accuracy"), rows)
        lines.append(f"## {choice.method}: {trials_of(choice)}\n\n{table}")
    return "\n\n".join(lines) + "\n"
