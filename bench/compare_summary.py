"""A comparison for people (a table in the terminal, Markdown), for programs (JSON) and for CI systems (JUnit XML)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import junit
from .comparison import ONE_SIDED, Comparison, Verdict
from .report import figures_text as text

if TYPE_CHECKING:
    from rich.table import Table

VERDICTS = {
    "ok": "nothing regressed",
    "regression": "regressed",
    "not_comparable": "not comparable; nothing was decided",
}
LIMITS = (
    "Samples are the blocks: the verdicts hold for these models and for samples of this data set. They say nothing on "
    "other data, and on models trained anew only what ± over models shows."
)
_ORDER = ("regressed", "improved", "inconclusive", "equivalent")


def title(result: Comparison) -> str:
    """``B against A: regressed``, names with their marks."""
    first, second = (text.marked(name, result.marks.get(name, ())) for name in (result.first, result.second))
    return f"{second} against {first}: {VERDICTS[result.status]}"


def counts(result: Comparison) -> str:
    """How many verdicts of each kind, and how many regressions do not decide."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in result.count().items())
    idle = sum(v.verdict == "regressed" and not v.decides for v in result.verdicts)
    return kinds + (
        f"; {idle} of the regressed in columns unfit for ranking here, which decide nothing" if idle else ""
    )


def method(result: Comparison) -> str:
    """What the verdicts rest on."""
    return (
        f"Equivalent: the 95 % interval of the mean paired difference lies within ± {result.settings.rope:g} of the "
        "figure's range (of four standard deviations where the range is open). Regressed, improved: q < "
        f"{result.alpha:g}, the interval leaves out zero and the difference is larger than that. Inconclusive: the "
        "rest. Wilcoxon's signed-rank test (McNemar's for yes-or-no scores), q by Benjamini and Hochberg over "
        f"{result.family} tests; effect: matched rank-biserial."
    )


def header(result: Comparison) -> list[str]:
    """Column titles of ``lines``."""
    who = ["explainer"] if result.kind == "runs" else []
    bayes = ["P(worse, same, better)"] if result.settings.bayes else []
    return [
        "verdict", "board", *who, "figure", "n", "first", "second", "difference [95 % CI]", "± models", "within",
        "effect", "p", "q", *bayes, "note",
    ]  # fmt: skip


def lines(result: Comparison) -> list[list[str]]:
    """One line a verdict, the worst first."""
    ordered = sorted(result.verdicts, key=lambda v: _ORDER.index(v.verdict))
    return [_line(result, v) for v in ordered]


def _line(result: Comparison, v: Verdict) -> list[str]:
    own = ", own model" if v.own_model else ""
    marks = tuple(mark for mark in result.marks.get(v.explainer, ()) if mark != "own model")
    who = [text.marked(v.explainer, marks) + own] if result.kind == "runs" else []
    p = v.posterior
    bayes = [f"{p.below:.2f} {p.within:.2f} {p.above:.2f}" if p else "–"] if result.settings.bayes else []
    count = str(v.n) if v.n == v.of else f"{v.n}/{v.of}"
    note = "; ".join([*(["unfit here"] if v.unfit else []), *([v.note] if v.note else [])])
    return [
        v.verdict, v.board, *who, f"{v.column} {text.ARROWS[v.better]}", count, text.number(v.first),
        text.number(v.second), _difference(v), text.number(v.spread), _within(v), _two(v.effect), text.p_value(v.p),
        text.p_value(v.q), *bayes, note,
    ]  # fmt: skip


def _within(v: Verdict) -> str:
    return "–" if v.rope is None else f"± {text.number(v.rope)}"


def _difference(v: Verdict) -> str:
    if v.difference is None:
        return "–"
    signed = f"+{text.number(v.difference)}" if v.difference > 0 else text.number(v.difference)
    return signed if v.low is None else f"{signed} [{text.number(v.low)}, {text.number(v.high)}]"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def gap_lines(result: Comparison) -> list[list[str]]:
    """(board, explainers, figures, reason); explainers with the same gap share a line."""
    shared: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for gap in result.gaps:
        shared.setdefault((gap.board, gap.columns, gap.reason), []).append(gap.explainer)
    return [[board, ", ".join(who), ", ".join(columns), reason] for (board, columns, reason), who in shared.items()]


def lost_explainers(result: Comparison) -> set[str]:
    """Explainers of one run that the other does not have at all."""
    both = {v.explainer for v in result.verdicts} | {g.explainer for g in result.gaps if g.reason not in ONE_SIDED}
    return {gap.explainer for gap in result.gaps if result.kind == "runs"} - both


def as_markdown(result: Comparison) -> str:
    """Everything: verdict, counts, what it rests on, one line a figure, what was not compared."""
    parts = [f"## {title(result)}"]
    if result.obstacles:
        parts.append("\n".join(f"- {o.board + ': ' if o.board else ''}{o.text}" for o in result.obstacles))
    else:
        parts += [f"{counts(result).capitalize()}.", text.grid(header(result), lines(result), right=False)]
        parts += [method(result), LIMITS]
    if result.gaps:
        gaps = text.grid(("board", "explainer", "figures", "why"), gap_lines(result), right=False)
        parts += ["### Not compared", gaps]
    return "\n\n".join(parts) + "\n"


def as_json(result: Comparison) -> str:
    """Everything, undefined numbers null."""
    facts = {"status": result.status, "exit_code": result.exit_code, "counts": dict(result.count())}
    facts |= {"family": result.family} | asdict(result)
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(result: Comparison) -> str:
    """A test case a (board, explainer), which fails where a verdict decides; one for the comparison as a whole.

    What was not compared is a skipped case.
    """
    whole = junit.Case("compare", "comparable")
    if result.obstacles:
        texts = [o.text for o in result.obstacles]
        whole = junit.Case("compare", "comparable", "skipped", texts[0], "\n".join(texts))
    places = dict.fromkeys((v.board, v.explainer) for v in result.verdicts)
    gaps = [
        junit.Case(gap.board, f"{gap.explainer}, not compared", "skipped", gap.reason, ", ".join(gap.columns))
        for gap in result.gaps
    ]
    return junit.as_junit("bench compare", [whole, *(_case(result, *place) for place in places), *gaps])


def _case(result: Comparison, board: str, explainer: str) -> junit.Case:
    here = [v for v in result.verdicts if (v.board, v.explainer) == (board, explainer)]
    worse = [_sentence(v) for v in here if v.decides]
    if worse:
        return junit.Case(board, explainer, "failure", worse[0], "\n".join(worse))
    return junit.Case(board, explainer)


def _sentence(v: Verdict) -> str:
    if v.difference is None:
        return f"{v.column}: {v.note}"
    note = f"; {v.note}" if v.note else ""
    return f"{v.column}: {_difference(v)}, n = {v.n}/{v.of}, q = {text.p_value(v.q)}{note}"


def as_table(result: Comparison, most: int) -> Table:
    """For the terminal: the first ``most`` lines, those that are equivalent last, without p and what is said below."""
    from rich.markup import escape
    from rich.table import Table

    names = header(result)
    shown = [place for place, name in enumerate(names) if name not in ("p", "within")]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for place in shown:
        table.add_column(names[place], no_wrap=names[place] not in ("note", "explainer"))
    styles = {"regressed": "red", "improved": "green"}
    for line in lines(result)[:most]:
        table.add_row(*(escape(line[place].replace("`", "")) for place in shown), style=styles.get(line[0], ""))
    return table
