"""What a run would do before it is run: tasks, forwards, memory and time, with what is stored taken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cell_plan import CellPlan, cells_of, plan_cell
from .contract import Spec
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .local import LocalWorker, start_fork_server
from .rehearsal import Rehearsal, Usage
from .run import resolve_suite, worker_count
from .store import Artefact, Store
from .suite import Board, Suite, broken
from .tasks import Cell, Clean, Cost, Explain, Fit, Rehearse, Score, Task

REHEARSAL_TIMEOUT_S = 120.0
COST_CALLS = 2 * 3 + 4
"""Calls of an explainer that measuring its costs takes, on four samples."""


@dataclass(frozen=True)
class Forecast:
    """One plug-in in one cell.

    Attributes:
        plugin: spec; "clean responses" for the model's own.
        tasks, stored: all of them, and those that the store holds.
        forwards, backwards: rows still to go through the model.
        seconds: still to spend, on one worker.
        known: whether it was rehearsed; fitted methods and what failed to rehearse are not.
    """

    plugin: str
    tasks: int = 0
    stored: int = 0
    forwards: float = 0.0
    backwards: float = 0.0
    seconds: float = 0.0
    known: bool = True


@dataclass(frozen=True)
class CellForecast:
    """One cell; ``failure`` says why it could not be loaded.

    Attributes:
        memory_gb: of its worker, estimated: parameters, the largest pass, recordings.
        forward_s: seconds of a plain forward of one input.
    """

    cell: Cell
    forecasts: tuple[Forecast, ...] = ()
    memory_gb: float = 0.0
    forward_s: float = float("nan")
    failure: str = ""


@dataclass(frozen=True)
class Plan:
    """All cells, and how many are worked on at a time."""

    cells: tuple[CellForecast, ...]
    workers: int

    @property
    def tasks(self) -> int:
        """All tasks."""
        return sum(f.tasks for f in self._all())

    @property
    def stored(self) -> int:
        """Tasks that the store holds."""
        return sum(f.stored for f in self._all())

    @property
    def forwards(self) -> float:
        """Rows still to go forward."""
        return sum(f.forwards for f in self._all())

    @property
    def backwards(self) -> float:
        """Rows of gradient still to come back."""
        return sum(f.backwards for f in self._all())

    @property
    def seconds(self) -> float:
        """Expected wall time: the longest cell, or all of them shared by the workers, whichever is more."""
        each = [sum(f.seconds for f in cell.forecasts) for cell in self.cells]
        return max([*each, sum(each) / self.workers], default=0.0)

    @property
    def memory_gb(self) -> float:
        """Of all workers at once, at their largest."""
        return sum(sorted((cell.memory_gb for cell in self.cells), reverse=True)[: self.workers])

    def _all(self) -> Iterator[Forecast]:
        return (forecast for cell in self.cells for forecast in cell.forecasts)


def plan_suite(
    suite: Suite, store: Path, *, workers: int | None = None, plugins: Sequence[Path] = (), device: str = "auto"
) -> Plan:
    """Loads every cell, looks into the store and rehearses the plug-ins on a few samples of each board.

    Raises:
        BadInputError, UnknownNameError: see :func:`vitxai.bench.run.run_suite`.
    """
    paths = tuple(Path(path).resolve() for path in plugins)
    start_fork_server(suite.modules())
    suite = resolve_suite(suite, paths)
    rehearsals: dict[str, Rehearsal] = {}
    cells = [
        _forecast_cell(suite, board, cell, rehearsals)
        for board, cell in cells_of(suite, store=store.resolve(), device=device, plugins=paths)
    ]
    return Plan(tuple(cells), worker_count(suite, len(cells), workers))


def _forecast_cell(suite: Suite, board: Board, cell: Cell, rehearsals: dict[str, Rehearsal]) -> CellForecast:
    worker = LocalWorker(cell)
    try:
        facts = worker.open()
        if isinstance(facts, Artefact):
            return CellForecast(cell, failure=facts.reason)
        plan = plan_cell(suite, board, cell, facts)
        if board.name not in rehearsals:
            # The models of a board differ in their seeds only: one rehearsal stands for all.
            request = Rehearse(_loadable(plan, Explain), _loadable(plan, Score))
            rehearsals[board.name] = worker.rehearse(request, REHEARSAL_TIMEOUT_S) or Rehearsal()
    finally:
        worker.kill()
    memory = facts.parameters * 4 + facts.row_bytes * max(facts.max_rows, 2 * cell.batch_size)
    forecasts = tuple(_forecasts(plan, rehearsals[board.name], Store(cell.store)))
    return CellForecast(cell, forecasts, memory / 1e9, rehearsals[board.name].forward_s)


def _loadable(plan: CellPlan, kind: type[Explain] | type[Score]) -> tuple[Spec, ...]:
    """Plug-ins that are neither broken nor refused in the cell."""
    found: dict[Spec, None] = {}
    for task in plan.tasks:
        if isinstance(task, kind) and task.refusal is None:
            spec = task.metric if isinstance(task, Score) else task.explainer
            registry = metric_registry if isinstance(task, Score) else explainer_registry
            if spec is not None and not broken(registry, spec):
                found[spec.method] = None  # other draws take as long
    return tuple(found)


def _forecasts(plan: CellPlan, rehearsal: Rehearsal, store: Store) -> Iterator[Forecast]:
    groups: dict[str, list[Task]] = {}
    for task in plan.tasks:
        groups.setdefault(_plugin(task), []).append(task)
    for plugin, tasks in groups.items():
        missing = [t for t in tasks if t.refusal is None and store.peek(t.kind, t.key) is None]
        usages = [_usage(task, rehearsal, first) for first, task in _first_of_each_chunk(missing)]
        known = [usage for usage in usages if usage is not None]
        yield Forecast(
            plugin,
            len(tasks),
            len([t for t in tasks if t.refusal is None]) - len(missing),
            sum(usage.forwards for usage in known),
            sum(usage.backwards for usage in known),
            sum(usage.seconds for usage in known),
            len(known) == len(usages),
        )


def _plugin(task: Task) -> str:
    if isinstance(task, Score):
        return str(task.metric)
    return "clean responses" if task.explainer is None else str(task.explainer)


def _first_of_each_chunk(tasks: Sequence[Task]) -> Iterator[tuple[bool, Task]]:
    """Whether a task is the first score of its chunk, which pays for the probes that the others share."""
    seen: set[tuple[str, ...]] = set()
    for task in tasks:
        ids = task.ids if isinstance(task, Score) else ()
        yield ids not in seen, task
        seen.add(ids)


def _usage(task: Task, rehearsal: Rehearsal, first: bool) -> Usage | None:
    """What a task will take; None where it was not rehearsed."""
    match task:
        case Clean():
            return _times(Usage(1.0, 0.0, rehearsal.forward_s), len(task.ids))
        case Explain():
            return _times(_of(rehearsal.explainers, task.explainer), len(task.ids))
        case Score():
            usages = rehearsal.metrics if first else rehearsal.metrics_again
            return _times(_of(usages, task.metric), len(task.ids))
        case Cost():
            return _times(_of(rehearsal.explainers, task.explainer), COST_CALLS * min(4, len(task.ids)))
        case Fit():
            return None
    raise TypeError(f"{type(task).__name__} is no task of a cell.")


def _of(usages: Mapping[Spec, Usage], spec: Spec | None) -> Usage | None:
    return None if spec is None else usages.get(spec.method)


def _times(usage: Usage | None, count: int) -> Usage | None:
    if usage is None:
        return None
    return Usage(usage.forwards * count, usage.backwards * count, usage.seconds * count)
