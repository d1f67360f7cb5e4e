"""What a leaderboard holds: rows of figures with their uncertainty; plain data between tables, report and gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import stdev

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
        by_model: the headline's mean on each of the board's models; None where undefined.
        by_draw: the headline's mean of each of the explainer's draws, this one first; empty where there is one.
        behind: paired difference to the best mean in this column, with its own interval; None for the best itself.
        above_floors: separably better than every floor; None where the board has no floor or the column no direction.
        status, reason: ``ok``, or why samples are missing (the commonest cause).
    """

    headline: Estimate
    all_samples: Estimate | None
    rank: tuple[int, int] | None
    spread: float | None
    by_model: tuple[float | None, ...]
    behind: Estimate | None
    above_floors: bool | None
    status: str
    reason: str
    by_draw: tuple[float | None, ...] = ()

    @property
    def draw_spread(self) -> float | None:
        """Sd (ddof=1) over the draws that have a mean; None with fewer than two."""
        known = [mean for mean in self.by_draw if mean is not None]
        return stdev(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Omnibus:
    """Do the methods differ at all in this column? Friedman's test over samples, Iman and Davenport's F.

    Attributes:
        n, k: samples on which every method is defined, methods.
    """

    f: float | None
    p: float
    n: int
    k: int


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a leaderboard.

    Attributes:
        primary: shown in the short table.
        counted: (sample, model) pairs that the headline counts, of all.
        separable: smallest difference of one pair found with 80 % power; None with fewer than two methods.
        unfit: why this column must not be ranked on this data; empty where the oracle is above the floors.
        tested: whether the board has an oracle and floors, so that ``unfit`` could be decided at all.
        omnibus: of the ranked methods; None with fewer than three or two complete samples.
    """

    facts: ColumnFacts
    primary: bool
    counted: tuple[int, int]
    separable: float | None
    unfit: str
    tested: bool
    omnibus: Omnibus | None


@dataclass(frozen=True)
class Aggregate:
    """One method over the columns of ``Aggregates``; see ``bench/aggregates.py`` for the formulas.

    Attributes:
        marks: what must stand beside the name: its status, and that it brings its own model.
        columns: figures that it has a score in.
        mean_rank: over those; rank 1 is the best mean. With its 95 % bootstrap interval.
        win_rate: how often it is better than a rival on a (sample, model) pair, mean over those figures.
        radar: area under the radar in the table's order, as a share of the largest; None below three figures.
        radar_order_free: the same, mean over all orders of the axes. With its interval.
        on_front: no method is at least as good in ``front_quality`` and as cheap; None where cost or score is unknown.
    """

    explainer: str
    marks: tuple[str, ...]
    columns: int
    mean_rank: Estimate
    win_rate: float | None
    radar: float | None
    radar_order_free: Estimate | None
    on_front: bool | None


@dataclass(frozen=True)
class Aggregates:
    """Methods over a board's headline columns.

    Attributes:
        columns: headline columns with a direction that are not known to be unfit and that at least half of the
            methods have, in table order.
        front_quality, front_cost: what the Pareto front weighs against each other; None where the run lacks one.
        methods: best mean rank first.
    """

    columns: tuple[str, ...]
    front_quality: str | None
    front_cost: str | None
    methods: tuple[Aggregate, ...]


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
        """Whether the method was tuned on this figure."""
        return tuned_on(self.criterion, column)

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
        split: that the samples are from.
        n: samples.
        lead: the column that orders the rows; None where no column has a direction.
        names: column names in table order (``columns[name].facts`` tells the metric).
        model_figures: figures that no explanation influences, by column name.
        cost_names: columns of costs.parquet present here.
        aggregates: over the headline columns; None where no such column has two methods.
    """

    board: str
    dataset: str
    kind: str
    policy: str
    split: str
    n: int
    models: tuple[ModelSummary, ...]
    lead: str | None
    columns: Mapping[str, ColumnSummary]
    rows: tuple[Row, ...]
    model_figures: Mapping[str, Figure]
    cost_names: tuple[str, ...]
    plain_costs: Mapping[str, float]
    aggregates: Aggregates | None

    def share_truth_used(self) -> float | None:
        """Share of (sample, model) pairs whose truth the model demonstrably uses; None where it cannot be tested."""
        shares = [m.truth_used for m in self.models if m.truth_used is not None]
        return sum(shares) / len(shares) if shares else None


def tuned_on(criterion: str, column: str) -> bool:
    """Whether a method was tuned on this figure: its criterion begins the name (``insertion``: insertion_auc)."""
    return bool(criterion) and column.startswith(criterion)


def method_marks(entries: Iterable[Entry], explainer: str) -> tuple[str, ...]:
    """What must stand beside a method's name wherever it stands; nothing for an exact one on the frozen model."""
    own = [entry for entry in entries if entry.explainer == explainer]
    labels = sorted({entry.label for entry in own} - {"exact"})
    return (*labels, *(("own model",) if any(entry.own_model for entry in own) else ()))
