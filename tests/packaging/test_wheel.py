"""The wheel holds every file of the five folders, puts none beside `vitxai`, and works outside the root."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("bench", "explainers", "metrics", "datasets", "models")
LITTER = ("__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache", "*.pyc", "*.partial")

IMPORT_ALL = """
import sys
sys.path.insert(0, sys.argv[1])
from vitxai.bench.contract import datasets, explainers, metrics
from vitxai.bench import Explainer, evaluate, explain, register_explainer
import vitxai.bench.cli, vitxai.bench.report, vitxai.models.load
from vitxai.bench.suite import load_suite, suite_names
for registry in (explainers, metrics, datasets):
    assert registry.names(), registry.kind
    assert not registry.broken, registry.broken
for name in suite_names():
    load_suite(name)
files = [m.__file__ for name, m in sys.modules.items() if name.startswith("vitxai.") and getattr(m, "__file__", None)]
strangers = [file for file in files if not file.startswith(sys.argv[1])]
assert files and not strangers, strangers
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: an old build/ folder in the checkout would slip files into the wheel that are long gone.
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns(*LITTER))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", target, source]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=target)
    (found,) = target.glob("vitxai-*.whl")
    return found


def kept_files() -> list[Path]:
    """What git keeps or would keep; all but litter where this is no checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *ROOMS]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [Path(line) for line in listed.stdout.splitlines()]
    else:
        paths = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    return [path for path in paths if (ROOT / path).is_file() and not any(map(path.match, LITTER))]


def test_every_file_of_the_rooms_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = [path.as_posix() for path in kept_files() if "__pycache__" not in path.parts]
    assert len(kept) > 100
    assert [path for path in kept if f"vitxai/{path}" not in packed] == []


def test_nothing_lies_beside_the_namespace(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vitxai"}
    assert "vitxai/__init__.py" not in zipfile.ZipFile(wheel).namelist()


def test_the_licence_travels(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_works_outside_the_root(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-P", "-c", IMPORT_ALL, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
