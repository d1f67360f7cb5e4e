"""Options that several commands share, and the terminal that they print to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .suite import Suite

EXIT_INTERRUPTED = 130
"""Of a command that Ctrl-C stopped and that can go on."""

SuiteOption = Annotated[str, typer.Option("--suite", "-s", metavar="NAME|FILE", help="A suite's name, or a TOML file.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Folder of reusable artefacts [default: $VITXAI_STORE, else the user's cache]."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Worker processes [default: by CPU cores or GPUs]."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", "-p", metavar="FILE", help="A Python file with plug-ins; may be given several times."),
]
OnDataOption = Annotated[
    list[str] | None,
    typer.Option("--dataset", "-d", metavar="SPEC", help="In place of the suite's boards: one board a data set."),
]
OnModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="SPEC", help="With --dataset: the models of each board."),
]
SamplesOption = Annotated[
    int | None, typer.Option("--samples", "-n", min=1, help="Test samples of each board [default: the suite's].")
]


def chosen_suite(
    name: str, datasets: Sequence[str] | None = None, models: Sequence[str] | None = None, samples: int | None = None
) -> Suite:
    """The suite of the options."""
    from .suite import load_suite

    return load_suite(name).on(datasets or (), models or (), samples)


def write_file(path: Path, text: str) -> None:
    """Writes a file that an option names, with its folder.

    Raises:
        BadInputError: it cannot be written.
    """
    from .contract import BadInputError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}. Name a file in a folder of yours.") from error


def console() -> Console:
    """Standard output; wide enough for tables where it is no terminal."""
    from rich.console import Console

    plain = Console(highlight=False, soft_wrap=False)
    return plain if plain.is_terminal else Console(highlight=False, width=160)


def store_at(chosen: Path | None) -> Path:
    """The folder of artefacts."""
    from .store import default_store

    return chosen or default_store()


def absolute(plugins: Sequence[Path] | None) -> tuple[Path, ...]:
    """Plug-in files as workers find them, whatever folder they start in.

    Raises:
        BadInputError: a file does not exist.
    """
    from .contract import BadInputError

    paths = tuple(path.expanduser().resolve() for path in plugins or ())
    for path in paths:
        if not path.is_file():
            raise BadInputError(f"--plugin {path}: no such file; `bench new explainer NAME` writes one to start from.")
    return paths
