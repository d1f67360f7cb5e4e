"""`bench new`: a plug-in that works and a test that runs the contract on it, to start from."""

from __future__ import annotations

from pathlib import Path

from .contract import BadInputError

TEMPLATES = Path(__file__).parent / "templates"
ROOMS = {"explainer": "explainers", "metric": "metrics", "dataset": "datasets"}


def write_plugin(kind: str, name: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Writes ``NAME.py`` and its test; returns both paths.

    Without ``folder``: in a checkout of this project the plug-in goes into its room and the test below ``tests/``,
    elsewhere both go into the working folder.

    Raises:
        BadInputError: the name is no snake_case identifier, a plug-in bears it, or a file is in the way.
    """
    _check_name(kind, name)
    plugin, test = _paths(kind, name, folder)
    for path in (plugin, test):
        if path.exists():
            raise BadInputError(f"{path} exists already; choose another name or --dir.")
    words = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "class_name": "".join(word.capitalize() for word in name.split("_")),
        "target": name if folder is None and _in_checkout(kind) else None,
    }
    for path, template in ((plugin, f"{kind}.py.jinja"), (test, f"test_{kind}.py.jinja")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(template, **words), encoding="utf-8")
    return plugin, test


def render(template: str, **words: str | None) -> str:
    """A template of this folder with its words filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**words)


def _check_name(kind: str, name: str) -> None:
    from .check import REGISTRIES

    if not name.isidentifier() or name != name.lower() or name.startswith("_"):
        raise BadInputError(
            f"{name!r} is no plug-in name; use snake_case letters, digits and underscores, like my_method."
        )
    registry = next(registry for registry in REGISTRIES.values() if registry.kind == kind)
    if name in registry.names():
        raise BadInputError(f"{kind} {name!r} exists already (see `bench list {kind}s`); choose another name.")


def _paths(kind: str, name: str, folder: Path | None) -> tuple[Path, Path]:
    if folder is None and _in_checkout(kind):
        here = Path.cwd()
        return here / ROOMS[kind] / f"{name}.py", here / "tests" / ROOMS[kind] / f"test_{name}.py"
    folder = (folder or Path()).expanduser().resolve()
    return folder / f"{name}.py", folder / f"test_{name}.py"


def _in_checkout(kind: str) -> bool:
    here = Path.cwd()
    return (here / ROOMS[kind] / "py.typed").is_file() and (here / "bench" / "contract").is_dir()
