"""What explanations cost beside a plain forward: ``python -m vitxai.bench.speed`` writes the table of performance.md.

One thread for torch and BLAS, CPU time of the process, interleaved pairs of plain forward and explanation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..models.fit_files import obtain_fit
from .context import EngineContext, Shared
from .contract import BadInputError, Batch, Explainer, Fitted, Model, explainers
from .profile import count_passes, peak_bytes
from .speed_table import TARGETS, Missing, Per, Row, filled, report, shown

MODEL = "timm,id=vit_base_patch16_224,random=true"
THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")}
PAGE = Path("docs/performance.md")

# How an explainer is run where its defaults would take minutes, or where one name stands for two lines of the table.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "ablation_cam": ("ablation_cam,budget=32",),
    "attn_lrp": ("attn_lrp", "attn_lrp,rule=cp_lrp"),
    "diff_cam": ("diff_cam,samples=16",),
    "feature_ablation": ("feature_ablation,features=slic,segments=20,budget=32",),
    "focusvit": ("focusvit,skip=0",),
    "gradient_shap": ("gradient_shap,budget=8",),
    "healed_difference": ("healed_difference,steps=2",),
    "integrated_gradients": ("integrated_gradients,steps=2",),
    "kernel_shap": ("kernel_shap,segments=20,budget=32",),
    "legrad": ("legrad,layers=2", "legrad"),
    "lime": ("lime,budget=32",),
    "occlusion": ("occlusion,stride=2,budget=64",),
    "rise": ("rise,budget=64",),
    "score_cam": ("score_cam,budget=64",),
    "smooth_grad": ("smooth_grad,budget=8",),
    "tis": ("tis,budget=32",),
    "vit_cx": ("vit_cx,budget=32",),
}
STEPS = ("integrated_gradients", "healed_difference")


class Requests(Shared):
    """Shared tapes that remember what was asked for, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, None] = {}

    def tape(self, model: Model, batch: Batch, request: Mapping[str, Any]) -> Any:
        """See :meth:`EngineContext.tape`."""
        wanted = {"attention": True, **request}
        words = [word for word in ("attention", "scores", "values") if wanted.pop(word, False)]
        words += wanted.pop("activations", ())
        words += [key if value is True else f"{key}={value}" for key, value in wanted.items() if value]
        self.asked[", ".join(words)] = None
        return super().tape(model, batch, request)


@dataclass(frozen=True, eq=False)
class Bench:
    """A model with inputs, and how to time on them.

    Attributes:
        batch: what is explained, and as many rows a pass. Methods with a budget explain its first image alone.
        pairs: of methods with a target; the others, and those with a budget, are timed in one.
    """

    model: Model
    batch: Batch
    pairs: int

    def plain(self) -> object:
        """The no-grad forward of the batch, with the attention kernel that the model chooses."""
        import torch

        with torch.inference_mode():
            return self.model(self.batch.inputs)

    @cached_property
    def plain_peak(self) -> int:
        """Peak memory of the plain forward."""
        return peak_bytes(self.plain, self.model.device)

    def row(self, spec: str) -> Row:
        """Times one explainer; the first call, a warm-up, counts passes and memory."""
        method = explainers.create(spec)
        budgeted = method.cost == "budget"
        images = self.batch.select([0]) if budgeted else self.batch
        fitted = obtain_fit(method, self.model, self._context(None, Requests()))
        own = method.own_model(self.model, fitted)

        def explain(shared: Requests) -> None:
            method.explain(own, images, self._context(fitted, shared))

        first = Requests()
        with count_passes(own.module, self.model.module) as passes:
            peak = peak_bytes(lambda: explain(first), self.model.device)
        share = len(images) / len(self.batch)
        pairs = self.pairs if spec in TARGETS and not budgeted else 1
        ratios, marginals = paired(self.plain, explain, pairs, again=bool(first.asked) and not budgeted)
        return Row(
            name=spec,
            ratios=tuple(ratio / share for ratio in ratios),
            memory=peak / self.plain_peak,
            forwards=passes.forwards / len(images),
            backwards=passes.backwards / len(images),
            per=unit(method),
            marginal=statistics.median(marginals) if marginals else None,
            tapes=tuple(first.asked) if own is self.model else (),
        )

    def _context(self, fitted: Fitted | None, shared: Shared) -> EngineContext:
        def fit_data(split: str, count: int, labels: bool) -> Batch:
            return inputs_for(self.model, count, seed=1)

        return EngineContext(fitted=fitted, max_rows=len(self.batch), shared=shared, fit_data=fit_data)


def paired(
    plain: Callable[[], object], explain: Callable[[Requests], object], pairs: int, *, again: bool = False
) -> tuple[list[float], list[float]]:
    """CPU time of each explanation over the mean of the plain forwards before and after it.

    Args:
        again: also of a second explanation, for which the recorded passes of the first are there.

    Returns:
        One ratio a pair, of first and of second explanations.
    """
    before, ratios, marginals = cpu_seconds(plain), [], []
    for _ in range(pairs):
        shared = Requests()
        first = cpu_seconds(lambda: explain(shared))  # noqa: B023
        second = cpu_seconds(lambda: explain(shared)) if again else None  # noqa: B023
        after = cpu_seconds(plain)
        ratios.append(2 * first / (before + after))
        marginals += [] if second is None else [2 * second / (before + after)]
        before = after
    return ratios, marginals


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of this process during a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def unit(method: Explainer) -> Per:
    """What a method's ratio is divided by: its steps or its budget."""
    if method.cost != "budget":
        return "step" if method.name in STEPS else "batch"
    return "step" if "gradient" in method.needs else "forward"


