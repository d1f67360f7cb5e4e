"""`bench fit`: makes the artefact of a fitted explainer by a recorded command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import EXIT_INTERRUPTED, PluginOption, absolute, console


def fit(
    explainer: Annotated[str, typer.Argument(metavar="NAME[,key=value]", help="An explainer that learns.")],
    model: Annotated[str, typer.Option("--model", "-m", metavar="SPEC", help="The frozen model.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", metavar="SPEC", help="Its fit and validation splits.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The artefact, .safetensors.")],
    validation: Annotated[int, typer.Option(min=1, help="Validation samples that it may see.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights, order and augmentation.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda[:N]|auto")] = "auto",
    plugin: PluginOption = None,
) -> None:
    """Fit an explainer to a model and a data set, once.

    Writes safetensors with the explainer's parameters, hashes of model and data, validation figures, the log and the
    command. NAME,artefact=FILE then uses it instead of fitting. Ctrl-C keeps the last epoch's state beside FILE; the
    same command goes on from there.

    Exit codes: 0 ok, 2 wrong usage, 130 interrupted.

    \b
    Example:
      bench fit prompt_cam --model builtin,id=glyphs --dataset glyphs --out prompt_cam.safetensors
    """
    from .contract import Spec
    from .contract.registry import import_file
    from .epoch_display import EpochDisplay
    from .fitting import FitConfig, fit_explainer, fittable

    plugins = absolute(plugin)
    for path in plugins:
        import_file(path)
    config = FitConfig(
        Spec.parse(explainer), Spec.parse(model), Spec.parse(dataset), out, validation_n=validation, seed=seed,
        threads=threads, device=device, plugins=plugins,
    )  # fmt: skip
    terminal = console()
    if config.state.is_file():
        terminal.print(f"going on from {config.state}", markup=False, soft_wrap=True)
    try:
        with EpochDisplay(terminal, getattr(fittable(config.explainer), "epochs", None)) as display:
            fitted = fit_explainer(config, display.show)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; the same command goes on from {config.state}.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    for name, fact in fitted.facts.items():
        if isinstance(fact, int | float | str):
            terminal.print(f"{name.replace('_', ' ')}: {fact}", markup=False)
    terminal.print(f"wrote {out}; use it as {config.explainer},artefact={out}", markup=False, soft_wrap=True)
