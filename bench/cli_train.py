"""`bench train`: makes a model's checkpoint by a recorded command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import PluginOption, absolute, console


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in id (leaves_spectral, leaves_fused, glyphs), timm,id=..., or spectral,backbone=..."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", "--dataset", metavar="SPEC", help="Data set; needed for timm and spectral models."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and augmentation.")] = 0,
    fit: Annotated[int | None, typer.Option(min=1, help="Samples to fit [default: all, or the recipe's].")] = None,
    validation: Annotated[int | None, typer.Option(min=1, help="Samples to validate on.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Samples of the one look at test data.")] = None,
    preset: Annotated[str | None, typer.Option(help="A paper's recipe: focusvit, selectivevit or focus.")] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Linear probe: the head alone, on features computed once.")
    ] = False,
    shuffle_labels: Annotated[
        bool, typer.Option("--shuffle-labels", help="Labels to memorise, for the metric label_randomisation.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Peak of the policy.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    warmup: Annotated[float | None, typer.Option(min=0, max=1, help="Share of all steps.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    clip: Annotated[float | None, typer.Option(min=0, help="Largest norm of the gradient.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="none, mirror, dihedral, shift, affine or photo.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without gain before stopping.")] = None,
    betas: Annotated[tuple[float, float] | None, typer.Option(help="Of AdamW.")] = None,
    policy: Annotated[str | None, typer.Option(help="one_cycle, cosine, step or constant learning rate.")] = None,
    step_epochs: Annotated[int | None, typer.Option(min=1, help="Of the step policy.")] = None,
    step_factor: Annotated[float | None, typer.Option(min=0, help="Of the step policy.")] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="Forward passes in bfloat16.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the state after each epoch; go on from it where it is found.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="The checkpoint.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Train a built-in model, fine-tune a timm ViT, or teach one band groups.

    Writes a self-describing safetensors file and, beside it, a JSON record: command, seed, hashes of data and code,
    log, accuracy on validation and test data. Load it with file,path=FILE.

    \b
    Examples:
      bench train glyphs --seed 0
      bench train timm,id=vit_tiny_patch16_224,weights=FILE --data folder,path=DIR --epochs 20
      bench train timm,id=vit_base_patch14_dinov2,img_size=224 --data folder,path=DIR --freeze
      bench train spectral,backbone=vit_base_patch14_dinov2,img_size=224,groups=10 --data cubes,path=DIR --preset focus
    """
    from .contract.registry import import_file
    from .epoch_display import EpochDisplay
    from .recipes import recipe
    from .train import train as run_training

    for path in absolute(plugin):
        import_file(path)
    config = recipe(
        model, data, seed=seed, fit=fit, validation=validation, test=test, preset=preset, freeze=freeze,
        shuffle_labels=shuffle_labels, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        weight_decay=weight_decay, warmup=warmup, label_smoothing=label_smoothing, clip=clip,
        augmentation=augmentation, patience=patience, betas=betas, policy=policy, step_epochs=step_epochs,
        step_factor=step_factor, amp=amp, resume=resume, threads=threads, device=device, out=out,
    )  # fmt: skip
    terminal = console()
    with EpochDisplay(terminal, sum(phase.schedule.epochs for phase in config.phases)) as display:
        path = run_training(config, display.show)
    terminal.print(f"wrote {path} and {path.with_suffix('.json')}; load it with file,path={path}", markup=False)
