"""`bench prototypes`: a head of class means for a model without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import PluginOption, absolute


def prototypes(
    model: Annotated[str, typer.Argument(help="A model, e.g. timm,id=vit_small_patch14_dinov2.lvd142m,img_size=224")],
    data: Annotated[str, typer.Option("--data", "--dataset", metavar="SPEC", help="Data set whose classes to learn.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The prototypes (.safetensors).")],
    fit: Annotated[int | None, typer.Option(min=1, help="Samples to average [default: all].")] = None,
    validation: Annotated[int | None, typer.Option(min=1, help="Samples to choose the scale on.")] = None,
    scale: Annotated[float | None, typer.Option(min=0, help="Inverse temperature [default: chosen].")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    plugin: PluginOption = None,
) -> None:
    """Average a model's features by class, as a head for a backbone that has none.

    Logits are then scale times the cosine of features and class means; nothing is trained. Learns from the fit split,
    chooses the scale on validation, never looks at test data.

    \b
    Example:
      bench prototypes timm,id=vit_small_patch14_dinov2.lvd142m --data folder,path=DIR,size=518 --out means.safetensors
      bench explain --model timm,id=vit_small_patch14_dinov2.lvd142m,prototypes=means.safetensors --image photo.jpg
    """
    from .contract.registry import import_file
    from .prototypes import make_prototypes

    for path in absolute(plugin):
        import_file(path)
    made = make_prototypes(model, data, out, fit=fit, validation=validation, scale=scale, device=device)
    found = made.facts["validation"]
    typer.echo(f"wrote {out}: {len(made.classes)} classes, scale {made.scale:.4g}")
    typer.echo(f"validation accuracy: {found['correct']} of {found['n']}")
    typer.echo(f"use it as {model},prototypes={out}")
