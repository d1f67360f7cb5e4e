"""The lines of the speed table, their targets, and the page that they stand on: pure functions."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .contract import BadInputError
from .report.figures_text import grid

Per = Literal["batch", "step", "forward"]

CAMS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "hires_cam", "layer_grad_cam", "finer_cam")
GRADIENTS = ("chefer_generic", "focusvit,skip=0", "ag_cam", "grad_rollout", "saliency", "attn_lrp")
TARGETS: Mapping[str, float] = {
    **dict.fromkeys(("rollout", "raw_attention", "eigen_cam"), 1.15),
    **dict.fromkeys(CAMS, 1.25),
    **dict.fromkeys(GRADIENTS, 2.4),
    **dict.fromkeys(("occlusion,stride=2,budget=64", "rise,budget=64", "score_cam,budget=64"), 1.15),
    "legrad,layers=2": 1.4,
    "legrad": 2.3,
    "chefer_lrp": 6.5,
    "integrated_gradients,steps=2": 2.2,
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: spec of the explainer, or what a peer is called.
        ratios: one a pair, CPU time of the explanation over that of a plain forward of as many images.
        memory: peak of allocated memory over that of the plain forward.
        forwards, backwards: rows an image.
        per: what ``figure`` is divided by: nothing, backward passes, or forward passes.
        marginal: the same ratio where the recorded pass was there already, median; None for a method without a tape.
        tapes: what it asked to be recorded of the frozen model, one text a pass.
        peer: a public implementation.
    """

    name: str
    ratios: tuple[float, ...]
    memory: float
    forwards: float
    backwards: float
    per: Per = "batch"
    marginal: float | None = None
    tapes: tuple[str, ...] = ()
    peer: bool = False

    def __post_init__(self) -> None:
        if not self.ratios:
            raise BadInputError(f"{self.name} was timed in no pair.")

    @property
    def figure(self) -> float:
        """What is held against the target: the median ratio, per pass where that is the unit."""
        return statistics.median(self.ratios) / self._passes

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest of the pairs, in the unit of ``figure``."""
        return min(self.ratios) / self._passes, max(self.ratios) / self._passes

    @property
    def target(self) -> float | None:
        """The largest figure that it should have."""
        return TARGETS.get(self.name)

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; empty without a target."""
        return "" if self.target is None else "met" if self.figure <= self.target else "missed"

    @property
    def _passes(self) -> float:
        return {"batch": 1.0, "step": self.backwards, "forward": self.forwards}[self.per]


@dataclass(frozen=True)
class Missing:
    """An explainer or peer without a line, and why."""

    name: str
    reason: str


def table(rows: Sequence[Row]) -> str:
    """Markdown of the explainers' lines; a letter stands for a recording that several share, explained below."""
    asked = Counter(tape for row in rows for tape in row.tapes)
    shared = [tape for tape, count in asked.items() if count > 1]
    letters = {tape: chr(ord("A") + index) for index, tape in enumerate(shared)}
    header = ("explainer", "ratio", "pairs", "target", "", "marginal", "tape", "memory", "forwards + backwards")
    lines = []
    for row in rows:
        wanted = "" if row.target is None else f"≤ {row.target:g}"
        marginal = "" if row.marginal is None else f"{row.marginal:.2f}"
        tapes = " ".join(letters[tape] for tape in row.tapes if tape in letters)
        passes = f"{row.forwards:g} + {row.backwards:g}"
        verdict = "**missed**" if row.verdict == "missed" else row.verdict
        cells = (f"`{row.name}`", _ratio(row), _pairs(row), wanted, verdict, marginal, tapes, f"{row.memory:.1f}")
        lines.append((*cells, passes))
    text = grid(header, lines, right=False)
    legend = "\n".join(f"- {letter}: {tape}" for tape, letter in letters.items())
    return f"{text}\n\nRecorded passes that several share:\n\n{legend}" if legend else text


def peer_table(rows: Sequence[Row]) -> str:
    """Markdown of the peers' lines."""
    header = ("peer", "ratio", "pairs", "memory")
    return grid(header, [(row.name, _ratio(row), _pairs(row), f"{row.memory:.1f}") for row in rows], right=False)


def left_out(missing: Sequence[Missing]) -> str:
    """Markdown: what has no line, and why."""
    return "\n".join(["Not measured:", "", *(f"- `{one.name}`: {one.reason}" for one in missing)])


def shown(line: Row | Missing) -> str:
    """A line in short, for people who wait."""
    return line.reason if isinstance(line, Missing) else f"{_ratio(line)} {_pairs(line)} {line.verdict}"


def _ratio(row: Row) -> str:
    return f"{row.figure:.2f}" + ("" if row.per == "batch" else f" a {row.per}")


def _pairs(row: Row) -> str:
    low, high = row.spread
    return f"{len(row.ratios)}" + (f" ({low:.2f}–{high:.2f})" if len(row.ratios) > 1 else "")


def filled(page: str, text: str, mark: str = "speed") -> str:
    """The page with a text between its two marks, ``<!-- speed -->`` or another.

    Raises:
        BadInputError: the marks are not there.
    """
    before, start, rest = page.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not start or not end:
        raise BadInputError(f"the page needs the marks <!-- {mark} --> and <!-- /{mark} -->, one after the other.")
    return f"{before}{start}{text}\n{end}{after}"


def report(head: str, lines: Sequence[Row | Missing]) -> str:
    """All that stands between the marks: conditions, explainers, peers, what was not measured."""
    rows = [line for line in lines if isinstance(line, Row)]
    missing = [line for line in lines if isinstance(line, Missing)]
    parts = [head, table([row for row in rows if not row.peer])]
    parts += [peer_table(peers)] if (peers := [row for row in rows if row.peer]) else []
    parts += [left_out(missing)] if missing else []
    return "\n\n".join(parts)
