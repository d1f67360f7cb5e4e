"""`bench data`: how to get a data set, and what is there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import PluginOption, absolute, console

if TYPE_CHECKING:
    from .data_facts import Inventory

WIDTH, INDENT = 112, 12
SHOWN_CLASSES = 20


def data(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A data set, with parameters if wanted; none lists all.")
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="PATH", help="Where the files are: check and count them.")
    ] = None,
    read: Annotated[int, typer.Option(min=0, help="Samples read in each split to count classes; 0 reads all.")] = 200,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when a file had to be left out.")] = False,
    plugin: PluginOption = None,
) -> None:
    """Say how to get a data set, and check and count what is there. Nothing is downloaded.

    Address, licence, size, citation, layout and traps; with --path also splits, classes, truths and the files that are
    left out, each with the reason.

    Exit codes: 0 all well, 1 the files do not fit, or with --strict one was left out.

    \b
    Examples:
      bench data
      bench data jasper_ridge
      bench data jasper_ridge --path DIR
      bench data cubes,size=64 --path DIR --read 0
    """
    from .contract import Spec, VitxaiError
    from .contract.registry import import_file
    from .data_facts import needed, recipe_of, take_stock

    for file in absolute(plugin):
        import_file(file)
    if name is None:
        _list()
        return
    spec = Spec.parse(name)
    if path is not None:
        spec = Spec(spec.name, {**spec.params, "path": str(path)})
    for key, value in recipe_of(spec.name).items():
        for line in _lines(key, value):
            typer.echo(line)
    if absent := [field for field in needed(spec.name) if field not in spec.params]:
        typer.echo(f"\nCheck what you have: bench data {spec.name} " + " ".join(f"--{field} ..." for field in absent))
        return
    try:
        inventory = take_stock(spec, read or None)
    except VitxaiError as error:
        typer.echo(f"\nnot usable: {error}")
        raise typer.Exit(1) from None
    typer.echo("")
    for line in _told(inventory):
        typer.echo(line)
    if strict and inventory.left_out:
        raise typer.Exit(1)


def _list() -> None:
    from rich.markup import escape
    from rich.table import Table

    from .contract import datasets
    from .data_facts import recipe_of

    table = Table("name", "what", "size", "licence", pad_edge=False, box=None)
    for name in datasets.names():
        facts = recipe_of(name)
        shown = (str(facts.get(key, "")) for key in ("title", "size", "licence"))
        table.add_row(name, *(escape(textwrap.shorten(text, 60, placeholder=" ...")) for text in shown))
    console().print(table)


def _lines(key: str, value: str | tuple[str, ...]) -> Iterator[str]:
    """``key       text``, wrapped, addresses whole; a layout keeps its lines."""
    texts = (value,) if isinstance(value, str) else value
    for text in texts:
        parts = text.splitlines() if key == "layout" else [text]
        rows = [row for part in parts for row in textwrap.wrap(part, WIDTH - INDENT, break_on_hyphens=False)]
        for index, row in enumerate(rows):
            yield f"{key if index == 0 else '':<{INDENT}}{row}".rstrip()


def _told(inventory: Inventory) -> Iterator[str]:
    info = inventory.info
    yield from _lines("classes", f"{len(info.classes)}: {_few(info.classes)}" if info.classes else "none")
    centres = info.wavelengths
    bands = f", {min(centres):g} to {max(centres):g} nm" if centres else ""
    yield from _lines("channels", f"{info.channels}{bands}")
    yield from _lines("truths", ", ".join(sorted(info.has)) or "none")
    for split, count in inventory.splits.items():
        part = "" if count.read == count.ids else f", of which {count.read} were read"
        yield from _lines(split, f"{count.ids} samples{part}")
        if count.read:
            yield from _lines("", _few([f"{name} {n}" for name, n in count.classes.items()]))
            yield from _lines("", "shapes " + _few([f"{shape} ({n})" for shape, n in count.shapes.items()]))
        for truth, (there, share) in count.truths.items():
            covers = "" if share is None else f", {100 * share:.1f} % of the pixels"
            yield from _lines("", f"{truth}: not empty in {there} of {count.read}{covers}")
    if inventory.left_out:
        yield from _lines("left out", f"{len(inventory.left_out)} files:")
        for reason in inventory.left_out.values():
            yield from _lines("", reason)


def _few(names: list[str] | tuple[str, ...]) -> str:
    """The first names; ImageNet's hold commas."""
    more = len(names) - SHOWN_CLASSES
    return "; ".join(names[:SHOWN_CLASSES]) + (f" and {more} more" if more > 0 else "")
