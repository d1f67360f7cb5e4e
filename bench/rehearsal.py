"""A rehearsal of every plug-in on a few samples: what a plan's forwards and seconds are counted from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from .contract import Explainer, Explanation, Model, Spec
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .profile import count_passes
from .scoring import checked
from .tasks import Rehearse

if TYPE_CHECKING:
    from .cell import CellWork

T = TypeVar("T")
SAMPLES = 4


@dataclass(frozen=True)
class Usage:
    """What one plug-in asks for, a sample.

    Attributes:
        forwards, backwards: rows.
        seconds: of everything it does.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Rehearsal:
    """Usage by plug-in. What failed, was refused or must be fitted first is absent.

    Attributes:
        explainers: by spec.
        metrics: by spec, on the first explanation of a sample.
        metrics_again: on every further one.
        forward_s: seconds of a plain forward of one input.
    """

    explainers: Mapping[Spec, Usage] = field(default_factory=dict)
    metrics: Mapping[Spec, Usage] = field(default_factory=dict)
    metrics_again: Mapping[Spec, Usage] = field(default_factory=dict)
    forward_s: float = float("nan")


def rehearse(work: CellWork, request: Rehearse) -> Rehearsal:
    """Explains and scores a few samples; nothing is stored, and what fails is left to the run to tell."""
    model = work.frozen.model
    batch = work.samples.collate(work.facts.ids[:SAMPLES])
    batch = replace(batch, targets=work.samples.targets(work.samples.logits(batch.inputs), batch.labels))
    explained: dict[Spec, Usage] = {}
    made_by: list[tuple[Explainer, Explanation]] = []
    for spec in request.explainers:
        method = explainer_registry.create(spec)
        if type(method).fit is not Explainer.fit:
            continue
        with suppress(Exception), work.guard([work.frozen], batch, may_draw=True):
            own = method.own_model(model, None)
            made, explained[spec] = _used(partial(method.explain, own, batch, work.context()), len(batch), model, own)
            made_by.append((method, checked(made, batch, model)))
    first: dict[Spec, Usage] = {}
    again: dict[Spec, Usage] = {}
    for spec in request.metrics:
        metric = metric_registry.create(spec)
        for (method, explanation), usages in zip(made_by[:1] * 2, (first, again), strict=False):
            given = None if metric.of == "model" else explanation
            ctx = replace(work.context(), method=method)
            with suppress(Exception), work.guard([work.frozen], batch):
                _, usages[spec] = _used(partial(metric.score, model, batch, given, ctx), len(batch), model)
    return Rehearsal(explained, first, again, _forward_seconds(model, work.facts.max_rows))


def _used(call: Callable[[], T], samples: int, *models: Model) -> tuple[T, Usage]:
    start = time.perf_counter()
    with count_passes(*(model.module for model in models)) as passes:
        value = call()
    seconds = time.perf_counter() - start
    return value, Usage(passes.forwards / samples, passes.backwards / samples, seconds / samples)


def _forward_seconds(model: Model, max_rows: int) -> float:
    """Of one input in a plain forward, the best over a few batch sizes."""
    best = float("inf")
    for rows in sorted({1, min(8, max_rows), min(32, max_rows)}):
        inputs = torch.zeros(rows, model.channels, *model.input_size, device=model.device, dtype=model.dtype)
        for _ in range(3):
            start = time.perf_counter()
            with torch.inference_mode():
                model(inputs).sum().item()
            best = min(best, (time.perf_counter() - start) / rows)
    return best
