"""How explainers with a model of their own learn it: trained on labelled fit data, kept by the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, Batch, Context, Fitted, Model

if TYPE_CHECKING:
    from ..models.optimise import CrossEntropy, EpochRecord, Objective, Schedule

FEATURE_ROWS = 64
"""Samples whose features are computed together."""

Features = Callable[[Tensor], Tensor]
M = TypeVar("M", bound=nn.Module)


def fit_module(
    model: Model,
    ctx: Context,
    module: nn.Module,
    schedule: Schedule,
    *,
    samples: int,
    validation: int = 256,
    classes: int | None = None,
    objective: Objective | None = None,
    features: Features | None = None,
) -> Fitted:
    """Trains the parameters of ``module`` that require gradients on labelled fit data; the best epoch by validation.

    The module is changed in place.

    Args:
        module: eats normalised inputs, or what ``features`` makes of them, and gives class scores [B,K].
        samples, validation: how many of each split to ask for; the suite may give fewer validation samples.
        classes: of the default objective; the model's logits when None.
        features: of a frozen backbone, computed once for all epochs: [B,C,H,W] -> [B,...].

    Raises:
        BadInputError: a sample has no label.
    """
    from ..models.optimise import best_epoch, optimise

    fit, held_out = ctx.data("fit", samples, labels=True), ctx.data("validation", validation, labels=True)
    for batch in (fit, held_out):
        if bool((batch.labels < 0).any()):
            raise BadInputError(f"sample {batch.ids[int((batch.labels < 0).nonzero()[0])]!r} has no label to learn.")
    classes = classes or class_count(model, held_out)
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(ctx.seed)
        records = optimise(
            module.to(model.device),
            _labelled(fit, features, min(ctx.max_rows, FEATURE_ROWS)),
            _labelled(held_out, features, min(ctx.max_rows, FEATURE_ROWS)),
            schedule,
            seed=ctx.seed,
            classes=classes,
            objective=objective,
            progress=ctx.monitor.progress,
            resume=ctx.monitor.resume,
        )
    best = records[best_epoch(records)]
    facts = {
        "seed": ctx.seed,
        "fit_samples": len(fit),
        "validation_samples": len(held_out),
        "validation_accuracy": best.validation_accuracy,
        "validation_loss": best.validation_loss,
        "epochs": len(records),
        "best_epoch": best.epoch,
        "seconds": round(records[-1].seconds, 1),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "schedule": asdict(schedule),
        "log": [_line(record) for record in records],
    }
    return Fitted(learned(module), facts)


def balanced_entropy(fit: Batch, classes: int) -> CrossEntropy:
    """Cross-entropy in which every class of the labelled fit samples has the same say; objectives add their own."""
    from ..models.optimise import CrossEntropy, class_weights

    return CrossEntropy(class_weights(fit.labels.cpu(), classes))


def class_count(model: Model, batch: Batch) -> int:
    """Classes of a model: its logits' width."""
    with torch.inference_mode():
        return model(batch.inputs[:1]).shape[1]


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, detached on the CPU, by name; no buffers."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}


def required(fitted: Fitted | None, name: str) -> Fitted:
    """What was learned.

    Raises:
        BadInputError: nothing was.
    """
    if fitted is None:
        raise BadInputError(f"{name} has learned nothing yet: fit it first (`bench fit {name}`, or run it in a suite).")
    return fitted


def restore(module: M, fitted: Fitted | None, name: str) -> M:
    """Puts what was learned into a module, and gives it in eval mode with frozen parameters.

    Raises:
        BadInputError: nothing was fitted, or it does not fit this module.
    """
    fitted = required(fitted, name)
    expected = {key: tuple(p.shape) for key, p in module.named_parameters() if p.requires_grad}
    found = {key: tuple(tensor.shape) for key, tensor in fitted.tensors.items() if key in expected}
    if found != expected:
        wrong = sorted(key for key in expected if found.get(key) != expected[key])
        raise BadInputError(f"the artefact of {name} does not fit this model: {', '.join(wrong[:3])} differ.")
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if key in found:
                parameter.copy_(fitted.tensors[key])
    return module.eval().requires_grad_(False)


def _labelled(batch: Batch, features: Features | None, rows: int) -> Any:
    from ..models.optimise import LabelledInputs

    if features is None:
        return LabelledInputs(batch.inputs.cpu(), batch.labels.cpu())
    with torch.no_grad():
        parts = [features(part).cpu() for part in batch.inputs.split(rows)]
    return LabelledInputs(torch.cat(parts), batch.labels.cpu())


def _line(record: EpochRecord) -> dict[str, float]:
    line = {"epoch": record.epoch, "fit_loss": record.fit_loss, "validation_loss": record.validation_loss}
    return {**line, "validation_accuracy": record.validation_accuracy, **record.figures}
