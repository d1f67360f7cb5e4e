"""What a cell is, what its worker is asked to do and what it answers; plain data that crosses the pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contract import DatasetInfo, Spec, Split, TargetPolicy, TokenGeometry
from .store import Artefact, ArtefactKind


@dataclass(frozen=True)
class Cell:
    """One data set with one model, and the settings that their worker needs."""

    board: str
    kind: str
    dataset: Spec
    model: Spec
    n: int
    chunk: int
    batch_size: int
    target: TargetPolicy
    seed: int
    memory_gb: float
    threads: int
    validation_n: int
    device: str
    store: Path
    plugins: tuple[Path, ...] = ()
    split: Split = "test"

    def __str__(self) -> str:
        return f"{self.board} / {self.model}"


@dataclass(frozen=True)
class CellFacts:
    """What only the worker can know of a cell: what the data set and the loaded model say of themselves.

    Attributes:
        ids: the samples of the cell.
        no_attention: why the model's attention cannot be recorded; empty where it can.
        max_rows: inputs that fit into one pass.
        row_bytes: memory that one input takes in a pass, estimated.
        machine: the fingerprint as JSON values; ``machine_key`` stands for it in keys.
        label_conflict: why the data set's labels are no answers of the model and count as unknown; empty where they
            are.
        left_out: why samples that the data set names are not among ``ids``, by id: they could not be read. Also why
            files are no samples, by file, where the data set says so.
    """

    ids: tuple[str, ...]
    info: DatasetInfo
    dataset_hash: str
    weights_hash: str
    geometry: TokenGeometry | None
    input_size: tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    wavelengths: tuple[float, ...]
    provenance: tuple[tuple[str, Any], ...]
    parameters: int
    no_attention: str
    device: str
    dtype: str
    max_rows: int
    row_bytes: int
    machine: Mapping[str, Any]
    machine_key: str
    label_conflict: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing_truths(self) -> frozenset[str]:
        """Needs of plug-ins that this cell cannot meet."""
        truths = {"labels", "mask", "distractors", "leaf", "bands", "healed"} - self.info.has
        return frozenset(
            truths | ({"attention"} if self.no_attention else set()) | (set() if self.channels > 3 else {"spectrum"})
        )


@dataclass(frozen=True)
class Task:
    """One artefact to make.

    Attributes:
        key: under which it is stored.
        label: for people.
        group: plug-in that a fatal failure is blamed on; the rest of its tasks in the cell are then not tried.
        needs: keys of artefacts without which this one cannot be made.
        refusal: known beforehand: the plug-in is broken, or the cell lacks what it needs. Nothing is run or stored.
        explainer: spec of the explainer concerned; None where there is none.
    """

    key: str
    label: str
    group: str = ""
    needs: tuple[str, ...] = ()
    refusal: Artefact | None = None
    explainer: Spec | None = None

    kind: ArtefactKind = field(init=False, default="probe")


@dataclass(frozen=True)
class Clean(Task):
    """Clean logits, targets, labels and pictures of a chunk."""

    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit(Task):
    """What an explainer learns."""

    kind: ArtefactKind = field(init=False, default="fit")


@dataclass(frozen=True)
class Explain(Task):
    """A chunk's maps; ``clean`` and ``fit`` are keys."""

    ids: tuple[str, ...] = ()
    clean: str = ""
    fit: str | None = None
    kind: ArtefactKind = field(init=False, default="explanation")


@dataclass(frozen=True)
class Score(Task):
    """A metric's columns for a chunk.

    Attributes:
        explanation: key of the maps; None for a metric that describes a model.
        own: on the method's own model rather than the frozen one.
    """

    metric: Spec = field(default_factory=lambda: Spec("none"))
    ids: tuple[str, ...] = ()
    clean: str = ""
    fit: str | None = None
    explanation: str | None = None
    own: bool = False
    kind: ArtefactKind = field(init=False, default="score")


@dataclass(frozen=True)
class Cost(Task):
    """An explainer's measured costs on the first samples of a chunk."""

    ids: tuple[str, ...] = ()
    clean: str = ""
    fit: str | None = None
    kind: ArtefactKind = field(init=False, default="cost")


@dataclass(frozen=True)
class Rehearse:
    """Asks what plug-ins cost on a few samples; see :mod:`vitxai.bench.rehearsal`."""

    explainers: tuple[Spec, ...]
    metrics: tuple[Spec, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task; the artefact itself lies in the store.

    Attributes:
        header: status, record and reason, without tensors.
        recycle: the worker may be spoiled and must be replaced.
        stored: whether the worker has stored it; not where the worker died over it.
        probes_computed, probes_reused: by plug-ins in this task.
    """

    header: Artefact
    stored: bool = True
    recycle: bool = False
    seconds: float = 0.0
    probes_computed: int = 0
    probes_reused: int = 0
