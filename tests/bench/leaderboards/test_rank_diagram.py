"""Critical-difference diagrams: which methods a bar joins, and what the drawing holds."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from vitxai.bench.report.rank_diagram import cliques, rank_diagram


@pytest.mark.parametrize(
    ("ranks", "bars"),
    [
        ([1.0, 2.0, 3.0], [(0, 1), (1, 2)]),
        ([1.0, 1.5, 2.0, 4.0], [(0, 2)]),
        ([1.0, 3.0, 5.0], []),
        ([2.0, 2.0, 2.0], [(0, 2)]),
        ([1.0, 2.0, 2.5, 3.0, 3.5], [(0, 1), (1, 3), (2, 4)]),
    ],
)
def test_bars_join_the_largest_runs_within_the_difference(ranks: list[float], bars: list[tuple[int, int]]) -> None:
    assert cliques(ranks, 1.0) == bars


def test_the_drawing_names_every_method_and_the_difference() -> None:
    ranks = {"grad_cam": 1.5, "rollout": 1.9, "a<b,c=1": 3.6, "random": 4.0}
    root = ElementTree.fromstring(rank_diagram("ranks & co", ranks, 1.0))
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(texts) == {"1", "2", "3", "4", "critical difference 1.00", *ranks}
    thick = [n for n in root.iter("{http://www.w3.org/2000/svg}line") if n.get("stroke-width") == "3"]
    assert len(thick) == 2
    assert root.get("aria-label") == "ranks & co"


def test_places_follow_the_ranks() -> None:
    root = ElementTree.fromstring(rank_diagram("", {"one": 1.0, "two": 2.0, "three": 3.0}, 5.0))
    bar = next(n for n in root.iter("{http://www.w3.org/2000/svg}line") if n.get("stroke-width") == "3")
    assert float(bar.get("x1", "")) < 250
    assert float(bar.get("x2", "")) > 610
