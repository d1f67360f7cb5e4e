"""Artefact files: what an explainer learned, with what it must match to be used instead of fitting."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..bench.contract import BadInputError, Context, Explainer, Fitted, Model, explainers
from .whole_files import replacing

HEADER_KEY = "vitxai-fit"
"""Key of the safetensors header under which an artefact's identity and facts stand, as JSON."""

ARTEFACT = "artefact"
"""Name of the parameter that names an artefact file; no part of what the artefact must match."""


def obtain_fit(explainer: Explainer, model: Model, ctx: Context, data_hash: str = "") -> Fitted | None:
    """What an explainer has learned: read from its artefact where there is one, else fitted now.

    Args:
        data_hash: content hash of the data set that ``ctx.data`` reads. Empty where there is none: then a named
            artefact is taken whatever its data, and none that ships.

    Raises:
        BadInputError: the named file is missing, no artefact, or one of another explainer, model or data set.
    """
    path = artefact_of(explainer, model.weights_hash, data_hash, ctx.seed)
    if path is None:
        return explainer.fit(model, ctx)
    header = _header(path)
    for what, value in identity_of(explainer, model.weights_hash, data_hash).items():
        if header["identity"][what] != value and (what != "data" or data_hash):
            raise BadInputError(
                f"{path} was fitted with another {what} ({header['identity'][what]}, here {value}); "
                f"fit anew with `bench fit {explainer.name}`."
            )
    return _loaded(path, header)


def artefact_of(explainer: Explainer, weights_hash: str, data_hash: str, seed: int) -> Path | None:
    """The artefact that takes the place of a fit: the file named, or one that ships and matches; None without one.

    A named file is not looked into, so that keys can be made of it; :func:`obtain_fit` holds it against its use.

    Raises:
        BadInputError: see :func:`named_artefact`; or a file that ships is no artefact.
    """
    if (named := named_artefact(explainer)) is not None:
        return named
    wanted = identity_of(explainer, weights_hash, data_hash)
    for path in shipped_files(explainer):
        header = _header(path)
        if header["identity"] == wanted and header["facts"].get("seed", 0) == seed:
            return path
    return None


def named_artefact(explainer: Explainer) -> Path | None:
    """The file that the parameter ``artefact`` of an explainer that learns names; None where it names none.

    Raises:
        BadInputError: the file is missing, or an explainer that this one wraps names one, which nobody would read.
    """
    if type(explainer).fit is Explainer.fit:
        return None
    for spec in explainer.wraps():
        if getattr(explainers.create(spec), ARTEFACT, None) is not None:
            raise BadInputError(f"{explainer.name} fits {spec} itself and reads no artefact; leave {ARTEFACT} out.")
    named: Path | None = getattr(explainer, ARTEFACT, None)
    if named is not None and not Path(named).is_file():
        raise BadInputError(f"no artefact at {named}; make it with `bench fit {explainer.name} --out {named}`.")
    return None if named is None else Path(named)


def shipped_files(explainer: Explainer) -> Sequence[Path]:
    """Artefacts that come with an explainer: in the folder ``fitted`` beside its file."""
    file = getattr(sys.modules.get(type(explainer).__module__), "__file__", None)
    return [] if file is None else sorted(Path(file).with_name("fitted").glob(f"{explainer.name}-*.safetensors"))


def identity_of(explainer: Explainer, weights_hash: str, data_hash: str) -> dict[str, str]:
    """What an artefact must match to be used: the explainer with its parameters, the frozen model and the data set."""
    no_part = {ARTEFACT, *explainer.READOUT}
    parameters = {f.name: getattr(explainer, f.name) for f in fields(explainer) if f.name not in no_part}  # type: ignore[arg-type]
    text = json.dumps(parameters, sort_keys=True, default=str)
    return {"explainer": f"{explainer.name} {text}", "weights": weights_hash, "data": data_hash}


def write_fit(path: Path, explainer: Explainer, model: Model, data_hash: str, fitted: Fitted, command: str) -> None:
    """An artefact file that anybody with the same explainer, model and data set can use instead of fitting."""
    from safetensors.torch import save

    identity = identity_of(explainer, model.weights_hash, data_hash)
    header = {"identity": identity, "facts": dict(fitted.facts), "command": command}
    content = save(
        {name: tensor.contiguous().cpu() for name, tensor in fitted.tensors.items()},
        metadata={HEADER_KEY: json.dumps(header, sort_keys=True)},
    )
    with replacing(path) as partial:
        partial.write_bytes(content)


def _header(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # of which the header alone is read, without torch
            header: Mapping[str, Any] = json.loads((file.metadata() or {})[HEADER_KEY])
    except (SafetensorError, KeyError) as error:
        raise BadInputError(f"{path} is no artefact of `bench fit` ({error}).") from error
    return header


def _loaded(path: Path, header: Mapping[str, Any]) -> Fitted:
    from safetensors.torch import load_file

    return Fitted(load_file(path), {**header["facts"], "artefact": path.name, "command": header["command"]})
