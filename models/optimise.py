"""The training loop of models and fitted explainers: AdamW, one learning rate policy, the best epoch by validation."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import lr_scheduler

from ..bench.contract import BadInputError, UnknownNameError
from .augmentation import AUGMENTATIONS
from .whole_files import replacing

Policy = Literal["one_cycle", "cosine", "step", "constant"]


@dataclass(frozen=True)
class Schedule:
    """How a model is optimised.

    Attributes:
        epochs: passes over the fit samples.
        batch_size: samples a step; the last, smaller batch of an epoch is left out unless it is the only one.
        learning_rate: peak of the policy.
        weight_decay: of the matrices; biases, norms and embeddings of one token are free of it.
        warmup: share of all steps in which the one-cycle policy rises.
        label_smoothing: of the loss on fit samples.
        clip: largest norm of the gradient.
        augmentation: a key of ``AUGMENTATIONS``.
        patience: epochs without a lower validation loss after which training stops; None to run all epochs.
        betas: of AdamW; the one-cycle policy moves the first one between .95 and .85.
        policy: one cycle (cosine both ways), cosine down to 0, a step down by ``step_factor`` every ``step_epochs``
            epochs, or constant.
        amp: forward passes in bfloat16 where torch's autocast allows it.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    label_smoothing: float = 0.05
    clip: float = 1.0
    augmentation: str = "none"
    patience: int | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    policy: Policy = "one_cycle"
    step_epochs: int = 10
    step_factor: float = 0.7
    amp: bool = False

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise UnknownNameError("augmentation", self.augmentation, AUGMENTATIONS)
        if self.policy not in POLICIES:
            raise UnknownNameError("learning rate policy", self.policy, POLICIES)
        for name in ("epochs", "batch_size", "step_epochs"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.patience is not None and self.patience < 1:
            raise BadInputError(f"patience is at least 1 epoch, not {self.patience}; leave it out to run all epochs.")


@dataclass(frozen=True)
class LabelledInputs:
    """What a module eats, [N,...] (normalised inputs, or features of a frozen backbone), and labels [N], on the CPU."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log; ``seconds`` counts from the start of training, resumed parts included.

    ``validation_accuracy`` is what the objective calls so: the share of right classes, or R² of a regression.
    ``figures`` are means over the steps of what the objective told besides its loss.
    """

    epoch: int
    learning_rate: float
    fit_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[EpochRecord], None]


