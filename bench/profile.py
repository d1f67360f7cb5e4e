"""What an explanation costs: time, memory, FLOPs, passes and parameters, beside the plain forward of the same batch."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from .contract import BadInputError, Batch, Context, Explainer, Model
from .energy import energy_counter, joules_of

Call = Callable[[], object]


@dataclass(frozen=True)
class Costs:
    """Costs of one explainer on one batch; the columns of ``costs.parquet``.

    The plain forward is ``model(inputs)`` of the frozen model on the same batch under ``inference_mode``, with the
    attention kernel that the model chooses. Ratios are explanation over plain forward.

    Attributes:
        latency_ms: milliseconds a sample, median over the pairs.
        latency_ratio: median of the ratios within each interleaved pair.
        peak_mb: peak of allocated memory above that at the call, 1e6 bytes, for the whole batch.
        memory_ratio: of the peaks.
        gflops: 1e9 floating point operations a sample (two a multiply-add), matrix products and attention only.
        flops_ratio: of the FLOPs.
        forwards: rows through the model's first block, a sample.
        backwards: rows of gradient that left the model's end, a sample.
        parameters: parameters of the explained model that the frozen one does not have.
        parameters_ratio: those over the frozen model's.
        energy_joules: of the device, a sample; None where its driver does not tell, and then no column.
        energy_ratio: of the energies.
    """

    latency_ms: float
    latency_ratio: float
    peak_mb: float
    memory_ratio: float
    gflops: float
    flops_ratio: float
    forwards: float
    backwards: float
    parameters: float
    parameters_ratio: float
    energy_joules: float | None = None
    energy_ratio: float | None = None


def profile_explainer(
    explainer: Explainer,
    model: Model,
    batch: Batch,
    ctx_factory: Callable[[], Context],
    *,
    pairs: int = 5,
    threads: int | None = None,
) -> dict[str, float]:
    """Measures one explainer on one batch.

    Every call gets a context of its own, so that no tape or probe of an earlier one is reused and the costs are the
    method's own. Making the own model (``own_model``) is set-up and not measured. Counting comes first and serves as
    the warm-up of the timed pairs; memory is read in a pass of its own, since its profiler slows the call.

    Args:
        explainer: explains ``batch``; explained is its own model where it brings one.
        model: the frozen model.
        ctx_factory: makes a fresh context, with what the explainer's ``fit`` returned.
        pairs: interleaved (plain, explain) calls that are timed.
        threads: of torch on the CPU while measuring; as they are when None.

    Returns:
        The fields of :class:`Costs` by name; those that are None left out.

    Raises:
        BadInputError: no pair to time, or an empty batch.
    """
    if pairs < 1 or len(batch) == 0:
        raise BadInputError(f"pairs={pairs} on {len(batch)} samples; time at least one pair on at least one sample.")
    own = explainer.own_model(model, ctx_factory().fitted)

    def explain() -> object:
        return explainer.explain(own, batch, ctx_factory())

    def plain() -> object:
        with torch.inference_mode():
            return model(batch.inputs)

    with torch_threads(threads):
        plain_flops = count_flops(plain)
        with count_passes(own.module, model.module) as passes:
            flops = count_flops(explain)
        plain_ms, explain_ms = time_pairs(plain, explain, pairs, model.device)
        plain_peak, peak = peak_bytes(plain, model.device), peak_bytes(explain, model.device)
        counter = energy_counter(model.device)
        plain_joules, joules = ((None, None) if counter is None else
                                (joules_of(call, counter, model.device) for call in (plain, explain)))  # fmt: skip
    added = added_parameters(own.module, model.module)
    frozen = sum(parameter.numel() for parameter in model.module.parameters())
    n = len(batch)
    measured = asdict(
        Costs(
            latency_ms=statistics.median(explain_ms) / n,
            latency_ratio=statistics.median(e / p for e, p in zip(explain_ms, plain_ms, strict=True)),
            peak_mb=peak / 1e6,
            memory_ratio=peak / plain_peak,
            gflops=flops / 1e9 / n,
            flops_ratio=flops / plain_flops,
            forwards=passes.forwards / n,
            backwards=passes.backwards / n,
            parameters=float(added),
            parameters_ratio=added / frozen,
            energy_joules=None if joules is None else joules / n,
            energy_ratio=joules / plain_joules if joules and plain_joules else None,
        )
    )
    return {column: value for column, value in measured.items() if value is not None}


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Torch's CPU threads for the time of a ``with`` block; unchanged for None."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def time_pairs(plain: Call, explain: Call, pairs: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Milliseconds of each call, interleaved (plain, explain, plain, ...) so that a busy machine slows both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, kept in zip((plain, explain), times, strict=True):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            kept.append(1e3 * (time.perf_counter() - start))
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(call: Call, device: torch.device) -> int:
    """Largest allocation during a call above that at its start: of the CUDA allocator, or of torch's CPU allocator.

    Scratch memory of native libraries and of numpy is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _quiet_start_and_stop(recorded):
        call()
    # The only record of single allocations; semi-private, so a test pins it.
    profiler: Any = recorded.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet_start_and_stop(recorded: profile) -> Iterator[None]:
    """Profiles the block without the lines that the profiler's native code writes to standard error around it."""
    with _native_stderr_dropped():
        recorded.start()
    try:
        yield
    finally:
        with _native_stderr_dropped():
            recorded.stop()


