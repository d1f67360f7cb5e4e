"""`bench choose`: the best configuration of each method on validation samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import console, write_file


def choose(
    run: Annotated[Path, typer.Argument(metavar="DIR", help='A run of a suite with split = "validation".')],
    by: Annotated[str, typer.Option("--by", metavar="COLUMN,...", help="Figures whose mean decides.")],
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Also write Markdown.")] = None,
) -> None:
    """Name the best configuration of each method on validation samples.

    Write what you will try into a suite with split = "validation", the same number of configurations for each method
    that is tuned; run it; choose; then look at test samples once, in another suite, with the chosen ones.

    \b
    Examples:
      bench run --suite focus-choice --out choice
      bench choose choice --by bio_at_5,band_spearman,auprc --markdown choice.md
    """
    from rich.table import Table

    from .choice import UNEQUAL, as_markdown, choices, trials_of, unequal
    from .report.run_files import read_run

    columns = tuple(part.strip() for part in by.split(","))
    files = read_run(run)
    found = choices(files, columns)
    terminal = console()
    for choice in found:
        table = Table(title=f"{choice.method}: {trials_of(choice)}", title_justify="left")
        for name in ("configuration", *columns, "mean", "accuracy"):
            table.add_column(name, justify="left" if name == "configuration" else "right", overflow="fold")
        for trial in choice.trials:
            table.add_row(trial.explainer + (" (chosen)" if trial is choice.best else ""), *trial.cells())
        terminal.print(table)
    if unequal(found):
        terminal.print(UNEQUAL, style="yellow")
    if markdown is not None:
        write_file(markdown, as_markdown(files, found, columns))
        terminal.print(f"wrote {markdown}", markup=False)
