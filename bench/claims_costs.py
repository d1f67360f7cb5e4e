"""How claims about costs are put to the test, each with the rule that decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .claims import Finding
from .claims_scores import costs_of, matching
from .claims_tests import shown
from .report.run_files import RunFiles

PLAIN = "the plain forward"


@dataclass(frozen=True)
class CostLevel:
    """A cost of a method, by the exact counts or by the clock of one machine, against a number.

    Attributes:
        column: of costs.parquet.
        at_most: what it must not exceed.
        minus: taken off first; 1 turns a ratio to the plain forward into what is added to it.
    """

    column: str
    method: str
    at_most: float
    minus: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def rule(self) -> str:
        what = f"{self.column} - {self.minus:g}" if self.minus else self.column
        return f"{what} of {shown(self.method)} is at most {self.at_most:g}"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        costs = costs_of(run, self.column)
        for method in matching(self.method, costs):
            value = costs[method] - self.minus
            yield Finding(shown(method), "holds" if value <= self.at_most else "does not hold", value)
        if not matching(self.method, costs):
            yield Finding("", "not run", note=f"the run has no {self.column} of {shown(self.method)}")


@dataclass(frozen=True)
class CostRatio:
    """A method's cost over that of its cheapest rival.

    Attributes:
        rivals: patterns, empty for the plain forward; without any all other explainers of the run.
        at_most: what the ratio must not exceed; 1 for the cheapest of all.
        board, rival_board: where each is measured, if on different boards.
    """

    column: str
    method: str
    rivals: tuple[str, ...] = ()
    at_most: float = 1.0
    board: str | None = None
    rival_board: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def rule(self) -> str:
        who = " or ".join(r or PLAIN for r in self.rivals) if self.rivals else "the cheapest other method"
        where = f" on {self.rival_board}" if self.rival_board else ""
        return f"{self.column} of {_at(self.method, self.board)} is at most {self.at_most:g} of {who}{where}"

    def findings(self, run: RunFiles) -> Iterator[Finding]:
        costs, theirs = costs_of(run, self.column, self.board), costs_of(run, self.column, self.rival_board)
        methods = matching(self.method, costs)
        for method in methods:
            rival = min(self._rivals(method, list(theirs)), key=lambda name: theirs[name], default=None)
            if rival is None:
                yield Finding(shown(method), "not run", note=f"the run has no {self.column} to compare with")
                continue
            ratio = costs[method] / theirs[rival]
            subject = f"{_at(method, self.board)} over {_at(rival, self.rival_board)}"
            yield Finding(subject, "holds" if ratio <= self.at_most else "does not hold", ratio)
        if not methods:
            yield Finding("", "not run", note=f"the run has no {self.column} of {shown(self.method)}")

    def _rivals(self, method: str, known: Sequence[str]) -> list[str]:
        if self.rivals:
            return [name for pattern in self.rivals for name in matching(pattern, known)]
        return [name for name in known if name and name.partition(",")[0] != method.partition(",")[0]]


def _at(explainer: str, board: str | None) -> str:
    return (explainer or PLAIN) + (f" on {board}" if board else "")
