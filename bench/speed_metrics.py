"""What metrics cost beside the passes they need: ``python -m vitxai.bench.speed --metrics`` prints the table.

The limit of a metric is its forward passes times the best batched forward, plus its explanations times the best batched
explanation, in the same process, CPU time. Own over limit says what all else takes: perturbing, ranking, counting.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .context import EngineContext, Shared
from .contract import Batch, Explainer, Explanation, Model, explainers, metrics
from .profile import Passes, count_passes
from .speed import cpu_seconds, inputs_for
from .speed_table import Missing, filled

if TYPE_CHECKING:
    from torch import Tensor

TARGETS: Mapping[str, float] = dict.fromkeys(
    ("faithfulness_correlation", "pixel_flipping", "insertion_deletion", "max_sensitivity", "mprt"), 1.15
)
EXPLAINER = "grad_cam"
MARK = "speed-metrics"
ROWS = (8, 32, 64)
"""Rows a pass among which the best forward is looked for."""
REPEATS = 3


class FreshMaps(Shared):
    """Shared tapes and probes, but every explanation made anew; counts them, and the passes inside them."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self._passes = passes
        self.maps = 0
        self.forwards_inside = 0

    def forget_recordings(self) -> None:
        """Leaves only probes, which all explainers share; another explainer may ask for other recordings."""
        for key in [key for key in self._entries if key[-1][0] == "tape"]:
            del self._entries[key]

    def explanation(
        self, model: Model, batch: Batch, method: Explainer, compute: Callable[[], Explanation]
    ) -> Explanation:
        """See :meth:`EngineContext.explain`."""
        before = self._passes.forwards
        made = compute()
        self.maps += len(batch)
        self.forwards_inside += self._passes.forwards - before
        return made


@dataclass(frozen=True)
class MetricRow:
    """One line of the table; counts are of one map.

    Attributes:
        name: spec of the metric.
        explanations: maps made for the first one scored.
        forwards: rows through the model for it, those inside explanations left out.
        further: rows for a map of the same inputs by a further explainer: the probes are there, recordings are not.
        times: CPU time of the first map, in plain forwards of one row; one a pair.
        further_time: the same of a further map, median.
        ratios: own over limit of the first map; one a pair, none where no pass is needed.
    """

    name: str
    explanations: float
    forwards: float
    further: float
    times: tuple[float, ...]
    further_time: float
    ratios: tuple[float, ...] = ()

    @property
    def time(self) -> float:
        """Median of ``times``."""
        return statistics.median(self.times)

    @property
    def ratio(self) -> float | None:
        """Median own over limit; None where the metric needs no pass."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        """``met`` or ``missed``; empty without a target."""
        target = TARGETS.get(self.name)
        return "" if target is None or self.ratio is None else "met" if self.ratio <= target else "missed"


@dataclass(frozen=True, eq=False)
class MetricBench:
    """A model with a batch, and the explainer whose maps are scored.

    Attributes:
        method: also explains again, where a metric asks for it.
        pairs: of (limit, metric) that are timed.
        fit_data: what metrics may look at beside the batch.
    """

    model: Model
    batch: Batch
    method: Explainer
    pairs: int = 3
    max_rows: int = 64
    fit_data: Any = None

    def row(self, spec: str) -> MetricRow:
        """Counts and times one metric; the first call, a warm-up, counts."""
        metric = metrics.create(spec)
        n = len(self.batch)
        explanation = self.method.explain(self.model, self.batch, self._context(Shared()))
        given = None if metric.of == "model" else explanation

        def score(shared: Shared) -> object:
            return metric.score(self.model, self.batch, given, self._context(shared))

        with count_passes(self.model.module) as passes:
            shared = FreshMaps(passes)
            score(shared)
            explanations, forwards = shared.maps / n, (passes.forwards - shared.forwards_inside) / n
            shared.forget_recordings()
            before, inside = passes.forwards, shared.forwards_inside
            score(shared)
            further = (passes.forwards - before - (shared.forwards_inside - inside)) / n
        times, again, ratios = [], [], []
        for _ in range(self.pairs):
            forward = self.forward_seconds()
            limit = forwards * forward + (explanations * self.explanation_seconds() if explanations else 0.0)
            shared = FreshMaps(Passes())
            own = cpu_seconds(lambda: score(shared)) / n  # noqa: B023
            shared.forget_recordings()
            again.append(cpu_seconds(lambda: score(shared)) / n / forward)  # noqa: B023
            times.append(own / forward)
            ratios += [own / limit] if limit else []
        return MetricRow(spec, explanations, forwards, further, tuple(times), statistics.median(again), tuple(ratios))

    def forward_seconds(self) -> float:
        """CPU time of a plain forward of one input, the best over a few batch sizes."""
        import torch

        best = float("inf")
        for rows in {min(rows, self.max_rows) for rows in ROWS}:
            inputs: Tensor = self.batch.inputs[torch.arange(rows) % len(self.batch)]

            def plain() -> object:
                with torch.inference_mode():
                    return self.model(inputs)  # noqa: B023

            best = min(best, *(cpu_seconds(plain) / rows for _ in range(REPEATS)))
        return best

    def explanation_seconds(self) -> float:
        """CPU time of one explanation, the best of a few batches."""
        calls = (lambda: self.method.explain(self.model, self.batch, self._context(Shared())) for _ in range(REPEATS))
        return min(cpu_seconds(call) for call in calls) / len(self.batch)

    def _context(self, shared: Shared) -> EngineContext:
        return EngineContext(max_rows=self.max_rows, shared=shared, method=self.method, fit_data=self.fit_data)


def small_model() -> Model:
    """The model of the targets: 64 pixels in patches of 8, 64 wide, 4 blocks of 4 heads, 10 classes, random weights."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    from ..models.handle import wrap

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=10))