def inputs_for(model: Model, count: int, seed: int = 0) -> Batch:
    """Smooth noise, so that superpixels differ, with every truth that an explainer may ask for.

    Targets run through the classes.
    """
    import torch

    from ..models.perturb import blurred

    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, model.channels, *model.input_size, generator=generator, dtype=model.dtype)
    inputs = blurred(inputs, min(model.input_size) / 16)
    inputs = inputs / inputs.std()
    with torch.inference_mode():
        classes = model(inputs[:1]).shape[1]
    mask = torch.zeros(count, *model.input_size, dtype=torch.bool)
    mask[:, : model.input_size[0] // 2, : model.input_size[1] // 2] = True
    targets = torch.arange(count) % classes
    return Batch(
        ids=tuple(f"noise/{row}" for row in range(count)),
        inputs=inputs,
        targets=targets,
        labels=targets,
        mask=mask,
        leaf=mask,
        healed=torch.where(mask[:, None], 0.0, inputs),
    )


def catalogue(chosen: Sequence[str] = ()) -> list[str | Missing]:
    """Specs to measure, those with a target first: those chosen, or all; a bare name stands for its settings here."""
    lines: list[str | Missing] = []
    for text in chosen or [*explainers.names(), *explainers.broken]:
        if not chosen and text not in explainers.broken and explainers.get(text).cost == "slow":
            lines.append(Missing(text, "takes minutes an image; name it with --explainers"))
        else:
            lines += SETTINGS.get(text, (text,))
    return sorted(lines, key=lambda line: line not in TARGETS)


def measured(bench: Bench, specs: Sequence[str | Missing]) -> Iterator[Row | Missing]:
    """One line a spec; an explainer that fails or refuses costs its own line alone."""
    for spec in specs:
        if isinstance(spec, Missing):
            yield spec
            continue
        try:
            yield bench.row(spec)
        except Exception as error:
            yield Missing(spec, f"{type(error).__name__}: {error}")


def conditions(bench: Bench, model: str) -> str:
    """What the figures are measured on, and how busy it is."""
    from .fingerprint import fingerprint

    machine = fingerprint()
    versions = ", ".join(f"{name} {machine.versions[name]}" for name in ("torch", "timm", "captum"))
    seconds = statistics.median(cpu_seconds(bench.plain) for _ in range(3))
    return (
        f"`{model}`, batch {len(bench.batch)}, float32, one thread. {machine.cpu} ({machine.capability}), "
        f"Python {machine.python}, {versions}. A plain forward takes {seconds:.2f} s of CPU. {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f} at the start."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints each line as it comes, and writes all of them into the page."""
    from ..models.load import load_model
    from .speed_peers import PEERS, peer_rows

    parser = argparse.ArgumentParser(prog="python -m vitxai.bench.speed", description=__doc__)
    parser.add_argument("--model", default=MODEL, metavar="SPEC")
    parser.add_argument("--batch", type=int, default=8, metavar="N")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="of explainers with a target; others take 1")
    parser.add_argument("--explainers", nargs="+", default=[], metavar="SPEC", help="instead of the whole catalogue")
    parser.add_argument("--peers", nargs="*", choices=PEERS, metavar="NAME", help="these only, or none (default: all)")
    parser.add_argument("--metrics", nargs="*", metavar="SPEC", help="time metrics instead, these or all")
    parser.add_argument("--out", type=Path, metavar="PAGE", help=f"with marks, such as {PAGE}; default: print only")
    given = parser.parse_args(arguments)
    if given.batch < 1 or given.pairs < 1:
        raise BadInputError(f"--batch {given.batch} and --pairs {given.pairs} must be at least 1.")
    if given.metrics is not None:
        from .speed_metrics import measure

        measure(given.metrics, given.batch, given.pairs, given.out)
        return
    if given.out is not None:
        filled(given.out.read_text(encoding="utf-8"), "")  # fails now rather than after half an hour
    model = load_model(given.model)
    bench = Bench(model, inputs_for(model, given.batch), given.pairs)
    bench.plain()
    head, lines = conditions(bench, given.model), list[Row | Missing]()
    for line in chain(
        measured(bench, catalogue(given.explainers)), peer_rows(given.model, given.batch, given.pairs, given.peers)
    ):
        lines.append(line)
        sys.stdout.write(f"{line.name}: {shown(line)}\n")
        sys.stdout.flush()
        if given.out is not None:  # at every line, so that a run which is stopped leaves what it measured
            page = given.out.read_text(encoding="utf-8")
            given.out.write_text(filled(page, report(head, lines)), encoding="utf-8")
    sys.stdout.write(f"\n{report(head, lines)}\n")


def pinned() -> None:
    """Starts this program again with one thread for every numerical library, unless it runs so already."""
    if any(os.environ.get(name) != value for name, value in THREADS.items()):
        command = [sys.executable, "-P", "-m", "vitxai.bench.speed", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **THREADS})
    import torch

    from .memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()  # as workers do


if __name__ == "__main__":
    pinned()
    main()
