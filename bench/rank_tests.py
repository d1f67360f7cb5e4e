"""Tests on ranks over blocks: Friedman with Iman and Davenport's correction, and Nemenyi's critical difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtrc, fdtrc, ndtr

from .contract import BadInputError
from .statistics import ALPHA, midranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Below this number of blocks a critical difference separates next to nothing (five blocks, six methods: 3.4 ranks).
MIN_BLOCKS = 8


@dataclass(frozen=True, eq=False)
class Friedman:
    """Whether k methods differ at all over n complete blocks.

    Attributes:
        mean_ranks: [k], 1 is best; equal scores share their ranks.
        chi2, p_chi2: Friedman's statistic (1937), corrected for ties, and its chi-square p-value, k - 1 degrees.
        f, p: Iman and Davenport's (1980) ``(n - 1) chi2 / (n (k - 1) - chi2)`` and its F p-value, k - 1 and
            (k - 1)(n - 1) degrees; less conservative, and the one to report.
        n, k: complete blocks, methods.
    """

    mean_ranks: Floats
    chi2: float
    p_chi2: float
    f: float
    p: float
    n: int
    k: int


def friedman(scores: Floats, higher_is_better: bool) -> Friedman:
    """Friedman's test of [n, k], blocks x methods; blocks with an undefined score are left out.

    ``chi2 = (k - 1) sum_j (R_j - n (k + 1) / 2)^2 / (sum_ij r_ij^2 - n k (k + 1)^2 / 4)``, R_j the rank sums. Where all
    methods are equal in every block, both statistics are 0 and both p-values 1.

    Raises:
        BadInputError: fewer than three methods or two complete blocks.
    """
    complete = scores[np.isfinite(scores).all(1)]
    n, k = complete.shape
    if k < 3 or n < 2:
        raise BadInputError(f"Friedman's test takes at least 3 methods and 2 complete blocks; here are {k} and {n}.")
    ranks = midranks((-complete if higher_is_better else complete).T)
    spread = float((ranks**2).sum() - n * k * (k + 1) ** 2 / 4)
    between = float(((ranks.sum(1) - n * (k + 1) / 2) ** 2).sum())
    if spread == 0:
        return Friedman(ranks.mean(1), 0.0, 1.0, 0.0, 1.0, n, k)
    chi2 = (k - 1) * between / spread
    left = n * (k - 1) - chi2
    # Where every block ranks alike nothing is left and F is infinite; rounding must not make it negative.
    f = (n - 1) * chi2 / left if left > 1e-9 * chi2 else float("inf")
    p = 0.0 if np.isinf(f) else float(fdtrc(k - 1, (k - 1) * (n - 1), f))
    return Friedman(ranks.mean(1), chi2, float(chdtrc(k - 1, chi2)), f, p, n, k)


def critical_difference(k: int, blocks: int, alpha: float = ALPHA) -> float:
    """Nemenyi's smallest significant difference of two mean ranks: ``q_alpha(k) sqrt(k (k + 1) / (6 blocks))``.

    q is the studentised range's quantile for infinite degrees of freedom over sqrt(2) (Demsar 2006, section 3.2.2).

    Raises:
        BadInputError: fewer than two methods or ``MIN_BLOCKS`` blocks.
    """
    if k < 2 or blocks < MIN_BLOCKS:
        raise BadInputError(
            f"a critical difference takes at least 2 methods and {MIN_BLOCKS} blocks; here are {k} and {blocks}."
        )
    return studentised_range(k, alpha) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * blocks))


@cache
def studentised_range(k: int, alpha: float = ALPHA) -> float:
    """The range that k standard normal draws exceed with probability ``alpha``: infinite degrees of freedom.

    ``P(range < q) = k int phi(x) (Phi(x) - Phi(x - q))^(k - 1) dx``, by the trapezoidal rule, which for so smooth an
    integrand is exact to rounding; solved by bisection. (``scipy.stats`` has it too, and takes a second to import.)
    """
    x = np.linspace(-9, 9, 721)
    weights = k * (x[1] - x[0]) * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 50.0
    while high - low > 1e-13 * high:
        q = (low + high) / 2
        below = float(weights @ (ndtr(x) - ndtr(x - q)) ** (k - 1))
        low, high = (q, high) if below < 1 - alpha else (low, q)
    return (low + high) / 2
