"""How numbers are spelled in tables: the same in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..board_figures import Aggregate, Aggregates, Estimate, Figure, Leaderboard

ARROWS: Mapping[str, str] = {"higher": "↑", "lower": "↓", "none": ""}
LABELS: Mapping[str, str] = {
    "exact": "", "reconstruction": "reconstruction", "external": "made elsewhere", "floor": "floor", "oracle": "oracle",
    "test": "test",
}  # fmt: skip


def number(value: float | None) -> str:
    """Three decimals, fewer for large and scientific for tiny values; an en dash for none."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 5e-4 or value == 0 else f"{value:.1e}"


def cost(value: float | None) -> str:
    """Whole numbers whole, others with three significant digits; an en dash for none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share with one decimal; an en dash for none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def p_value(value: float | None) -> str:
    """Two significant digits, ``< 1e-15`` below what floating point can tell; an en dash for none."""
    if value is None:
        return "–"
    return "< 1e-15" if value < 1e-15 else f"{value:.2g}"


def interval(figure: Figure) -> str:
    """``[low, high]``; empty where fewer than two samples are defined."""
    h = figure.headline
    return "" if h.low is None else f"[{number(h.low)}, {number(h.high)}]"


def draws(figure: Figure) -> str:
    """``± 0.012 over 3 draws``, and how many of them have a mean where some have none."""
    known = sum(mean is not None for mean in figure.by_draw)
    some = f"{known} of " if known < len(figure.by_draw) else ""
    return f"± {number(figure.draw_spread)} over {some}{len(figure.by_draw)} draws"


def estimate(value: Estimate | None, digits: int) -> str:
    """``0.84 [0.71, 0.88]``; an en dash for none."""
    if value is None or value.mean is None:
        return "–"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def front(method: Aggregate) -> str:
    """Whether a method is on the Pareto front; an en dash where its cost or score is unknown."""
    return {True: "yes", False: "", None: "–"}[method.on_front]


def aggregates_line(over: Aggregates) -> str:
    """What the aggregates are made of, and what they are worth."""
    names = ", ".join(over.columns)
    return (
        f"Over {names}. All of it depends on this choice of figures and on the methods compared; brackets are 95 % "
        "bootstrap intervals over samples. Win rate: how often a method is better than a rival on a sample. Area under "
        "the radar: of the largest, with min-max over these methods; a missing figure counts as zero there."
    )


def rank(figure: Figure) -> str:
    """``2`` or ``1–3``; empty for unranked figures."""
    if figure.rank is None:
        return ""
    low, high = figure.rank
    return str(low) if low == high else f"{low}–{high}"


def labels(board: Leaderboard, explainer: str, own_model: bool, label: str) -> tuple[str, ...]:
    """What must stand beside a name."""
    both = {r.entry.own_model for r in board.rows if r.entry.explainer == explainer}
    own = ("own model",) if own_model else (("frozen model",) if True in both else ())
    return (*label_marks(label), *own)


def spelled(marks: Sequence[str]) -> tuple[str, ...]:
    """Marks in the words of the tables."""
    return tuple(LABELS.get(mark, mark) for mark in marks)


def marked(explainer: str, marks: Sequence[str]) -> str:
    """A method's name in Markdown, with what must stand beside it."""
    return f"`{explainer}`" + (f" ({', '.join(spelled(marks))})" if marks else "")


def label_marks(label: str) -> tuple[str, ...]:
    """The status of a method as marks; exact methods need none."""
    return tuple(mark for mark in (LABELS.get(label, label),) if mark)


def policy_lines(board: Leaderboard) -> tuple[str, ...]:
    """What every table must say: target policy, which samples count, whose truth is used."""
    targets = {
        "prediction": "the frozen model's prediction",
        "label": "the label",
        "runner_up": "the frozen model's runner-up class",
    }.get(board.policy, board.policy)
    lines = [f"Target explained: {targets}. {board.n} samples, {_models(len(board.models))}."]
    if board.split == "validation":
        lines.append("These are validation samples: the board serves to choose configurations and is not a result.")
    truth = [c for c in board.columns.values() if c.facts.truth]
    if truth:
        counted, every = truth[0].counted
        share = board.share_truth_used()
        used = (
            "; whether the model uses that truth cannot be tested on this data (no healed counterfactual)"
            if share is None
            else f" whose truth the model uses (healing it at least halves the class's probability: {percent(share)})"
        )
        lines.append(
            f"Columns marked * compare with a truth. They count correctly classified samples{used}: {counted} of "
            f"{every} (sample, model) pairs. All other columns count all samples, misclassified ones included."
        )
    lines.append(
        "Brackets: 95 % bootstrap interval over samples, scores averaged over models first. Rank intervals: paired "
        "signed-rank tests, Holm over all pairs of methods; floors and oracle are bounds and hold no rank."
    )
    if any(figure.by_draw for row in board.rows for figure in row.figures.values()):
        lines.append(
            "± over draws: standard deviation of the means of a method's own draws, its fits and maps with other "
            "seeds, on the same samples and models. Draws are no samples: the first alone has an interval and a rank."
        )
    return tuple(lines)


def undefined_lines(board: Leaderboard) -> list[tuple[str, str, str, str]]:
    """(explainers, figures, status, reason) of all that is missing; explainers with the same gaps share a line."""
    gaps: dict[tuple[str, str, str], list[str]] = {}
    for row in board.rows:
        causes: dict[tuple[str, str], list[str]] = {}
        for name, figure in row.figures.items():
            if figure.status != "ok":
                causes.setdefault((figure.status, figure.reason), []).append(name)
        own = " (own model)" if row.entry.own_model else ""
        for (status, reason), names in causes.items():
            gaps.setdefault((", ".join(names), status, reason), []).append(row.entry.explainer + own)
    everyone = len(board.rows)
    return [
        ("all" if len(who) == everyone else ", ".join(who), names, status, " ".join(reason.split()))
        for (names, status, reason), who in gaps.items()
    ]


def _models(count: int) -> str:
    return "one model" if count == 1 else f"{count} independently trained models"


def grid(head: Sequence[str], lines: Sequence[Sequence[str]], right: bool = True) -> str:
    """A Markdown table; all columns but the first are right-aligned where ``right``."""
    rows = [head, ["---", *["---:" if right else "---"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
