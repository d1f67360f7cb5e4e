"""A run that is killed or interrupted and started again: nothing finished is lost, nothing changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from vitxai.bench.run import RunResult

PLUGINS = Path(__file__).parent / "plugins"
EXPLANATIONS = 5 * 6 * 2
"""Explainers (those of the plug-in files join the suite) x chunks x models."""
TOML = """
name = "tiny"
n = 12
chunk = 2
batch_size = 2
validation_n = 8
costs = false
explainers = ["tiny_gradient", "tiny_slow", "tiny_fitted"]
metrics = ["tiny_mass", "tiny_drop", "tiny_accuracy"]
[[boards]]
name = "squares"
dataset = "tiny_squares"
models = {models}
"""
SCRIPT = """
import sys
from pathlib import Path
from vitxai.bench.run import run_suite
from vitxai.bench.suite import load_suite

folder, *plugins = map(Path, sys.argv[1:])
result = run_suite(load_suite(folder / "suite.toml"), folder / "out", folder / "store", plugins=plugins, device="cpu")
print("interrupted" if result.interrupted else "finished")
"""


@pytest.fixture
def command(tmp_path: Path, tiny_models: tuple[str, str]) -> list[str]:
    """A run in a process of its own; its script has no guard against being imported."""
    (tmp_path / "suite.toml").write_text(TOML.format(models=list(tiny_models)))
    (tmp_path / "script.py").write_text(SCRIPT)
    plugins = [PLUGINS / "tiny_squares.py", PLUGINS / "tiny_methods.py", PLUGINS / "tiny_slow.py"]
    return [sys.executable, str(tmp_path / "script.py"), str(tmp_path), *map(str, plugins)]


@pytest.fixture
def uninterrupted(tmp_path: Path, run_tiny: Callable, command: list[str]) -> Callable[[Path], RunResult]:
    """The same suite in this process, from a store of one's choice."""
    from vitxai.bench.suite import load_suite

    def run(store: Path) -> RunResult:
        result: RunResult = run_tiny(
            load_suite(tmp_path / "suite.toml"), tmp_path, store=store, plugins=[PLUGINS / "tiny_slow.py"]
        )
        return result

    return run


def artefacts(store: Path) -> dict[Path, tuple[int, bytes]]:
    """Finished files with their time of writing and content; decoded samples are no results."""
    found = [path for path in store.rglob("*") if path.is_file() and path.suffix != ".part"]
    found = [path for path in found if path.relative_to(store).parts[0] != "sample"]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def wait_for(store: Path, process: subprocess.Popen, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(store.glob("explanation/*/*.safetensors"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the run did not get this far"
        time.sleep(0.02)


def wait_until_quiet(store: Path) -> None:
    """Until orphaned workers have noticed that their parent is gone."""
    before = None
    while before != (before := sorted(artefacts(store))):
        time.sleep(1.5)


def test_after_kill_9_nothing_finished_is_computed_again_and_results_are_bit_equal(
    tmp_path: Path, command: list[str], uninterrupted: Callable[[Path], RunResult]
) -> None:
    store = tmp_path / "store"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(store, process, 9)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_quiet(store)
    finished = artefacts(store)
    explained = len([path for path in finished if path.parent.parent.name == "explanation"])
    assert 9 <= explained < EXPLANATIONS

    resumed = uninterrupted(store)
    after = artefacts(store)
    assert {path: after[path] for path in finished} == finished
    assert resumed.counts["kinds"]["explanation"] == {"reused": explained, "computed": EXPLANATIONS - explained}
    computed = sum(hows.get("computed", 0) for hows in resumed.counts["kinds"].values())
    assert computed == len(after) - len(finished)

    clean = uninterrupted(tmp_path / "another_store")
    pd.testing.assert_frame_equal(resumed.scores, clean.scores, check_exact=True)
    elsewhere = artefacts(tmp_path / "another_store")
    contents = {path.relative_to(tmp_path / "another_store"): content for path, (_, content) in elsewhere.items()}
    assert {path.relative_to(store): content for path, (_, content) in after.items()} == contents


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_what_is_finished_usable(
    tmp_path: Path, command: list[str], uninterrupted: Callable[[Path], RunResult]
) -> None:
    # A shell that runs the tests in the background makes its children ignore Ctrl-C.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(tmp_path / "store", process, 5)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=120)
    assert told.strip() == "interrupted", errors
    partial = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert len(partial) > 0
    assert set(partial["status"]) == {"ok", "unsupported"}
    finished = artefacts(tmp_path / "store")
    whole = uninterrupted(tmp_path / "store")
    assert not whole.interrupted
    assert {path: artefacts(tmp_path / "store")[path] for path in finished} == finished
    known = partial.merge(whole.scores, how="left", validate="one_to_one")
    assert len(partial) < len(whole.scores)
    assert len(known) == len(partial)
