"""Artefact files: what an explainer learned, with what it must match to be used instead of fitting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from ..bench.contract import BadInputError, Context, Explainer, Fitted, Model
from .whole_files import replacing

HEADER_KEY = "vitxai-fit"
"""Key of the safetensors header under which an artefact's identity and facts stand, as JSON."""

ARTEFACT = "artefact"
"""Name of the parameter that names an artefact file; no part of what the artefact must match."""


def identity_of(explainer: Explainer, model: Model, data_hash: str) -> dict[str, str]:
    """What an artefact must match to be used: the explainer with its parameters, the frozen model and the data set."""
    no_part = {ARTEFACT, *explainer.READOUT}
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


def read_fit(explainer: Explainer, model: Model, ctx: Context) -> Fitted | None:
    """The artefact that the explainer names, or one that ships and was fitted with this seed; None where there is none.

    Methods that learn begin their ``fit`` with it.

    Raises:
        BadInputError: the named file is missing, no artefact, or one of another explainer, model or data set.
    """
    wanted = identity_of(explainer, model, ctx.data_hash)
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
    for path in shipped_files(explainer):
        header = _header(path)
        if header["identity"] == wanted and header["facts"].get("seed", 0) == ctx.seed:
            return _loaded(path, header)
    return None


def shipped_files(explainer: Explainer) -> Sequence[Path]:
    """Artefacts that come with an explainer: in the folder ``fitted`` of its package."""
    package = type(explainer).__module__.rpartition(".")[0]
    if not package:
        return ()
    folder = Path(str(resources.files(package).joinpath("fitted")))
    return sorted(folder.glob(f"{explainer.name}-*.safetensors"))


def files_hash(explainer: Explainer) -> str:
    """Of the artefacts that ``fit`` may read; part of the explainer's keys."""
    named: Path | None = getattr(explainer, ARTEFACT, None)
    if named is not None and not Path(named).is_file():
        raise BadInputError(f"no artefact at {named}; make it with `bench fit {explainer.name} --out {named}`.")
    digest = hashlib.sha256()
    for path in [Path(named)] if named is not None else shipped_files(explainer):
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
