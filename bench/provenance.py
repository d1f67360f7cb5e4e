"""What a result must name besides its numbers: versions, git commit, machine, command."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vitxai", "torch", "timm", "captum", "numpy", "scipy", "scikit-image", "pandas", "pyarrow", "safetensors")


def provenance() -> dict[str, Any]:
    """JSON values: versions, interpreter, platform, git commit of the source (None outside a checkout), time in UTC."""
    return {
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "git": git_state(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that the source lies in and whether it holds uncommitted changes."""
    folder = Path(__file__).resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
