"""Runs a suite: cells side by side on this machine, then the files that report and gate read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .cell_plan import cells_of
from .cell_run import CellResult, CellRun, OnEvent
from .collect import costs_frame, scores_frame
from .contract import BadInputError
from .contract import datasets as dataset_registry
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .contract.registry import import_file
from .gallery import write_gallery
from .golden import write_golden
from .local import start_fork_server
from .record import failures_of, run_facts
from .store import Store
from .suite import Suite

_POLL_S = 0.2


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished or interrupted run.

    Attributes:
        out: folder of its files.
        scores, costs: the long tables, as in the files but for texts, which are categories here.
        facts: run.json.
        failures: tasks that failed (refusals left out), the most telling reason each, one a plug-in and cell.
        interrupted: whether it was stopped before its end; the same command goes on from there.
    """

    out: Path
    scores: pd.DataFrame
    costs: pd.DataFrame
    facts: Mapping[str, Any]
    failures: tuple[Mapping[str, str], ...]
    interrupted: bool

    @property
    def counts(self) -> Mapping[str, Any]:
        """What was computed and reused, by kind of artefact, and by explainer."""
        counts: Mapping[str, Any] = self.facts["counts"]
        return counts


def run_suite(
    suite: Suite,
    out: Path,
    store: Path,
    *,
    workers: int | None = None,
    plugins: Sequence[Path] = (),
    retry_failed: bool = False,
    device: str = "auto",
    shuffle: int | None = None,
    on_event: OnEvent | None = None,
) -> RunResult:
    """Computes what the store lacks and writes scores.parquet, costs.parquet, run.json and gallery/*.npz into ``out``.

    Args:
        suite: as loaded; ``*`` is expanded and the explainers and metrics of ``plugins`` join every board.
        workers: cells at a time; by default as many as fit the cores.
        retry_failed: failures that are stored are tried again.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where there is one.
        shuffle: seed of another order of the work, which must change nothing.
        on_event: called from worker threads as tasks end.

    Raises:
        BadInputError, UnknownNameError: the suite names what does not exist, or a plug-in file cannot be loaded.
        KeyboardInterrupt: never; Ctrl-C ends the workers and the result says ``interrupted``.
    """
    paths = tuple(Path(path).resolve() for path in plugins)
    if not Store(store).holds("facts"):  # nothing of this kind was run before: workers will be needed
        start_fork_server(suite.modules())  # imports there while this process imports the same for its own needs
    suite = resolve_suite(suite, paths)
    cells = list(cells_of(suite, store=store.resolve(), device=device, plugins=paths))
    turn = threading.Lock()
    runs = [
        CellRun(suite, board, cell, retry_failed=retry_failed, shuffle=shuffle, on_event=on_event, turn=turn)
        for board, cell in cells
    ]
    results, interrupted = _run_side_by_side(runs, worker_count(suite, len(runs), workers))
    return _write(suite, results, Store(store), out, interrupted)


def worker_count(suite: Suite, cells: int, workers: int | None) -> int:
    """Cells at a time: as asked for, else as many as fit the cores."""
    return workers or max(1, min(cells, (os.cpu_count() or 1) // suite.threads))


def resolve_suite(suite: Suite, plugins: Sequence[Path] = ()) -> Suite:
    """Loads plug-in files, adds what they register (but for status ``test``) to every board and expands ``*``.

    Raises:
        BadInputError: a plug-in file cannot be loaded, or a parameter is wrong.
        UnknownNameError: a name that nothing bears.
    """
    new_explainers: list[str] = []
    new_metrics: list[str] = []
    for path in plugins:
        module = _import_plugin(path)
        found = explainer_registry.names_from(module)
        new_explainers += [name for name in found if explainer_registry.get(name).status != "test"]
        new_metrics += metric_registry.names_from(module)
    resolved = suite.resolved(new_explainers, new_metrics)
    for board in resolved.boards:
        dataset_registry.create(board.dataset)
    return resolved


def _import_plugin(path: Path) -> str:
    if not path.is_file():
        raise BadInputError(f"no plug-in file at {path}.")
    try:
        return str(import_file(path).__name__)
    except Exception as error:
        raise BadInputError(f"plug-in file {path} cannot be loaded: {type(error).__name__}: {error}") from error


def _run_side_by_side(runs: Sequence[CellRun], workers: int) -> tuple[list[CellResult], bool]:
    """Results in the order of the runs; on Ctrl-C those that have any, and True."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cell")
    futures = [pool.submit(run.run) for run in runs]
    try:
        pending: set[Future[CellResult]] = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BaseException as error:
        for run in runs:
            run.stop()
        pool.shutdown(wait=True, cancel_futures=True)
        if not isinstance(error, KeyboardInterrupt):
            raise
        return [f.result() for f in futures if not f.cancelled() and f.exception() is None], True
    pool.shutdown()
    return [future.result() for future in futures], False


def _write(suite: Suite, results: Sequence[CellResult], store: Store, out: Path, interrupted: bool) -> RunResult:
    scores, costs = scores_frame(suite, results, store), costs_frame(results)
    failures = tuple(failures_of(results))
    facts = run_facts(suite, results, interrupted=interrupted, failures=failures)
    out.mkdir(parents=True, exist_ok=True)

    def show(result: CellResult) -> None:
        write_gallery(out / "gallery", result, scores, store)
        write_golden(out / "maps", result, store)

    # Checking digests, compressing and encoding leave other threads free.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = pool.map(show, _first_of_each_board(results))
        _replace(out / "scores.parquet", lambda path: _write_table(scores, path))
        _replace(out / "costs.parquet", lambda path: _write_table(costs, path))
        list(shown)  # raises what was raised there
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    _replace(out / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return RunResult(out, scores, costs, facts, failures, interrupted)


def _write_table(frame: pd.DataFrame, path: Path) -> None:
    """Categories are written as what they are, texts: whoever reads the file need not know of them."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    pq.write_table(table, path, store_schema=False)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the file and renames, so that readers never meet half of it."""
    temporary = path.with_name(f".{path.name}.part")
    write(temporary)
    temporary.replace(path)


def _first_of_each_board(results: Sequence[CellResult]) -> Iterable[CellResult]:
    first: dict[str, CellResult] = {}
    for result in results:
        first.setdefault(result.cell.board, result)
    return first.values()
