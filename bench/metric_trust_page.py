"""The page of ``metric_trust``: tables over the boards, of each board, of agreement and of costs, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .metric_trust import MIN_SHARED, TRUTH, Trust, agreement, mean_agreement
from .report import figures_text as text
from .report.run_files import RunFiles
from .speed_metrics import MetricRow

NOTE = (
    "Columns with a direction only. *Oracle*: whether the oracle stands separably above every floor; where not, the "
    "column must not rank methods on that board. *Separated*: share of the pairs of methods that paired tests with "
    "Holm separate (the mean width of the rank intervals over the largest is 1 less this). *Resolution*: smallest "
    "separable difference over the range of the methods' means. *Models agree*: mean rank correlation of the methods' "
    "means between models trained apart. *Spread*: their sd over the range of the methods' means."
)
STANDINGS = (
    "Figures that hold a map against the model's own answers. In brackets and under *oracle*: the place by the mean "
    "among methods that compete, floors and oracle. *Above*: methods separably better than every floor, of those that "
    "compete. A finding and no requirement: the oracle knows which evidence the scene holds, not what its removal does "
    "to the model."
)
AGREEMENT = (
    f"Rank correlation of the explainers' means (methods and floors, without the oracle), mean over the boards; with "
    f"at least {MIN_SHARED} explainers in common. Agreement is no proof: metrics that share a flaw agree."
)
COSTS = (
    "Of one map, on the first model of each board: explanations made + rows through the model, for the first explainer "
    "/ for every further one, which finds what is shared; and the time of the first, CPU, in plain forwards of one row "
    "at the best batch size."
)


def as_markdown(run: RunFiles, lines: Sequence[Trust], costs: Mapping[str, Mapping[str, MetricRow]]) -> str:
    """The page: over all boards, each board, agreement of the short tables' columns, costs."""
    suite = run.suite
    models = ", ".join(f"{board} {scores['model'].nunique()}" for board, (scores, _) in run.boards.items())
    samples = sorted({int(scores["sample"].nunique()) for scores, _ in run.boards.values()})
    parts = [
        f"# Metrics of suite {suite['name']}: which to trust",
        f"{' or '.join(map(str, samples))} samples a board, models a board: {models}. {NOTE}",
        "## Over the boards", _overall(lines),
        *_standings(lines),
        *(part for board in run.boards for part in (f"## {board}", _board_table(lines, board))),
        "## Agreement", AGREEMENT, _matrix(lines),
    ]  # fmt: skip
    if costs:
        parts += ["## Costs", COSTS, _costs(costs)]
    return "\n\n".join(parts) + "\n"


def _overall(lines: Sequence[Trust]) -> str:
    head = [
        "figure",
        "oracle above floors",
        "separated",
        "resolution",
        "models agree",
        "spread",
        f"agrees with {TRUTH}",
    ]
    rows = []
    for column in dict.fromkeys(line.column for line in lines):
        own = [line for line in lines if line.column == column]
        tested = [line for line in own if line.oracle != "untested"]
        fit = f"{sum(line.oracle == 'above' for line in tested)} of {len(tested)}" if tested else "untested"
        figures = [
            text.number(_mean([getattr(line, name) for line in own]))
            for name in ("separated", "resolution", "models_agree", "spread")
        ]
        rows.append([f"`{column}`", fit, *figures, text.number(mean_agreement(lines, column, TRUTH))])
    return text.grid(head, rows)


def _standings(lines: Sequence[Trust]) -> list[str]:
    """The part on faithfulness; nothing where no figure of the run asks the model."""
    rows = []
    for column in dict.fromkeys(line.column for line in lines):
        for line in lines:
            if line.column == column and (at := line.standing):
                oracle = "–" if at.oracle is None else f"{at.oracle} of {at.rows}"
                above = "–" if at.above is None else f"{at.above} of {at.methods}"
                floor, first = _placed(at.floor, at.floor_place), _placed(at.first, at.first_place)
                rows.append([f"`{column}`", line.board, oracle, floor, above, first])
    if not rows:
        return []
    head = ["figure", "board", "oracle", "best floor", "above", "first method"]
    return ["## Faithfulness: oracle, floors and methods", STANDINGS, text.grid(head, rows)]


def _placed(name: str, place: int | None) -> str:
    return "–" if place is None else f"`{name}` ({place})"


def _board_table(lines: Sequence[Trust], board: str) -> str:
    head = ["figure", "oracle", "separated", "resolution", "models agree", "spread", "defined", "nearest figure"]
    here = [line for line in lines if line.board == board]
    rows = []
    for line in here:
        nearest = _nearest(line, here)
        rows.append(
            [
                f"`{line.column}`", line.oracle + (f": {line.unfit.rpartition('than ')[2]}" if line.unfit else ""),
                text.number(line.separated), text.number(line.resolution), text.number(line.models_agree),
                text.number(line.spread), text.percent(line.defined),
                "–" if nearest is None else f"`{nearest[0]}` {nearest[1]:.2f}",
            ]
        )  # fmt: skip
    return text.grid(head, rows)


def _nearest(line: Trust, others: Sequence[Trust]) -> tuple[str, float] | None:
    """The column of another metric that ranks most alike."""
    found = [(other.column, agreement(line, other)) for other in others if other.metric != line.metric]
    known = [(name, rho) for name, rho in found if rho is not None]
    return max(known, key=lambda pair: pair[1], default=None)


def _matrix(lines: Sequence[Trust]) -> str:
    names = list(dict.fromkeys(line.column for line in lines if line.primary))
    numbers = {name: str(place) for place, name in enumerate(names, 1)}
    rows = []
    for one in names:
        cells = ["" if other == one else _two_digits(mean_agreement(lines, one, other)) for other in names]
        rows.append([f"{numbers[one]} `{one}`", *cells])
    return text.grid(["figure", *numbers.values()], rows)


def _costs(costs: Mapping[str, Mapping[str, MetricRow]]) -> str:
    metrics = dict.fromkeys(name for rows in costs.values() for name in rows)
    rows = [[f"`{name}`", *(_cost(rows.get(name)) for rows in costs.values())] for name in metrics]
    return text.grid(["metric", *costs], rows)


def _cost(row: MetricRow | None) -> str:
    if row is None:
        return "–"
    first = " + ".join(
        f"{count:g} {unit}" for count, unit in ((row.explanations, "maps"), (row.forwards, "rows")) if count
    )
    return f"{first or '0 rows'} / {row.further:g} rows · {row.time:.3g}"


def _two_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
