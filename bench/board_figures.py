"""What a leaderboard holds: rows of figures with their uncertainty; plain data between tables, report and gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .score_array import ColumnFacts, Entry

BOUNDS = ("floor", "oracle")


@dataclass(frozen=True)
class Estimate:
    """A mean over samples with its 95 % bootstrap interval; None where undefined."""

    mean: float | None
    low: float | None
    high: float | None
    n_ok: int
    n: int


@dataclass(frozen=True)
class Figure:
    """One cell of a leaderboard.

    Attributes:
        headline: over the samples that count for this column.
        all_samples: over all samples, where the headline leaves some out; else None.
        rank: best and worst rank among the methods; None for bounds and in columns that are unfit or have no direction.
        spread: sd (ddof=1) of the models' means; None for one model.
        behind: paired difference to the best mean in this column, with its own interval; None for the best itself.
        above_floors: separably better than every floor; None where the board has no floor or the column no direction.
        status, reason: ``ok``, or why samples are missing (the commonest cause).
    """

    headline: Estimate
    all_samples: Estimate | None
    rank: tuple[int, int] | None
    spread: float | None
    behind: Estimate | None
    above_floors: bool | None
    status: str
    reason: str


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a leaderboard.

    Attributes:
        primary: shown in the short table.
        counted: (sample, model) pairs that the headline counts, of all.
        separable: smallest difference of one pair found with 80 % power; None with fewer than two methods.
        unfit: why this column must not be ranked on this data; empty where the oracle is above the floors.
        tested: whether the board has an oracle and floors, so that ``unfit`` could be decided at all.
    """

    facts: ColumnFacts
    primary: bool
    counted: tuple[int, int]
    separable: float | None
    unfit: str
    tested: bool


@dataclass(frozen=True)
class Row:
    """One explainer on one model.

    Attributes:
        figures: by column name.
        costs: of explaining; empty for the frozen model's row of a method that has another one.
        accuracy: of the model that is explained.
        failed: why there is no figure at all; empty where there is one.
        criterion: what ``fit`` maximised or minimised on validation data, as the method says it; empty for none.
    """

    entry: Entry
    figures: Mapping[str, Figure]
    costs: Mapping[str, float]
    accuracy: float | None
    failed: str
    criterion: str = ""

    def tuned_on(self, column: str) -> bool:
        """Whether the method was tuned on this figure: the criterion begins its name (``insertion``: insertion_auc)."""
        return bool(self.criterion) and column.startswith(self.criterion)

    @property
    def group(self) -> str:
        """``oracle``, ``method``, ``floor`` or ``failed``: the parts of a table, in this order."""
        if self.failed:
            return "failed"
        return self.entry.label if self.entry.label in BOUNDS else "method"


@dataclass(frozen=True)
class ModelSummary:
    """One model of a board: accuracy and share of samples whose truth it uses (None where unknown)."""

    model: str
    accuracy: float | None
    truth_used: float | None


@dataclass(frozen=True)
class Leaderboard:
    """Everything that one board's csv, md, json and page section say.

    Attributes:
        policy: the suite's target policy.
        n: samples.
        lead: the column that orders the rows; None where no column has a direction.
        names: column names in table order (``columns[name].facts`` tells the metric).
        model_figures: figures that no explanation influences, by column name.
        cost_names: columns of costs.parquet present here.
    """

    board: str
    dataset: str
    kind: str
    policy: str
    n: int
    models: tuple[ModelSummary, ...]
    lead: str | None
    columns: Mapping[str, ColumnSummary]
    rows: tuple[Row, ...]
    model_figures: Mapping[str, Figure]
    cost_names: tuple[str, ...]
    plain_costs: Mapping[str, float]

    def share_truth_used(self) -> float | None:
        """Share of (sample, model) pairs whose truth the model demonstrably uses; None where it cannot be tested."""
        shares = [m.truth_used for m in self.models if m.truth_used is not None]
        return sum(shares) / len(shares) if shares else None
