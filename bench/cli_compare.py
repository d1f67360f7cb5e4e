"""`bench compare`: two runs, or two explainers of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import console, write_file

if TYPE_CHECKING:
    from .comparison import Comparison

# Lines of the terminal's table; --markdown and --json hold all.
SHOWN = 60


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Folder of the first run, or an explainer with --run.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Folder of the second run, or an explainer.")],
    run: Annotated[
        Path | None, typer.Option("--run", "-r", metavar="DIR", help="Compare two explainers of this run.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", "-c", metavar="NAME", help="Compare this figure only; may be repeated."),
    ] = None,
    rope: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Differences below this part of a figure's range do not matter.")
    ] = 0.01,
    bayes: Annotated[
        bool, typer.Option("--bayes", help="Also the probabilities of worse, the same and better.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown.")] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON, with everything.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
) -> None:
    """Compare B with A, figure by figure and paired by sample: regressed, improved, equivalent or inconclusive.

    A and B are folders of two runs of the same suite, samples and models; or, with --run, two explainers of one run.
    Files are read, no model is run. Exit codes: 0 nothing regressed, 1 regressed, 2 wrong usage, 3 not comparable.

    \b
    Examples:
      bench compare results/before results/after
      bench compare rollout grad_cam --run results --column auprc --column deletion_auc
      bench compare before after --markdown compare.md --json compare.json --junit compare.xml
    """
    from .compare import compare_explainers, compare_runs
    from .comparison import Settings

    settings = Settings(tuple(column or ()), rope, bayes)
    if run is not None:
        result = compare_explainers(run, first, second, settings)
    else:
        _require_runs(first, second)
        result = compare_runs(Path(first), Path(second), settings)
    _write(result, markdown, json, junit)
    raise typer.Exit(result.exit_code)


def _require_runs(*folders: str) -> None:
    from .contract import BadInputError

    for folder in folders:
        if not (Path(folder) / "run.json").is_file():
            raise BadInputError(
                f"{folder} is no folder of a finished run (it holds no run.json). To compare two explainers of one "
                "run, add --run DIR."
            )


def _write(result: Comparison, markdown: Path | None, json: Path | None, junit: Path | None) -> None:
    from . import compare_summary as summary

    for path, render in ((markdown, summary.as_markdown), (json, summary.as_json), (junit, summary.as_junit)):
        if path is not None:
            write_file(path, render(result))
    terminal = console()
    if result.obstacles:
        terminal.print(summary.as_markdown(result), markup=False)
        return
    terminal.print(summary.as_table(result, SHOWN))
    hidden = len(result.verdicts) - SHOWN
    said = [f"… and {hidden} more; --markdown FILE writes all."] if hidden > 0 else []
    said += [summary.title(result).replace("`", ""), summary.counts(result), summary.method(result), summary.LIMITS]
    gone = sorted(summary.lost_explainers(result))
    if gone:
        said.append(f"In one of the runs only, so not compared: {', '.join(gone)}.")
    if result.gaps:
        said.append(f"{sum(len(g.columns) for g in result.gaps)} figures not compared; --markdown FILE says why.")
    terminal.print("\n" + "\n".join(said), markup=False)
