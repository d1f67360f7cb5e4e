"""The bar with counts and times that the live displays of runs and trainings share."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(console: Console, window_s: float = 30.0) -> Progress:
    """Gone when it stops, and not there at all where the console is no terminal.

    Args:
        window_s: seconds over which the speed behind the time left is estimated.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=window_s,
        transient=True,
    )
