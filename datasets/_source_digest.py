"""Digests of the source that makes generated data: equal for equal code, whatever its comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

# Fields that differ between Python versions or carry no meaning of their own.
_SILENT_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_params"})


def source_digest(package: str, files: Iterable[str]) -> str:
    """SHA-256 over files of a package, in the given order; Python files count as syntax trees without docstrings.

    Raises:
        FileNotFoundError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in files:
        content = resources.files(package).joinpath(name).read_bytes()
        if name.endswith(".py"):
            content = json.dumps(_structure(ast.parse(content))).encode()
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _structure(node: Any) -> Any:
    if isinstance(node, list):
        return [_structure(item) for item in node if not _is_bare_text(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    named = ((name, value) for name, value in ast.iter_fields(node) if name not in _SILENT_FIELDS)
    return [type(node).__name__, *([name, _structure(value)] for name, value in named if value not in (None, []))]


def _is_bare_text(node: Any) -> bool:
    """A docstring, or a text below an assignment that documents it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
