"""The comparison of a fresh run with the committed baseline that decides a CI job; files only, see docs/gate.md."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .contract import BadInputError
from .fingerprint import Fingerprint
from .gate_comparisons import counted_costs, exact_scores, golden_maps, paired, statistical_scores
from .gate_findings import BLOCKING, FAILED, Finding
from .report.run_files import RunFiles, read_run

__all__ = ["BLOCKING", "EXIT_CODES", "Finding", "GateResult", "compare", "update_baseline"]

Outcome = Literal["ok", "regression", "not_comparable", "failed_jobs"]
EXIT_CODES: Mapping[Outcome, int] = {"ok": 0, "regression": 1, "not_comparable": 3, "failed_jobs": 4}
COPIED = ("run.json", "scores.parquet", "costs.parquet")
MAPS = "maps"


@dataclass(frozen=True)
class GateResult:
    """The verdict.

    Attributes:
        mode: ``exact`` on the same fingerprint, else ``statistical``.
        checked: (board, explainer) -> figures compared.
    """

    status: Outcome
    mode: Literal["exact", "statistical"]
    findings: tuple[Finding, ...]
    checked: Mapping[tuple[str, str], int]

    @property
    def exit_code(self) -> int:
        """0 ok, 1 regression, 3 not comparable, 4 jobs failed (2 is wrong usage, from the command line)."""
        return EXIT_CODES[self.status]


def compare(baseline: Path, fresh: Path) -> GateResult:
    """Compares two runs' folders.

    Raises:
        BadInputError: one of them holds no finished run.
    """
    before, after = read_run(baseline), read_run(fresh)
    differences = _fingerprint(before).differences(_fingerprint(after))
    mode: Literal["exact", "statistical"] = "statistical" if differences else "exact"
    obstacles = list(_incomparable(before, after))
    if obstacles:
        return GateResult("not_comparable", mode, tuple(obstacles), {})
    findings = [Finding("note", "", "", "", f"other fingerprint: {line}") for line in differences]
    findings += _failures(before, after)
    findings += _coverage(before, after)
    pairs = paired(before.scores, after.scores)
    facts = {(c.metric, c.column): c for c in before.columns}
    if mode == "exact":
        findings += exact_scores(pairs, facts)
        findings += golden_maps(baseline / MAPS, fresh / MAPS)
    else:
        findings += statistical_scores(pairs, facts)
    findings += counted_costs(before.costs, after.costs)
    checked = {(str(board), str(name)): len(rows) for (board, name), rows in pairs.groupby(["board", "explainer"])}
    return GateResult(_verdict(findings), mode, tuple(findings), checked)


def update_baseline(fresh: Path, baseline: Path) -> None:
    """Makes a fresh run's files the baseline: scores, costs, facts and golden maps.

    Raises:
        BadInputError: ``fresh`` holds no finished run, or a job of it failed.
    """
    run = read_run(fresh)
    failed = run.scores[run.scores["status"].isin(FAILED)]
    if len(failed):
        first = failed.iloc[0]
        raise BadInputError(
            f"{first['explainer'] or first['metric']} failed on {first['board']} ({first['reason']}); "
            "a baseline must not hold failures. Mend it, run again, then update."
        )
    baseline.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (fresh / name).is_file():
            shutil.copyfile(fresh / name, baseline / name)
    shutil.rmtree(baseline / MAPS, ignore_errors=True)
    if (fresh / MAPS).is_dir():
        shutil.copytree(fresh / MAPS, baseline / MAPS)


def _fingerprint(run: RunFiles) -> Fingerprint:
    if not run.facts.get("machine"):
        raise BadInputError(
            f"{run.out / 'run.json'} names no machine: no model of that run could be loaded. Run it again."
        )
    return Fingerprint.of_json(run.facts["machine"])


def _incomparable(before: RunFiles, after: RunFiles) -> Iterable[Finding]:
    """Why no figure of the two runs may be compared: other settings, samples, weights or schema."""
    for name in ("name", "seed", "n", "target"):
        old, new = before.suite.get(name), after.suite.get(name)
        if old != new:
            yield Finding("not_comparable", "", "", "", f"suite {name}: {old} in the baseline, {new} now")
    yield from _other_content(before, after)
    old_samples, new_samples = _samples(before.scores), _samples(after.scores)
    for place in sorted(old_samples.keys() & new_samples.keys()):
        gone, come = old_samples[place] - new_samples[place], new_samples[place] - old_samples[place]
        if gone or come:
            yield Finding(
                "not_comparable",
                place[0],
                "",
                "",
                f"{place[1]}: {len(gone)} samples of the baseline missing, {len(come)} new",
            )
    for place in sorted(old_samples.keys() - new_samples.keys()):
        yield Finding("not_comparable", place[0], "", "", f"no scores on {place[1]} now; the baseline has them")


def _other_content(before: RunFiles, after: RunFiles) -> Iterable[Finding]:
    """Models and data sets that are no longer what they were."""
    old, new = _cells(before), _cells(after)
    for place in sorted(old.keys() & new.keys()):
        for name, title in (("weights_hash", "weights"), ("dataset_hash", "data set"), ("dtype", "dtype")):
            was, now = old[place].get(name), new[place].get(name)
            if was is not None and now is not None and was != now:
                yield Finding(
                    "not_comparable", place[0], "", "", f"{title} of {place[1]}: {was} in the baseline, {now} now"
                )


def _cells(run: RunFiles) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(cell["board"], cell["model"]): cell for cell in run.facts["cells"]}


def _samples(scores: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    unique = scores[["board", "model", "sample"]].drop_duplicates()
    return {
        (str(board), str(model)): set(group["sample"])
        for (board, model), group in unique.groupby(["board", "model"], sort=False)
    }


def _failures(before: RunFiles, after: RunFiles) -> Iterable[Finding]:
    """Jobs that failed now; those that failed in the baseline too are no news but stay failures."""
    failed = after.scores[after.scores["status"].isin(FAILED)]
    for (board, explainer), rows in failed.groupby(["board", "explainer"], sort=False):
        first = rows.iloc[0]
        columns = ", ".join(dict.fromkeys(rows["column"]))
        yield Finding("failed", str(board), str(explainer), columns, f"{first['status']}: {first['reason']}")


def _coverage(before: RunFiles, after: RunFiles) -> Iterable[Finding]:
    """Explainers and figures that came or went."""
    names = ["board", "explainer", "own_model", "column"]
    old = set(before.scores[names].drop_duplicates().itertuples(index=False, name=None))
    new = set(after.scores[names].drop_duplicates().itertuples(index=False, name=None))
    for kind, only, text in (("missing", old - new, "in the baseline only"), ("new", new - old, "not in the baseline")):
        grouped: dict[tuple[str, str], list[str]] = {}
        for board, explainer, _, column in sorted(only):
            grouped.setdefault((board, explainer), []).append(column)
        for (board, explainer), columns in grouped.items():
            yield Finding(kind, board, explainer, ", ".join(dict.fromkeys(columns)), text)  # type: ignore[arg-type]


def _verdict(findings: Iterable[Finding]) -> Outcome:
    kinds = {finding.kind for finding in findings}
    if "failed" in kinds:
        return "failed_jobs"
    return "regression" if kinds & set(BLOCKING) else "ok"
