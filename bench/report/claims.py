"""The claims ledger as Markdown, JSON and one self-contained page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..claims import VERDICTS, Claim, Entry, Finding, Verdict
from .figures_text import number

TEMPLATES = Path(__file__).parent / "templates"
HOW_TO_READ = (
    "Every figure is computed from stored result files, with a 95 % bootstrap interval over samples; figures without "
    "one are exact counts, costs of one machine, or the paper's own numbers. A claim holds where the whole interval "
    "lies beyond its bound, does not hold where none of it does, and is undecided where the bound lies inside."
)


def write_claims(entries: Sequence[Entry], out: Path) -> tuple[Path, ...]:
    """Writes ``claims.md``, ``claims.json`` and ``claims.html``; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"md": as_markdown(entries), "json": as_json(entries), "html": as_page(entries)}
    for suffix, text in texts.items():
        (out / f"claims.{suffix}").write_text(text, encoding="utf-8")
    return tuple(out / f"claims.{suffix}" for suffix in texts)


def as_json(entries: Sequence[Entry]) -> str:
    """One object a claim, with its rule and all findings."""
    rows = [
        {
            "id": entry.claim.id,
            "claim": entry.claim.words,
            "source": entry.claim.source,
            "suite": entry.claim.suite,
            "holds_if": entry.claim.holds_if,
            "findings": [asdict(finding) for finding in entry.findings],
        }
        for entry in entries
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def as_markdown(entries: Sequence[Entry]) -> str:
    """One table row a claim, one line in it a finding."""
    lines = [
        "# The papers' claims, put to the test",
        "",
        f"{tally(entries)}. {HOW_TO_READ}",
        "",
        "| claim | what the paper says | holds if | ours | verdict |",
        "|---|---|---|---|---|",
    ]
    for entry in entries:
        claim = entry.claim
        suite = f"<br>suite `{claim.suite}`" if claim.suite else ""
        ours = "<br>".join(_cell(line(finding, claim)) for finding in entry.findings)
        verdicts = "<br>".join(finding.verdict for finding in entry.findings)
        says = f"{_cell(claim.words)}<br>{_cell(claim.source)}"
        lines.append(f"| {claim.id}{suite} | {says} | {_cell(claim.holds_if)} | {ours} | {verdicts} |")
    return "\n".join(lines) + "\n"


def as_page(entries: Sequence[Entry]) -> str:
    """The ledger as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("claims.html.j2").render(
        entries=entries,
        tally=tally(entries),
        how_to_read=HOW_TO_READ,
        figure=figure,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    )


def tally(entries: Sequence[Entry]) -> str:
    """``42 claims; 3 findings hold, ...``."""
    counted = Counter[Verdict](finding.verdict for entry in entries for finding in entry.findings)
    parts = ", ".join(f"{counted[verdict]} {verdict}" for verdict in VERDICTS if counted[verdict])
    return f"{len(entries)} claims. Findings: {parts}"


def line(finding: Finding, claim: Claim) -> str:
    """Subject, figure, interval, samples, data and note of a finding."""
    samples = "" if finding.n is None else f"n = {finding.n}"
    told = figure(finding, claim)
    start = f"{finding.subject}: {told}" if finding.subject and told else finding.subject or told
    return "; ".join(part for part in (start, samples, finding.data, finding.note) if part)


def figure(finding: Finding, claim: Claim) -> str:
    """``0.031 [0.012, 0.050]``, shares in percent; empty without a figure."""
    if finding.value is None:
        return ""
    spelled = _percent if claim.unit == "share" else number
    if finding.low is None or finding.high is None:
        return spelled(finding.value)
    return f"{spelled(finding.value)} [{spelled(finding.low)}, {spelled(finding.high)}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
