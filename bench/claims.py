"""The claims ledger: what a paper says, what a suite's files say to it, and the verdict; no model is run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from .contract import BadInputError
from .report.run_files import RunFiles, read_run

log = logging.getLogger(__name__)

Verdict = Literal["holds", "does not hold", "undecided", "not testable", "not run"]
VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "undecided", "not testable", "not run")
ALWAYS_KEPT = ("accuracy", "truth_used")
"""Columns that decide which samples count (charter 2), whatever a claim reads."""


@dataclass(frozen=True)
class Finding:
    """One figure of ours and what it says to the claim.

    Attributes:
        subject: whose figure, and against whom.
        verdict: ``undecided`` where the interval holds the bound; with more samples it may come out of it.
        value, low, high: the figure and its 95 % interval; without one it is exact, or measured once.
        n: samples (or whatever the note counts) behind it.
        note: what else a reader must know.
        data: the data sets and models it was measured on; empty for figures of the paper itself.
    """

    subject: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""
    data: str = ""


class Test(Protocol):
    """A pure function of a run's files; ``rule`` says in words when the claim holds."""

    @property
    def rule(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of scores.parquet that it reads."""

    def findings(self, run: RunFiles) -> Iterable[Finding]: ...


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, in one reading.

    Attributes:
        id: short and stable.
        words: the claim.
        source: paper, table, figure or section.
        suite: that tests it; empty where none can, or where the paper's own numbers do.
        test: what is computed from the suite's files.
        told: findings that need no run: of the paper's own numbers, or why it cannot be tested.
        unit: ``share`` figures are shown in percent.
    """

    id: str
    words: str
    source: str
    suite: str = ""
    test: Test | None = None
    told: tuple[Finding, ...] = ()
    unit: Literal["", "share"] = ""
    rule: str = ""

    @property
    def holds_if(self) -> str:
        """The rule that decides."""
        return self.rule or (self.test.rule if self.test else "")


@dataclass(frozen=True)
class Entry:
    """A claim with all that is known of it."""

    claim: Claim
    findings: tuple[Finding, ...] = field(default_factory=tuple)


def ledger(claims: Sequence[Claim], runs: Sequence[RunFiles]) -> tuple[Entry, ...]:
    """Every claim with its findings, run by run; what no run tests yet is told with the command that would."""
    return tuple(Entry(claim, tuple(_findings(claim, runs))) for claim in claims)


def _findings(claim: Claim, runs: Sequence[RunFiles]) -> Iterable[Finding]:
    yield from claim.told
    if claim.test is None:
        return
    mine = [run for run in runs if run.suite["name"] == claim.suite]
    if not mine:
        yield Finding("", "not run", note=f"bench run --suite {claim.suite} --out results/papers/{claim.suite}")
    for run in mine:
        stopped = "the run was stopped before its end" if run.facts.get("interrupted") else ""
        for finding in _tested(claim.test, run):
            yield replace(finding, data=data_of(run), note="; ".join(filter(None, (finding.note, stopped))))


def _tested(test: Test, run: RunFiles) -> tuple[Finding, ...]:
    try:
        return tuple(test.findings(run))
    except BadInputError as lacking:
        return (Finding("", "not run", note=str(lacking)),)


def data_of(run: RunFiles) -> str:
    """The data sets and the number of models of a run."""
    cells = run.facts.get("cells", ())
    sets = dict.fromkeys(str(cell["dataset"]) for cell in cells if "dataset" in cell)
    models = len({str(cell["model"]) for cell in cells})
    return f"{' + '.join(sets) or 'unknown'}; {models} model{'s' if models != 1 else ''}"


def find_runs(folders: Iterable[Path]) -> tuple[RunFiles, ...]:
    """The runs in these folders, each a run's own or one that holds runs' folders; sorted by path.

    Raises:
        BadInputError: a folder is not there.
    """
    found: dict[Path, RunFiles] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(f"no folder {folder}; `bench run --suite NAME --out {folder}/NAME` makes one.")
        for facts in sorted((*folder.glob("run.json"), *folder.glob("*/run.json"))):
            run = read_run(facts.parent)
            if run.suite.get("split", "test") != "test":
                log.warning("%s is left out: it holds %s samples, to choose by.", run.out, run.suite["split"])
                continue
            found[facts.parent.resolve()] = run
    return tuple(found.values())


def keep(run: RunFiles, claims: Sequence[Claim], folder: Path) -> Path | None:
    """Writes what the claims read of a run, small enough for git; None where no claim reads any, or it lies there.

    The scores of the columns that its claims read and of those that say which samples count, all costs, run.json, and
    the leaderboards as Markdown where ``bench report`` has written them; in a folder of the run's folder's name.
    """
    mine = [claim.test for claim in claims if claim.suite == run.suite["name"] and claim.test is not None]
    out = folder / run.out.resolve().name
    if not mine or out.resolve() == run.out.resolve():
        return None
    columns = {*ALWAYS_KEPT, *(column for test in mine for column in test.columns)}
    out.mkdir(parents=True, exist_ok=True)
    kept = run.scores[run.scores["column"].isin(columns)]
    kept.to_parquet(out / "scores.parquet", index=False, compression="zstd", compression_level=19)
    run.costs.to_parquet(out / "costs.parquet", index=False, compression="zstd")
    facts = {**run.facts, "kept_columns": sorted(columns)}
    (out / "run.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for page in sorted((run.out / "leaderboards").glob("*.md")):
        (out / "leaderboards").mkdir(exist_ok=True)
        shutil.copyfile(page, out / "leaderboards" / page.name)
    return out
