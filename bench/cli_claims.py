"""`bench claims`: the papers' claims, each with our figure and a verdict, from stored result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import console

PAPERS = Path("results/papers")


def claims(
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", "-r", metavar="DIR", help="A run's folder, or one of several; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the ledger is written.")] = Path(
        "results"
    ),
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Also write there what the claims read of each run, small for git."),
    ] = None,
) -> None:
    """Hold the papers' claims against the results of their suites.

    Writes claims.md, claims.json and claims.html. No model is run: `bench run --suite focus-table1 --out
    results/papers/focus-table1` makes a suite's files; without --results those under results/papers are read.

    \b
    Examples:
      bench claims
      bench claims --results /tmp/runs --keep results/papers
    """
    from .claims import find_runs, ledger
    from .claims import keep as keep_run
    from .claims_catalogue import CLAIMS
    from .report.claims import tally, write_claims

    runs = find_runs(results or ([PAPERS] if PAPERS.is_dir() else []))
    terminal = console()
    for run in runs:
        if run.suite["name"] not in {claim.suite for claim in CLAIMS}:
            terminal.print(f"no claim is tested by suite {run.suite['name']} ({run.out})", markup=False)
        if keep is not None and (kept := keep_run(run, CLAIMS, keep)):
            terminal.print(f"kept {kept}", markup=False)
    entries = ledger(CLAIMS, runs)
    written = write_claims(entries, out)
    terminal.print(f"{tally(entries)}\n" + "\n".join(f"wrote {path}" for path in written), markup=False)
