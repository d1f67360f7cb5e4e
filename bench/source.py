"""Digests of plug-in source: what a module and the project modules it imports would compute, docstrings left out."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from .contract import BadInputError

IGNORED = frozenset({"vitxai.bench.contract.registry", "vitxai.bench.contract.errors"})
"""They cannot change a number: they find plug-ins, convert parameters (which are in every key) and word errors."""


_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of syntax nodes that hold statements, or what holds statements."""

_one_at_a_time = Lock()
"""Python 3.11's parser keeps a counter that threads share: two parses at once can fail (CPython issue 106905)."""


def source_digest(module: str) -> str:
    """SHA-256 over the syntax trees of a module and of all it imports from its own project or vitxai, transitively.

    Comments, layout and docstrings do not count; neither do imports from elsewhere, whose versions are in every key.

    Raises:
        BadInputError: the module has no source file (a class typed into a session), or it does not parse.
    """
    with _one_at_a_time:
        return _digest(module)


@cache
def _digest(module: str) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(_modules(module).items()):
        _, syntax = _parsed(name, path)
        digest.update(f"{_stable_name(name, path)}\0{syntax}\0".encode())
    return digest.hexdigest()


def _modules(module: str) -> dict[str, Path]:
    """The module and what it imports, transitively, with their files."""
    roots = {"vitxai", module.partition(".")[0]}
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        path = _file_of(name)
        if path is None:
            raise BadInputError(
                f"module {name!r} has no source file; put the plug-in into a file, so that it has a key."
            )
        found[name] = path
        imports, _ = _parsed(name, path)
        own = [i for i in imports if i.partition(".")[0] in roots]
        pending += [i for i in own if i not in IGNORED and i not in found]
    return found


@cache
def _parsed(module: str, path: Path) -> tuple[tuple[str, ...], str]:
    """The modules that a module imports, and its syntax; the tree itself, thousands of objects, is not kept."""
    tree = _tree(path)
    return tuple(_imports(tree, module, is_package=path.name == "__init__.py")), ast.dump(tree)


def _imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of the modules that a module imports anywhere, inside functions too."""
    package = module if is_package else module.rpartition(".")[0]
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _file_of(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            modules = [name for name in submodules if _file_of(name)]
            yield from modules
            if len(modules) < len(submodules) and _file_of(base):
                yield base


@cache
def _file_of(module: str) -> Path | None:
    """The source file of a module; None where there is none (a name inside a module, a namespace, a binary).

    Nothing is imported: ``importlib`` would import the packages around a name to find it.
    """
    origin = getattr(sys.modules.get(module), "__file__", None)
    if origin is not None:
        return Path(origin) if origin.endswith(".py") else None
    package, _, name = module.rpartition(".")
    if not package:
        origin = getattr(_spec(module), "origin", None)
        return Path(origin) if origin and origin.endswith(".py") else None
    for folder in _folders(package):
        for path in (folder / name / "__init__.py", folder / f"{name}.py"):
            if path.is_file():
                return path
    return None


@cache
def _folders(package: str) -> tuple[Path, ...]:
    """Where the modules of a package lie; empty for what is no package."""
    outer, _, name = package.rpartition(".")
    inside = [folder / name for folder in (_folders(outer) if outer else ())]
    if found := tuple(folder for folder in inside if (folder / "__init__.py").is_file()):
        return found
    # A namespace like vitxai holds packages from anywhere, and importing it runs nothing.
    spec = _spec(package) if not outer or _file_of(outer) is None else None
    return tuple(map(Path, spec.submodule_search_locations or ())) if spec else ()


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None


def _tree(path: Path) -> ast.Module:
    """The syntax tree of a file without its docstrings."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} does not parse: {error}.") from None
    for node in (tree, *_statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return tree


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements at any depth; what they are made of, most of a tree, holds neither imports nor docstrings."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        for name in _BODIES:
            inner = getattr(node, name, ())
            if isinstance(inner, list):  # a lambda's body, and that of a conditional expression, is no statement
                yield from (part for part in inner if isinstance(part, ast.stmt))
                pending += inner


def _stable_name(name: str, path: Path) -> str:
    # A file given with --plugin is imported under a name that holds its path, which must not enter a key.
    return path.stem if name.startswith("vitxai_plugin_") else name
