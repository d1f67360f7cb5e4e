"""Scores depend on neither batch size, nor workers, nor the order of the work, nor the chunks they are stored in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

EXPLAINERS = ("tiny_gradient", "tiny_attention", "tiny_noise", "tiny_fitted", "rollout", "integrated_gradients,steps=4")
METRICS = ("tiny_mass", "tiny_drop", "faithfulness_correlation,runs=10", "sparseness")
KEY = ["model", "explainer", "own_model", "sample", "metric", "column"]


@pytest.fixture(scope="module")
def scores(
    make_suite: Callable, run_tiny: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., pd.Series]:
    """Values of a run from an empty store; settings of the suite and of the run by name."""

    def run(workers: int = 1, shuffle: int | None = None, models: int = 1, **settings: int) -> pd.Series:
        suite = make_suite(models=models, explainers=EXPLAINERS, metrics=METRICS, **settings)
        result = run_tiny(suite, tmp_path_factory.mktemp("invariance"), workers=workers, shuffle=shuffle)
        assert set(result.scores["status"]) <= {"ok", "unsupported", "undefined"}
        values: pd.Series = result.scores.set_index(KEY)["value"]
        return values

    return run


@pytest.fixture(scope="module")
def reference(scores: Callable[..., pd.Series]) -> pd.Series:
    return scores(models=2, chunk=4, batch_size=4)


def test_the_reference_has_values_to_compare(reference: pd.Series) -> None:
    assert reference.notna().mean() > 0.8
    assert reference.nunique() > 100


def test_two_workers_and_a_shuffled_order_change_no_bit(reference: pd.Series, scores: Callable[..., pd.Series]) -> None:
    other = scores(workers=2, shuffle=7, models=2, chunk=4, batch_size=4)
    pd.testing.assert_series_equal(other, reference, check_exact=True)


@pytest.mark.parametrize("sizes", [{"chunk": 4, "batch_size": 1}, {"chunk": 8, "batch_size": 16}], ids=["1", "16"])
def test_batch_size_and_chunks_change_nothing_beyond_rounding(
    reference: pd.Series, scores: Callable[..., pd.Series], sizes: dict[str, int]
) -> None:
    other = scores(**sizes)
    expected = reference.reindex(other.index)
    assert len(other) == len(reference) // 2  # one of the two models
    np.testing.assert_allclose(other.to_numpy(), expected.to_numpy(), atol=1e-5, rtol=0, equal_nan=True)
