"""Critical-difference diagrams (Demsar 2006, figure 1) as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, MARGIN, LINE = 860, 240, 17
AXIS, FIRST_BAR, BAR = 46, 58, 7
"""Heights in pixels: of the axis, of the first bar below it, and from bar to bar."""


def cliques(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """First and last place of every largest run of methods that no critical difference parts; ``ranks`` are sorted.

    Runs of one method are left out: it differs from both neighbours.
    """
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(i for i in range(first, len(ranks)) if ranks[i] - ranks[first] <= critical_difference)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def rank_diagram(title: str, mean_ranks: Mapping[str, float], critical_difference: float) -> str:
    """The diagram as an SVG element: mean ranks on an axis, the best on the left, a bar over what cannot be told apart.

    Args:
        title: for those who do not see it.
        mean_ranks: by method, best first.
        critical_difference: of two mean ranks.
    """
    names, ranks = list(mean_ranks), list(mean_ranks.values())
    bars = cliques(ranks, critical_difference)
    labels = FIRST_BAR + BAR * len(bars) + LINE
    half = (len(names) + 1) // 2
    height = labels + LINE * half

    def x(rank: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (rank - 1) / max(len(names) - 1, 1)

    parts = [_line(x(1), AXIS, x(len(names)), AXIS)]
    for rank in range(1, len(names) + 1):
        parts += [_line(x(rank), AXIS - 5, x(rank), AXIS), _text(x(rank), AXIS - 9, str(rank), "middle")]
    parts.append(_line(x(1), 14, x(1 + critical_difference), 14, 2))
    parts.append(_text(x(1), 10, f"critical difference {critical_difference:.2f}", "start"))
    for place, (first, last) in enumerate(bars):
        y = FIRST_BAR + BAR * place
        parts.append(_line(x(ranks[first]) - 3, y, x(ranks[last]) + 3, y, 3))
    for place, name in enumerate(names):
        at, left = x(ranks[place]), place < half
        y = labels + LINE * (place if left else len(names) - 1 - place)
        end, anchor = (MARGIN - 8.0, "end") if left else (WIDTH - MARGIN + 8.0, "start")
        parts += [_line(at, AXIS, at, y), _line(at, y, end, y)]
        parts.append(_text(end + (-4 if left else 4), y + 4, name, anchor))
    return (
        f'<svg class="ranks" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 6}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12" fill="currentColor" '
        f'stroke="currentColor" stroke-width="1">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" stroke="none">{escape(text)}</text>'
