"""The contract of metrics, on hostile maps: declared columns only, ranges kept, a reason for every NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from .check_findings import BrokenRuleError, NotApplicableError, Rule
from .check_subjects import Subject, subjects
from .contract import Batch, Context, Explainer, Explanation, Metric, Model, Scores, UnsupportedError, Values
from .guard import LeftAsFound, LeftChangedError, ModuleState

TOLERANCE = 1e-5
RANGE_SLACK = 1e-9
RE_EXPLAIN = "re-explain"


@dataclass(frozen=True, eq=False)
class Case:
    """Maps to be scored on one subject."""

    subject: Subject
    explanation: Explanation | None
    what: str

    @property
    def text(self) -> str:
        """For findings."""
        return f"{self.what} on {self.subject.name}"

    def score(self, metric: Metric, rows: Sequence[int] | None = None) -> Scores:
        """The metric's columns for these rows, from a fresh context."""
        batch, explanation, ctx = self.subject.batch, self.explanation, self.subject.context()
        if explanation is not None and RE_EXPLAIN in metric.needs:
            ctx = replace(ctx, method=StandIn(explanation, batch.ids))
        if rows is not None:
            batch = batch.select(rows)
            explanation = explanation and replace(explanation, native=explanation.native[list(rows)])
        return metric.score(self.subject.model, batch, explanation, ctx)


class StandIn(Explainer):
    """A method for maps that no method made: each map wavers with the target logit of what is explained."""

    def __init__(self, explanation: Explanation, ids: Sequence[str]) -> None:
        self._explanation, self._ids = explanation, tuple(ids)

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        native = self._explanation.native[[self._row(id) for id in batch.ids]]
        with torch.no_grad():
            logit = model(batch.inputs).gather(1, batch.targets[:, None])
        waves = torch.cos(logit * torch.linspace(0, 9, native[0].numel())).view_as(native)
        return replace(self._explanation, native=native * (1 + waves / 2))

    def _row(self, id: str) -> int:
        """The sample's own map; for samples that have none, such as those of the validation split, one of them."""
        return self._ids.index(id) if id in self._ids else sum(id.encode()) % len(self._ids)


def rules(metric: Metric) -> Iterator[Rule]:
    """Every rule, in the order in which they are worth mending."""
    scored: list[tuple[Case, Scores]] = []
    yield "columns are declared with name, range and description", lambda: _declared(metric)
    yield "values are given, or refused with a reason", lambda: scored.extend(_scored(metric))
    for name, rule in (
        ("exactly the declared columns, float64, one value a sample", _columns_as_declared),
        ("every NaN has a reason, and no number has one", _reasons),
        ("values lie in the declared range", _in_range),
        ("the same call gives the same values", _deterministic),
        ("a sample's value does not depend on its batch", _batch_independent),
        ("model, hooks, modes, random states, maps and inputs are left as found", _leaves_things_alone),
    ):
        yield name, partial(_on_all, rule, metric, scored)


def _on_all(
    rule: Callable[[Metric, Case, Scores], None], metric: Metric, scored: Sequence[tuple[Case, Scores]]
) -> None:
    if not scored:
        raise NotApplicableError("nothing was scored")
    for case, scores in scored:
        rule(metric, case, scores)


def cases(metric: Metric) -> Iterator[Case]:
    """Signed, positive, constant and zero maps on every subject; also with an empty and a full mask."""
    for subject in subjects():
        if metric.needs - subject.has - {RE_EXPLAIN}:
            continue
        if metric.of == "model":
            yield Case(subject, None, "no map")
            continue
        for what, explanation in _maps(subject).items():
            if "spectrum" in metric.needs and not explanation.has_spectrum:
                continue
            yield Case(subject, explanation, what)
            if subject.batch.mask is not None and what == "a signed map":
                for word, filled in (("empty", False), ("full", True)):
                    batch = replace(subject.batch, mask=torch.full_like(subject.batch.mask, filled))
                    yield Case(replace(subject, batch=batch), explanation, f"{what} with an {word} mask")


def _maps(subject: Subject) -> Mapping[str, Explanation]:
    geometry = subject.model.geometry
    assert geometry is not None
    size, generator = len(subject.batch), torch.Generator().manual_seed(5)
    tokens = torch.randn(size, geometry.tokens, generator=generator)
    cube = torch.randn(size, geometry.channels, *geometry.image_size, generator=generator)
    return {
        "a signed map": Explanation.of_tokens(tokens, geometry),
        "a positive map": Explanation.of_tokens(tokens.abs(), geometry),
        "a signed cube": Explanation(cube, "cube", geometry),
        "a constant map": Explanation.of_tokens(torch.ones_like(tokens), geometry),
        "a zero map": Explanation.of_tokens(torch.zeros_like(tokens), geometry),
    }


