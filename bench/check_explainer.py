"""The contract of explainers, on tiny models: finite maps that depend on each sample alone, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ..models.fit_files import obtain_fit
from .check_findings import BrokenRuleError, NotApplicableError, Rule
from .check_subjects import Subject, gridless, subjects
from .contract import Explainer, Explanation, Fitted, Model, UnsupportedError, needs_of
from .guard import LeftAsFound, LeftChangedError, ModuleState

TOLERANCE = 1e-4


class Trial:
    """An explainer on one subject, fitted once."""

    def __init__(self, explainer: Explainer, subject: Subject) -> None:
        self.explainer, self.subject = explainer, subject
        self.fitted: Fitted | None = None
        self.model = subject.model
        with LeftAsFound(states(subject.model), (), may_draw=True):
            self.fitted = obtain_fit(explainer, subject.model, subject.context())
            self.model = explainer.own_model(subject.model, self.fitted)

    @cached_property
    def whole(self) -> Explanation:
        """The maps of the whole batch."""
        return self.explain()

    def explain(self, rows: Sequence[int] | None = None) -> Explanation:
        """The maps of these rows, from a fresh context."""
        batch = self.subject.batch if rows is None else self.subject.batch.select(rows)
        result = self.explainer.explain(self.model, batch, self.subject.context(self.fitted))
        if not isinstance(result, Explanation):
            raise BrokenRuleError(
                f"explain returned {type(result).__name__} on {self.subject.name}",
                "Return Explanation(native, layout, geometry) or Explanation.of_tokens(values, geometry).",
            )
        return result


def states(*models: Model) -> list[tuple[nn.Module, ModuleState]]:
    """What a plug-in that sees these models must leave."""
    return [(model.module, ModuleState.of(model.module)) for model in models]


def rules(explainer: Explainer) -> Iterator[Rule]:
    """Every rule, in the order in which they are worth mending."""
    trials: list[Trial] = []
    yield "maps are made, or refused with a reason", lambda: trials.extend(_trials(explainer))
    for name, rule in (
        ("one finite map a sample, detached", _finite_and_shaped),
        ("the same seed gives the same map", _deterministic),
        ("a sample's map does not depend on its batch", _batch_independent),
        ("model, hooks, modes, random states and inputs are left as found", _leaves_things_alone),
    ):
        yield name, partial(_on_all, rule, trials)
    yield "a model without a token grid is refused", lambda: _refuses_gridless(explainer)


def _on_all(rule: Callable[[Trial], None], trials: Sequence[Trial]) -> None:
    if not trials:
        raise NotApplicableError("no map was made")
    for trial in trials:
        rule(trial)


def _trials(explainer: Explainer) -> list[Trial]:
    made, refusals = [], []
    for subject in subjects():
        if lacking := needs_of(explainer) - subject.has:
            refusals.append(f"{subject.name}: needs {', '.join(sorted(lacking))}")
            continue
        try:
            trial = Trial(explainer, subject)
            trial.whole  # noqa: B018 (made here, so that a refusal shows)
        except UnsupportedError as refusal:
            refusals.append(f"{subject.name}: {refusal}")
        except LeftChangedError as error:
            raise BrokenRuleError(
                f"fit or own_model {error}", "Copy the module (copy.deepcopy) before changing it."
            ) from error
        else:
            made.append(trial)
    if not made:
        raise BrokenRuleError(
            f"refused everywhere: {'; '.join(refusals)}",
            "Support one kind of model at least; drop needs that are not used.",
        )
    return made


def _finite_and_shaped(trial: Trial) -> None:
    explanation, subject = trial.whole, trial.subject
    native = explanation.native
    if len(explanation) != len(subject.batch):
        raise BrokenRuleError(
            f"{len(explanation)} maps for {len(subject.batch)} samples", "Return one map a sample, in order."
        )
    if explanation.geometry != subject.model.geometry:
        raise BrokenRuleError("the explanation's geometry is not the model's", "Pass model.geometry.")
    if not native.is_floating_point():
        raise BrokenRuleError(f"the map has dtype {native.dtype}", "Return floating-point values.")
    if not torch.isfinite(native).all():
        rows = (~torch.isfinite(native)).flatten(1).any(1).nonzero().flatten().tolist()
        raise BrokenRuleError(
            f"NaN or infinite values on {subject.name}, samples {rows}",
            "Look for 0/0 and log(0), or refuse with UnsupportedError.",
        )
    if native.requires_grad:
        raise BrokenRuleError("the map still hangs on the autograd graph", "Return native.detach().")


def _deterministic(trial: Trial) -> None:
    first, second = trial.whole.native, trial.explain().native
    if not torch.equal(first, second):
        raise BrokenRuleError(
            f"two calls on {trial.subject.name} differ by up to {_gap(first, second):.2g}",
            "Draw from ctx.generator(sample_id, component), never from the global state.",
        )


def _batch_independent(trial: Trial) -> None:
    size = len(trial.subject.batch)
    whole = trial.whole.native
    orders: dict[str, Any] = {
        "one by one": torch.cat([trial.explain([row]).native for row in range(size)]),
        "in reverse": trial.explain(list(reversed(range(size)))).native.flip(0),
    }
    for how, maps in orders.items():
        gap = _gap(whole, maps)
        if gap > TOLERANCE:
            raise BrokenRuleError(
                f"on {trial.subject.name}, maps {how} differ from the batch's by {gap:.2g} of the largest value",
                "Normalise and draw for each sample alone, with its id; sum logits over a batch, never average them.",
            )


def _leaves_things_alone(trial: Trial) -> None:
    try:
        with LeftAsFound(states(trial.model, trial.subject.model), trial.subject.batch):
            trial.explain()
    except LeftChangedError as error:
        raise BrokenRuleError(str(error), "Undo it in a finally, or use ctx.tape(...).") from error


def _refuses_gridless(explainer: Explainer) -> None:
    subject = gridless()
    if needs_of(explainer) - subject.has:
        raise NotApplicableError(f"refused before explain, by needs={sorted(needs_of(explainer))}")
    try:
        Trial(explainer, subject).explain()
    except UnsupportedError as refusal:
        if not str(refusal).strip():
            raise BrokenRuleError(
                "the refusal has no reason", "UnsupportedError('why this model cannot be explained')."
            ) from None
        return
    raise BrokenRuleError(
        "a map was made for a model whose geometry is None", "Raise UnsupportedError when model.geometry is None."
    )


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    scale = max(float(a.abs().max()), 1e-12)
    return float((a - b).abs().max()) / scale
