"""`bench gate`: the regression check for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import PluginOption, StoreOption, SuiteOption, WorkersOption, console, write_file

if TYPE_CHECKING:
    from .gate import GateResult

BASELINE = Path("results/baseline")


def gate(
    baseline: Annotated[Path, typer.Option("--baseline", "-b", metavar="DIR", help="What to compare with.")] = BASELINE,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Make the fresh run the baseline.")
    ] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a Markdown summary.")
    ] = None,
    suite: SuiteOption = "smoke",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Keep the fresh run here [default: nowhere].")
    ] = None,
    store: StoreOption = None,
    workers: WorkersOption = None,
    plugin: PluginOption = None,
) -> None:
    """Compare a fresh smoke run with the committed baseline.

    On the baseline's own machine type golden maps and per-sample scores are compared exactly, elsewhere by paired
    statistics. Exit codes: 0 ok, 1 regression, 2 wrong usage, 3 not comparable, 4 jobs failed.

    \b
    Examples:
      bench gate
      bench gate --junit gate.xml --markdown gate.md
      bench gate --update-baseline        # after a change that was meant; commit results/baseline
    """
    import tempfile

    from .cli_run import run_with_progress
    from .gate import compare
    from .gate import update_baseline as replace_baseline
    from .suite import load_suite

    if not update_baseline:
        _require(baseline)
    with tempfile.TemporaryDirectory(prefix="vitxai-gate-") as scratch:
        fresh = out or Path(scratch) / "fresh"
        # Without --store nothing is reused: old artefacts would prove nothing about this machine.
        chosen = load_suite(suite)
        result = run_with_progress(chosen, fresh, store or Path(scratch) / "store", workers, plugin, retry_failed=True)
        if result.interrupted:
            raise typer.Exit(130)
        if update_baseline:
            replace_baseline(fresh, baseline)
            console().print(f"{baseline} now holds this run; commit it.")
            return
        verdict = compare(baseline, fresh)
    _write(verdict, junit, markdown)
    raise typer.Exit(verdict.exit_code)


def _require(baseline: Path) -> None:
    from .contract import BadInputError

    if not (baseline / "run.json").is_file():
        raise BadInputError(f"no baseline at {baseline}; make one with `bench gate --update-baseline` and commit it.")


def _write(verdict: GateResult, junit: Path | None, markdown: Path | None) -> None:
    from .gate_summary import as_junit, as_markdown

    for path, text in ((junit, as_junit(verdict)), (markdown, as_markdown(verdict))):
        if path is not None:
            write_file(path, text)
    console().print(as_markdown(verdict), markup=False)
