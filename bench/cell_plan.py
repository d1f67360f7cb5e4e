"""The tasks of one cell, with their keys and what each waits for; a pure function of the suite and the cell's facts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .contract import Explainer, Registry, Spec, needs_of
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .keys import CellKeys, Setting
from .store import Artefact
from .suite import Board, Suite, broken
from .tasks import Cell, CellFacts, Clean, Cost, Explain, Fit, Score, Task


@dataclass(frozen=True)
class CellPlan:
    """All tasks of a cell, in an order in which each comes after what it needs."""

    cell: Cell
    facts: CellFacts
    chunks: tuple[tuple[str, ...], ...]
    tasks: tuple[Task, ...]


def setting_of(cell: Cell, facts: CellFacts) -> Setting:
    """What every key of the cell holds."""
    return Setting(
        dataset=cell.dataset,
        model=cell.model,
        dataset_hash=facts.dataset_hash,
        weights_hash=facts.weights_hash,
        target=cell.target,
        seed=cell.seed,
        validation_n=cell.validation_n,
        environment={
            "device": facts.device,
            "dtype": facts.dtype,
            "batch_size": cell.batch_size,
            "threads": cell.threads,
            "max_rows": facts.max_rows,
            **({"labels": "unknown"} if facts.label_conflict else {}),
        },
    )


def plan_cell(suite: Suite, board: Board, cell: Cell, facts: CellFacts, shuffle: int | None = None) -> CellPlan:
    """The plan of a cell; ``shuffle`` seeds another order of chunks and explainers, for the test that none matters."""
    chunks = tuple(facts.ids[start : start + cell.chunk] for start in range(0, len(facts.ids), cell.chunk))
    planner = _Planner(suite, board, cell, facts, chunks)
    return CellPlan(cell, facts, chunks, tuple(planner.tasks(shuffle)))


@dataclass(frozen=True)
class _Method:
    """An explainer of a board as the plan sees it."""

    spec: Spec
    refusal: Artefact | None
    own: bool
    fit: str | None


@dataclass
class _Planner:
    suite: Suite
    board: Board
    cell: Cell
    facts: CellFacts
    chunks: tuple[tuple[str, ...], ...]
    keys: CellKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = CellKeys(setting_of(self.cell, self.facts))

    def tasks(self, shuffle: int | None) -> Iterator[Task]:
        cleans = [
            Clean(self.keys.probe("clean", ids), f"clean responses, chunk {i}", ids=ids)
            for i, ids in enumerate(self.chunks)
        ]
        methods = [self._method(spec) for spec in self.suite.explainers_of(self.board)]
        pairs = [(clean, method) for clean in cleans for method in methods]
        if shuffle is not None:
            random.Random(shuffle).shuffle(pairs)
        yield from cleans
        for clean in cleans:
            yield from self._model_scores(clean, None)
        for method in methods:
            if method.fit is not None:
                yield Fit(method.fit, f"fit of {method.spec}", _group(method.spec), explainer=method.spec)
        for clean, method in pairs:
            yield from self._method_tasks(clean, method)
        # Copies of one architecture cost the same, and so do draws: the first stands for the board.
        if self.suite.costs and cleans and self.cell.model == self.board.models[0]:
            yield from (self._cost(cleans[0], method) for method in methods if not method.spec.draw)

    def _method(self, spec: Spec) -> _Method:
        refusal = _broken(explainer_registry, spec) or self._lacking(needs_of(explainer_registry.create(spec.method)))
        if refusal is not None:
            return _Method(spec, refusal, own=False, fit=None)
        cls = explainer_registry.get(spec.name)
        fit = None if cls.fit is Explainer.fit else self.keys.fit(spec)
        return _Method(spec, None, own=cls.own_model is not Explainer.own_model, fit=fit)

    def _method_tasks(self, clean: Clean, method: _Method) -> Iterator[Task]:
        explain = self._explain(clean, method)
        yield explain
        for metric in self.suite.metrics_of(self.board):
            if _broken(metric_registry, metric) is None and metric_registry.get(metric.name).of == "model":
                continue
            yield self._score(clean, method, metric, explain, own=method.own)
            if method.own and _queries_model(metric):
                yield self._score(clean, method, metric, explain, own=False)
        if method.own:
            yield from self._model_scores(clean, method)

    def _explain(self, clean: Clean, method: _Method) -> Explain:
        label = f"{method.spec}, {self._chunk(clean)}"
        if method.refusal is not None:
            key = f"refused: {label}"
        else:
            key = self.keys.explanation(method.spec, clean.ids, method.fit)
        return Explain(
            key,
            label,
            group=_group(method.spec),
            needs=(clean.key, *([method.fit] if method.fit else [])),
            refusal=method.refusal,
            explainer=method.spec,
            ids=clean.ids,
            clean=clean.key,
            fit=method.fit,
        )

    def _score(self, clean: Clean, method: _Method, metric: Spec, explain: Explain, own: bool) -> Score:
        refusal = self._metric_refusal(metric)
        label = f"{metric} of {method.spec}, {self._chunk(clean)}"
        where = "" if own or not method.own else " on the frozen model"
        return Score(
            f"refused: {label}{where}" if refusal else self.keys.score(metric, explain.key, own),
            label + where,
            group=_metric_group(metric, method.spec),
            needs=(explain.key,),
            refusal=refusal,
            explainer=method.spec,
            metric=metric,
            ids=clean.ids,
            clean=clean.key,
            fit=method.fit,
            explanation=explain.key,
            own=own,
        )

    def _model_scores(self, clean: Clean, method: _Method | None) -> Iterator[Score]:
        """Scores of the metrics that describe a model: the frozen one, or a method's own."""
        spec, fit = (None, None) if method is None else (method.spec, method.fit)
        for metric in self.suite.metrics_of(self.board):
            if _broken(metric_registry, metric) or metric_registry.get(metric.name).of != "model":
                continue
            refusal = self._metric_refusal(metric)
            label = (
                f"{metric} of {'the frozen model' if spec is None else f'the model of {spec}'}, {self._chunk(clean)}"
            )
            yield Score(
                f"refused: {label}" if refusal else self.keys.model_score(metric, clean.ids, spec, fit),
                label,
                group=f"metric {metric}",
                needs=(clean.key, *([fit] if fit else [])),
                refusal=refusal,
                explainer=spec,
                metric=metric,
                ids=clean.ids,
                clean=clean.key,
                fit=fit,
                own=method is not None,
            )

    def _cost(self, clean: Clean, method: _Method) -> Cost:
        explain = self._explain(clean, method)
        key = self.keys.cost(method.spec, method.fit, self.facts.machine_key) if method.refusal is None else ""
        return Cost(
            key or f"refused: costs of {method.spec}",
            f"costs of {method.spec}",
            group=_group(method.spec),
            needs=(explain.key,),
            refusal=method.refusal,
            explainer=method.spec,
            ids=clean.ids,
            clean=clean.key,
            fit=method.fit,
        )

    def _metric_refusal(self, metric: Spec) -> Artefact | None:
        return _broken(metric_registry, metric) or self._lacking(metric_registry.get(metric.name).needs)

    def _lacking(self, needs: frozenset[str]) -> Artefact | None:
        """The refusal of a plug-in whose needs this cell cannot meet."""
        if self.facts.geometry is None:
            return Artefact(status="unsupported", reason="the model's tokens do not lie on one grid")
        missing = sorted(needs & self.facts.missing_truths)
        if not missing:
            return None
        reasons = {
            "attention": f"the model's attention cannot be recorded: {self.facts.no_attention}",
            "spectrum": f"{self.facts.channels} channels are no spectrum",
        }
        texts = [reasons.get(need, f"data set {self.cell.dataset.name} has no {need}") for need in missing]
        return Artefact(status="unsupported", reason="; ".join(texts))

    def _chunk(self, clean: Clean) -> str:
        return f"chunk {self.chunks.index(clean.ids)}"