class Objective(Protocol):
    """What is minimised."""

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a step, and figures (scalars) for the log."""

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        """Loss and accuracy on validation samples, from the module's outputs [N,...]."""


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Cross-entropy with label smoothing on fit samples; ``weight`` [K] of each class on fit samples only."""

    weight: Tensor | None = None
    label_smoothing: float = 0.0

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.of(module(inputs), labels), {}

    def of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of class scores [B,K] on fit samples."""
        weight = self.weight
        if weight is not None:
            weight = weight.to(outputs.device, torch.promote_types(outputs.dtype, torch.float32))
        return functional.cross_entropy(outputs, labels, weight, label_smoothing=self.label_smoothing)

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        accuracy = (outputs.argmax(1) == labels).float().mean().item()
        return functional.cross_entropy(outputs, labels).item(), accuracy


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error of traits [N,T]; the accuracy is R², the mean over traits of 1 - residual / total variance."""

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return functional.mse_loss(module(inputs), labels), {}

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        residual = (outputs - labels).square().sum(0)
        total = (labels - labels.mean(0)).square().sum(0).clamp(min=torch.finfo(labels.dtype).tiny)
        return functional.mse_loss(outputs, labels).item(), (1 - residual / total).mean().item()


def optimise(
    module: nn.Module,
    fit: LabelledInputs,
    validation: LabelledInputs,
    schedule: Schedule,
    *,
    seed: int,
    classes: int | None = None,
    objective: Objective | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> tuple[EpochRecord, ...]:
    """Trains in place and leaves the weights of the epoch with the lowest validation loss, in eval mode.

    Only parameters that require gradients change. Order and augmentation are drawn from a generator of ``seed``; what
    a module draws itself (dropout) comes from torch's global generator, which the caller seeds.

    Args:
        classes: for the default objective, cross-entropy in which every class has the same say.
        resume: a file that holds the state after each epoch; a run that finds it goes on after the last epoch, to the
            same weights as if it had never stopped. It is removed at the end.

    Raises:
        BadInputError: no fit or validation samples, the loss is not finite (the learning rate is too high), or
            ``resume`` holds the state of another training.
    """
    for name, part in (("fit", fit), ("validation", validation)):
        if not len(part):
            raise BadInputError(f"training needs {name} samples, and there are none.")
    if objective is None:
        if classes is None:
            raise BadInputError("training needs the number of classes, or an objective.")
        objective = CrossEntropy(class_weights(fit.labels, classes), schedule.label_smoothing)
    state = _State.begin(module, schedule, max(len(fit) // schedule.batch_size, 1), seed)
    identity: dict[str, Any] = {"schedule": asdict(schedule), "seed": seed, "samples": [len(fit), len(validation)]}
    if resume is not None:
        identity["content"] = _content(module, fit, validation)
        state.read(resume, identity)
    started = time.perf_counter() - (state.records[-1].seconds if state.records else 0.0)
    while not _ended(state.records, schedule):
        rate = state.policy.get_last_lr()[0]
        loss, figures = _epoch(module, fit, schedule, objective, state)
        judged = objective.judged(predict(module, validation.inputs, schedule.batch_size), validation.labels)
        record = EpochRecord(len(state.records), rate, loss, *judged, time.perf_counter() - started, figures)
        if not math.isfinite(record.validation_loss):
            raise BadInputError(
                f"the validation loss is {record.validation_loss} after epoch {record.epoch}; lower the learning rate "
                f"({schedule.learning_rate}), or look for inputs that are not finite."
            )
        state.keep(record)
        if resume is not None:
            state.write(resume, identity)
        if progress is not None:
            progress(record)
    module.load_state_dict(state.best, strict=False)
    module.eval()
    if resume is not None:
        resume.unlink(missing_ok=True)
    return tuple(state.records)


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """The epoch with the lowest validation loss, the earlier one of equals."""
    return min(records, key=lambda record: record.validation_loss).epoch


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights [K] that give every class that occurs the same say in the loss, with mean 1 over the samples."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts > 0
    weights: Tensor = torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), torch.zeros(()))
    return weights


@torch.inference_mode()
def predict(module: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    """Outputs [N,...] float32 on the CPU, in eval mode."""
    module.eval()
    device = _device(module)
    return torch.cat([module(rows.to(device)).float().cpu() for rows in inputs.split(batch_size)])


POLICIES: Mapping[str, Callable[[torch.optim.Optimizer, Schedule, int], lr_scheduler.LRScheduler]] = {
    "one_cycle": lambda optimiser, schedule, steps: lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=schedule.warmup
    ),
    "cosine": lambda optimiser, schedule, steps: lr_scheduler.CosineAnnealingLR(optimiser, steps * schedule.epochs),
    "step": lambda optimiser, schedule, steps: lr_scheduler.StepLR(
        optimiser, steps * schedule.step_epochs, schedule.step_factor
    ),
    "constant": lambda optimiser, schedule, steps: lr_scheduler.ConstantLR(optimiser, 1.0),
}
"""How the learning rate goes over the steps."""


@dataclass
class _State:
    """Everything that the next epoch depends on."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    policy: lr_scheduler.LRScheduler
    generator: torch.Generator
    steps: int
    records: list[EpochRecord]
    best: dict[str, Tensor]

    @classmethod
    def begin(cls, module: nn.Module, schedule: Schedule, steps: int, seed: int) -> _State:
        optimiser = _optimiser(module, schedule)
        policy = POLICIES[schedule.policy](optimiser, schedule, steps)
        return cls(module, optimiser, policy, torch.Generator().manual_seed(seed), steps, [], {})

    def keep(self, record: EpochRecord) -> None:
        self.records.append(record)
        if best_epoch(self.records) == record.epoch:
            self.best = {name: tensor.detach().clone() for name, tensor in _learned(self.module).items()}

    def write(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Atomically, so that a run killed at any moment finds one state or the other."""
        content = {
            "identity": dict(identity),
            "weights": _learned(self.module),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "policy": self.policy.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "records": [asdict(record) for record in self.records],
        }
        with replacing(path) as partial:
            torch.save(content, partial)

    def read(self, path: Path, identity: Mapping[str, Any]) -> None:
        if not path.is_file():
            return
        content = torch.load(path, weights_only=True)
        if content["identity"] != dict(identity):
            raise BadInputError(
                f"{path} holds the state of another training ({content['identity']}); remove it, or name another file."
            )
        self.module.load_state_dict(content["weights"], strict=False)
        self.optimiser.load_state_dict(content["optimiser"])
        self.policy.load_state_dict(content["policy"])
        self.generator.set_state(content["generator"])
        torch.set_rng_state(content["global_generator"])
        self.best = content["best"]
        self.records = [EpochRecord(**record) for record in content["records"]]


def _ended(records: Sequence[EpochRecord], schedule: Schedule) -> bool:
    if len(records) == schedule.epochs:
        return True
    waited = len(records) - 1 - best_epoch(records) if records else 0
    return schedule.patience is not None and waited >= schedule.patience


def _epoch(
    module: nn.Module, fit: LabelledInputs, schedule: Schedule, objective: Objective, state: _State
) -> tuple[float, dict[str, float]]:
    """One pass over the fit samples; mean loss and figures over its steps."""
    device = _device(module)
    augment = AUGMENTATIONS[schedule.augmentation]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.train()
    sums: dict[str, float] = {"": 0.0}
    order = torch.randperm(len(fit), generator=state.generator)[: state.steps * schedule.batch_size]
    for rows in order.chunk(state.steps):
        inputs, labels = augment(fit.inputs[rows], state.generator).to(device), fit.labels[rows].to(device)
        with torch.autocast(device.type, torch.bfloat16) if schedule.amp else nullcontext():
            loss, figures = objective.loss(module, inputs, labels)
        state.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, schedule.clip)
        state.optimiser.step()
        state.policy.step()
        for name, value in {"": loss, **figures}.items():
            sums[name] = sums.get(name, 0.0) + value.item() / state.steps
    return sums.pop(""), sums


def _optimiser(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1 and p.shape[0] > 1]
    rest = [p for p in parameters if not (p.ndim > 1 and p.shape[0] > 1)]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=schedule.betas,
    )


def _learned(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without frozen parameters."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def _content(module: nn.Module, *parts: LabelledInputs) -> str:
    """SHA-256 over names and shapes of what is learned, the frozen parameters and the samples."""
    learned = _learned(module)
    digest = hashlib.sha256(repr([(name, tuple(tensor.shape)) for name, tensor in learned.items()]).encode())
    frozen = [tensor for name, tensor in module.state_dict().items() if name not in learned]
    for tensor in [*frozen, *(tensor for part in parts for tensor in (part.inputs, part.labels))]:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
