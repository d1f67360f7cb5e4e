"""How probable it is that one method is better, worse, or practically the same: the Bayesian signed-rank test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# A probability is off by less than 0.007 (one standard error).
DRAWS = 5_000
# Weight of the prior's one pseudo-difference, which is zero: half a sample, as in Benavoli et al. and in baycomp.
PRIOR = 0.5


@dataclass(frozen=True)
class Posterior:
    """Probabilities that the difference lies below, inside and above the region of practical equivalence; sum 1."""

    below: float
    within: float
    above: float


def gamma_weights(n: int, generator: np.random.Generator, draws: int = DRAWS) -> Floats:
    """Unnormalised Dirichlet weights of the pseudo-difference and of n samples, [draws, 1 + n].

    One matrix serves all comparisons on the same samples: weights of a subset, divided by their sum, are Dirichlet too.
    """
    shape = np.concatenate([[PRIOR], np.ones(n)])
    return generator.standard_gamma(shape, size=(draws, n + 1))


def bayesian_signed_rank(differences: Floats, rope: float, weights: Floats) -> Posterior:
    """The Bayesian Wilcoxon signed-rank test with a Dirichlet process prior (Benavoli et al. 2014).

    With w ~ Dirichlet(1/2, 1, .., 1) over z = (0, differences): ``theta_above = sum_ij w_i w_j [z_i + z_j > 2 rope]``,
    ``theta_below`` likewise, ``theta_within`` the rest; the probability of a region is the share of draws in which its
    theta is the largest.

    Args:
        differences: [n]; NaN entries are left out.
        rope: half-width of the region, at least 0.
        weights: of ``gamma_weights``, [draws, 1 + n].
    """
    defined = np.isfinite(differences)
    z = np.concatenate([[0.0], differences[defined]])
    drawn = weights[:, np.concatenate([[True], defined])]
    order = np.argsort(z, kind="stable")
    z, drawn = z[order], drawn[:, order]
    drawn = drawn / drawn.sum(1, keepdims=True)
    # cumulative[:, i] is the weight of the i smallest: each inner sum of the double sum is one look-up.
    cumulative = np.concatenate([np.zeros((len(drawn), 1)), np.cumsum(drawn, 1)], 1)
    beyond = 1 - cumulative[:, np.searchsorted(z, 2 * rope - z, "right")]
    short = cumulative[:, np.searchsorted(z, -2 * rope - z, "left")]
    above, below = (drawn * beyond).sum(1), (drawn * short).sum(1)
    largest = np.argmax(np.stack([below, 1 - above - below, above]), axis=0)
    shares = np.bincount(largest, minlength=3) / len(drawn)
    return Posterior(*(float(share) for share in shares))
