"""`bench choose`: the best configuration of each method on validation samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import console


def choose(
    run: Annotated[Path, typer.Argument(metavar="DIR", help='A run of a suite with split = "validation".')],
    by: Annotated[str, typer.Option("--by", metavar="COLUMN,...", help="Figures whose mean decides.")],
) -> None:
    """Name the best configuration of each method on validation samples.

    Write what you will try into a suite with split = "validation", the same number of configurations for each method
    that is tuned; run it; choose; then look at test samples once, in another suite, with the chosen ones.

    \b
    Examples:
      bench run --suite focus-choice --out choice
      bench choose choice --by bio_at_5,band_spearman,auprc
    """
    from rich.table import Table

    from .choice import choices
    from .report.run_files import read_run

    columns = tuple(part.strip() for part in by.split(","))
    found = choices(read_run(run), columns)
    terminal = console()
    for choice in found:
        table = Table(title=f"{choice.method}: {_trials(len(choice.trials))}", title_justify="left")
        for name in ("configuration", *columns, "mean", "accuracy"):
            table.add_column(name, justify="left" if name == "configuration" else "right", overflow="fold")
        for trial in choice.trials:
            figures = (*trial.figures, trial.score, trial.accuracy)
            mark = " (chosen)" if trial is choice.best else ""
            table.add_row(trial.explainer + mark, *("" if value is None else f"{value:.3f}" for value in figures))
        terminal.print(table)
    tuned = {len(choice.trials) for choice in found if len(choice.trials) > 1}
    if len(tuned) > 1:
        terminal.print(
            "The methods had unequal numbers of trials: the best of more trials looks better by luck alone.",
            style="yellow",
        )


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
