"""`bench layers`: what a model's attention does from layer to layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import OutOption, PluginOption, absolute, console


def layers(
    model: Annotated[
        list[str], typer.Option("--model", "-m", metavar="SPEC", help="May be repeated: one curve a model.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", "-d", metavar="SPEC", help="Its first test samples.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Samples.")] = 64,
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda[:N]", help="Where models run.")] = "cpu",
    out: OutOption = Path("layers"),
    plugin: PluginOption = None,
) -> None:
    """Draw attention by layer: mass on each prefix token (a sink's curve), entropy, share of active keys.

    Writes layers.csv, layers.md and layers.png.

    \b
    Example:
      bench layers --model builtin,id=leaves_spectral --model builtin,id=leaves_spectral,seed=1 --dataset leaves
    """
    from .contract.registry import import_file
    from .layers import layer_curves, write_curves

    for path in absolute(plugin):
        import_file(path)
    points = layer_curves(model, dataset, count, device)
    for path in write_curves(points, out, f"Attention by layer on {dataset}"):
        console().print(f"wrote {path}", markup=False, soft_wrap=True)
