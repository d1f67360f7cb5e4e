"""One leaderboard as tidy CSV, GitHub Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..board_figures import Aggregate, Aggregates, ColumnSummary, Figure, Leaderboard, Row
from . import figures_text as text

CSV_FIELDS = (
    "board", "dataset", "kind", "explainer", "own_model", "label", "metric", "column", "better", "mean", "ci_low",
    "ci_high", "n_ok", "n", "rank_low", "rank_high", "model_spread", "draw_spread", "draws", "above_floors",
    "tuned_on_it", "unfit", "all_mean", "all_ci_low", "all_ci_high", "all_n_ok", "all_n", "status", "reason",
)  # fmt: skip


def as_csv(board: Leaderboard) -> str:
    """Tidy: one line a (row, figure); costs are lines of metric ``cost``."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in _csv_lines(board):
        writer.writerow({k: "" if v is None else v for k, v in line.items()})
    return file.getvalue()


def _csv_lines(board: Leaderboard) -> Iterator[dict[str, Any]]:
    place = {"board": board.board, "dataset": board.dataset, "kind": board.kind}
    for name, figure in board.model_figures.items():
        yield place | {"explainer": "", "column": name, "metric": "model"} | _csv_figure(figure)
    for row in board.rows:
        who = place | {"explainer": row.entry.explainer, "own_model": row.entry.own_model, "label": row.entry.label}
        for name, figure in row.figures.items():
            column = board.columns[name]
            facts = {
                "metric": column.facts.metric,
                "column": name,
                "better": column.facts.better,
                "unfit": column.unfit,
            }
            yield who | facts | _csv_figure(figure) | {"tuned_on_it": row.tuned_on(name)}
        for name, value in row.costs.items():
            yield who | {"metric": "cost", "column": name, "better": "lower", "mean": value, "status": "ok"}


def _csv_figure(figure: Figure) -> dict[str, Any]:
    h, a = figure.headline, figure.all_samples
    low, high = figure.rank or (None, None)
    facts = {
        "mean": h.mean, "ci_low": h.low, "ci_high": h.high, "n_ok": h.n_ok, "n": h.n,
        "rank_low": low, "rank_high": high, "model_spread": figure.spread, "draw_spread": figure.draw_spread,
        "draws": len(figure.by_draw) or None, "above_floors": figure.above_floors,
        "status": figure.status, "reason": figure.reason,
    }  # fmt: skip
    if a:
        facts |= {"all_mean": a.mean, "all_ci_low": a.low, "all_ci_high": a.high, "all_n_ok": a.n_ok, "all_n": a.n}
    return facts


def as_json(board: Leaderboard) -> str:
    """Everything, nested; undefined numbers are null."""
    return json.dumps(vars(board), indent=1, ensure_ascii=False, allow_nan=False, default=_as_dict) + "\n"


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else vars(value)


def as_markdown(board: Leaderboard) -> str:
    """A GitHub page: headline table, floors and oracle marked, notes, all other figures, costs, failures."""
    parts = [f"# {board.board}", *text.policy_lines(board), _models(board)]
    short = [name for name, column in board.columns.items() if column.primary]
    rest = [name for name in board.columns if name not in short]
    parts += ["## Headline", _figures(board, short), *_unfit(board)]
    if board.aggregates:
        parts += ["## Over the headline figures", text.aggregates_line(board.aggregates), _aggregates(board.aggregates)]
    if rest:
        parts += ["## All other figures", _figures(board, rest)]
    if board.model_figures:
        parts += ["## The models alone", _model_figures(board)]
    if board.cost_names:
        parts += ["## Costs", _costs(board)]
    undefined = _undefined(board)
    if undefined:
        parts += ["## Undefined, refused and failed", undefined]
    return "\n\n".join(parts) + "\n"


def _models(board: Leaderboard) -> str:
    lines = [
        (
            f"`{m.model}`",
            text.percent(m.accuracy),
            text.percent(m.truth_used) if m.truth_used is not None else "not testable",
        )
        for m in board.models
    ]
    return text.grid(("model", "accuracy", "uses the truth"), lines)


