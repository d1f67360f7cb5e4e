"""`bench fit`: what an explainer learns from one (model, data set), as a file that suites and other people can use."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..models.fit_files import ARTEFACT, write_fit
from .cell import load_cell
from .contract import BadInputError, Explainer, Fitted, Monitor, Spec
from .contract import explainers as explainer_registry
from .profile import torch_threads
from .store import default_store
from .tasks import Cell

if TYPE_CHECKING:
    from ..models.optimise import Progress


@dataclass(frozen=True)
class FitConfig:
    """What to fit, on what, and where to write it.

    Attributes:
        explainer, model, dataset: specs.
        out: the artefact; until it is there, the state after each epoch lies in ``state``.
        validation_n: samples of the validation split that the fit may see; a suite's setting of that name.
        seed: of initial weights, order and augmentation; a suite's setting of that name.
        memory_gb: what passes through the model may take.
        threads: of torch; as they are when None.
    """

    explainer: Spec
    model: Spec
    dataset: Spec
    out: Path
    validation_n: int = 256
    seed: int = 0
    device: str = "auto"
    memory_gb: float = 8.0
    threads: int | None = None
    plugins: tuple[Path, ...] = ()

    @property
    def state(self) -> Path:
        """Of a fit that was stopped; the same configuration goes on from there."""
        return self.out.with_name(f"{self.out.name}.state")

    @property
    def command(self) -> str:
        """What makes this artefact, wherever it is written."""
        return (
            f"bench fit {self.explainer} --model {self.model} --dataset {self.dataset} "
            f"--validation {self.validation_n} --seed {self.seed}"
        )


def fit_explainer(config: FitConfig, progress: Progress | None = None) -> Fitted:
    """Fits in this process, as a suite's worker would, and writes the artefact.

    Neither an artefact that ships nor one in the store is taken in place of the fit. Only the fit and validation splits
    are read.

    Raises:
        BadInputError, UnknownNameError: a spec is wrong, the explainer learns nothing or can read no artefact, or what
            it learned is not finite.
    """
    cell = Cell(
        board="fit", kind="", dataset=config.dataset, model=config.model, n=1, chunk=1, batch_size=16,
        target="prediction", seed=config.seed, memory_gb=config.memory_gb, threads=config.threads or 1,
        split="validation", validation_n=config.validation_n, device=config.device, store=default_store(),
        plugins=config.plugins,
    )  # fmt: skip
    with torch_threads(config.threads):
        work, facts = load_cell(cell)
        explainer = fittable(config.explainer)
        frozen = work.frozen
        monitor = Monitor(progress, config.state)
        with work.guard([frozen], (), may_draw=True):
            fitted = explainer.fit(frozen.model, replace(work.context(), monitor=monitor))
    if fitted is None:
        raise BadInputError(f"{config.explainer} learned nothing on {config.dataset}; there is nothing to write.")
    for name, tensor in fitted.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInputError(f"{config.explainer} learned {name!r} with values that are not finite.")
    write_fit(config.out, explainer, frozen.model, facts.dataset_hash, fitted, config.command)
    return fitted


def fittable(spec: Spec) -> Explainer:
    """The explainer of a spec, which learns and can read what it learned from a file.

    Raises:
        BadInputError: it cannot; the text says what to do.
    """
    explainer = explainer_registry.create(spec)
    if type(explainer).fit is Explainer.fit:
        raise BadInputError(f"{spec.name} learns nothing, so there is nothing to fit; use it as it is.")
    if ARTEFACT not in {f.name for f in fields(explainer)}:  # type: ignore[arg-type]
        raise BadInputError(
            f"{spec.name} learns, but has no parameter {ARTEFACT!r} to read a file by; suites fit it by themselves."
        )
    if getattr(explainer, ARTEFACT) is not None:
        raise BadInputError(f"{spec} names an artefact to read; leave {ARTEFACT} out to fit anew.")
    return explainer
