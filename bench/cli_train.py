"""`bench train`: makes a model's checkpoint by a recorded command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import PluginOption, absolute, console

if TYPE_CHECKING:
    from ..models.optimise import EpochRecord


def train(
    model: Annotated[str, typer.Argument(help="A built-in id (leaves_spectral, leaves_fused, glyphs), or timm,id=...")],
    data: Annotated[
        str | None, typer.Option("--data", "--dataset", metavar="SPEC", help="Data set; needed for timm models.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    fit: Annotated[int | None, typer.Option(min=1, help="Samples to fit [default: all, or the recipe's].")] = None,
    validation: Annotated[int | None, typer.Option(min=1, help="Samples to validate on.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Samples of the one look at test data.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Peak of the one-cycle policy.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    warmup: Annotated[float | None, typer.Option(min=0, max=1, help="Share of all steps.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    clip: Annotated[float | None, typer.Option(min=0, help="Largest norm of the gradient.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="none, mirror, dihedral, shift or affine.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without gain before stopping.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The checkpoint.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Train a built-in model, or fine-tune a timm ViT.

    Writes a self-describing safetensors file and, beside it, a JSON record: command, seed, hashes of data and code,
    log, accuracy on validation and test data. Load it with file,path=FILE.

    \b
    Examples:
      bench train glyphs --seed 0
      bench train timm,id=vit_tiny_patch16_224,weights=FILE --data folder,path=DIR --epochs 20
    """
    from .contract.registry import import_file
    from .recipes import recipe
    from .train import train as run_training

    for path in absolute(plugin):
        import_file(path)
    config = recipe(
        model, data, seed=seed, fit=fit, validation=validation, test=test, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup, label_smoothing=label_smoothing,
        clip=clip, augmentation=augmentation, patience=patience, threads=threads, device=device, out=out,
    )  # fmt: skip
    terminal = console()

    def show(record: EpochRecord) -> None:
        terminal.print(
            f"epoch {record.epoch:3d}  fit loss {record.fit_loss:.4f}  validation loss {record.validation_loss:.4f}  "
            f"accuracy {record.validation_accuracy:.4f}  {record.seconds:6.0f} s",
            markup=False,
        )

    path = run_training(config, show)
    terminal.print(f"wrote {path} and {path.with_suffix('.json')}; load it with file,path={path}", markup=False)
