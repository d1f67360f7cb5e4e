"""`bench plan`: the table of what a run would still cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from .cli_options import console
from .plan import CellForecast, Plan, plan_suite
from .suite import Suite


def show_plan(suite: Suite, store: Path, workers: int | None, plugins: Sequence[Path], device: str) -> None:
    """Prints every plug-in of every cell, and the totals."""
    plan = plan_suite(suite, store, workers=workers, plugins=plugins, device=device)
    out = console()
    for cell in plan.cells:
        out.print(_table(cell) if not cell.failure else f"[red]{escape(f'{cell.cell}: {cell.failure}')}[/]")
    out.print(_totals(plan))


def _table(cell: CellForecast) -> Table:
    forward = "" if math.isnan(cell.forward_s) else f", {cell.forward_s * 1e3:.2f} ms a forward"
    title = f"{cell.cell}: {cell.memory_gb:.1f} GB{forward}"
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("plug-in")
    for name in ("jobs", "stored", "forwards", "backwards", "time"):
        table.add_column(name, justify="right")
    for f in cell.forecasts:
        work = (f"{f.forwards:.0f}", f"{f.backwards:.0f}", duration(f.seconds)) if f.known else ("?", "?", "?")
        table.add_row(escape(f.plugin), str(f.tasks), str(f.stored), *work)
    return table


def _totals(plan: Plan) -> str:
    unknown = any(not f.known for cell in plan.cells for f in cell.forecasts)
    more = "; plus fitted methods, marked ?" if unknown else ""
    return (
        f"[bold]in all[/]: {plan.tasks} jobs, {plan.stored} of them stored; {plan.forwards:.0f} forwards and "
        f"{plan.backwards:.0f} backwards to go; {plan.memory_gb:.1f} GB; about {duration(plan.seconds)} "
        f"with {plan.workers} workers{more}"
    )


def duration(seconds: float) -> str:
    """``3 min 20 s``; one figure below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60} s"
