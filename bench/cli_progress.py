"""The live display of a run: a bar with the time left for each cell at work, and failures as they come."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from .cell_run import Event
from .progress_bar import progress_bar
from .tasks import Cell

QUIET = ("ok", "unsupported")
SPEED_WINDOW_S = 120.0


class RunDisplay:
    """Context manager whose ``show`` takes the events of a run, from any thread.

    Where the console is no terminal only failures and finished cells are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = progress_bar(console, SPEED_WINDOW_S)
        self._bars: dict[Cell, TaskID] = {}
        self._failed: set[tuple[Cell, str]] = set()

    def __enter__(self) -> RunDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Takes one event."""
        bar = self._bars.get(event.cell)
        if bar is None:
            bar = self._bars[event.cell] = self._live.add_task(f"{event.cell} loading", total=None)
        if event.outcome is not None and event.outcome.status not in QUIET:
            self._tell_failure(event)
        if event.closed:
            self._live.update(bar, visible=False)
            if event.outcome is None:
                self._say(f"[green]done[/]    {escape(str(event.cell))}: {event.total} tasks")
            return
        if event.total:
            self._live.update(bar, description=f"{event.cell}: {event.label}", total=event.total, completed=event.done)

    def _tell_failure(self, event: Event) -> None:
        assert event.outcome is not None
        # Labels name plug-in and chunk; one line for a reason and cell is enough, the rest is in run.json.
        seen = (event.cell, event.outcome.reason)
        if seen in self._failed:
            return
        self._failed.add(seen)
        what = f"{event.cell}" + (f", {event.label}" if event.label else "")
        self._say(f"[red]{event.outcome.status:<8}[/]{escape(what)}: {escape(event.outcome.reason)}")

    def _say(self, line: str) -> None:
        self._live.console.print(line)
