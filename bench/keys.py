"""Keys of artefacts: SHA-256 of canonical JSON of everything that can change their numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..models.fit_files import artefact_of
from .contract import BadInputError, Explainer, Metric, Registry, Spec
from .contract import datasets as dataset_registry
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .source import source_digest

SCHEMA = 1
"""Raised when the engine itself changes what it computes or how it stores it."""

LIBRARIES = ("torch", "timm", "captum", "scipy", "scikit-image")
MODEL_SOURCE = ("vitxai.models.load", "vitxai.models.preprocess", "vitxai.models.tape")
"""What stands between weights and plug-ins; recordings too, which methods ask the context for and do not import."""
Identity = Mapping[str, Any]


class _Plain(dict[str, Any]):
    """A mapping that :func:`_plain` made, and need not look through again: the same parts stand in many keys."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, equal for equal values.

    Raises:
        BadInputError: a value has no JSON form that is the same everywhere (NaN, an arbitrary object).
    """
    plain = _plain(value)
    try:
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except ValueError as error:
        raise BadInputError(f"{value!r} cannot be part of a key: {error}.") from None


def key_of(kind: str, parts: Mapping[str, Any]) -> str:
    """The key of an artefact: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json({"kind": kind, "schema": SCHEMA, **parts}).encode()).hexdigest()


def plugin_identity(registry: Registry, spec: Spec) -> Identity:
    """Name, parameters with their defaults, draw, source, for a metric its version, and the same of what it wraps.

    Raises:
        UnknownNameError, BadInputError: see :meth:`Registry.create`.
    """
    plugin, identity = _known(registry, spec.method)
    identity = _plain({**identity, "draw": spec.draw}) if spec.draw else identity
    # Asked again each time: files may change while a process lives. A data set's content is part of keys by itself.
    content = "" if registry is dataset_registry else getattr(plugin, "content_hash", str)()
    return _plain({**identity, "content": content}) if content else identity


@cache
def _known(registry: Registry, spec: Spec) -> tuple[Any, Identity]:
    plugin: Any = registry.create(spec)
    params = {f.name: getattr(plugin, f.name) for f in dataclasses.fields(plugin)}
    identity: dict[str, Any] = {"name": spec.name, "params": params, "source": source_digest(type(plugin).__module__)}
    inner = plugin.wraps() if isinstance(plugin, Explainer | Metric) else ()
    if inner:
        identity["wraps"] = [plugin_identity(explainer_registry, Spec.parse(spec)) for spec in inner]
    return plugin, _plain({**identity, "version": plugin.version} if hasattr(plugin, "version") else identity)


@dataclass(frozen=True)
class Setting:
    """What all artefacts of a cell have in common.

    Attributes:
        dataset, model: specs.
        dataset_hash: content hash.
        weights_hash: of the frozen model.
        environment: whatever else can change a last bit: device kind, dtype, batch size, threads, rows a pass.
    """

    dataset: Spec
    model: Spec
    dataset_hash: str
    weights_hash: str
    target: str
    seed: int
    validation_n: int
    environment: Mapping[str, Any]


class CellKeys:
    """The keys of one cell's artefacts, equal in every process that knows its setting."""

    def __init__(self, setting: Setting) -> None:
        model = {
            "spec": str(setting.model),
            "weights": setting.weights_hash,
            "source": [source_digest(module) for module in MODEL_SOURCE],
        }
        dataset = plugin_identity(dataset_registry, setting.dataset)
        run = {
            "target": setting.target,
            "seed": setting.seed,
            "environment": {**setting.environment, **{name: version(name) for name in LIBRARIES}},
        }
        data = {**dataset, "content": setting.dataset_hash}
        self._cell = {"model": _plain(model), "dataset": _plain(data), "run": _plain(run)}
        self._setting = setting

    def fit(self, explainer: Spec) -> str:
        """Of what an explainer learns, with the artefact that takes the place of its fit, where there is one.

        Raises:
            BadInputError: the explainer names an artefact that is not there.
        """
        setting, plugin = self._setting, explainer_registry.create(explainer.method)
        identity = dict(plugin_identity(explainer_registry, explainer))
        identity["params"] = {name: value for name, value in identity["params"].items() if name not in plugin.READOUT}
        parts = {**self._cell, "explainer": identity, "validation_n": setting.validation_n}
        artefact = artefact_of(plugin, setting.weights_hash, setting.dataset_hash, setting.seed + explainer.draw)
        if artefact is not None:
            with artefact.open("rb") as file:
                parts["artefact"] = hashlib.file_digest(file, "sha256").hexdigest()
        return key_of("fit", parts)

    def explanation(self, explainer: Spec, ids: Sequence[str], fit: str | None) -> str:
        """Of a chunk's maps; ``fit`` is the fit's key for methods that learn."""
        identity = plugin_identity(explainer_registry, explainer)
        return key_of("explanation", {**self._cell, "explainer": identity, "fit": fit, "ids": list(ids)})

    def score(self, metric: Spec, explanation: str, own: bool) -> str:
        """Of a metric's columns for a chunk of maps, on the method's own model or on the frozen one."""
        identity = plugin_identity(metric_registry, metric)
        parts = {"metric": identity, "explanation": explanation, "own": own, "seed": self._setting.seed}
        if "re-explain" in metric_registry.get(metric.name).needs:  # it may explain validation samples too
            parts["validation_n"] = self._setting.validation_n
        return key_of("score", parts)

    def model_score(self, metric: Spec, ids: Sequence[str], own_of: Spec | None, fit: str | None) -> str:
        """Of a metric that describes a model: the frozen one, or that of a method."""
        owner = None if own_of is None else plugin_identity(explainer_registry, own_of)
        identity = plugin_identity(metric_registry, metric)
        parts = {**self._cell, "metric": identity, "ids": list(ids), "own_of": owner, "fit": fit}
        return key_of("score", parts)

    def probe(self, name: str, ids: Sequence[str], module: str | None = None, owner: str | None = None) -> str:
        """Of a shared response: computed by ``module``; ``owner`` tells a method's own model from the frozen one."""
        source = None if module is None else source_digest(module)
        return key_of("probe", {**self._cell, "name": name, "ids": list(ids), "source": source, "owner": owner})

    def cost(self, explainer: Spec, fit: str | None, machine: str) -> str:
        """Of measured costs on one machine."""
        identity = plugin_identity(explainer_registry, explainer)
        profile = source_digest("vitxai.bench.profile")
        parts = {**self._cell, "explainer": identity, "fit": fit, "machine": machine, "profile": profile}
        return key_of("cost", parts)


def _plain(value: Any) -> Any:
    if isinstance(value, _Plain):
        return value
    if isinstance(value, Mapping):
        return _Plain((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BadInputError(f"{value!r} cannot be part of a key: {type(value).__name__} has no canonical form.")
