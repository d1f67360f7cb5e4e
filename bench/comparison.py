"""What `bench compare` finds: one verdict a figure, and what could not be compared; plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .bayesian_signed_rank import Posterior
from .comparability import Obstacle
from .paired_scores import MATTERS, Outcome
from .statistics import ALPHA

Status = Literal["ok", "regression", "not_comparable"]
ONE_SIDED = ("only on the first side", "only on the second")
"""Reasons of a gap: what the other side does not have at all."""
EXIT_CODES: Mapping[Status, int] = {"ok": 0, "regression": 1, "not_comparable": 3}


@dataclass(frozen=True)
class Settings:
    """How to compare.

    Attributes:
        columns: figures to compare; empty for all that have a direction. Fewer make a smaller family.
        rope: half-width of the region of practical equivalence, as a part of a column's width.
        bayes: whether to compute posterior probabilities too.
    """

    columns: tuple[str, ...] = ()
    rope: float = MATTERS
    bayes: bool = False


@dataclass(frozen=True)
class Verdict:
    """One figure of the second side against the first.

    Attributes:
        explainer: of both runs; of the second side where two explainers are compared.
        better: ``higher`` or ``lower``.
        n: samples with a value on both sides; ``of`` those with one on either.
        first, second: means over these samples, models averaged first.
        difference: second minus first, with its 95 % interval; None where no sample has both.
        spread: sd (ddof=1) over models of the models' mean differences; None for one model.
        rope: half-width of the region of practical equivalence, in the figure's units.
        test: ``signed-rank``, ``McNemar`` for yes-or-no scores, empty where nothing could be tested.
        p: of that test; ``q`` adjusted over all verdicts by Benjamini and Hochberg.
        effect: matched rank-biserial correlation; positive where the second side's scores are larger.
        cliffs_delta: overlap of the two sides' scores, the pairing ignored; same sign.
        separable: smallest difference that this n finds with 80 % power at 5 %, for one comparison.
        posterior: probabilities of worse (``below``), equivalent and better (``above``); None unless asked for.
        unfit: why the column must not rank methods on these data; such a verdict never decides the exit code.
        note: what else a reader must know.
    """

    board: str
    explainer: str
    own_model: bool
    metric: str
    column: str
    better: str
    verdict: Outcome
    n: int
    of: int
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    rope: float | None = None
    test: str = ""
    p: float | None = None
    q: float | None = None
    effect: float | None = None
    cliffs_delta: float | None = None
    separable: float | None = None
    posterior: Posterior | None = None
    unfit: str = ""
    note: str = ""

    @property
    def decides(self) -> bool:
        """Whether this verdict makes the comparison a regression."""
        return self.verdict == "regressed" and not self.unfit


@dataclass(frozen=True)
class Gap:
    """Figures of one explainer that were not compared, and why."""

    board: str
    explainer: str
    columns: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All verdicts on ``second`` against ``first``.

    Attributes:
        kind: two runs, or two explainers of one run.
        first, second: the runs' folders, or the explainers.
        marks: what must stand beside an explainer's name.
        obstacles: why nothing was compared; empty where something was.
    """

    kind: Literal["runs", "explainers"]
    first: str
    second: str
    settings: Settings
    marks: Mapping[str, tuple[str, ...]]
    verdicts: tuple[Verdict, ...] = ()
    gaps: tuple[Gap, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    alpha: float = ALPHA

    @property
    def status(self) -> Status:
        """What the exit code says."""
        if self.obstacles:
            return "not_comparable"
        return "regression" if any(v.decides for v in self.verdicts) else "ok"

    @property
    def exit_code(self) -> int:
        """0 nothing regressed, 1 something did, 3 not comparable (2 is wrong usage, from the command line)."""
        return EXIT_CODES[self.status]

    @property
    def family(self) -> int:
        """Tests that the false discovery rate is held over."""
        return sum(v.p is not None for v in self.verdicts)

    def count(self) -> Mapping[Outcome, int]:
        """How many verdicts of each kind, all four named."""
        counted = Counter(v.verdict for v in self.verdicts)
        return {kind: counted[kind] for kind in ("regressed", "improved", "equivalent", "inconclusive")}