def _declared(metric: Metric) -> None:
    if not metric.columns:
        raise BrokenRuleError(
            "no columns are declared", "Pass columns=(Column(name, better, range, description), ...)."
        )
    for column in metric.columns:
        if not column.name.isidentifier() or column.name != column.name.lower():
            raise BrokenRuleError(f"column {column.name!r} is not snake_case", "Use letters, digits and underscores.")
        if not column.description.strip():
            raise BrokenRuleError(f"column {column.name} has no description", "Say in one line what is measured.")
        low, high = column.range
        if low is not None and high is not None and not low < high:
            raise BrokenRuleError(
                f"column {column.name} has the empty range {column.range}", "Give (low, high), None for open."
            )
        if column.better not in ("higher", "lower", "none"):
            raise BrokenRuleError(f"column {column.name} says better={column.better!r}", "Use higher, lower or none.")
    names = [column.name for column in metric.columns]
    if len(set(names)) < len(names):
        raise BrokenRuleError(f"a column name stands twice in {names}", "Name each column once.")
    if metric.version < 1:
        raise BrokenRuleError(f"version={metric.version}", "Begin with version=1 and raise it with the definition.")


def _scored(metric: Metric) -> list[tuple[Case, Scores]]:
    made, refusals = [], []
    for case in cases(metric):
        try:
            made.append((case, case.score(metric)))
        except UnsupportedError as refusal:
            refusals.append(f"{case.text}: {refusal}")
    if not made:
        raise BrokenRuleError(
            f"refused everywhere: {'; '.join(refusals) or f'no subject meets needs={sorted(metric.needs)}'}",
            "Drop needs that are not used; return NaN with a reason where single samples are undefined.",
        )
    return made


def _columns_as_declared(metric: Metric, case: Case, scores: Scores) -> None:
    declared = {column.name for column in metric.columns}
    if set(scores) != declared:
        raise BrokenRuleError(
            f"{case.text} gave {', '.join(sorted(scores)) or 'nothing'}; declared are {', '.join(sorted(declared))}",
            "Return every declared column and no other.",
        )
    for name, column in scores.items():
        if not isinstance(column, Values):
            raise BrokenRuleError(
                f"{name} is a {type(column).__name__}", "Return Values.of(array, undefined={reason: rows})."
            )
        if column.values.dtype != np.float64 or column.values.shape != (len(case.subject.batch),):
            raise BrokenRuleError(
                f"{name} is {column.values.dtype} {list(column.values.shape)} for {len(case.subject.batch)} samples",
                "Return float64 [B], by Values.of(...).",
            )


def _reasons(metric: Metric, case: Case, scores: Scores) -> None:
    for name, column in scores.items():
        for row, (value, reason) in enumerate(zip(column.values, column.reasons, strict=True)):
            if np.isinf(value) or (np.isnan(value) and not reason):
                raise BrokenRuleError(
                    f"{name} of sample {row} is {value} without a reason ({case.text})",
                    "Values.of(x, undefined={'why': rows}).",
                )
            if reason and not np.isnan(value):
                raise BrokenRuleError(
                    f"{name} of sample {row} is {value}, and undefined: {reason}", "Give reasons to NaN only."
                )


def _in_range(metric: Metric, case: Case, scores: Scores) -> None:
    for column in metric.columns:
        values = scores[column.name].values
        values = values[~np.isnan(values)]
        low, high = column.range
        outside = values[
            (values < (-np.inf if low is None else low - RANGE_SLACK))
            | (values > (np.inf if high is None else high + RANGE_SLACK))
        ]
        if outside.size:
            raise BrokenRuleError(
                f"{column.name} = {outside[0]:.6g} lies outside {list(column.range)} ({case.text})",
                "Mend the formula, or declare the range that it really has.",
            )


def _deterministic(metric: Metric, case: Case, scores: Scores) -> None:
    again = case.score(metric)
    for name in scores:
        if not np.array_equal(scores[name].values, again[name].values, equal_nan=True):
            raise BrokenRuleError(
                f"{name} differs between two calls ({case.text})", "Draw from ctx.generator(sample_id, component)."
            )


def _batch_independent(metric: Metric, case: Case, scores: Scores) -> None:
    singles = [case.score(metric, [row]) for row in range(len(case.subject.batch))]
    for name, column in scores.items():
        alone = np.array([single[name].values[0] for single in singles])
        same = np.isclose(column.values, alone, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if not same.all():
            row = int(same.argmin())
            together = column.values[row]
            raise BrokenRuleError(
                f"{name} of sample {row} is {together:.6g} in its batch and {alone[row]:.6g} alone ({case.text})",
                "Normalise and draw for each sample alone.",
            )


def _leaves_things_alone(metric: Metric, case: Case, scores: Scores) -> None:
    try:
        module = case.subject.model.module
        with LeftAsFound([(module, ModuleState.of(module))], (case.subject.batch, case.explanation)):
            case.score(metric)
    except LeftChangedError as error:
        raise BrokenRuleError(str(error), "Work on copies; draw from ctx.generator.") from error
