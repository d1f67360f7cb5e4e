"""Attention from layer to layer: mass on each prefix token, entropy and active keys, of models on test samples."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import statistics as st
from .contract import BadInputError, UnsupportedError, datasets

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BATCH = 16
SEED = 0


@dataclass(frozen=True)
class Point:
    """One figure of one layer of one model, mean over samples with its 95 % bootstrap interval.

    Attributes:
        layer: from 1.
        figure: see :func:`of_layer`.
        n: samples.
    """

    model: str
    layer: int
    figure: str
    mean: float
    low: float
    high: float
    n: int


def of_layer(attention: torch.Tensor, prefix: int) -> dict[str, torch.Tensor]:
    """Figures [B] of one layer's attention [B,H,T,T] at the patch queries, means over heads and queries.

    ``entropy``: of the rows over ln T, 1 for uniform ones. ``active``: share of the keys with at least 1/T.
    ``prefix_0`` and on: mass on each prefix token, in timm's order the class token first.
    """
    import torch

    rows = attention[:, :, prefix:].double()
    keys = rows.shape[-1]
    entropy = -torch.special.xlogy(rows, rows).sum(-1) / math.log(keys)
    # Uniform rows miss 1/T by rounding and are the case that must count in full.
    figures = {"entropy": entropy, "active": (rows >= (1 - 1e-6) / keys).double().mean(-1)}
    figures |= {f"prefix_{token}": rows[..., token] for token in range(prefix)}
    return {name: values.flatten(1).mean(1) for name, values in figures.items()}


def layer_curves(models: Sequence[str], dataset: str, samples: int, device: str = "cpu") -> list[Point]:
    """Every figure of every layer of each model on the first test samples.

    Raises:
        BadInputError: the data set has no test samples.
        UnsupportedError: a model's tokens lie on no grid, or its attention cannot be recorded.
    """
    source = datasets.create(dataset)
    ids = source.ids("test", samples)
    if not ids:
        raise BadInputError(f"{dataset} has no test samples.")
    return [point for model in models for point in _of_model(model, [source.sample(id) for id in ids], device)]


def _of_model(spec: str, samples: Sequence, device: str) -> list[Point]:
    import torch

    from ..models.load import load_model
    from ..models.preprocess import collate
    from ..models.tape import record

    model = load_model(spec, device=device)
    geometry = model.geometry
    if geometry is None:
        raise UnsupportedError(f"{spec}: the tokens lie on no grid, so that no row belongs to a patch.")
    parts: dict[tuple[int, str], list[Floats]] = {}
    for start in range(0, len(samples), BATCH):
        inputs = collate(samples[start : start + BATCH], model).inputs
        with torch.no_grad():
            tape = record(model, inputs, attention=True)
        layers = [attention for attention in tape.attention if attention.shape[-2] == geometry.tokens]
        for place, attention in enumerate(layers, 1):
            for name, values in of_layer(attention, geometry.prefix).items():
                parts.setdefault((place, name), []).append(values.cpu().numpy())
    curves = np.stack([np.concatenate(values) for values in parts.values()], axis=1)
    interval = st.bootstrap_means(curves, st.resample_counts(len(curves), np.random.default_rng(SEED)))
    ends = zip(interval.mean, interval.low, interval.high, strict=True)
    return [
        Point(spec, place, name, float(mean), float(low), float(high), len(curves))
        for (place, name), (mean, low, high) in zip(parts, ends, strict=True)
    ]


def write_curves(points: Sequence[Point], out: Path, title: str) -> tuple[Path, ...]:
    """Writes ``layers.csv``, ``layers.md`` and ``layers.png`` into a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = tuple(out / f"layers.{suffix}" for suffix in ("csv", "md", "png"))
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Point.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(point) for point in points)
    paths[1].write_text(as_markdown(points, title), encoding="utf-8")
    _draw(points, paths[2], title)
    return paths


def as_markdown(points: Sequence[Point], title: str) -> str:
    """One table a model: a layer a row, a figure a column, mean with interval."""
    from .report.figures_text import grid

    parts = [
        f"# {title}",
        "Patch queries, mean over heads, queries and samples; 95 % bootstrap interval over samples. `entropy` over "
        "ln T, `active`: share of the keys with at least 1/T, `prefix_i`: mass on prefix token i (0: the class token).",
    ]
    for model in dict.fromkeys(point.model for point in points):
        own = [point for point in points if point.model == model]
        figures, layers = dict.fromkeys(p.figure for p in own), dict.fromkeys(p.layer for p in own)
        cells: Mapping[tuple[int, str], Point] = {(p.layer, p.figure): p for p in own}
        lines = [[str(layer), *(_cell(cells[layer, figure]) for figure in figures)] for layer in layers]
        parts += [f"`{model}`, {own[0].n} samples", grid(["layer", *figures], lines)]
    return "\n\n".join(parts) + "\n"


def _cell(point: Point) -> str:
    interval = "" if math.isnan(point.low) else f" [{point.low:.3f}, {point.high:.3f}]"
    return f"{point.mean:.3f}{interval}"


def _draw(points: Sequence[Point], path: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figures = list(dict.fromkeys(point.figure for point in points))
    sheet = Figure(figsize=(3.6 * len(figures), 3.2), layout="constrained")
    axes = sheet.subplots(1, len(figures), squeeze=False)[0]
    for axis, figure in zip(axes, figures, strict=True):
        for model in dict.fromkeys(point.model for point in points):
            own = [point for point in points if (point.model, point.figure) == (model, figure)]
            layers = [point.layer for point in own]
            (line,) = axis.plot(layers, [point.mean for point in own], marker="o", markersize=3, label=model)
            axis.fill_between(layers, [p.low for p in own], [p.high for p in own], color=line.get_color(), alpha=0.2)
        axis.set(title=figure.replace("_", " "), xlabel="layer", ylim=(0, None))
    axes[0].legend(fontsize="x-small")
    sheet.suptitle(title, fontsize="medium")
    sheet.savefig(path, dpi=130)
