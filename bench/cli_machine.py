"""`bench doctor` and `bench cache`: this installation, this machine, and what is stored on it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .cli_options import (
    OnDataOption,
    OnModelOption,
    PluginOption,
    StoreOption,
    absolute,
    chosen_suite,
    console,
    store_at,
)

MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fail": "[red]fail[/]"}


class CacheAction(StrEnum):
    """What to do with the store."""

    LIST = "list"
    SIZE = "size"
    CLEAR = "clear"


def doctor(
    suite: Annotated[
        str | None, typer.Option("--suite", "-s", metavar="NAME|FILE", help="Also load all that this suite names.")
    ] = None,
    dataset: OnDataOption = None,
    model: OnModelOption = None,
    store: StoreOption = None,
    plugin: PluginOption = None,
) -> None:
    """Look at this installation and machine.

    Versions, devices, memory, store, plug-ins, built-in models; with --suite also its plug-ins, data sets and models:
    what is there, and of what is missing the size and how to get it.

    Exit codes: 0 all well, 1 something fails.

    \b
    Examples:
      bench doctor --suite default
      bench doctor --suite focusvit-table2 --dataset flowers102,path=DIR --model timm,id=vit_base_patch16_224
    """
    from rich.markup import escape

    from .contract import BadInputError
    from .doctor import examine

    if suite is None and (dataset or model):
        raise BadInputError("--dataset and --model take the place of a suite's boards; name the --suite.")
    asked = None if suite is None else chosen_suite(suite, dataset, model)
    out, failed = console(), 0
    for symptom in examine(store_at(store), asked, absolute(plugin)):
        line = f"{MARKS[symptom.state]:>6}  [bold]{escape(symptom.what)}[/]  {escape(symptom.text)}"
        out.print(line, soft_wrap=True)
        failed += symptom.state == "fail"
    if failed:
        raise typer.Exit(1)


def cache(
    action: Annotated[CacheAction, typer.Argument(help="list the kinds, tell the size, or clear.")] = CacheAction.LIST,
    kind: Annotated[
        str | None, typer.Option(help="Clear only one kind: fit, explanation, score, probe or cost.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Clear without asking.")] = False,
    store: StoreOption = None,
) -> None:
    """Show or clear the store of reusable artefacts. Nothing in results/ is touched.

    \b
    Examples:
      bench cache list
      bench cache clear --kind score --yes
    """
    from .store import Store

    folder = store_at(store)
    artefacts = Store(folder)
    sizes = artefacts.sizes()
    files, total = (sum(column) for column in zip(*sizes.values(), strict=True))
    if action is CacheAction.SIZE:
        typer.echo(f"{folder}: {files} artefacts, {megabytes(total)}")
    elif action is CacheAction.LIST:
        typer.echo(folder)
        for name, (count, size) in sizes.items():
            typer.echo(f"  {name:<12}{count:>8}  {megabytes(size):>12}")
    elif yes or typer.confirm(f"Remove {kind or 'all'} artefacts from {folder}?"):
        typer.echo(f"freed {megabytes(artefacts.clear(kind))}")


def megabytes(size: int) -> str:
    """``12.3 MB``."""
    return f"{size / 1e6:.1f} MB"
