"""`bench all`, `run`, `plan` and `report`: from a suite to leaderboards."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import (
    EXIT_INTERRUPTED,
    OnDataOption,
    OnModelOption,
    OutOption,
    PluginOption,
    SamplesOption,
    StoreOption,
    SuiteOption,
    WorkersOption,
    absolute,
    chosen_suite,
    console,
    store_at,
)

if TYPE_CHECKING:
    from .run import RunResult
    from .suite import Suite

EXIT_FAILED_JOBS = 4
RESULTS = Path("results")
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Try stored failures again.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="cpu|cuda[:N]|auto", help="Where models run.")]


def all_(
    suite: SuiteOption = "default",
    dataset: OnDataOption = None,
    model: OnModelOption = None,
    samples: SamplesOption = None,
    out: OutOption = RESULTS,
    store: StoreOption = None,
    workers: WorkersOption = None,
    plugin: PluginOption = None,
    retry_failed: RetryOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Run a suite, then write leaderboards and the page.

    What the store holds already is not computed again.

    Exit codes: 0 ok, 2 wrong usage, 4 jobs failed (the leaderboards are written all the same).

    \b
    Examples:
      bench all
      bench all --plugin my_method.py
    """
    _one_blas_thread()
    asked = chosen_suite(suite, dataset, model, samples)
    result = run_with_progress(asked, out, store, workers, plugin, retry_failed, device)
    if not result.interrupted:
        _report(out, result)
    _leave(result)


def run(
    suite: SuiteOption = "default",
    dataset: OnDataOption = None,
    model: OnModelOption = None,
    samples: SamplesOption = None,
    out: OutOption = RESULTS,
    store: StoreOption = None,
    workers: WorkersOption = None,
    plugin: PluginOption = None,
    retry_failed: RetryOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Run a suite and write its scores, without leaderboards.

    What the store holds already is not computed again; Ctrl-C keeps everything finished.

    Exit codes: 0 ok, 2 wrong usage, 4 jobs failed.

    \b
    Examples:
      bench run --suite smoke --out /tmp/smoke
      bench run --suite focus-table1 --dataset jasper_ridge,path=DIR --model file,path=FILE --out /tmp/jasper
    """
    asked = chosen_suite(suite, dataset, model, samples)
    _leave(run_with_progress(asked, out, store, workers, plugin, retry_failed, device))


def plan(
    suite: SuiteOption = "default",
    dataset: OnDataOption = None,
    model: OnModelOption = None,
    samples: SamplesOption = None,
    store: StoreOption = None,
    workers: WorkersOption = None,
    plugin: PluginOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Say what a run would cost, and run nothing.

    Jobs, forwards, memory and expected time, with what is stored taken off.

    \b
    Example:
      bench plan --suite default
    """
    from .cli_plan import show_plan

    show_plan(chosen_suite(suite, dataset, model, samples), store_at(store), workers, absolute(plugin), device)


def report(out: OutOption = RESULTS) -> None:
    """Write leaderboards and the page from a run's files.

    Leaderboards are .csv, .md and .json, the page is one self-contained .html. No model is run.

    \b
    Example:
      bench report --out results
    """
    _one_blas_thread()
    _report(out)


def run_with_progress(
    suite: Suite,
    out: Path,
    store: Path | None,
    workers: int | None,
    plugins: list[Path] | None,
    retry_failed: bool,
    device: str = "auto",
) -> RunResult:
    """Runs a suite under a live display and tells what was computed, reused and lost."""
    from .cli_progress import RunDisplay
    from .memory import keep_freed_memory
    from .run import run_suite

    keep_freed_memory()
    terminal = console()
    with RunDisplay(terminal) as display:
        result = run_suite(
            suite,
            out,
            store_at(store),
            workers=workers,
            plugins=absolute(plugins),
            retry_failed=retry_failed,
            device=device,
            on_event=display.show,
        )
    kinds = result.counts["kinds"].items()
    told = [f"{kind}: {', '.join(f'{n} {how}' for how, n in sorted(hows.items()))}" for kind, hows in kinds]
    terminal.print("; ".join(told) or "nothing was run", markup=False)
    return result


def _one_blas_thread() -> None:
    """Imports numpy with a BLAS of one thread, where it is not imported yet and the user chose no number.

    Leaderboards are made side by side, and the threads of OpenBLAS serve one product at a time. Workers are processes
    of their own and find the environment as it was.
    """
    chosen = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & os.environ.keys()
    if not chosen and "numpy" not in sys.modules:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        import numpy  # noqa: F401

        del os.environ["OPENBLAS_NUM_THREADS"]


def _report(out: Path, result: RunResult | None = None) -> None:
    """From the run at hand, where there is one: its files hold the same."""
    from .report import RunFiles, write_report

    run = None if result is None else RunFiles(out, result.scores, result.costs, result.facts)
    written = write_report(out, run)
    boards = sorted(path for path in written if path.suffix == ".md")
    console().print("\n".join(f"wrote {path}" for path in (*boards, *written[-1:])), markup=False, soft_wrap=True)


def _leave(result: RunResult) -> None:
    """Exit code by what became of the run."""
    if result.interrupted:
        command = shlex.join(["bench", *sys.argv[1:]])
        typer.echo(f"Interrupted. Everything finished is stored; go on with the same command: {command}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.failures:
        typer.echo(
            f"{len(result.failures)} plug-ins or cells failed; tracebacks are in {result.out / 'run.json'}.", err=True
        )
        raise typer.Exit(EXIT_FAILED_JOBS)
