"""The training loop: AdamW with a one-cycle learning rate, class-balanced loss, the best epoch by validation loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .augmentation import AUGMENTATIONS
from .contract import BadInputError, UnknownNameError


@dataclass(frozen=True)
class Schedule:
    """How a model is optimised.

    Attributes:
        epochs: passes over the fit samples.
        batch_size: samples a step; the last, smaller batch of an epoch is left out unless it is the only one.
        learning_rate: peak of the one-cycle policy (cosine, up within the first ``warmup`` share of all steps).
        weight_decay: of the matrices; biases, norms and embeddings of one token are free of it.
        label_smoothing: of the loss on fit samples.
        clip: largest norm of the gradient.
        augmentation: a key of ``AUGMENTATIONS``.
        patience: epochs without a lower validation loss after which training stops; None to run all epochs.
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

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise UnknownNameError("augmentation", self.augmentation, AUGMENTATIONS)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} is at least 1, not {getattr(self, name)}.")
        if self.patience is not None and self.patience < 1:
            raise BadInputError(f"patience is at least 1 epoch, not {self.patience}; leave it out to run all epochs.")


@dataclass(frozen=True)
class LabelledInputs:
    """Normalised inputs [N,C,H,W] float32 and labels [N] int64, on the CPU."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training log; ``seconds`` counts from the start of training."""

    epoch: int
    learning_rate: float
    fit_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


Progress = Callable[[EpochRecord], None]


def optimise(
    module: nn.Module,
    fit: LabelledInputs,
    validation: LabelledInputs,
    schedule: Schedule,
    *,
    classes: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[EpochRecord, ...]:
    """Trains in place and leaves the weights of the epoch with the lowest validation loss, in eval mode.

    Order and augmentation are drawn from a generator of ``seed``; what a module draws itself (dropout) comes from
    torch's global generator, which the caller seeds.

    Raises:
        BadInputError: no fit or validation samples, or the loss is not finite (the learning rate is too high).
    """
    for name, part in (("fit", fit), ("validation", validation)):
        if not len(part):
            raise BadInputError(f"training needs {name} samples, and there are none.")
    steps = max(len(fit) // schedule.batch_size, 1)
    optimiser = _optimiser(module, schedule)
    policy = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=schedule.warmup
    )
    generator = torch.Generator().manual_seed(seed)
    weight = class_weights(fit.labels, classes).to(_device(module))
    augment = AUGMENTATIONS[schedule.augmentation]

    started = time.perf_counter()
    records: list[EpochRecord] = []
    best: dict[str, Tensor] = {}
    for epoch in range(schedule.epochs):
        rate, fit_loss = policy.get_last_lr()[0], 0.0
        module.train()
        for rows in torch.randperm(len(fit), generator=generator)[: steps * schedule.batch_size].chunk(steps):
            logits = module(augment(fit.inputs[rows], generator).to(weight.device))
            labels = fit.labels[rows].to(weight.device)
            loss = functional.cross_entropy(logits, labels, weight, label_smoothing=schedule.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), schedule.clip)
            optimiser.step()
            policy.step()
            fit_loss += loss.item() / steps
        records.append(_measured(module, validation, schedule, epoch, rate, fit_loss, started))
        if _is_best(records):
            best = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        if progress is not None:
            progress(records[-1])
        if schedule.patience is not None and epoch - best_epoch(records) >= schedule.patience:
            break
    module.load_state_dict(best)
    module.eval()
    return tuple(records)


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
    """Logits [N,K] float32 on the CPU, in eval mode."""
    module.eval()
    device = _device(module)
    return torch.cat([module(rows.to(device)).float().cpu() for rows in inputs.split(batch_size)])


def _optimiser(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1 and p.shape[0] > 1]
    rest = [p for p in parameters if not (p.ndim > 1 and p.shape[0] > 1)]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
    )


def _measured(
    module: nn.Module,
    validation: LabelledInputs,
    schedule: Schedule,
    epoch: int,
    rate: float,
    loss: float,
    start: float,
) -> EpochRecord:
    logits = predict(module, validation.inputs, schedule.batch_size)
    validation_loss = functional.cross_entropy(logits, validation.labels).item()
    accuracy = (logits.argmax(1) == validation.labels).float().mean().item()
    if not math.isfinite(validation_loss):
        raise BadInputError(
            f"the validation loss is {validation_loss} after epoch {epoch}; lower the learning rate "
            f"({schedule.learning_rate}), or look for inputs that are not finite."
        )
    return EpochRecord(epoch, rate, loss, validation_loss, accuracy, time.perf_counter() - start)


def _is_best(records: Sequence[EpochRecord]) -> bool:
    return best_epoch(records) == records[-1].epoch


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
