"""How the gate compares figures: exactly, statistically, map by map, and counted costs; see docs/gate.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from .gate_findings import FAILED, Finding, Kind
from .paired_scores import MATTERS, WHO, both_defined, judge, sample_differences, widths
from .score_array import ColumnFacts
from .statistics import holm, paired_t

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Floating-point sums change their last bits with threads and processes; a change of method changes far more.
RELATIVE, ABSOLUTE = 1e-5, 1e-5
# A whole gate may cry wolf once in a thousand times, not in twenty.
ALPHA = 0.001
# Counts of work: exact on every machine. Latency and memory never gate.
COUNTED_COSTS = ("forwards", "backwards", "gflops", "flops_ratio", "parameters")


def exact_scores(pairs: pd.DataFrame, facts: Mapping[tuple[str, str], ColumnFacts]) -> Iterable[Finding]:
    """Any figure that moved beyond rounding, or became (un)defined."""
    old, new = pairs["value_before"].to_numpy(float), pairs["value_after"].to_numpy(float)
    same = np.isclose(new, old, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    same &= (
        ~(pairs["status_before"] != pairs["status_after"]).to_numpy() | pairs["status_after"].isin(FAILED).to_numpy()
    )
    moved = pairs[~same & ~pairs["status_after"].isin(FAILED).to_numpy()]
    for (board, explainer, own, metric, column), rows in moved.groupby([*WHO, "metric", "column"], sort=False):
        change = (rows["value_after"] - rows["value_before"]).to_numpy(float)
        defined = np.isfinite(change)
        counted = f"{len(rows)} of {_count(pairs, board, explainer, own, metric, column)} scores"
        if not defined.any():
            before, after = rows.iloc[0]["status_before"], rows.iloc[0]["status_after"]
            yield Finding("changed", board, explainer, column, f"{counted}: {before} before, {after} now{_own(own)}")
            continue
        mean, largest = float(change[defined].mean()), float(np.abs(change[defined]).max())
        kind = _direction(facts[metric, column].better, mean)
        # Golden values may not move at all: an improvement is written into the baseline on purpose, or is a bug.
        text = f"{counted} differ, by {mean:+.4g} on average, {largest:.4g} at most ({kind}){_own(own)}"
        yield Finding("worse" if kind == "worse" else "changed", board, explainer, column, text)


def _count(pairs: pd.DataFrame, board: str, explainer: str, own: bool, metric: str, column: str) -> int:
    here = (pairs["board"] == board) & (pairs["explainer"] == explainer) & (pairs["own_model"] == own)
    return int((here & (pairs["metric"] == metric) & (pairs["column"] == column)).sum())


def _direction(better: str, change: float) -> Literal["worse", "better", "changed"]:
    if better == "none" or change == 0:
        return "changed"
    return "better" if (change > 0) == (better == "higher") else "worse"


def _own(own: bool) -> str:
    return ", on its own model" if own else ""


def golden_maps(before: Path, after: Path) -> Iterable[Finding]:
    """Native maps of the baseline's golden samples, each relative to its own largest value."""
    if not before.is_dir():
        yield Finding("note", "", "", "map", "the baseline holds no golden maps; only scores were compared")
        return
    for file in sorted(before.glob("*.safetensors")):
        if not (after / file.name).is_file():
            yield Finding("missing", file.stem, "", "map", "the fresh run wrote no golden maps of this board")
            continue
        old, new = load_file(file), load_file(after / file.name)
        for name in sorted(old.keys() & new.keys()):
            difference = map_difference(old[name], new[name])
            if difference > RELATIVE:
                # Tensors are named explainer|part.
                yield Finding(
                    "changed",
                    file.stem,
                    name.partition("|")[0],
                    "map",
                    f"{name} differs by {difference:.3g} of its largest value",
                )
        for name in sorted(old.keys() - new.keys()):
            yield Finding("missing", file.stem, name.partition("|")[0], "map", f"no golden map {name} now")


def map_difference(old: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """Largest absolute difference of two maps over the largest absolute value of the old; infinite for other shapes."""
    if old.shape != new.shape or not np.isfinite(new).all():
        return float("inf")
    scale = float(np.abs(old).max(initial=0.0))
    difference = float(np.abs(new.astype(np.float64) - old).max(initial=0.0))
    return difference / scale if scale > 0 else (0.0 if difference == 0 else float("inf"))


def statistical_scores(pairs: pd.DataFrame, facts: Mapping[tuple[str, str], ColumnFacts]) -> Iterable[Finding]:
    """Paired t-tests of every explainer's every figure, Holm over all of them; small differences never gate."""
    table = sample_differences(pairs)
    if table.empty:
        return
    test = paired_t(table.to_numpy(float).T, ALPHA)
    adjusted = holm(test.p)
    width = widths(both_defined(pairs), facts)
    for place, key in enumerate(table.index):
        board, explainer, own, metric, column = key
        mean, low, high = (float(part[place]) for part in (test.mean, test.low, test.high))
        verdict = judge(mean, low, high, float(adjusted[place]), MATTERS * width[key], ALPHA)
        if verdict in ("equivalent", "inconclusive"):
            continue
        text = (
            f"{mean:+.4g} on average, 99.9 % interval [{low:+.4g}, {high:+.4g}], "
            f"n = {test.n_ok[place]}, adjusted p = {adjusted[place]:.2g}{_own(own)}"
        )
        yield Finding(_direction(facts[metric, column].better, mean), board, explainer, column, text)


def counted_costs(before: pd.DataFrame, after: pd.DataFrame) -> Iterable[Finding]:
    """Forwards, backwards, FLOPs and parameters: exact on every machine, gated in both directions."""
    names = ["board", "model", "explainer", "column"]
    kept = [*names, "value"]
    pairs = before[before["column"].isin(COUNTED_COSTS)][kept].merge(
        after[kept], on=names, suffixes=("_before", "_after")
    )
    old, new = pairs["value_before"].to_numpy(float), pairs["value_after"].to_numpy(float)
    for row in pairs[~np.isclose(old, new, rtol=1e-9, atol=0, equal_nan=True)].itertuples(index=False):
        kind: Kind = "worse" if row.value_after > row.value_before else "changed"
        text = f"{row.value_before:g} before, {row.value_after:g} now on {row.model}"
        yield Finding(kind, str(row.board), str(row.explainer), str(row.column), text)
