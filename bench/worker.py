"""The worker process of one cell: takes tasks from a pipe, does them, answers. Started by :mod:`vitxai.bench.local`."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing.connection import Connection

import timm  # noqa: F401 (imported once, in the fork server)
import torch

from .cell import failure_of, load_cell
from .keys import MODEL_SOURCE
from .memory import keep_freed_memory, limit_memory
from .rehearsal import rehearse
from .source import source_digest
from .tasks import Cell, Rehearse, Task

for _module in MODEL_SOURCE:
    source_digest(_module)  # once, in the fork server; every worker then knows it


def serve(connection: Connection, cell: Cell) -> None:
    """Answers the facts of the cell (or the failure to load it), then one Outcome a task, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with(os.getppid())
    torch.set_num_threads(cell.threads)
    keep_freed_memory()
    try:
        if cell.device == "cpu" or not torch.cuda.is_available():
            limit_memory(cell.memory_gb, "cpu")
        work, facts = load_cell(cell)
        if facts.device != "cpu":
            limit_memory(cell.memory_gb, facts.device)
    except Exception as error:  # the boundary: the parent makes it the failure of the cell
        connection.send(failure_of(error))
        return
    connection.send(facts)
    while (task := _receive(connection)) is not None:
        connection.send(rehearse(work, task) if isinstance(task, Rehearse) else work.run(task))


def _receive(connection: Connection) -> Task | Rehearse | None:
    try:
        task: Task | Rehearse | None = connection.recv()
    except EOFError:  # the parent is gone
        return None
    return task


def _die_with(parent: int) -> None:
    """Ends this process when its parent does, so that a killed run leaves no worker behind, not even a hanging one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
