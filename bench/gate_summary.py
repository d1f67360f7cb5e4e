"""The gate's verdict for people (Markdown) and for CI systems (JUnit XML)."""

from __future__ import annotations

from collections.abc import Iterable

from . import junit
from .gate import GateResult
from .gate_findings import BLOCKING, Finding
from .report.figures_text import grid

VERDICTS = {
    "ok": "No regression.",
    "regression": "Regression: scores, golden maps or counted costs are not what they were.",
    "not_comparable": "Not comparable with the baseline; nothing was decided.",
    "failed_jobs": "Jobs failed.",
}
_ORDER = ("not_comparable", "failed", "missing", "worse", "changed", "better", "new", "note")


def as_markdown(result: GateResult) -> str:
    """A summary fit for a CI job's page: verdict, what to do, one line a finding, the worst first."""
    compared = sum(result.checked.values())
    lines = [
        f"## Gate: {VERDICTS[result.status]}",
        f"{compared} scores of {len(result.checked)} (board, explainer) pairs compared, {result.mode} mode.",
    ]
    if result.findings:
        ranked = sorted(result.findings, key=lambda f: _ORDER.index(f.kind))
        rows = [(f.kind, f.board, f.explainer, f.column, " ".join(f.text.split())) for f in ranked]
        lines.append(grid(("", "board", "explainer", "figure", "what"), rows, right=False))
    advice = _advice(result)
    return "\n\n".join([*lines, *([advice] if advice else [])]) + "\n"


def _advice(result: GateResult) -> str:
    return {
        "ok": "",
        "regression": "If the change is meant, run `bench gate --update-baseline` and commit `results/baseline`.",
        "not_comparable": "If suite, data or weights were changed on purpose, run `bench gate --update-baseline`.",
        "failed_jobs": "The tracebacks are in run.json; `bench run --retry-failed` tries them again.",
    }[result.status]


def as_junit(result: GateResult) -> str:
    """JUnit XML: a test case a (board, explainer), and one for the run as a whole."""
    places = dict.fromkeys([("", ""), *result.checked, *((f.board, f.explainer) for f in result.findings)])
    return junit.as_junit("bench gate", [_case(result, *place) for place in places])


def _case(result: GateResult, board: str, explainer: str) -> junit.Case:
    """The gravest findings of one place: failed jobs, then regressions, then what forbids a comparison."""
    where = board or "run", explainer or (board and "model") or "comparable"
    here = [f for f in result.findings if (f.board, f.explainer) == (board, explainer)]
    failed, regressions = [f for f in here if f.kind == "failed"], [f for f in here if f.kind in BLOCKING]
    obstacles = [f for f in here if f.kind == "not_comparable"]
    if failed:
        return junit.Case(*where, "error", failed[0].text, _lines(failed))
    if regressions:
        return junit.Case(*where, "failure", regressions[0].text, _lines(regressions))
    if obstacles:
        return junit.Case(*where, "skipped", obstacles[0].text)
    return junit.Case(*where)


def _lines(findings: Iterable[Finding]) -> str:
    return "\n".join(f"{f.kind}: {f.column}: {f.text}" for f in findings)
