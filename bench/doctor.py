"""`bench doctor`: whether this installation can run, and what it would run on."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from ..models.fit_files import named_artefact
from .check import REGISTRIES
from .contract import Explainer, Spec, Split, UnknownNameError, VitxaiError
from .contract.registry import import_file
from .data_facts import recipe_of
from .suite import EVERYTHING, SUITES, Board, Suite

State = Literal["ok", "note", "fail"]
PluginKind = Literal["explainer", "metric"]
ROOM_GB = 2.0


@dataclass(frozen=True)
class Symptom:
    """One thing looked at; ``note`` is worth knowing and stops nothing."""

    what: str
    state: State
    text: str


def examine(store: Path, suite: Suite | None = None, plugins: Sequence[Path] = ()) -> Iterator[Symptom]:
    """Looks at versions, machine, store, plug-ins and built-in models; with ``suite``, loads all that it names.

    What a suite lacks is told with its size, where that is known, and with how to get it.
    """
    yield from _versions()
    yield from _machine()
    yield _store(store)
    yield from _plugins(plugins)
    yield from _builtin_models()
    if suite is not None:
        yield from _suite(suite)


def _versions() -> Iterator[Symptom]:
    yield Symptom("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for line in requires("vitxai") or ():
        requirement = Requirement(line)
        extra = requirement.marker is not None
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            if not extra:
                yield Symptom(requirement.name, "fail", f"not installed; pip install '{requirement}'")
            elif requirement.name == "quantus":
                yield Symptom("quantus", "note", "not installed (optional, GPL-3.0): pip install 'vitxai[quantus]'")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            if not extra or requirement.name == "quantus":
                yield Symptom(requirement.name, "ok", found)
        else:
            yield Symptom(requirement.name, "fail", f"{found} is installed; pip install '{requirement}'")


def _machine() -> Iterator[Symptom]:
    import torch

    from .fingerprint import fingerprint

    machine = fingerprint("cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Symptom(
        "processor",
        "ok",
        f"{machine.cpu}, {machine.capability}, {cores} cores, {torch.get_num_threads()} torch threads",
    )
    if memory := _memory_gb():
        yield Symptom("memory", "ok" if memory > 4 else "note", f"{memory:.1f} GB")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Symptom(f"cuda:{index}", "ok", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB")
    if not torch.cuda.is_available():
        yield Symptom("accelerator", "note", "none; the built-in suites need none")


def _memory_gb() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return None


def _store(folder: Path) -> Symptom:
    from .store import Store

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Symptom("store", "fail", f"{folder} cannot be written: {error}; pass --store DIR or set VITXAI_STORE")
    free = shutil.disk_usage(folder).free / 1e9
    files, size = (sum(column) for column in zip(*Store(folder).sizes().values(), strict=True))
    text = f"{folder}: {files} artefacts, {size / 1e6:.1f} MB; {free:.1f} GB free"
    return Symptom("store", "ok" if free > ROOM_GB else "note", text)


def _plugins(paths: Sequence[Path]) -> Iterator[Symptom]:
    for path in paths:
        try:
            import_file(path)
        except Exception as error:
            yield Symptom(path.name, "fail", f"{type(error).__name__}: {error}; `bench check {path}` says more")
    for kind, registry in REGISTRIES.items():
        yield Symptom(f"{kind}s", "ok", f"{len(registry.names())} load")
        for broken in registry.broken.values():
            yield Symptom(f"{kind} {broken.name}", "fail", f"{broken.error}, from {broken.origin}")


def _builtin_models() -> Iterator[Symptom]:
    from ..models.builtin import BUILTIN_MODELS
    from ..models.load import load_model
    from ..models.shipped import SEEDS

    for id in BUILTIN_MODELS:
        for seed in SEEDS:
            spec = f"builtin,id={id},seed={seed}"
            try:
                model = load_model(spec)
            except (VitxaiError, OSError) as error:
                yield Symptom(spec, "fail", str(error))
            else:
                yield Symptom(spec, "ok", f"weights {model.weights_hash[:12]}")


def _suite(suite: Suite) -> Iterator[Symptom]:
    yield Symptom(f"suite {suite.name}", "ok", f"{len(suite.boards)} boards, n={suite.n}, targets: {suite.target}")
    lists: tuple[tuple[PluginKind, Callable[[Board], tuple[Spec, ...]]], ...] = (
        ("explainer", suite.explainers_of),
        ("metric", suite.metrics_of),
    )
    for kind, specs in lists:
        named = dict.fromkeys(spec.method for board in suite.boards for spec in specs(board) if spec.name != EVERYTHING)
        missing = [symptom for spec in named if (symptom := _missing_plugin(kind, spec))]
        yield from missing
        yield Symptom(f"{kind}s of the suite", "ok", f"{len(named) - len(missing)} of {len(named)} are there")
    for spec in dict.fromkeys(board.dataset for board in suite.boards):
        yield _dataset(spec, suite.split, suite.n)
    for spec in dict.fromkeys(spec for board in suite.boards for spec in board.models):
        yield _model(spec, suite.name)


def _missing_plugin(kind: PluginKind, spec: Spec) -> Symptom | None:
    """Why a plug-in of the suite cannot run: no such name, a wrong parameter, a file of its own that is not there."""
    try:
        plugin = REGISTRIES[kind].create(spec)
        if isinstance(plugin, Explainer):
            plugin.content_hash()
            named_artefact(plugin)
            for inner in plugin.wraps():
                REGISTRIES[kind].create(inner)
    except VitxaiError as error:
        return Symptom(f"{kind} {spec}", "fail", str(error))
    return None


def _dataset(spec: Spec, split: Split, n: int) -> Symptom:
    what = f"data set {spec}"
    try:
        dataset = REGISTRIES["dataset"].create(spec)
        ids = dataset.ids(split, n)
        if not ids:
            return Symptom(what, "fail", f"the {split} split is empty")
        shape = list(dataset.sample(ids[0]).input.shape)
    except UnknownNameError as error:
        return Symptom(what, "fail", str(error))
    except VitxaiError as error:
        return Symptom(what, "fail", f"{error} {_how_to_get(spec.name)}".rstrip())
    state: State = "ok" if len(ids) == n else "note"
    return Symptom(what, state, f"{len(ids)} {split} samples of the {n} asked for, {shape}")


def _how_to_get(name: str) -> str:
    recipe = recipe_of(name)
    size = f" ({recipe['size']})" if recipe.get("size") else ""
    return f"How to get it{size}: {recipe['get']} `bench data {name}` says more." if recipe.get("get") else ""


def _model(spec: Spec, suite: str) -> Symptom:
    from ..models.load import load_model

    what = f"model {spec}"
    try:
        model = load_model(spec)
    except (VitxaiError, OSError) as error:
        hint = f"The head of {_file(suite)} may say how it is made." if spec.name == "file" else _weights_size(spec)
        return Symptom(what, "fail", f"{error} {hint}".rstrip())
    size = sum(parameter.numel() for parameter in model.module.parameters())
    shape = f"{model.channels}x{model.input_size[0]}x{model.input_size[1]}"
    return Symptom(what, "ok", f"input {shape}, {size / 1e6:.2f} M parameters, weights {model.weights_hash[:12]}")


def _file(suite: str) -> str:
    """Of a suite that comes with the project; whose own it is knows the path."""
    file = SUITES / f"{suite}.toml"
    return str(file) if file.is_file() else "the suite's file"


def _weights_size(spec: Spec) -> str:
    """How large the weights of a timm model are, from its architecture; empty where that is unknown."""
    import timm
    import torch

    id = str(spec.params.get("id", ""))
    if spec.name != "timm" or not timm.is_model(id):
        return ""
    with torch.device("meta"):
        module = timm.create_model(id)
    return f"Their size: {4e-6 * sum(parameter.numel() for parameter in module.parameters()):.0f} MB in float32."
