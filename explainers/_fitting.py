"""How explainers with a model of their own learn it: once per (model, data set), or read from an artefact file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, Batch, Context, Explainer, Fitted, Model
from ..models.whole_files import replacing

if TYPE_CHECKING:
    from ..models.optimise import EpochRecord, Objective, Schedule

HEADER_KEY = "vitxai-fit"
"""Key of the safetensors header under which an artefact's identity and facts stand, as JSON."""

ARTEFACT = "artefact"
"""Name of the parameter that names an artefact file; no part of what the artefact must match."""

READOUT = "READOUT"
"""Class attribute that names the parameters on which the map depends, but not the fit: no part of it either."""

FEATURE_ROWS = 64
"""Samples whose features are computed together."""

Features = Callable[[Tensor], Tensor]
M = TypeVar("M", bound=nn.Module)


def fit_module(
    explainer: Explainer,
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

    The module is changed in place. An artefact that the explainer names, or that ships with the project, is taken
    instead of training.

    Args:
        module: eats normalised inputs, or what ``features`` makes of them, and gives class scores [B,K].
        samples, validation: how many of each split to ask for; the suite may give fewer validation samples.
        classes: of the default objective; the model's logits when None.
        features: of a frozen backbone, computed once for all epochs: [B,C,H,W] -> [B,...].

    Raises:
        BadInputError: a sample has no label, or the artefact belongs to another explainer, model or data set.
    """
    from ..models.optimise import best_epoch, optimise

    found = read_fit(explainer, model, ctx.data_hash, ctx.seed)
    if found is not None:
        return found
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


def identity_of(explainer: Explainer, model: Model, data_hash: str) -> dict[str, str]:
    """What an artefact must match to be used: the explainer with its parameters, the frozen model and the data set."""
    no_part = {ARTEFACT, *getattr(explainer, READOUT, ())}
    parameters = {f.name: getattr(explainer, f.name) for f in fields(explainer) if f.name not in no_part}  # type: ignore[arg-type]
    text = json.dumps(parameters, sort_keys=True, default=str)
    return {"explainer": f"{explainer.name} {text}", "weights": model.weights_hash, "data": data_hash}


def write_fit(path: Path, explainer: Explainer, model: Model, data_hash: str, fitted: Fitted, command: str) -> None:
    """An artefact file that anybody with the same explainer, model and data set can use instead of fitting."""
    from safetensors.torch import save

    header = {"identity": identity_of(explainer, model, data_hash), "facts": dict(fitted.facts), "command": command}
    content = save(
        {name: tensor.contiguous().cpu() for name, tensor in fitted.tensors.items()},
        metadata={HEADER_KEY: json.dumps(header, sort_keys=True)},
    )
    with replacing(path) as partial:
        partial.write_bytes(content)


def read_fit(explainer: Explainer, model: Model, data_hash: str, seed: int = 0) -> Fitted | None:
    """The artefact that the explainer names, or one that ships and was fitted with this seed; None where there is none.

    Raises:
        BadInputError: the named file is missing, no artefact, or one of another explainer, model or data set.
    """
    wanted = identity_of(explainer, model, data_hash)
    named: Path | None = getattr(explainer, ARTEFACT, None)
    if named is not None:
        header = _header(Path(named))
        for what, value in wanted.items():
            if header["identity"][what] != value:
                raise BadInputError(
                    f"{named} was fitted with another {what} ({header['identity'][what]}, here {value}); "
                    f"fit anew with `bench fit {explainer.name}`."
                )
        return _loaded(Path(named), header)
    for path in shipped_files(explainer.name):
        header = _header(path)
        if header["identity"] == wanted and header["facts"].get("seed", 0) == seed:
            return _loaded(path, header)
    return None


def shipped_files(name: str) -> Sequence[Path]:
    """Artefacts of an explainer that come with the project."""
    folder = Path(str(resources.files(__package__).joinpath("fitted")))
    return sorted(folder.glob(f"{name}-*.safetensors"))


def files_hash(explainer: Explainer) -> str:
    """Of the artefacts that ``fit`` may read; part of the explainer's keys."""
    named: Path | None = getattr(explainer, ARTEFACT, None)
    if named is not None and not Path(named).is_file():
        raise BadInputError(f"no artefact at {named}; make it with `bench fit {explainer.name} --out {named}`.")
    digest = hashlib.sha256()
    for path in [Path(named)] if named is not None else shipped_files(explainer.name):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _header(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise BadInputError(f"no artefact at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            header: Mapping[str, Any] = json.loads((file.metadata() or {})[HEADER_KEY])
    except (SafetensorError, KeyError) as error:
        raise BadInputError(f"{path} is no artefact of `bench fit` ({error}).") from error
    return header


def _loaded(path: Path, header: Mapping[str, Any]) -> Fitted:
    from safetensors.torch import load_file

    return Fitted(load_file(path), {**header["facts"], "artefact": path.name, "command": header["command"]})


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
