"""`bench explain`: heat maps of one method for a few samples, or for one's own picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import PluginOption, absolute, console


def explain(
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SPEC", help="builtin,id=... | timm,id=... | file,path=...")
    ],
    explainer: Annotated[
        str, typer.Option("--explainer", "-e", metavar="SPEC", help="NAME or NAME,key=value")
    ] = "rollout",
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", metavar="SPEC", help="Explain its test samples.")
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", metavar="FILE", help="Explain this picture.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PNG", help="The picture to write.")] = Path(
        "explanation.png"
    ),
    maps: Annotated[
        Path | None, typer.Option("--maps", metavar="NPZ", help="Also write the native signed maps and the targets.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=64, help="Samples of the data set.")] = 4,
    target: Annotated[int | None, typer.Option(min=0, help="Class to explain [default: the prediction].")] = None,
    plugin: PluginOption = None,
) -> None:
    """Draw heat maps of a data set's samples or of your picture.

    \b
    Examples:
      bench explain --model builtin,id=glyphs --dataset glyphs --explainer chefer_lrp --out glyphs.png
      bench explain --model timm,id=vit_tiny_patch16_224,weights=FILE --image cat.jpg --explainer rollout
    """
    from .contract import BadInputError
    from .contract.registry import import_file
    from .heatmap_sheet import draw_sheet
    from .showcase import showcase

    if (dataset is None) == (image is None):
        raise BadInputError("pass either --dataset SPEC or --image FILE.")
    for path in absolute(plugin):
        import_file(path)
    shown = showcase(model, explainer, dataset=dataset, image=image, count=count, target=target)
    draw_sheet(shown, out)
    console().print(f"wrote {out}", markup=False)
    if maps is not None:
        shown.save(maps)
        console().print(f"wrote {maps}", markup=False)
