"""`bench new`: what it writes holds the contract as it is, in any folder and in the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitxai.bench.check import check
from vitxai.bench.contract import BadInputError
from vitxai.bench.scaffold import write_plugin

KINDS = ("explainer", "metric", "dataset")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_holds_the_contract(kind: str, tmp_path: Path) -> None:
    plugin, test = write_plugin(kind, f"fresh_{kind}", tmp_path)
    assert (plugin, test) == (tmp_path / f"fresh_{kind}.py", tmp_path / f"test_fresh_{kind}.py")
    (verdict,) = check(plugin)
    assert (verdict.kind, verdict.name) == (kind, f"fresh_{kind}")
    assert verdict.passed, str(verdict)


def test_the_new_tests_pass(tmp_path: Path) -> None:
    for kind in KINDS:
        write_plugin(kind, f"tested_{kind}", tmp_path)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_in_a_checkout_files_go_into_their_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench" / "contract").mkdir(parents=True)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "py.typed").touch()
    monkeypatch.chdir(tmp_path)
    plugin, test = write_plugin("metric", "my_metric")
    assert plugin == tmp_path / "metrics" / "my_metric.py"
    assert test == tmp_path / "tests" / "metrics" / "test_my_metric.py"
    assert 'PLUGIN = "my_metric"' in test.read_text()


@pytest.mark.parametrize("name", ["My_Method", "my-method", "1st", "_hidden", "my method"])
def test_names_are_snake_case(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="snake_case"):
        write_plugin("explainer", name, tmp_path)


def test_a_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="explainer 'rollout' exists already"):
        write_plugin("explainer", "rollout", tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("precious")
    with pytest.raises(BadInputError, match=r"test_mine\.py exists already"):
        write_plugin("explainer", "mine", tmp_path)
    assert not (tmp_path / "mine.py").exists()
    assert (tmp_path / "test_mine.py").read_text() == "precious"
