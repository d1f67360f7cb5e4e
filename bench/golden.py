"""Golden maps: the signed maps of a board's first samples, kept in full precision for the gate's exact comparison."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .cell_run import CellResult
from .contract import Explanation
from .store import Store
from .tasks import Explain

SAMPLES = 2


def write_golden(folder: Path, result: CellResult, store: Store) -> Path | None:
    """Writes ``<board>.safetensors``: of every explainer of one cell the maps of the first samples, float32.

    Tensors are named ``explainer|part``; see :func:`golden_parts`. None when the cell has no explanation.
    """
    if result.plan is None or result.plan.facts.geometry is None or not result.plan.chunks:
        return None
    tensors: dict[str, Tensor] = {}
    for task in result.plan.tasks:
        if not isinstance(task, Explain) or task.ids != result.plan.chunks[0]:
            continue
        header = result.status_of(task)
        artefact = store.read("explanation", task.key) if header is not None and header.status == "ok" else None
        if artefact is not None:
            native = artefact.tensors["native"][:SAMPLES].float()
            explanation = Explanation(native, artefact.record["layout"], result.plan.facts.geometry)
            tensors |= {f"{task.explainer}|{part}": values for part, values in golden_parts(explanation).items()}
    if not tensors:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.cell.board}.safetensors"
    facts = {"model": str(result.cell.model), "samples": "\n".join(result.plan.chunks[0][:SAMPLES])}
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, path, metadata=facts)
    path.chmod(0o644)
    return path


def golden_parts(explanation: Explanation) -> Mapping[str, Tensor]:
    """The native map, but of a cube its two signed marginals: megabytes a sample would not belong into version control.

    A third part weighs every value of the cube with its own fixed random number, so that no change of it goes unseen.
    """
    if explanation.layout != "cube":
        return {"native": explanation.native}
    native = explanation.native
    return {
        "spatial": native.mean(1),
        "spectral": native.flatten(2).mean(-1),
        "projection": (native.abs() * _weights(native.shape[1:])).flatten(1).mean(1, keepdim=True),
    }


@cache
def _weights(shape: torch.Size) -> Tensor:
    """Random numbers that are the same for every cube of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
