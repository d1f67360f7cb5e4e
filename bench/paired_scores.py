"""Two sets of scores paired row by row, differences that matter, and the verdict on one: shared by gate and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from .score_array import ColumnFacts

Outcome = Literal["regressed", "improved", "equivalent", "inconclusive"]
WHO = ["board", "explainer", "own_model"]
FIGURE = [*WHO, "metric", "column"]
CELL = ["board", "model", "explainer", "own_model", "sample", "metric", "column"]
# Differences below this part of a column's width are of no consequence, however certain.
MATTERS = 0.01


def paired(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """One row a score that both have, with its value, status and reason in either."""
    kept = [*CELL, "value", "status", "reason"]
    return before[kept].merge(after[kept], on=CELL, suffixes=("_before", "_after"), validate="one_to_one")


def sample_differences(pairs: pd.DataFrame) -> pd.DataFrame:
    """``after - before`` of each figure, [figures x samples], averaged over models within each sample.

    Differences are taken on one model each, so that a value undefined on one of them never compares different models.
    """
    defined = both_defined(pairs)
    change = defined.assign(change=defined["value_after"] - defined["value_before"])
    return change.groupby([*FIGURE, "sample"], sort=False)["change"].mean().unstack("sample")


def both_defined(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows with a value on either side."""
    return pairs.dropna(subset=["value_before", "value_after"])


def widths(
    defined: pd.DataFrame, facts: Mapping[tuple[str, str], ColumnFacts], sides: Sequence[str] = ("before",)
) -> dict[Any, float]:
    """Width of each figure's range; where an end is open, four standard deviations of the scores of these sides."""
    scores = pd.concat([defined[[*FIGURE, f"value_{side}"]].set_axis([*FIGURE, "value"], axis=1) for side in sides])
    sd = scores.groupby(FIGURE, sort=False)["value"].std(ddof=0)
    found = {}
    for key, spread in zip(sd.index.to_list(), sd, strict=True):
        low, high = facts[key[3], key[4]].range
        found[key] = 4 * float(spread) if low is None or high is None else float(high) - float(low)
    return found


def judge(gain: float, low: float, high: float, p: float, rope: float, alpha: float) -> Outcome:
    """The verdict on one mean difference, oriented so that more is better.

    * equivalent: the interval lies within ``[-rope, rope]``, be the difference ever so certain;
    * improved or regressed: p, adjusted for all comparisons, is below alpha, the interval leaves out zero, and the
      difference is larger than ``rope``;
    * inconclusive: everything else.

    Args:
        gain: mean difference; ``low`` and ``high`` its interval; NaN decides nothing.
        rope: half-width of the region of practical equivalence.
    """
    if -rope <= low and high <= rope:
        return "equivalent"
    if p < alpha and (low > 0 or high < 0) and abs(gain) > rope:
        return "improved" if gain > 0 else "regressed"
    return "inconclusive"
