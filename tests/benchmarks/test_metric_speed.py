"""Passes of the metrics that have a target, counted by a hook; their speed is measured by `bench.speed --metrics`."""

from __future__ import annotations

import math

import pytest

from vitxai.bench.contract import explainers
from vitxai.bench.speed import inputs_for
from vitxai.bench.speed_metrics import (
    ROWS,
    TARGETS,
    MetricBench,
    MetricRow,
    catalogue,
    measured,
    report,
    small_model,
)
from vitxai.bench.speed_table import Missing

STEPS, RUNS, SAMPLES, BLOCKS = 12, 100, 10, 4
# (explanations, rows for the first map, rows for one of a further explainer), docs/metrics.md
FORMULAS = {
    "faithfulness_correlation": (0, 1 + RUNS, 0),
    "insertion_deletion": (0, 2 * (STEPS - 1) + 3, 2 * (STEPS - 1)),
    "pixel_flipping": (0, 2 * (STEPS - 1) + 2, 2 * (STEPS - 1)),
    "patch_flipping": (0, 2 * (STEPS - 1) + 2, 2 * (STEPS - 1)),
    "max_sensitivity": (SAMPLES, 0, 0),
    "relative_stability": (SAMPLES, 1 + SAMPLES, 0),
    "class_sensitivity": (1, 1, 0),
    "mprt": (3 * (BLOCKS + 2) - 3, 0, 0),
    "saco": (0, 10 + 1, 10),
    "infidelity": (0, 1 + RUNS, 0),
    "idsds": (0, 1 + 64, 0),
    "faithfulness_estimate": (0, STEPS + 1, STEPS),
}


@pytest.fixture(scope="module")
def bench() -> MetricBench:
    model = small_model()
    return MetricBench(model, inputs_for(model, 2), explainers.create("rollout"), pairs=1)


@pytest.mark.parametrize("spec", FORMULAS)
def test_passes_equal_the_formula(bench: MetricBench, spec: str) -> None:
    row = bench.row(spec)
    assert (row.explanations, row.forwards, row.further) == FORMULAS[spec]
    assert row.ratio is not None
    assert row.ratio > 0


def test_batches_of_the_limit_hold_rows_of_one_model(bench: MetricBench) -> None:
    """Fifteen randomised models explain two rows each, however many rows a pass may take."""
    maps = bench.best(bench.explain, together=2, needed=30)
    assert (maps.rows, maps.calls) == (2, 8)
    assert maps.seconds() > 0
    passes = bench.best(bench.forward, together=808, needed=808)
    assert passes.rows in ROWS
    assert passes.calls == math.ceil(404 / passes.rows)


def test_every_target_has_a_formula() -> None:
    assert FORMULAS.keys() >= TARGETS.keys()


def test_a_metric_that_looks_at_maps_alone_has_no_limit(bench: MetricBench) -> None:
    row = bench.row("sparseness")
    assert (row.explanations, row.forwards, row.ratio, row.verdict) == (0, 0, None, "")
    assert row.time > 0


def test_the_catalogue_begins_with_the_targets() -> None:
    lines = catalogue()
    assert set(lines[: len(TARGETS)]) == set(TARGETS)
    assert "quantus" in [line.name for line in lines if isinstance(line, Missing)]
    assert catalogue(["saco"]) == ["saco"]


def test_what_fails_costs_its_own_line(bench: MetricBench) -> None:
    first, second = measured(bench, ["bio_at_5", "sparseness"])
    assert isinstance(first, Missing)
    assert isinstance(second, MetricRow)


def test_the_table() -> None:
    lines = [
        MetricRow("mprt", 15, 0, 0, (30.0,), 28.0, (1.2,)),
        MetricRow("otsu", 0, 0, 0, (0.5, 0.7), 0.4),
        Missing("healing", "no counterfactual"),
    ]
    text = report("Conditions.", lines).splitlines()
    assert text[4] == "| `mprt` | 1.20 | 1 | ≤ 1.15 | **missed** | 15 | 0 | 0 | 30 | 28 |"
    assert text[5] == "| `otsu` |  | 2 |  |  | 0 | 0 | 0 | 0.6 | 0.4 |"
    assert text[-1] == "- `healing`: no counterfactual"