def measure(chosen: Sequence[str], batch: int, pairs: int, out: Path | None) -> None:
    """Prints each line as it comes, then the table; with ``out`` also between the marks ``speed-metrics`` there."""
    if out is not None:
        filled(out.read_text(encoding="utf-8"), "", MARK)  # fails now rather than after all is measured
    model = small_model()
    bench = MetricBench(model, inputs_for(model, batch), explainers.create(EXPLAINER), pairs)
    lines = list[MetricRow | Missing]()
    for line in measured(bench, catalogue(chosen)):
        lines.append(line)
        shown = line.reason if isinstance(line, Missing) else f"{line.ratio or float('nan'):.2f} {line.verdict}"
        sys.stdout.write(f"{line.name}: {shown}\n")
        sys.stdout.flush()
    head = (
        f"A ViT of 64 pixels in patches of 8, 64 wide, 4 blocks, random weights; batch {batch}, float32, one thread, "
        f"CPU time; maps of `{EXPLAINER}`. A plain forward of one row takes {1e3 * bench.forward_seconds():.2f} ms."
    )
    text = report(head, lines)
    if out is not None:
        out.write_text(filled(out.read_text(encoding="utf-8"), text, MARK), encoding="utf-8")
    sys.stdout.write(f"\n{text}\n")


def measured(bench: MetricBench, specs: Sequence[str | Missing]) -> Iterator[MetricRow | Missing]:
    """One line a metric; one that fails or refuses costs its own line alone."""
    for spec in specs:
        if isinstance(spec, Missing):
            yield spec
            continue
        try:
            yield bench.row(spec)
        except Exception as error:
            yield Missing(spec, f"{type(error).__name__}: {error}")


def catalogue(chosen: Sequence[str] = ()) -> list[str | Missing]:
    """Metrics to measure, those with a target first: those chosen, or all that work without parameters."""
    if chosen:
        return list(chosen)
    lines: list[str | Missing] = []
    for name in [*metrics.names(), *metrics.broken]:
        try:
            metrics.create(name)
        except Exception as error:
            lines.append(Missing(name, str(error)))
        else:
            lines.append(name)
    return sorted(lines, key=lambda line: line not in TARGETS)


def table(rows: Sequence[MetricRow]) -> str:
    """Markdown of the metrics' lines."""
    header = (
        "metric", "own / limit", "pairs", "target", "", "explanations", "forwards", "for a further explainer", "time",
        "further",
    )  # fmt: skip
    lines = [header, ("---",) * len(header)]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        spread = "" if len(row.ratios) < 2 else f" ({min(row.ratios):.2f}–{max(row.ratios):.2f})"
        target = f"≤ {TARGETS[row.name]:g}" if row.name in TARGETS else ""
        verdict = "**missed**" if row.verdict == "missed" else row.verdict
        counts = (f"{row.explanations:g}", f"{row.forwards:g}", f"{row.further:g}")
        times = (f"{row.time:.3g}", f"{row.further_time:.3g}")
        lines.append((f"`{row.name}`", ratio, f"{len(row.times)}{spread}", target, verdict, *counts, *times))
    return "\n".join(
        f"| {' | '.join(line)} |" if line is not lines[1] else "|" + "---|" * len(header) for line in lines
    )


def report(head: str, lines: Sequence[MetricRow | Missing]) -> str:
    """Conditions, table, and what was not measured."""
    missing = [line for line in lines if isinstance(line, Missing)]
    parts = [head, table([line for line in lines if isinstance(line, MetricRow)])]
    if missing:
        parts.append("\n".join(["Not measured:", "", *(f"- `{one.name}`: {one.reason}" for one in missing)]))
    return "\n\n".join(parts)
