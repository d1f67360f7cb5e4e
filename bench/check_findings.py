"""What a check says: one finding a rule, one verdict a plug-in."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["ok", "fail", "skipped"]
Rule = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Finding:
    """One rule of the contract on one plug-in.

    Attributes:
        rule: in words, e.g. ``the same seed gives the same map``.
        outcome: ``skipped`` where the rule does not apply; the problem says why.
        problem: what is wrong, with values.
        remedy: how to mend it.
    """

    rule: str
    outcome: Outcome
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Verdict:
    """All findings on one plug-in."""

    kind: str
    name: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Rules that are broken."""
        return tuple(finding for finding in self.findings if finding.outcome == "fail")

    @property
    def passed(self) -> bool:
        """Whether no rule is broken."""
        return not self.failures

    def __str__(self) -> str:
        count = len(self.failures)
        lines = [f"{self.kind} {self.name}: " + (f"{count} of {len(self.findings)} rules broken" if count else "ok")]
        lines += [f"  {f.rule}: {f.problem}. {f.remedy}" for f in self.failures]
        return "\n".join(lines)


class BrokenRuleError(Exception):
    """Raised inside a rule: what is wrong, and how to mend it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class NotApplicableError(Exception):
    """Raised inside a rule that does not apply; the text says why."""


def run_rules(rules: Iterable[Rule]) -> Iterator[Finding]:
    """Runs rules one by one; whatever a plug-in raises becomes a finding."""
    for name, rule in rules:
        try:
            rule()
        except BrokenRuleError as broken:
            yield Finding(name, "fail", broken.problem.rstrip("."), broken.remedy)
        except NotApplicableError as reason:
            yield Finding(name, "skipped", str(reason))
        except Exception as error:
            remedy = "Mend the line named; refuse what cannot work with UnsupportedError(reason)."
            yield Finding(name, "fail", told(error), remedy)
        else:
            yield Finding(name, "ok")


def told(error: Exception, path: Path | None = None) -> str:
    """The error with the deepest line of ``path``, or else of any code that is not the checking itself."""
    text = f"{type(error).__name__}: {error}".rstrip(".")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).name.startswith("check")]
    own = [f for f in frames if f.filename == str(path)] or frames
    if isinstance(error, SyntaxError) or not own:
        return text
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})"
