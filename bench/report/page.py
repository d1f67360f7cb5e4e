"""The one self-contained page: all leaderboards, their notes, the gallery and where the numbers come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..across_boards import AcrossBoards
from ..board_figures import Figure, Leaderboard, Row
from . import across
from . import figures_text as text
from .gallery import Gallery

TEMPLATES = Path(__file__).parent / "templates"
GROUPS: Mapping[str, str] = {
    "oracle": "Ceiling: built from the truth",
    "method": "Methods",
    "floor": "Floors: look at no decision",
    "failed": "Failed or refused",
}


@dataclass(frozen=True)
class Whisker:
    """Where interval and mean lie on a column's common scale, in percent of the cell."""

    low: float
    high: float
    mean: float


@dataclass(frozen=True, eq=False)
class BoardView:
    """What the template shows of one board."""

    board: Leaderboard
    gallery: Gallery | None
    whiskers: Mapping[tuple[int, str], Whisker]

    @property
    def anchor(self) -> str:
        """Fragment of the section's address."""
        return f"board-{self.board.board}"

    @property
    def groups(self) -> list[tuple[str, str, list[tuple[int, Row]]]]:
        """(key, title, numbered rows) of each part of the tables, empty parts left out."""
        numbered = list(enumerate(self.board.rows))
        parts = [(key, title, [(i, r) for i, r in numbered if r.group == key]) for key, title in GROUPS.items()]
        return [part for part in parts if part[2]]

    @property
    def primary(self) -> list[str]:
        """Columns of the short table."""
        return [name for name, column in self.board.columns.items() if column.primary]

    @property
    def other(self) -> list[str]:
        """Columns of the long table."""
        return [name for name, column in self.board.columns.items() if not column.primary]

    def labels(self, row: Row) -> tuple[str, ...]:
        """Marks beside an explainer's name."""
        return text.labels(self.board, row.entry.explainer, row.entry.own_model, row.entry.label)


def page(
    boards: Sequence[Leaderboard],
    galleries: Mapping[str, Gallery],
    facts: Mapping[str, Any],
    together: Sequence[AcrossBoards] = (),
    claims: bool = False,
) -> str:
    """The page's HTML.

    Args:
        galleries: by board; boards without one show no pictures.
        facts: run.json, for the provenance at the foot.
        together: columns over several boards.
        claims: whether the ledger of the papers' claims lies beside the page.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "cost": text.cost,
        "percent": text.percent,
        "interval": text.interval,
        "rank": text.rank,
        "draws": text.draws,
        "estimate": text.estimate,
        "p_value": text.p_value,
        "front": text.front,
        "spelled": text.spelled,
    }
    views = [BoardView(board, galleries.get(board.board), _whiskers(board)) for board in boards]
    return environment.get_template("page.html.j2").render(
        views=views,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "sort.js").read_text(encoding="utf-8")),
        arrows=text.ARROWS,
        policy_lines=text.policy_lines,
        undefined_lines=text.undefined_lines,
        aggregates_line=text.aggregates_line,
        claims=claims,
        together=together,
        together_note=across.NOTE,
        diagram=lambda column: Markup(across.diagram(column)),
        together_methods=across.methods([c for c in together if not c.refused]),
        suite=facts["suite"],
        provenance=provenance(facts),
    )


def provenance(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) lines of run.json but for columns and suite, nested values as compact JSON."""
    shown = []
    for key, value in facts.items():
        if key in ("columns", "suite") or value in (None, {}, []):
            continue
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
        shown.append((key.replace("_", " "), plain))
    return shown


def _whiskers(board: Leaderboard) -> dict[tuple[int, str], Whisker]:
    """One scale a column, from the least lower to the largest upper end over all rows."""
    whiskers = {}
    for name in board.columns:
        figures = {i: r.figures[name] for i, r in enumerate(board.rows) if name in r.figures}
        ends = [end for f in figures.values() for end in _ends(f)]
        if not ends or max(ends) == min(ends):
            continue
        start, width = min(ends), max(ends) - min(ends)
        for i, figure in figures.items():
            if figure.headline.mean is not None:
                low, high = _ends(figure)
                whiskers[i, name] = Whisker(
                    *(round(100 * (value - start) / width, 1) for value in (low, high, figure.headline.mean))
                )
    return whiskers


def _ends(figure: Figure) -> tuple[float, ...]:
    h = figure.headline
    if h.mean is None:
        return ()
    return (h.mean if h.low is None else h.low, h.mean if h.high is None else h.high)
