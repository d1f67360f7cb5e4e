"""What metrics cost beside the passes they need: ``python -m vitxai.bench.speed --metrics`` prints the table.

The limit of a metric is its forward passes times the best batched forward, plus its explanations times the best batched
explanation; a batch holds rows of one model, so that maps of randomised models wait for no others. Each is timed right
before and right after the metric, as many rows as the metric needs, in the same process, CPU time. Own over limit says
what all else takes: perturbing, randomising, ranking, counting.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .context import EngineContext, Shared
from .contract import Batch, Explainer, Explanation, Model, explainers, metrics
from .profile import Passes, count_passes
from .report.figures_text import grid
from .speed import cpu_seconds, inputs_for
from .speed_table import Missing, filled, left_out

if TYPE_CHECKING:
    from torch import nn

Work = Callable[[int], Callable[[], object]]
"""For a number of rows, the call that does them."""
TARGETS: Mapping[str, float] = dict.fromkeys(
    ("faithfulness_correlation", "pixel_flipping", "insertion_deletion", "max_sensitivity", "mprt"), 1.15
)
EXPLAINER = "grad_cam"
MARK = "speed-metrics"
ROWS = (8, 32, 64)
"""Rows a pass, of which the limit takes the best."""
TRIALS = 7
"""Rounds over these sizes, in turn, of which each has its median."""
CALLS = 3
"""The fewest that a timing takes the mean of."""


class FreshMaps(Shared):
    """Shared tapes and probes, but every explanation made anew; counts them, and the passes inside them."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self._passes = passes
        self.maps: Counter[nn.Module] = Counter()
        self.forwards_inside = 0

    def forget_recordings(self) -> None:
        """Leaves only probes, which all explainers share; another explainer may ask for other recordings."""
        for key in [key for key in self._entries if key[-1][0] == "tape"]:
            del self._entries[key]

    def explanation(
        self, model: Model, batch: Batch, asked: tuple[Any, ...], compute: Callable[[], Explanation]
    ) -> Explanation:
        """See :meth:`EngineContext.explain`."""
        before = self._passes.forwards
        made = compute()
        self.maps[model.module] += len(batch)
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


@dataclass(frozen=True)
class Least:
    """Work at its best batch size.

    Attributes:
        call: does one batch.
        rows: of it.
        calls: that a timing takes the mean of, one after the other.
    """

    call: Callable[[], object]
    rows: int
    calls: int

    def seconds(self) -> float:
        """CPU time of one row, now."""
        return statistics.mean(cpu_seconds(self.call) for _ in range(self.calls)) / self.rows


