"""Worker processes on this machine, seen from the parent: start, ask with a time limit, kill, start again."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from .store import Artefact
from .tasks import Cell, CellFacts, Outcome, Rehearse, Task

OPEN_TIMEOUT_S = 600.0
"""For loading a model and a data set; the first worker also waits for the fork server's imports."""
SAMPLE_TIMEOUT_S = 1.0
"""More for each sample, which are all read once before the first task."""
PRELOADED = ("vitxai.bench.worker", "vitxai.models.load", "vitxai.models.tape", "vitxai.bench.profile")
_start_lock = threading.Lock()


class LocalWorker:
    """One persistent process for one cell. CUDA is never touched on this side.

    A process that crashed, hung or asked to be replaced is started anew by the next call.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._process: Any = None
        self._connection: Connection | None = None
        self._stopped = False

    def open(self) -> CellFacts | Artefact:
        """Starts the process and loads the cell; a failure comes as an artefact."""
        with _start_lock:
            if self._stopped:
                return Artefact(status="error", reason="interrupted")
            start_fork_server()
            context = _context()
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self.cell), daemon=True)
            with _without_main_module():
                self._process.start()
            theirs.close()
        reply = self._reply(OPEN_TIMEOUT_S + SAMPLE_TIMEOUT_S * self.cell.n)
        if isinstance(reply, Artefact):
            self.kill()
        assert isinstance(reply, CellFacts | Artefact)
        return reply

    def run(self, task: Task, timeout_s: float) -> Outcome:
        """Does a task; a crash or timeout becomes an outcome that is not stored yet."""
        if self._process is None:
            opened = self.open()
            if isinstance(opened, Artefact):
                return Outcome(header=opened, stored=False)
        reply = self._ask(task, timeout_s)
        if isinstance(reply, Artefact):
            self.kill()
            return Outcome(header=reply, stored=False)
        assert isinstance(reply, Outcome)
        if reply.recycle:
            self.kill()
        return reply

    def rehearse(self, request: Rehearse, timeout_s: float) -> Any:
        """A :class:`~vitxai.bench.rehearsal.Rehearsal`; None when it crashed or took too long."""
        reply = self._ask(request, timeout_s)
        return None if isinstance(reply, Artefact) else reply

    def kill(self) -> None:
        """Ends the process at once; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def stop(self) -> None:
        """Ends the process from another thread, for good: the call in progress returns a failure."""
        with _start_lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _ask(self, request: Any, timeout_s: float) -> Any:
        assert self._connection is not None
        try:
            self._connection.send(request)
        except (BrokenPipeError, OSError):
            return self._death()
        return self._reply(timeout_s)

    def _reply(self, timeout_s: float) -> Any:
        assert self._connection is not None
        try:
            if not self._connection.poll(timeout_s):
                return Artefact(status="timeout", reason=f"no answer within {timeout_s:g} s", fatal=True)
            return self._connection.recv()
        except (EOFError, OSError):
            return self._death()

    def _death(self) -> Artefact:
        """The failure of a process that ended by itself."""
        self._process.join()
        code = self._process.exitcode
        if code == -9 and not self._stopped:
            reason = "the worker was killed from outside (signal 9), most likely for want of memory"
            return Artefact(status="memory", reason=reason, fatal=True)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return Artefact(status="error", reason=f"the worker process ended {how}", fatal=True)


def _serve(connection: Connection, cell: Cell) -> None:
    from .worker import serve  # imports torch: only on the worker's side

    serve(connection, cell)


def start_fork_server(modules: Sequence[str] = ()) -> None:
    """Starts, in the background, the process that workers are forked from: it imports torch and these modules once.

    Without effect where it runs already, and on systems that have none (each worker then imports for itself).
    """
    context = _context()
    if context.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        context.set_forkserver_preload([*PRELOADED, *modules])
        forkserver.ensure_running()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keeps a new process from importing the caller's script again: slow, and twice the run where it has no guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _context() -> Any:
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
