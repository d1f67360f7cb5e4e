"""What the engine hands to plug-ins: keyed randomness, shared tapes and probes, fit data."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from .contract import BadInputError, Batch, Explainer, Explanation, Fitted, Model, Monitor, UnsupportedError

T = TypeVar("T")


class FitData(Protocol):
    """Gives the samples that methods may learn from; test data are out of its reach."""

    def __call__(self, split: Literal["fit", "validation"], count: int, labels: bool) -> Batch: ...


class ProbeArchive(Protocol):
    """Keeps probes beyond the life of a worker."""

    def __call__(self, model: Model, batch: Batch, name: str, compute: Callable[[], Any]) -> Any: ...


@dataclass(frozen=True, eq=False)
class EngineContext:
    """The engine's :class:`~vitxai.bench.contract.Context`; without arguments it serves a single call outside any run.

    Attributes:
        seed: of every generator.
        fitted: what the explainer's ``fit`` returned.
        max_rows: inputs that may go through the model in one pass.
        shared: tapes and probes, shared by all plug-ins that get the same object.
        fit_data: source of ``data``; None where there is nothing to learn from.
        method: the explainer of the scored maps, fitted with ``fitted``; None where it cannot be asked again.
        draw: of that explainer, see :class:`~vitxai.bench.contract.Spec`; the metric's own draws are the same for all.
        monitor: what a ``fit`` tells of its progress, and where it keeps its state.
    """

    seed: int = 0
    fitted: Fitted | None = None
    max_rows: int = 64
    shared: Shared = field(default_factory=lambda: Shared())
    fit_data: FitData | None = None
    method: Explainer | None = None
    draw: int = 0
    monitor: Monitor = field(default_factory=Monitor)

    def generator(self, sample_id: str, component: str) -> torch.Generator:
        """A CPU generator keyed by SHA-256 of (seed, sample, component)."""
        key = hashlib.sha256(f"{self.seed}\0{sample_id}\0{component}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)

    def tape(self, model: Model, batch: Batch, **request: Any) -> Any:
        """One recorded pass of the batch, shared by all who ask for the same recording."""
        return self.shared.tape(model, batch, request)

    def probe(self, model: Model, batch: Batch | None, name: str, compute: Callable[[], T]) -> T:
        """A response that no explainer influences. The name holds every parameter that ``compute`` depends on."""
        return self.shared.probe(model, batch, name, compute)

    def explain(self, model: Model, batch: Batch) -> Explanation:
        """The scored method's map of another batch or model, made once for all metrics that ask for it.

        Raises:
            UnsupportedError: the method is not at hand.
        """
        method = self.method
        if method is None:
            raise UnsupportedError(
                "this metric explains again, and the explainer of these maps is not at hand: they were made elsewhere, "
                "or on another model than the one scored."
            )
        ctx = replace(self, seed=self.seed + self.draw)
        asked = (type(method), repr(method), ctx.seed)  # within one cell equal parameters and seeds mean an equal fit
        return self.shared.explanation(model, batch, asked, lambda: method.explain(model, batch, ctx))

    def data(self, split: Literal["fit", "validation"], count: int, labels: bool = False) -> Batch:
        """The first ``count`` samples of a split (all, where there are fewer); without ``labels`` they are hidden (-1).

        Raises:
            BadInputError: the split is not one to learn from, or this context has no data set.
        """
        if split not in ("fit", "validation"):
            raise BadInputError(f"no data of split {split!r} here; methods learn from 'fit' and 'validation' only.")
        if count < 1:
            raise BadInputError(f"count={count} samples; ask for at least one.")
        if self.fit_data is None:
            raise BadInputError("this context has no data to fit on; run the method on a data set, in a suite.")
        return self.fit_data(split, count, labels)


@dataclass
class _Entry:
    """A shared value with what keeps its key valid: while the owners live, their ids are not given away."""

    value: Any
    owners: tuple[Any, ...]
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]


class Shared:
    """Tapes and probes by (model, batch, request), least recently used first out.

    Args:
        max_bytes: memory that recordings may hold; the newest is always kept.
        archive: asked for probes that are not in memory.
    """

    def __init__(self, max_bytes: int = 2 << 30, archive: ProbeArchive | None = None) -> None:
        self.max_bytes = max_bytes
        self.archive = archive
        self._entries: OrderedDict[tuple, _Entry] = OrderedDict()

    def tape(self, model: Model, batch: Batch, request: Mapping[str, Any]) -> Any:
        """See :meth:`EngineContext.tape`."""
        from ..models.tape import record

        def compute() -> Any:
            return record(model, batch.inputs, batch.targets, **request)

        return self._get(model, batch, ("tape", _hashable(request)), compute, tuple(request.values()))

    def probe(self, model: Model, batch: Batch | None, name: str, compute: Callable[[], T]) -> T:
        """See :meth:`EngineContext.probe`."""

        def archived() -> T:
            if self.archive is None or batch is None:
                return compute()
            value: T = self.archive(model, batch, name, compute)
            return value

        value: T = self._get(model, batch, ("probe", name), archived, ())
        return value

    def explanation(
        self, model: Model, batch: Batch, asked: tuple[Any, ...], compute: Callable[[], Explanation]
    ) -> Explanation:
        """See :meth:`EngineContext.explain`; ``asked`` tells one method's maps from another's."""
        value: Explanation = self._get(model, batch, ("explanation", *asked), compute, ())
        return value

    def clear(self) -> None:
        """Forgets everything; called between chunks."""
        self._entries.clear()

    def changed(self) -> bool:
        """Whether a plug-in wrote into a shared tensor; forgets such entries."""
        spoiled = [key for key, entry in self._entries.items() if entry.versions != _versions(entry.tensors)]
        for key in spoiled:
            del self._entries[key]
        return bool(spoiled)

    def _get(
        self,
        model: Model,
        batch: Batch | None,
        request: tuple,
        compute: Callable[[], Any],
        also_alive: tuple[Any, ...],
    ) -> Any:
        given = () if batch is None else (batch.inputs, batch.targets)
        owners = (model.module, *given, also_alive)
        key = (id(model.module), *map(id, given), *_versions(given), request)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key].value
        value = compute()
        tensors = tuple(tensors_in(value))
        self._entries[key] = _Entry(value, owners, tensors, _versions(tensors))
        while len(self._entries) > 1 and sum(map(_bytes, self._entries.values())) > self.max_bytes:
            self._entries.popitem(last=False)
        return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested dataclasses, mappings and sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from tensors_in(getattr(value, f.name))


def _bytes(entry: _Entry) -> int:
    return sum(t.numel() * t.element_size() for t in entry.tensors)


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    # Inference tensors keep no version counter: in-place writes on them outside inference mode raise by themselves.
    return tuple(-1 if t.is_inference() else t._version for t in tensors)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((key, _hashable(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    return value
