"""The command line: `bench COMMAND`. What is heavy is imported by the commands that use it, never for `--help`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from . import (
    cli_authoring,
    cli_choose,
    cli_claims,
    cli_compare,
    cli_data,
    cli_explain,
    cli_fit,
    cli_gate,
    cli_layers,
    cli_list,
    cli_machine,
    cli_prototypes,
    cli_run,
    cli_train,
)

EXIT_USAGE = 2

app = typer.Typer(
    name="bench",
    help="Benchmark explainers of Vision Transformers, on RGB and hyperspectral images.",
    epilog="Start with `bench all`: it runs the default suite and writes leaderboards and a page to results/.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("all")(cli_run.all_)
app.command("run")(cli_run.run)
app.command("plan")(cli_run.plan)
app.command("list")(cli_list.list_)
app.command("data")(cli_data.data)
app.command("report")(cli_run.report)
app.command("train")(cli_train.train)
app.command("prototypes")(cli_prototypes.prototypes)
app.command("fit")(cli_fit.fit)
app.command("explain")(cli_explain.explain)
app.command("new")(cli_authoring.new)
app.command("check")(cli_authoring.check)
app.command("gate")(cli_gate.gate)
app.command("compare")(cli_compare.compare)
app.command("choose")(cli_choose.choose)
app.command("claims")(cli_claims.claims)
app.command("layers")(cli_layers.layers)
app.command("doctor")(cli_machine.doctor)
app.command("cache")(cli_machine.cache)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vitxai {version('vitxai')}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Benchmark explainers of Vision Transformers, on RGB and hyperspectral images."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)


def _settle_process() -> None:
    """What only a process of its own may decide, before numpy is imported; no number depends on it."""
    # Between two products OpenBLAS's threads wait busily, for 20 ms by default, on cores that others work on.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # A suite's tasks and records are millions of objects that stay: looking through them often finds nothing.
    gc.set_threshold(200_000, 30, 30)


def main() -> None:
    """What ``bench`` does: a deliberate error is one message and exit code 2, without a traceback."""
    _settle_process()
    try:
        app(standalone_mode=True)
    except Exception as error:
        # Here, because the registry's imports would double the time of `bench --help`.
        from .contract import VitxaiError

        if not isinstance(error, VitxaiError):
            raise
        typer.echo(f"bench: {error}", err=True)
        sys.exit(EXIT_USAGE)


def command() -> NoReturn:
    """Entry point of the command ``bench``: as :func:`main`, and ends the process at once.

    Taking a run's million objects apart, one by one, would take more than a second.
    """
    code = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        code = end.code or 0
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
