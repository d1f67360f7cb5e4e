"""What a plug-in is: explainers, metrics and data sets, their declarations and their context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from .batch import Batch, Sample, Split
from .errors import BadInputError
from .explanation import Explanation
from .model import Model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

T = TypeVar("T")
Better = Literal["higher", "lower", "none"]
Status = Literal["exact", "reconstruction", "external", "floor", "oracle", "test"]
Cost = Literal[
    "input",  # the model is not run
    "forward",  # one forward pass
    "gradient",  # a few forward and backward passes
    "budget",  # as many passes as a parameter says, tens to thousands
    "slow",  # seconds to minutes an image
]
Need = Literal[
    "attention",  # a tape of the model's attention: models without it are refused
    "gradient",  # backward passes
    "labels",
    "mask",
    "distractors",
    "leaf",
    "bands",
    "healed",
    "spectrum",  # explanations with a spectral axis
    "re-explain",  # metrics: the scored method itself, on other inputs, targets or models (Context.explain)
]


@dataclass(frozen=True)
class Paper:
    """Where a method or metric comes from."""

    title: str
    year: int
    reference: str  # arXiv id, DOI or venue


@dataclass(frozen=True)
class Fitted:
    """What ``Explainer.fit`` learned: stored as safetensors with its facts, loaded before ``explain``.

    Attributes:
        tensors: by name.
        facts: JSON values for people and tables (chosen skip point, validation scores, trials used).
    """

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Monitor:
    """Where a ``fit`` tells how far it is.

    Attributes:
        progress: called with an :class:`~vitxai.models.optimise.EpochRecord` after each epoch.
        resume: a file for the state after each epoch, so that a fit that was stopped goes on; None to keep none.
    """

    progress: Callable[[Any], None] | None = None
    resume: Path | None = None


class Context(Protocol):
    """What a plug-in may ask of the engine; the answers do not depend on batch size, order or worker."""

    @property
    def seed(self) -> int:
        """The suite's explainer seed."""

    @property
    def fitted(self) -> Fitted | None:
        """What this explainer's ``fit`` returned; None for methods without one."""

    @property
    def monitor(self) -> Monitor:
        """For ``fit``: progress and state."""

    @property
    def max_rows(self) -> int:
        """Inputs that may go through the model in one pass (the memory budget)."""

    def generator(self, sample_id: str, component: str) -> torch.Generator:
        """A CPU generator keyed by (seed, sample, component)."""

    def tape(self, model: Model, batch: Batch, **request: Any) -> Any:
        """``vitxai.models.tape.record`` on this batch and its targets, recorded once for all who ask the same."""

    def probe(self, model: Model, batch: Batch | None, name: str, compute: Callable[[], T]) -> T:
        """A response that no explainer influences, computed once per (model, batch, name) and shared by all.

        Without a batch it belongs to the model alone.
        """

    def explain(self, model: Model, batch: Batch) -> Explanation:
        """What the method of the scored explanation says of another batch or model; for metrics that need re-explain.

        Raises:
            UnsupportedError: no explainer is at hand, because the maps were made elsewhere.
        """

    def data(self, split: Literal["fit", "validation"], count: int, labels: bool = False) -> Batch:
        """The first ``count`` samples of a split, targets by the suite's policy (or the labels); never test data."""


class Explainer:
    """Explains one batch. Subclasses, decorated with :func:`explainer`, are frozen dataclasses of their parameters.

    Attributes:
        READOUT: names of parameters on which the map depends, but not what ``fit`` learns: one fit serves all of their
            values.
    """

    READOUT: ClassVar[tuple[str, ...]] = ()

    name: ClassVar[str]
    paper: ClassVar[Paper | None]
    needs: ClassVar[frozenset[str]]
    status: ClassVar[Status]
    cost: ClassVar[Cost]

    def wraps(self) -> tuple[str, ...]:
        """Specs of other explainers that this one runs, by way of the registry: their needs and keys become its own."""
        return ()

    def content_hash(self) -> str:
        """Of the files that it reads, where it reads any; part of its keys."""
        return ""

    def fit(self, model: Model, ctx: Context) -> Fitted | None:
        """Learns from ``ctx.data`` once per (model, data set); None (the default) for methods that learn nothing.

        Not called where an artefact of `bench fit` takes its place: the file that a parameter ``artefact: Path | None =
        None`` names, or one in the folder ``fitted`` beside the plug-in's file.
        """
        return None

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        """The model explained: the frozen one, unless the method brings its own head, prompts or masked attention."""
        return model

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        """The map of ``batch.targets`` for each input; ``model`` is what ``own_model`` returned."""
        raise NotImplementedError