@contextmanager
def _native_stderr_dropped() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class _NoModuleTracker:
    """Stands in for FlopCounterMode's module tracker, whose hooks refuse ``torch.autograd.grad`` to a leaf input."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def count_flops(call: Call) -> int:
    """FLOPs of a call, forward and backward, by torch's own counter: matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModuleTracker()  # type: ignore[assignment]
    with counter:
        call()
    return counter.get_total_flops()


@dataclass
class Passes:
    """Rows that went through a model.

    Attributes:
        calls: batches that went through the first transformer block (the module itself where it has none).
        forwards: rows of these batches.
        at_logits: rows whose gradient came from the module's output.
        at_last_block: rows whose gradient came from the last block's output.
    """

    calls: int = 0
    forwards: int = 0
    at_logits: int = 0
    at_last_block: int = 0

    def backward_from_logits(self, gradient: Tensor) -> None:
        """Hook on the logits [B,K]."""
        self.at_logits += len(gradient)

    def backward_from_last_block(self, gradient: Tensor) -> None:
        """Hook on the last block's tokens [B,N,D]."""
        self.at_last_block += len(gradient)

    @property
    def backwards(self) -> int:
        """Rows of gradient: those at the logits, or at the last block where a method never calls the whole module."""
        return max(self.at_logits, self.at_last_block)


@contextmanager
def count_passes(*modules: nn.Module) -> Iterator[Passes]:
    """Counts rows, exactly, through these modules while the block runs; what two of them share counts once.

    A row is one input of a batched call, whatever is perturbed in it. Forward rows are counted at the first block, so
    that calls of ``forward_features`` count too; backward rows by hooks on the tensors that leave the model, once for
    every backward pass through them. Batch dimensions that ``torch.vmap`` hides are not seen.
    """
    passes = Passes()
    depth = 0

    def enters_model(_: nn.Module, args: tuple) -> None:
        nonlocal depth
        depth += 1

    def leaves_model(_: nn.Module, args: tuple, logits: Tensor | None) -> None:
        nonlocal depth
        depth -= 1
        # A wrapper and the module inside it give the same logits.
        if depth == 0 and logits is not None and logits.requires_grad:
            logits.register_hook(passes.backward_from_logits)  # type: ignore[no-untyped-call]

    def leaves_first(_: nn.Module, args: tuple, tokens: Tensor) -> None:
        passes.calls += 1
        passes.forwards += len(tokens)

    def leaves_last(_: nn.Module, args: tuple, tokens: Tensor) -> None:
        if tokens.requires_grad:
            tokens.register_hook(passes.backward_from_last_block)  # type: ignore[no-untyped-call]

    hooks = [module.register_forward_pre_hook(enters_model) for module in set(modules)]
    hooks += [module.register_forward_hook(leaves_model, always_call=True) for module in set(modules)]
    hooks += [block.register_forward_hook(leaves_first) for block in {_blocks(module)[0] for module in modules}]
    hooks += [block.register_forward_hook(leaves_last) for block in {_blocks(module)[-1] for module in modules}]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks, first to last: the first list of modules called ``blocks``; else the module alone."""
    for name, part in module.named_modules():
        if name.rpartition(".")[2] == "blocks" and isinstance(part, nn.ModuleList | nn.Sequential) and len(part):
            return list(part)
    return [module]


def added_parameters(own: nn.Module, frozen: nn.Module) -> int:
    """Parameters of ``own`` that equal none of ``frozen``: what a method's own model brings, copies left out."""
    known: dict[tuple[int, ...], list[Tensor]] = {}
    for parameter in frozen.parameters():
        known.setdefault(tuple(parameter.shape), []).append(parameter)
    return sum(
        parameter.numel()
        for parameter in own.parameters()
        if not any(torch.equal(parameter, other) for other in known.get(tuple(parameter.shape), ()))
    )
