"""The work of one cell, in the worker: model, data set and samples are loaded once and serve every plug-in."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ..models.fit_files import obtain_fit
from .cell_plan import setting_of
from .context import EngineContext, Shared
from .contract import (
    BadInputError,
    Batch,
    Explainer,
    Explanation,
    Fitted,
    Model,
    Monitor,
    Spec,
    UnsupportedError,
    VitxaiError,
)
from .contract import datasets as dataset_registry
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .contract.registry import import_file
from .data_facts import files_left_out
from .display import pictures
from .fingerprint import fingerprint
from .guard import LeftAsFound, LeftChangedError, ModuleState
from .keys import CellKeys, plugin_identity
from .memory import is_out_of_memory, row_bytes, rows_per_pass
from .probes import packed, unpacked
from .samples import CellSamples
from .scoring import Columns, add_scores, checked
from .store import Artefact, Store
from .tasks import Cell, CellFacts, Clean, Cost, Explain, Fit, Outcome, Score, Task

log = logging.getLogger(__name__)

COST_SAMPLES, COST_PAIRS = 4, 3
"""Samples and interleaved pairs that costs are measured on: enough for medians, little beside the scores."""


def load_cell(cell: Cell) -> tuple[CellWork, CellFacts]:
    """Loads plug-in files, data set and model; the facts are what the parent plans with."""
    for path in cell.plugins:
        import_file(path)
    from ..models.load import load_model

    device = ("cuda" if torch.cuda.is_available() else "cpu") if cell.device == "auto" else cell.device
    dataset: Any = dataset_registry.create(cell.dataset)
    model = load_model(cell.model, device=device)
    info = dataset.info()
    if model.channels != info.channels:
        raise BadInputError(f"{cell.model} eats {model.channels} channels; {cell.dataset} has {info.channels}.")
    samples = CellSamples(cell, dataset, model)
    ids, left_out = samples.readable(cell.split, cell.n)
    provenance = model.provenance
    if "labels" in info.has:
        samples.compare_labels()
    if samples.label_conflict:
        log.warning("labels count as unknown: %s", samples.label_conflict)
        info = replace(info, has=info.has - {"labels"})
        provenance = (*provenance, ("labels", f"unknown: {samples.label_conflict}"))
    per_row = row_bytes(model)
    machine = fingerprint(device)
    facts = CellFacts(
        ids=ids,
        info=info,
        dataset_hash=dataset.content_hash(),
        weights_hash=model.weights_hash,
        geometry=model.geometry,
        input_size=model.input_size,
        channels=model.channels,
        classes=model.classes,
        wavelengths=model.wavelengths or info.wavelengths,
        provenance=provenance,
        parameters=sum(p.numel() for p in model.module.parameters()),
        no_attention=_why_no_attention(model),
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        max_rows=rows_per_pass(per_row, cell.memory_gb, model.device.type),
        row_bytes=per_row,
        machine=machine.as_json(),
        machine_key=machine.key,
        label_conflict=samples.label_conflict,
        left_out={**files_left_out(dataset), **left_out},
    )
    return CellWork(cell, facts, model, samples), facts


@dataclass(frozen=True, eq=False)
class WatchedModel:
    """A model that plug-ins see, with the state that they must leave it in; ``owner`` names it in probe keys."""

    model: Model
    state: ModuleState
    owner: str | None = None


class CellWork:
    """Runs tasks of a cell one after another. Not for sharing between threads."""

    def __init__(self, cell: Cell, facts: CellFacts, model: Model, samples: CellSamples) -> None:
        self.cell, self.facts, self.samples = cell, facts, samples
        self.store = Store(cell.store)
        self.keys = CellKeys(setting_of(cell, facts))
        self.shared = Shared(max_bytes=int(0.25 * cell.memory_gb * 1e9), archive=self._archived_probe)
        self.frozen = WatchedModel(model, ModuleState.of(model.module))
        self._own: dict[tuple[Spec, str | None], WatchedModel] = {}
        self._last_maps: tuple[str, Explanation] | None = None
        self._spoiled = False
        self._probes_computed = self._probes_reused = 0

    def run(self, task: Task) -> Outcome:
        """Does a task and stores its artefact, the failure included."""
        start = time.perf_counter()
        self._probes_computed = self._probes_reused = 0
        try:
            artefact = self._make(task)
        except UnsupportedError as refusal:
            artefact = Artefact(status="unsupported", reason=str(refusal))
        except Exception as error:  # the boundary: whatever a plug-in raises becomes its stored failure
            artefact = failure_of(error)
        self.store.write(task.kind, task.key, artefact)
        seconds = time.perf_counter() - start
        return Outcome(
            header=replace(artefact, tensors={}),
            recycle=self._spoiled or artefact.fatal,
            seconds=seconds,
            probes_computed=self._probes_computed,
            probes_reused=self._probes_reused,
        )

    def _make(self, task: Task) -> Artefact:
        match task:
            case Clean():
                return self._clean(task)
            case Fit():
                return self._fit(task)
            case Explain():
                return self._explain(task)
            case Score():
                return self._score(task)
            case Cost():
                return self._cost(task)
        raise TypeError(f"{type(task).__name__} is no task of a cell.")

    def _clean(self, task: Clean) -> Artefact:
        model = self.frozen.model
        batch = self.samples.collate(task.ids)
        logits = self.samples.logits(batch.inputs)
        targets = self.samples.targets(logits, batch.labels)
        tensors = {
            "logits": logits,
            "targets": targets,
            "labels": batch.labels,
            **pictures(model, batch, self.facts.wavelengths),
        }
        return Artefact(tensors=tensors, record={"ids": list(task.ids)})

    def _fit(self, task: Fit) -> Artefact:
        assert task.explainer is not None
        explainer = explainer_registry.create(task.explainer.method)
        monitor = Monitor(resume=self.store.scratch("fit", task.key))
        with self.guard([self.frozen], (), may_draw=True):
            ctx = replace(self.context(draw=task.explainer.draw), monitor=monitor)
            fitted = obtain_fit(explainer, self.frozen.model, ctx, self.facts.dataset_hash)
        if fitted is None:
            return Artefact(record={"facts": {}})
        for name, tensor in fitted.tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise BadInputError(f"fit returned {name!r} with values that are not finite.")
        return Artefact(tensors=dict(fitted.tensors), record={"facts": dict(fitted.facts)})

    def _explain(self, task: Explain) -> Artefact:
        assert task.explainer is not None
        explainer = explainer_registry.create(task.explainer.method)
        batches = self._batches(task.ids, task.clean)
        fitted = self.fitted(task.fit)
        owned = self.model_of(explainer, task.explainer, task.fit, fitted)
        ctx = self.context(fitted, task.explainer.draw)
        parts = []
        with self.guard([self.frozen, owned], batches):
            for batch in batches:
                parts.append(checked(explainer.explain(owned.model, batch, ctx), batch, self.frozen.model))
        native = torch.cat([part.native.detach().to("cpu") for part in parts])
        explanation = replace(parts[0], native=native)
        self._last_maps = (task.key, explanation)
        return Artefact(tensors={"native": native}, record={"layout": explanation.layout})

    def _score(self, task: Score) -> Artefact:
        metric = metric_registry.create(task.metric)
        batches = self._batches(task.ids, task.clean)
        owned, ctx = self.frozen, self.context()
        again = "re-explain" in metric.needs
        if task.explainer is not None and (task.own or again):
            explainer, fitted = explainer_registry.create(task.explainer.method), self.fitted(task.fit)
            explained = self.model_of(explainer, task.explainer, task.fit, fitted)
            owned = explained if task.own else self.frozen
            if again and owned is explained and explainer.status != "external":
                ctx = replace(ctx, fitted=fitted, method=explainer, draw=task.explainer.draw)
        maps: Sequence[Explanation | None] = [None] * len(batches)
        if task.explanation is not None:
            whole = self._explanation(task.explanation)
            if "spectrum" in metric.needs and not whole.has_spectrum:
                raise UnsupportedError(
                    f"a {whole.layout} map on {whole.geometry.channels} channels has no spectral curve."
                )
            maps = list(_split(whole, batches, owned.model.device))
        columns: Columns = {column.name: ([], []) for column in metric.columns}
        with self.guard([self.frozen, owned], (batches, maps)):
            for batch, explanation in zip(batches, maps, strict=True):
                add_scores(columns, metric.score(owned.model, batch, explanation, ctx), len(batch))
        return Artefact(record={"columns": {name: {"values": v, "reasons": r} for name, (v, r) in columns.items()}})

    def _cost(self, task: Cost) -> Artefact:
        from .profile import profile_explainer

        assert task.explainer is not None
        explainer = explainer_registry.create(task.explainer)
        first = self._batches(task.ids, task.clean)[0]
        batch = first.select(range(min(COST_SAMPLES, len(first))))
        fitted = self.fitted(task.fit)
        with self.guard([self.frozen], batch, may_draw=True):
            # A fresh context each call: a recording that is already there would cost nothing.
            costs = profile_explainer(
                explainer,
                self.frozen.model,
                batch,
                lambda: replace(self.context(fitted), shared=Shared()),
                pairs=COST_PAIRS,
                threads=self.cell.threads,
            )
        return Artefact(record={"columns": costs, "machine": self.facts.machine_key})

    @contextmanager
    def guard(self, owned: Sequence[WatchedModel], tensors: Any, may_draw: bool = False) -> Iterator[None]:
        """Runs a plug-in; remembers whether it spoiled this worker, even when it raises.

        Raises:
            LeftChangedError: it left something changed.
        """
        models = {id(o.model.module): (o.model.module, o.state) for o in owned}
        check = LeftAsFound(list(models.values()), tensors, may_draw)
        tampered = False
        try:
            with check:
                yield
        finally:
            tampered = self.shared.changed() | self.samples.changed()
            self._spoiled |= tampered or bool(check.found)
        if tampered:
            raise LeftChangedError("changed data, a tape or a probe that others share. Work on a copy of it.")

    def model_of(self, explainer: Explainer, spec: Spec, fit: str | None, fitted: Fitted | None) -> WatchedModel:
        """The model that the explainer explains: built once, the frozen one where it brings none."""
        if (spec, fit) not in self._own:
            with self.guard([self.frozen], (), may_draw=True):
                model = explainer.own_model(self.frozen.model, fitted)
            if model.module is self.frozen.model.module:
                self._own[spec, fit] = self.frozen
            else:
                if model.module.training or any(p.requires_grad for p in model.module.parameters()):
                    raise BadInputError("own_model must return a model in eval mode with frozen parameters.")
                owner = f"{plugin_identity(explainer_registry, spec)} {fit}"
                self._own[spec, fit] = WatchedModel(model, ModuleState.of(model.module), owner)
        return self._own[spec, fit]

    def context(self, fitted: Fitted | None = None, draw: int = 0) -> EngineContext:
        """What plug-ins of this cell get."""
        return EngineContext(self.cell.seed + draw, fitted, self.facts.max_rows, self.shared, self.samples.fit_data)

    def fitted(self, key: str | None) -> Fitted | None:
        """What the fit of a key learned; None without a key."""
        if key is None:
            return None
        artefact = self._read("fit", key)
        tensors = {name: tensor.to(self.frozen.model.device) for name, tensor in artefact.tensors.items()}
        return Fitted(tensors, artefact.record["facts"])

    def _explanation(self, key: str) -> Explanation:
        if self._last_maps is None or self._last_maps[0] != key:
            assert self.facts.geometry is not None
            artefact = self._read("explanation", key)
            explanation = Explanation(artefact.tensors["native"], artefact.record["layout"], self.facts.geometry)
            self._last_maps = (key, explanation)
        return self._last_maps[1]

    def _batches(self, ids: Sequence[str], clean: str) -> list[Batch]:
        if not self.samples.is_current(ids):
            self.shared.clear()
        return self.samples.batches(ids, self._read("probe", clean).tensors["targets"])

    def _archived_probe(self, model: Model, batch: Batch, name: str, compute: Callable[[], Any]) -> Any:
        """A probe of one of the chunk's own batches is kept in the store; of any other input only in memory."""
        owned = next((o for o in (self.frozen, *self._own.values()) if o.model.module is model.module), None)
        module = getattr(compute, "__module__", None)
        if owned is None or module is None or not any(batch is own for own in self.samples.current):
            return compute()
        key = self.keys.probe(name, batch.ids, module, owned.owner)
        stored = self.store.read("probe", key)
        if stored is not None and stored.status == "ok":
            self._probes_reused += 1
            return unpacked(stored, model.device)
        value = compute()
        artefact = packed(value)
        if artefact is not None:
            self._probes_computed += 1
            self.store.write("probe", key, artefact)
        return value

    def _read(self, kind: Literal["fit", "explanation", "probe"], key: str) -> Artefact:
        artefact = self.store.read(kind, key)
        if artefact is None or artefact.status != "ok":
            raise VitxaiError(f"the stored {kind} {key[:12]} is gone or damaged; run again to compute it anew.")
        return artefact


def failure_of(error: BaseException) -> Artefact:
    """The stored form of what a plug-in raised."""
    reason = f"{type(error).__name__}: {error}".split("\n")[0][:500]
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        return Artefact(status="memory", reason=reason, traceback=text, fatal=True)
    if isinstance(error, LeftChangedError):
        return Artefact(status="error", reason=str(error), traceback=text, fatal=True)
    return Artefact(status="error", reason=reason, traceback=text)


def _split(whole: Explanation, batches: Sequence[Batch], device: torch.device) -> Iterator[Explanation]:
    start = 0
    for batch in batches:
        yield replace(whole, native=whole.native[start : start + len(batch)].to(device))
        start += len(batch)


def _why_no_attention(model: Model) -> str:
    from ..models.tape import record

    if model.geometry is None:
        return "the model's tokens do not lie on one grid"
    try:
        with torch.no_grad():
            record(model, torch.zeros(1, model.channels, *model.input_size, device=model.device, dtype=model.dtype))
    except UnsupportedError as refusal:
        return str(refusal)
    return ""