@dataclass(frozen=True)
class Column:
    """One named figure of a metric.

    Attributes:
        better: ``higher``, ``lower``, or ``none`` where the direction depends on the question.
        range: closed interval of possible values; None for an open end.
        truth: compares with mask or band truth, so that only samples whose truth the model uses count (charter 2).
    """

    name: str
    better: Better
    range: tuple[float | None, float | None]
    description: str
    truth: bool = False


@dataclass(frozen=True)
class Values:
    """One column's values for a batch.

    Attributes:
        values: [B] float64; NaN where undefined.
        reasons: one text a sample, empty where defined; every NaN has a reason.
    """

    values: NDArray[np.float64]
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, values: Any, undefined: Mapping[str, Any] | None = None) -> Values:
        """From any [B] array or tensor; ``undefined`` maps a reason to a [B] bool array, the first that applies wins.

        Raises:
            BadInputError: a value is not finite and no reason covers it, or the shape is not [B].
        """
        import numpy as np

        array = np.array([float(v) for v in values], dtype=np.float64)
        reasons = [""] * len(array)
        for reason, where in (undefined or {}).items():
            flags = np.array([bool(w) for w in where])
            if flags.shape != array.shape:
                raise BadInputError(f"reason {reason!r} covers {flags.shape} values, not {array.shape}.")
            for row in np.flatnonzero(flags):
                reasons[row] = reasons[row] or reason
                array[row] = np.nan
        bare = [row for row in range(len(array)) if not np.isfinite(array[row]) and not reasons[row]]
        if bare:
            raise BadInputError(f"rows {bare} are not finite and no reason is given; pass undefined={{reason: rows}}.")
        return cls(array, tuple(reasons))


Scores = Mapping[str, Values]


class Metric:
    """Scores explanations of one batch. Subclasses are decorated with :func:`metric`.

    A metric with ``of = "model"`` describes a model alone (accuracy, sink rate): it is scored once per model,
    with ``explanation`` None, and once more on the own model of a method that brings one.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    needs: ClassVar[frozenset[str]]
    version: ClassVar[int]
    paper: ClassVar[Paper | None]
    of: ClassVar[Literal["explanation", "model"]]
    queries_model: ClassVar[bool]

    def wraps(self) -> tuple[str, ...]:
        """Specs of explainers that this one runs besides the one scored, by way of the registry: part of its keys."""
        return ()

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """Every declared column, each float64 [B] with reasons; no aggregation, no batch-dependent normalisation."""
        raise NotImplementedError


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a data set.

    Attributes:
        classes: names, in label order.
        channels: 3, or the number of bands.
        has: truths that samples carry, of mask, ignore, distractors, leaf, bands, healed, labels.
        wavelengths: band centres in nm; empty for RGB.
        traits: names of the continuous truths, in the order of ``Sample.traits``; a data set with traits and no classes
            is one of regression.
    """

    classes: tuple[str, ...]
    channels: int
    has: frozenset[str]
    licence: str
    citation: str
    wavelengths: tuple[float, ...] = ()
    traits: tuple[str, ...] = ()


class Dataset:
    """Samples by id, in three splits that share nothing. Subclasses are decorated with :func:`dataset`."""

    name: ClassVar[str]

    def info(self) -> DatasetInfo:
        """Facts, cheap to get."""
        raise NotImplementedError

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """The first ``count`` ids of a split (all when None), in an order that never changes and mixes the classes."""
        raise NotImplementedError

    def sample(self, id: str) -> Sample:
        """The sample of an id; a pure function of it."""
        raise NotImplementedError

    def content_hash(self) -> str:
        """Part of every key; changes when any sample changes (files' names, sizes and times; a generator's version)."""
        raise NotImplementedError
