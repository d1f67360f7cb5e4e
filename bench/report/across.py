"""The boards together as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ..across_boards import AcrossBoards
from .figures_text import grid, marked, number, p_value, spelled
from .rank_diagram import rank_diagram

NOTE = (
    "Mean ranks over blocks, 1 is best; a block is a board with one of its models. Two methods whose mean ranks differ "
    "by less than the critical difference (Nemenyi, 5 %) cannot be told apart. Models of a board share its data, and "
    "boards may: the blocks are not independent, so it takes more than the critical difference, and p is too small."
)


def as_json(columns: Sequence[AcrossBoards]) -> str:
    """A list, one entry a headline column."""
    return json.dumps([asdict(c) for c in columns], indent=1, ensure_ascii=False, allow_nan=False, default=dict) + "\n"


def as_markdown(columns: Sequence[AcrossBoards]) -> str:
    """One table of mean ranks, what was refused and why."""
    shown = [c for c in columns if not c.refused]
    parts = ["# Across boards"]
    if shown:
        head = ["explainer", *(f"{c.column}<br>{', '.join(c.boards)}" for c in shown)]
        lines = [[marked(name, marks), *(_rank(c, name) for c in shown)] for name, marks in methods(shown).items()]
        lines.append(["*critical difference*", *(number(c.critical_difference) for c in shown)])
        lines.append(["*blocks*", *(str(c.blocks) for c in shown)])
        lines.append(["*p (Iman-Davenport)*", *(p_value(c.omnibus.p if c.omnibus else None) for c in shown)])
        parts += [NOTE, grid(head, lines)]
    refused = [f"- {c.column}: no ranks across boards, {c.refused}." for c in columns if c.refused]
    return "\n\n".join([*parts, *(["\n".join(refused)] if refused else [])]) + "\n"


def diagram(column: AcrossBoards) -> str:
    """The critical-difference diagram of a column that was not refused, as SVG."""
    assert column.critical_difference is not None
    title = f"mean ranks in {column.column} over {column.blocks} blocks, critical difference"
    marks = {name: ", ".join(spelled(column.marks[name])) for name in column.mean_ranks}
    ranks = {name + (f" ({marks[name]})" if marks[name] else ""): rank for name, rank in column.mean_ranks.items()}
    return rank_diagram(title, ranks, column.critical_difference)


def methods(columns: Sequence[AcrossBoards]) -> dict[str, tuple[str, ...]]:
    """Methods of all columns, the best of the first column first, and what must stand beside their names."""
    return {name: column.marks[name] for column in columns for name in column.mean_ranks}


def _rank(column: AcrossBoards, name: str) -> str:
    rank = column.mean_ranks.get(name)
    return "–" if rank is None else f"{rank:.2f}"
