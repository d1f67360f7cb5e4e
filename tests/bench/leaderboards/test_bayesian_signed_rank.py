"""The Bayesian signed-rank test: its definition spelled out, baycomp where installed, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from vitxai.bench.bayesian_signed_rank import DRAWS, PRIOR, bayesian_signed_rank, gamma_weights

NAN = np.nan


def posterior(differences: np.ndarray, rope: float, seed: int = 0, draws: int = 20_000) -> tuple[float, float, float]:
    found = bayesian_signed_rank(differences, rope, gamma_weights(len(differences), np.random.default_rng(seed), draws))
    return found.below, found.within, found.above


def by_definition(z: np.ndarray, rope: float, draws: np.ndarray) -> tuple[float, ...]:
    """Benavoli et al. 2014: all pairs, one draw at a time."""
    sums = z[:, None] + z[None, :]
    above, below = sums > 2 * rope, sums < -2 * rope
    winners = np.zeros(3)
    for w in draws:
        theta = w @ below @ w, 1 - w @ below @ w - w @ above @ w, w @ above @ w
        winners[int(np.argmax(theta))] += 1
    return tuple(winners / len(draws))


DATA = {
    "clear": np.random.default_rng(1).normal(0.05, 0.05, 20),
    "open": np.random.default_rng(2).normal(0.012, 0.06, 25),
    "equal": np.random.default_rng(3).normal(0.0, 0.008, 30),
    "ties": np.random.default_rng(4).integers(-3, 5, 18) / 100,
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("rope", [0.01, 0.03])
def test_it_is_its_definition(name: str, rope: float) -> None:
    differences = DATA[name]
    weights = gamma_weights(len(differences), np.random.default_rng(5), 300)
    found = bayesian_signed_rank(differences, rope, weights)
    z = np.concatenate([[0.0], differences])
    expected = by_definition(z, rope, weights / weights.sum(1, keepdims=True))
    # Equal sums (.01 + .01 and 2 * .01) round to either side in ties; nothing else may differ.
    assert (found.below, found.within, found.above) == pytest.approx(expected, abs=0.02 if name == "ties" else 1e-9)


@pytest.mark.parametrize("name", ["clear", "open", "equal"])
@pytest.mark.parametrize("rope", [0.01, 0.03])
def test_agrees_with_baycomp(name: str, rope: float) -> None:
    """Within five standard errors of two Monte-Carlo estimates: 5 sqrt(2 * .25 / 20000) = 0.025."""
    baycomp = pytest.importorskip("baycomp")
    differences = DATA[name]
    theirs = baycomp.SignedRankTest.probs(np.zeros(len(differences)), differences, rope, nsamples=20_000)
    assert posterior(differences, rope) == pytest.approx(theirs, abs=0.025)


def test_probabilities_sum_to_one_and_turn_with_the_sign() -> None:
    below, within, above = posterior(DATA["open"], 0.01)
    assert below + within + above == pytest.approx(1)
    turned = posterior(-DATA["open"], 0.01)
    assert turned == pytest.approx((above, within, below), abs=1e-9)


def test_clear_cases() -> None:
    rng = np.random.default_rng(0)
    assert posterior(rng.normal(0.3, 0.1, 30), 0.01)[2] > 0.999
    assert posterior(rng.normal(0.0, 0.01, 30), 0.05)[1] > 0.999
    assert posterior(np.zeros(10), 0.01) == posterior(np.zeros(10), 0.0) == (0, 1, 0)


def test_undefined_samples_are_left_out() -> None:
    with_gaps = np.concatenate([DATA["open"], [NAN, NAN]])
    assert posterior(with_gaps, 0.01) == pytest.approx(posterior(DATA["open"], 0.01), abs=0.025)


def test_the_same_key_gives_the_same_bits() -> None:
    assert posterior(DATA["open"], 0.01, seed=7) == posterior(DATA["open"], 0.01, seed=7)


def test_the_prior_is_half_a_sample_at_zero() -> None:
    weights = gamma_weights(4, np.random.default_rng(0), 50_000)
    share = (weights / weights.sum(1, keepdims=True)).mean(0)
    assert share == pytest.approx([PRIOR / 4.5, *[1 / 4.5] * 4], abs=3e-3)
    assert gamma_weights(4, np.random.default_rng(0)).shape == (DRAWS, 5)