def _figures(board: Leaderboard, names: list[str]) -> str:
    lines = [[_who(board, row), *(_cell(name, row) for name in names)] for row in board.rows]
    separable = ["*smallest separable difference*", *(text.number(board.columns[name].separable) for name in names)]
    return text.grid(["explainer", *(_head(name, board.columns[name]) for name in names)], [*lines, separable])


def _head(name: str, column: ColumnSummary) -> str:
    star = "\\*" if column.facts.truth else ""
    unfit = "<br>*unfit for ranking here*" if column.unfit else ""
    return f"{name}{star} {text.ARROWS[column.facts.better]}{unfit}".strip()


def _who(board: Leaderboard, row: Row) -> str:
    marks = text.labels(board, row.entry.explainer, row.entry.own_model, row.entry.label)
    own = f", accuracy {text.percent(row.accuracy)}" if any("model" in m for m in marks) else ""
    return f"`{row.entry.explainer}`" + (f" ({', '.join(marks)}{own})" if marks else "")


def _cell(name: str, row: Row) -> str:
    figure = row.figures.get(name)
    if figure is None:
        return "–"
    if figure.headline.mean is None:
        return figure.status
    parts = [f"{text.number(figure.headline.mean)} {text.interval(figure)}".strip()]
    if figure.rank:
        parts.append(f"rank {text.rank(figure)}")
    if figure.above_floors is False and figure.rank:
        parts.append("≈ floor")
    if row.tuned_on(name):
        parts.append("tuned on it")
    if figure.headline.n_ok < figure.headline.n:
        parts.append(f"{figure.headline.n_ok}/{figure.headline.n}")
    if figure.spread is not None:
        parts.append(f"± {text.number(figure.spread)} models")
    if figure.by_draw:
        parts.append(text.draws(figure))
    return "<br>".join([parts[0], " · ".join(parts[1:])]) if parts[1:] else parts[0]


def _unfit(board: Leaderboard) -> list[str]:
    lines = [
        f"- {name}: unfit for ranking here, {column.unfit}." for name, column in board.columns.items() if column.unfit
    ]
    untested = [n for n, c in board.columns.items() if c.facts.better != "none" and not c.tested and c.primary]
    if untested:
        lines.append(
            f"- {', '.join(untested)}: fitness for ranking not tested; it takes scores of the oracle and of a floor."
        )
    return ["\n".join(lines)] if lines else []


def _aggregates(over: Aggregates) -> str:
    front = [f"on the front of {over.front_quality} against {over.front_cost}"] if over.front_quality else []
    head = ["explainer", "mean rank", "win rate", "area under radar, order-free", "in this order", "figures", *front]
    return text.grid(head, [_aggregate(method, over) for method in over.methods])


def _aggregate(method: Aggregate, over: Aggregates) -> list[str]:
    line = [
        text.marked(method.explainer, method.marks), text.estimate(method.mean_rank, 2), text.percent(method.win_rate),
        text.estimate(method.radar_order_free, 2), text.number(method.radar), f"{method.columns}/{len(over.columns)}",
    ]  # fmt: skip
    return [*line, *([text.front(method)] if over.front_quality else [])]


def _model_figures(board: Leaderboard) -> str:
    lines = [
        (name, _cell_alone(figure), text.number(figure.spread), f"{figure.headline.n_ok}/{figure.headline.n}")
        for name, figure in board.model_figures.items()
    ]
    return text.grid(("figure", "mean [95 % CI]", "sd over models", "n_ok/n"), lines)


def _cell_alone(figure: Figure) -> str:
    return (
        figure.status
        if figure.headline.mean is None
        else f"{text.number(figure.headline.mean)} {text.interval(figure)}"
    )


def _costs(board: Leaderboard) -> str:
    lines = [[_who(board, r), *(text.cost(r.costs.get(c)) for c in board.cost_names)] for r in board.rows if r.costs]
    plain = (
        [["*plain forward*", *(text.cost(board.plain_costs.get(c)) for c in board.cost_names)]]
        if board.plain_costs
        else []
    )
    return text.grid(["explainer", *board.cost_names], [*plain, *lines])


def _undefined(board: Leaderboard) -> str:
    lines = [(who, names, status, reason[:300]) for who, names, status, reason in text.undefined_lines(board)]
    return text.grid(("explainer", "figures", "status", "commonest reason"), lines, right=False) if lines else ""
