"""A plan tells before a run what the run then does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vitxai.bench.plan import Plan, plan_suite


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    explainers = (
        "tiny_gradient",
        "tiny_gradient@1",
        "tiny_noise",
        "integrated_gradients,steps=4",
        "tiny_attention",
        "tiny_fitted",
    )
    return {"explainers": explainers, "metrics": ("tiny_mass", "tiny_drop", "tiny_accuracy", "tiny_bands")}


def test_plan_run_and_plan_again(
    make_suite: Callable,
    run_tiny: Callable,
    tiny_plugins: tuple[Path, ...],
    tmp_path: Path,
    settings: dict[str, object],
) -> None:
    suite = make_suite(models=2, **settings)

    def plan() -> Plan:
        return plan_suite(suite, tmp_path / "store", workers=2, plugins=tiny_plugins, device="cpu")

    before = plan()
    stored = {path.relative_to(tmp_path / "store").parts[0] for path in (tmp_path / "store").rglob("*")}
    assert stored <= {"sample"}  # planning stores nothing but samples that took long to decode
    by_plugin = {forecast.plugin: forecast for forecast in before.cells[0].forecasts}
    n = 8
    assert by_plugin["clean responses"].forwards == n
    assert (by_plugin["tiny_gradient"].forwards, by_plugin["tiny_gradient"].backwards) == (n, n)
    assert by_plugin["integrated_gradients,steps=4"].forwards >= 4 * n
    assert by_plugin["tiny_noise"].forwards == 0
    assert not by_plugin["tiny_fitted"].known  # must be fitted first
    assert by_plugin["tiny_gradient"].known
    assert by_plugin["tiny_gradient@1"].forwards == n
    # two rows a sample for the probe, once, whatever the number of explainers
    assert by_plugin["tiny_drop"].forwards == 2 * n
    assert before.stored == 0
    assert before.seconds > 0
    assert 0 < before.memory_gb < 1

    result = run_tiny(suite, tmp_path)
    done = sum(sum(hows.values()) for kind, hows in result.counts["kinds"].items() if kind != "shared probe")
    assert before.tasks == done

    after = plan()
    refused = result.counts["kinds"]["score"]["refused"]
    assert after.stored == after.tasks - refused
    assert (after.forwards, after.backwards, after.seconds) == (0, 0, 0)


def test_a_cell_that_cannot_be_loaded_says_why(
    make_suite: Callable, tiny_plugins: tuple[Path, ...], tmp_path: Path
) -> None:
    suite = make_suite()
    (board,) = suite.boards
    missing = type(board.models[0]).parse(f"file,path={tmp_path / 'gone.pt'}")
    suite = suite.model_copy(update={"boards": (board.model_copy(update={"models": (missing,)}),)})
    (cell,) = plan_suite(suite, tmp_path / "store", plugins=tiny_plugins, device="cpu").cells
    assert "no checkpoint at" in cell.failure
    assert cell.forecasts == ()
