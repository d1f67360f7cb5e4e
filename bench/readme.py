"""The leaderboard in README.md, from the files of a run: ``python -m vitxai.bench.readme --results results``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .board_figures import Leaderboard, Row
from .contract import BadInputError
from .report import figures_text as text
from .report import leaderboards, read_run

BOARD = "leaves_spectral"
COLUMNS = {
    "bio_at_5": "BIO@5 (bands)",
    "auprc": "AUPRC (lesion)",
    "faithfulness_correlation": "faithfulness correlation",
}
UNDEFINED = "undefined"
START, END = "<!-- leaderboard -->\n", "<!-- /leaderboard -->"


def table(board: Leaderboard) -> str:
    """Markdown: an explainer a row, oracle first and floors last, mean with interval and rank interval a column.

    Methods of which none of these figures is defined are left out.
    """
    shown = [row for row in board.rows if "frozen model" not in _marks(board, row)]
    lines = [(_name(board, row), *(_figure(row, column) for column in COLUMNS)) for row in shown]
    defined = [line for line in lines if set(line[1:]) != {UNDEFINED}]
    head = ("explainer", *COLUMNS.values())
    return "\n".join((*_caption(board), "", text.grid(head, defined, right=False))) + "\n"


def _caption(board: Leaderboard) -> tuple[str, ...]:
    return (
        f"`{board.dataset}`, {board.kind}, {len(board.models)} models trained apart, {board.n} {board.split} samples: "
        "mean,",
        "95 % bootstrap interval over samples, and the interval of ranks that paired tests leave open. BIO@5 and AUPRC",
        "count the correctly classified diseased samples whose lesion the model uses.",
    )


def _marks(board: Leaderboard, row: Row) -> tuple[str, ...]:
    return text.labels(board, row.entry.explainer, row.entry.own_model, row.entry.label)


def _name(board: Leaderboard, row: Row) -> str:
    marks = _marks(board, row)
    return f"`{row.entry.explainer}`" + (f" ({', '.join(marks)})" if marks else "")


def _figure(row: Row, column: str) -> str:
    figure = row.figures.get(column)
    if figure is None or figure.headline.mean is None:
        return UNDEFINED
    rank = text.rank(figure)
    shown = f"{text.number(figure.headline.mean)} {text.interval(figure)}"
    return f"{shown} · rank {rank}" if rank else shown


def filled(page: str, board: Leaderboard) -> str:
    """The page with the table between its two marks.

    Raises:
        BadInputError: the marks are not there.
    """
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise BadInputError(f"the page needs the marks {START.strip()} and {END}, one after the other.")
    return before + start + table(board) + end + after


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table of a run's board into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of a run")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="page with the two marks")
    given = parser.parse_args(arguments)
    boards = {board.board: board for board in leaderboards(read_run(given.results))}
    if BOARD not in boards:
        raise BadInputError(f"the run in {given.results} has no board {BOARD}; it has {', '.join(boards)}.")
    page = given.readme.read_text(encoding="utf-8")
    given.readme.write_text(filled(page, boards[BOARD]), encoding="utf-8")


if __name__ == "__main__":
    main()