def _broken(registry: Registry, spec: Spec) -> Artefact | None:
    plugin = broken(registry, spec)
    if plugin is None:
        return None
    return Artefact(status="error", reason=f"could not be loaded: {plugin.error}", traceback=plugin.traceback)


def _group(spec: Spec) -> str:
    return f"explainer {spec}"


def _metric_group(metric: Spec, explainer: Spec) -> str:
    """A metric that explains again takes as long as the explainer does: its death is a matter of the two."""
    plugin = None if _broken(metric_registry, metric) else metric_registry.get(metric.name)
    again = plugin is not None and "re-explain" in plugin.needs
    return f"metric {metric} of {explainer}" if again else f"metric {metric}"


def _queries_model(metric: Spec) -> bool:
    return _broken(metric_registry, metric) is None and metric_registry.get(metric.name).queries_model


def cells_of(suite: Suite, *, store: Path, device: str, plugins: Sequence[Path]) -> Iterator[tuple[Board, Cell]]:
    """Every (board, model) of a resolved suite."""
    for board in suite.boards:
        for model in board.models:
            yield (
                board,
                Cell(
                    board=board.name,
                    kind=board.kind,
                    dataset=board.dataset,
                    model=model,
                    n=suite.n,
                    chunk=suite.chunk,
                    batch_size=suite.batch_size,
                    target=suite.target,
                    seed=suite.seed,
                    memory_gb=suite.memory_gb,
                    threads=suite.threads,
                    validation_n=suite.validation_n,
                    device=device,
                    store=store,
                    plugins=tuple(plugins),
                    split=suite.split,
                ),
            )