@dataclass(frozen=True, eq=False)
class MetricBench:
    """A model with a batch, and the explainer whose maps are scored.

    Attributes:
        method: also explains again, where a metric asks for it.
        pairs: of (limit, metric) that are timed, where the metric has a target; others take at most three.
        fit_data: what metrics may look at beside the batch.
    """

    model: Model
    batch: Batch
    method: Explainer
    pairs: int = 3
    max_rows: int = 64
    fit_data: Any = None
    _best: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict, init=False, repr=False)

    def row(self, spec: str) -> MetricRow:
        """Counts and times one metric; the first call, a warm-up, counts."""
        metric = metrics.create(spec)
        n = len(self.batch)
        explanation = self.method.explain(self.model, self.batch, self._context(Shared()))
        given = None if metric.of == "model" else explanation

        def score(shared: Shared) -> None:
            metric.score(self.model, self.batch, given, self._context(shared))

        with count_passes(self.model.module) as passes:
            shared = FreshMaps(passes)
            score(shared)
            maps, forwards = shared.maps.copy(), passes.forwards - shared.forwards_inside
            shared.forget_recordings()
            before, inside = passes.forwards, shared.forwards_inside
            score(shared)
            further = passes.forwards - before - (shared.forwards_inside - inside)
        work = [self.best(self.forward, forwards or self.max_rows, forwards)]
        work += [self.best(self.explain, max(maps.values()), maps.total())] if maps else []
        needed = (forwards, maps.total())
        times, again, ratios = [], [], []
        for _ in range(self.pairs if spec in TARGETS else min(self.pairs, 3)):
            start = [least.seconds() for least in work]
            shared = FreshMaps(Passes())
            own = cpu_seconds(lambda: score(shared))  # noqa: B023
            end = [least.seconds() for least in work]
            shared.forget_recordings()
            later = cpu_seconds(lambda: score(shared))  # noqa: B023
            each = [statistics.mean(both) for both in zip(start, end, strict=True)]
            limit = sum(rows * seconds for rows, seconds in zip(needed, each, strict=False))
            times.append(own / n / each[0])
            again.append(later / n / each[0])
            ratios += [own / limit] if limit else []
        counts = (maps.total() / n, forwards / n, further / n)
        return MetricRow(spec, *counts, tuple(times), statistics.median(again), tuple(ratios))

    def best(self, work: Work, together: int, needed: int) -> Least:
        """The fewest seconds a row, in batches of at most ``together`` rows; timed on half of the ``needed`` ones."""
        sizes = tuple(sorted({min(rows, together, self.max_rows) for rows in ROWS}))
        if (work.__name__, sizes) not in self._best:
            calls = [(rows, work(rows)) for rows in sizes]
            rounds = [[cpu_seconds(call) / rows for rows, call in calls] for _ in range(TRIALS)]
            typical = [statistics.median(trials) for trials in zip(*rounds, strict=True)]
            self._best[work.__name__, sizes] = sizes[typical.index(min(typical))]
        rows = self._best[work.__name__, sizes]
        return Least(work(rows), rows, max(CALLS, math.ceil(needed / 2 / rows)))

    def forward(self, rows: int) -> Callable[[], object]:
        """A plain forward of as many rows, the batch over and over."""
        import torch

        inputs = self.batch.inputs[torch.arange(rows) % len(self.batch)]

        def plain() -> object:
            with torch.inference_mode():
                return self.model(inputs)

        return plain

    def explain(self, rows: int) -> Callable[[], object]:
        """Explanations of as many rows, the batch over and over."""
        batch = self.batch.select([row % len(self.batch) for row in range(rows)])
        return lambda: self.method.explain(self.model, batch, self._context(Shared()))

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
    head, lines = conditions(bench), list[MetricRow | Missing]()
    for line in measured(bench, catalogue(chosen)):
        lines.append(line)
        ratio = None if isinstance(line, Missing) else line.ratio
        shown = (
            line.reason if isinstance(line, Missing) else f"{ratio:.2f} {line.verdict}" if ratio else "needs no pass"
        )
        sys.stdout.write(f"{line.name}: {shown}\n")
        sys.stdout.flush()
        text = report(f"{head}, {os.getloadavg()[0]:.1f} at the end.", lines)
        if out is not None:  # at every line, so that a run which is stopped leaves what it measured
            out.write_text(filled(out.read_text(encoding="utf-8"), text, MARK), encoding="utf-8")
    sys.stdout.write(f"\n{text}\n")


def conditions(bench: MetricBench) -> str:
    """What the figures are measured on, and how busy it is; to be ended with the load at the end."""
    from .fingerprint import fingerprint

    machine, rows = fingerprint(), max(ROWS)
    milliseconds = 1e3 * bench.best(bench.forward, rows, 0).seconds()
    return (
        f"A ViT of 64 pixels in patches of 8, 64 wide, 4 blocks, random weights; batch {len(bench.batch)}, float32, "
        f"one thread; maps of `{EXPLAINER}`. {machine.cpu} ({machine.capability}), Python {machine.python}, torch "
        f"{machine.versions['torch']}, timm {machine.versions['timm']}. A plain forward takes {milliseconds:.2f} ms of "
        f"CPU a row. {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start"
    )


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
    lines = []
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        spread = "" if len(row.ratios) < 2 else f" ({min(row.ratios):.2f}–{max(row.ratios):.2f})"
        target = f"≤ {TARGETS[row.name]:g}" if row.name in TARGETS else ""
        verdict = "**missed**" if row.verdict == "missed" else row.verdict
        counts = (f"{row.explanations:g}", f"{row.forwards:g}", f"{row.further:g}")
        times = (f"{row.time:.3g}", f"{row.further_time:.3g}")
        lines.append((f"`{row.name}`", ratio, f"{len(row.times)}{spread}", target, verdict, *counts, *times))
    return grid(header, lines, right=False)


def report(head: str, lines: Sequence[MetricRow | Missing]) -> str:
    """Conditions, table, and what was not measured."""
    missing = [line for line in lines if isinstance(line, Missing)]
    parts = [head, table([line for line in lines if isinstance(line, MetricRow)])]
    parts += [left_out(missing)] if missing else []
    return "\n\n".join(parts)
