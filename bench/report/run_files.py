"""What a finished run left on disk, read back: scores, costs and run.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..board_figures import Leaderboard
from ..contract import BadInputError
from ..score_array import SCORE_COLUMNS, ColumnFacts
from ..tables import leaderboard

COST_COLUMNS = ("board", "dataset", "model", "kind", "explainer", "column", "value", "machine")


@dataclass(frozen=True, eq=False)
class RunFiles:
    """The files of one run.

    Attributes:
        out: folder that ``bench run`` wrote.
        scores, costs: the long frames, see docs/architecture.md.
        facts: run.json.
    """

    out: Path
    scores: pd.DataFrame
    costs: pd.DataFrame
    facts: Mapping[str, Any]

    @property
    def columns(self) -> tuple[ColumnFacts, ...]:
        """Declarations of all figures, in the suite's order."""
        return tuple(ColumnFacts.of_json(c) for c in self.facts["columns"])

    @cached_property
    def boards(self) -> Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]:
        """Scores and costs of each board, in the order of the scores."""
        costs = _by_board(self.costs)
        none = self.costs.iloc[:0]
        return {board: (scores, costs.get(board, none)) for board, scores in _by_board(self.scores).items()}

    @property
    def suite(self) -> Mapping[str, Any]:
        """The suite as the run resolved it."""
        return dict(self.facts["suite"])


def read_run(out: Path) -> RunFiles:
    """Reads a run's folder.

    Raises:
        BadInputError: a file or a column is missing; the text says which and how to make it.
    """
    facts_file = out / "run.json"
    if not facts_file.is_file():
        raise BadInputError(
            f"no run.json in {out}. Run `bench run --out {out}` first, or name the folder of a finished run."
        )
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    missing = [key for key in ("columns", "suite") if key not in facts]
    if missing:
        raise BadInputError(
            f"{facts_file} lacks {', '.join(missing)}; it was written by another version. Run `bench run` again."
        )
    return RunFiles(out, _read_frame(out / "scores.parquet", SCORE_COLUMNS), _read_costs(out / "costs.parquet"), facts)


def leaderboards(run: RunFiles) -> tuple[Leaderboard, ...]:
    """One leaderboard a board, in the order of the scores."""
    declared, suite, tuned = run.columns, run.suite, criteria(run.facts)

    def of(rows: tuple[pd.DataFrame, pd.DataFrame]) -> Leaderboard:
        scores, costs = rows
        return leaderboard(
            scores, costs, declared, policy=str(suite["target"]), seed=int(suite["seed"]), criteria=tuned,
            split=str(suite.get("split", "test")),
        )  # fmt: skip

    # numpy lets go of the lock where the time goes, the bootstrap; more threads than cores share these evenly.
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(of, run.boards.values()))


def criteria(facts: Mapping[str, Any]) -> dict[str, str]:
    """Explainer -> what its fit maximised or minimised, where it says so."""
    fits = facts.get("fits", ())
    return {fit["explainer"]: str(fit["facts"]["criterion"]) for fit in fits if fit["facts"].get("criterion")}


def _by_board(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each board, without a copy where they stand together, as a run writes them."""
    codes, boards = pd.factorize(rows["board"])
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    if len(starts) > len(boards):
        return {str(board): rows[codes == code] for code, board in enumerate(boards)}
    ends = [*starts, len(rows)][1:]
    return {str(boards[codes[start]]): rows.iloc[start:end] for start, end in zip(starts, ends, strict=True)}


def _read_costs(path: Path) -> pd.DataFrame:
    """A run without profiling writes no costs."""
    return _read_frame(path, COST_COLUMNS) if path.is_file() else pd.DataFrame(columns=list(COST_COLUMNS))


def _read_frame(path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise BadInputError(f"no {path.name} in {path.parent}. Run `bench run --out {path.parent}` first.")
    frame = pd.read_parquet(path)
    missing = [name for name in names if name not in frame]
    if missing:
        raise BadInputError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame))}.")
    return frame
