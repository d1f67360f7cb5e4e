"""`bench new` and `bench check`: writing a plug-in and holding it to the contract."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import PluginOption, absolute, console

if TYPE_CHECKING:
    from .check_findings import Verdict


class PluginKind(StrEnum):
    """What can be started from a template."""

    EXPLAINER = "explainer"
    METRIC = "metric"
    DATASET = "dataset"


def new(
    kind: Annotated[PluginKind, typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name, in snake_case.")],
    dir: Annotated[
        Path | None,
        typer.Option("--dir", "-d", metavar="DIR", help="Where to [default: the project's folder, else here]."),
    ] = None,
) -> None:
    """Write a plug-in that works, with its test.

    \b
    Example:
      bench new explainer my_method
      bench check my_method.py
      bench run --suite smoke --plugin my_method.py
    """
    from .scaffold import write_plugin

    written = write_plugin(kind.value, name, dir)
    plugin, test = (_near(path) for path in written)
    target = name if plugin.startswith(f"{kind.value}s/") else plugin
    option = "" if target == name else f" --plugin {plugin}"
    console().print(f"wrote {plugin} and {test}. Next:", markup=False)
    console().print(f"  bench check {target}\n  pytest {test}\n  bench run --suite smoke{option}", markup=False)


def check(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[NAME|PATH]...", help="Plug-ins or files.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every plug-in that can be found.")] = False,
    plugin: PluginOption = None,
) -> None:
    """Hold plug-ins to the contract.

    Finite maps, the same map for the same seed, nothing left behind, a reason for every NaN, and so on. Says of each
    broken rule what is wrong and how to mend it. Exit codes: 0 all hold, 1 a rule is broken.

    \b
    Examples:
      bench check rollout
      bench check my_method.py
      bench check voc,path=DIR
      bench check --all
    """
    from .check import check as check_one
    from .check import check_all
    from .contract import BadInputError
    from .contract.registry import import_file

    if all_ == bool(targets):
        raise BadInputError("name plug-ins or files to check, or pass --all.")
    for path in absolute(plugin):
        import_file(path)
    verdicts = check_all() if all_ else (verdict for target in targets or () for verdict in check_one(target))
    if _print(verdicts):
        raise typer.Exit(1)


def _print(verdicts: Iterable[Verdict]) -> int:
    """Prints each verdict as it comes; the number of plug-ins with a broken rule."""
    from rich.markup import escape

    out, broken = console(), 0
    for verdict in verdicts:
        held = sum(finding.outcome == "ok" for finding in verdict.findings)
        state = f"[green]{held} rules hold[/]" if verdict.passed else f"[red]{len(verdict.failures)} rules broken[/]"
        out.print(f"{verdict.kind} [bold]{escape(verdict.name)}[/]: {state}")
        broken += not verdict.passed
        for finding in verdict.findings:
            if finding.outcome == "fail":
                out.print(f"  [red]broken[/]  {finding.rule}")
                out.print(f"    what    {escape(finding.problem)}\n    mend    {escape(finding.remedy)}")
            elif finding.outcome == "skipped" and finding.remedy:
                out.print(f"  skipped  {finding.rule}: {escape(finding.problem)} {escape(finding.remedy)}")
    return broken


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
