"""Files below a data root, and nothing else: symlinks that lead out, loops and empty files are told, never followed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from ..bench.contract import BadInputError


def inside(path: Path, root: Path) -> Path:
    """The path itself, once it is known to lie below the root with all symlinks resolved.

    Raises:
        BadInputError: it leads out of the root, runs in circles, or is no readable file.
    """
    try:
        real, base = path.resolve(strict=True), root.resolve(strict=True)
        leads_out, size = not real.is_relative_to(base), real.stat().st_size
    except (OSError, RuntimeError) as error:
        raise BadInputError(f"{path} cannot be opened: {_reason(error, path)}.") from error
    if leads_out:
        raise BadInputError(f"{path} leads out of {root}, to {real}; copy the file into the folder.")
    if not real.is_file():
        raise BadInputError(f"{path} is no file.")
    if size == 0:
        raise BadInputError(f"{path} is empty (0 bytes); fetch or write it again.")
    return path


def folders_in(folder: Path, root: Path) -> dict[str, Path]:
    """Folders directly below a folder by name, in name order; hidden ones and symlinks out of the root are left out."""
    found = {}
    for child in sorted(folder.iterdir()):
        if child.name.startswith(".") or not child.is_dir():
            continue
        real = child.resolve()
        if real.is_relative_to(root.resolve()) and not folder.resolve().is_relative_to(real):
            found[child.name] = child
    return found


def files_in(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """Files and symlinks directly in a folder that are wanted, in name order; hidden ones are left out."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and not (path.is_dir() and not path.is_symlink()) and wanted(path)
    ]


def _reason(error: Exception, path: Path) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return "it is a symlink to a file that is not there"
    if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP:
        return "it is a symlink that runs in circles"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
