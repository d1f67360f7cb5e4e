"""Running one cell: what is stored is reused, the rest goes to the worker, every failure costs its own rows only."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .cell_plan import CellPlan, plan_cell
from .facts import keep_facts, known_facts
from .local import LocalWorker
from .store import Artefact, Store
from .suite import Board, Suite
from .tasks import Cell, CellFacts, Outcome, Task

OnEvent = Callable[["Event"], None]


@dataclass(frozen=True)
class Event:
    """Something that a progress display may want to show.

    Attributes:
        total: tasks of the cell; 0 while it is being loaded, and when loading it failed.
        done: of them.
        label: the task that ended; empty when the cell was opened or closed.
        outcome: its header, or the failure to load the cell.
        reused: nothing was computed.
        closed: the cell is finished.
    """

    cell: Cell
    total: int = 0
    done: int = 0
    label: str = ""
    outcome: Artefact | None = None
    reused: bool = False
    closed: bool = False


@dataclass
class CellResult:
    """What became of a cell.

    Attributes:
        plan: None when the cell could not be loaded; ``failure`` then says why.
        outcomes: header of each task's artefact, by key; tasks that were not reached are absent.
        counts: (kind, explainer or "", computed | reused | failed | refused | skipped) -> tasks, and of probes.
    """

    cell: Cell
    plan: CellPlan | None = None
    failure: Artefact | None = None
    outcomes: dict[str, Artefact] = field(default_factory=dict)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def status_of(self, task: Task) -> Artefact | None:
        """The header of a task's artefact; None when it was not reached."""
        return self.outcomes.get(task.key)


class CellRun:
    """One cell's way through its plan. ``run`` goes in a thread; ``stop`` may come from another.

    Args:
        turn: held until there is something to compute, by one of several cells at a time: reading what is stored is
            this process's own work, at which threads would only wait for each other.
    """

    def __init__(
        self,
        suite: Suite,
        board: Board,
        cell: Cell,
        *,
        retry_failed: bool = False,
        shuffle: int | None = None,
        on_event: OnEvent | None = None,
        turn: threading.Lock | None = None,
    ) -> None:
        self.suite, self.board, self.cell = suite, board, cell
        self.retry_failed, self.shuffle = retry_failed, shuffle
        self.on_event = on_event or (lambda event: None)
        self.store = Store(cell.store)
        self._worker = LocalWorker(cell)
        self._turn = turn
        self._blamed: dict[str, tuple[Task, Artefact]] = {}
        self._unread: dict[str, Task] = {}
        self._stopped = threading.Event()

    def run(self) -> CellResult:
        """Loads the cell and does its tasks; returns early, with what is finished, after :meth:`stop`."""
        result = CellResult(self.cell)
        if self._turn is not None:
            self._turn.acquire()
        try:
            self.on_event(Event(self.cell))
            facts = self._facts()
            if isinstance(facts, Artefact):
                result.failure = None if self._stopped.is_set() else facts
            else:
                result.plan = plan_cell(self.suite, self.board, self.cell, facts, self.shuffle)
                self._walk(result, result.plan)
        finally:
            self._pass_turn()
            self._worker.kill()
        total = len(result.plan.tasks) if result.plan else 0
        self.on_event(Event(self.cell, total, total, outcome=result.failure, closed=True))
        return result

    def _facts(self) -> CellFacts | Artefact:
        """From the store; else from the worker, which is otherwise started when there is something to compute."""
        known = known_facts(self.cell, self.store)
        if known is not None:
            return known
        self._pass_turn()
        facts = self._worker.open()
        if isinstance(facts, CellFacts):
            keep_facts(self.cell, self.store, facts)
        return facts

    def _pass_turn(self) -> None:
        """From now on the worker computes beside those of other cells."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    def stop(self) -> None:
        """Ends the worker; the task in progress is lost, everything before it is stored."""
        self._stopped.set()
        self._worker.stop()

    def _walk(self, result: CellResult, plan: CellPlan) -> None:
        for done, task in enumerate(plan.tasks):
            if self._stopped.is_set():
                return
            header, how = self._settle(task, result)
            if header is None:
                return
            result.outcomes[task.key] = header
            result.counts[task.kind, str(task.explainer or ""), how] += 1
            if header.fatal and task.group:
                self._blamed.setdefault(task.group, (task, header))
            self.on_event(Event(self.cell, len(plan.tasks), done + 1, task.label, header, reused=how == "reused"))

    def _settle(self, task: Task, result: CellResult) -> tuple[Artefact | None, str]:
        """The header of a task's artefact and how it came; (None, "") when the run was stopped meanwhile."""
        if task.refusal is not None:
            return task.refusal, "refused"
        for key in task.needs:
            need = result.outcomes.get(key)
            if need is not None and need.status != "ok":
                return _follows(need), "skipped"
        stored = self.store.peek(task.kind, task.key)
        if stored is not None and not (self.retry_failed and stored.status not in ("ok", "unsupported")):
            self._unread[task.key] = task
            return stored, "reused"
        if task.group in self._blamed:
            return _not_tried(*self._blamed[task.group]), "skipped"
        self._mend_needs(task, result)
        outcome = self._compute(task)
        header = outcome.header
        if self._stopped.is_set() and header.status != "ok":
            return None, ""
        for how, count in (("computed", outcome.probes_computed), ("reused", outcome.probes_reused)):
            if count:
                result.counts["shared probe", str(task.explainer or ""), how] += count
        return header, "failed" if header.status not in ("ok", "unsupported") else "computed"

    def _compute(self, task: Task) -> Outcome:
        self._pass_turn()
        outcome = self._worker.run(task, self.suite.timeout_s)
        if outcome.header.fatal and not outcome.stored and not self._stopped.is_set():
            self.store.write(task.kind, task.key, outcome.header)
        return outcome

    def _mend_needs(self, task: Task, result: CellResult) -> None:
        """Makes again what a task needs, what seemed complete and what proves damaged when read in full."""
        for key in task.needs:
            needed = self._unread.pop(key, None)
            if needed is not None and self.store.read(needed.kind, key) is None:
                self._mend_needs(needed, result)
                result.outcomes[key] = self._compute(needed).header


def _follows(need: Artefact) -> Artefact:
    """The failure of what depends on a failure: same status, same reason."""
    return replace(need, record={}, fatal=False)


def _not_tried(task: Task, failure: Artefact) -> Artefact:
    """The rest of a plug-in that cost the worker its life once is not tried again in the cell."""
    reason = f"not tried: {failure.reason} ({task.label})"
    return Artefact(status=failure.status, reason=reason, traceback=failure.traceback)
