"""How many inputs fit into one pass of a model, and the limit that keeps a worker from eating the machine."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from .contract import Model

SHARE = 0.25
"""Of the memory limit that one pass may take; the rest is for maps, recordings and the data set."""
MOST_ROWS = {"cpu": 64, "cuda": 512}
CPU_PASS_BYTES = 150e6
"""More rows, or on a CPU more bytes, than these are no faster; far beyond its caches a CPU gets slower."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
_LARGEST_KEPT, _MOST_KEPT = 32 << 20, 512 << 20
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory")


def row_bytes(model: Model) -> int:
    """Bytes that one input takes in a pass that keeps every activation, attention matrices included."""
    total = 0

    def add(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()
            heads = getattr(module, "num_heads", None)
            if isinstance(heads, int) and output.ndim == 3:
                # Scores and probabilities, which a fused kernel hides but a recording holds.
                total += 2 * heads * output.shape[1] ** 2 * output.element_size()

    handles = [m.register_forward_hook(add) for m in model.module.modules() if m is not model.module]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, model.channels, *model.input_size, device=model.device, dtype=model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return max(total, 1)


def rows_per_pass(bytes_per_row: int, memory_gb: float, device: str) -> int:
    """Inputs that may go through the model at once: a power of two within the budget, at least one."""
    allowed = SHARE * memory_gb * 1e9
    fitting = int((min(allowed, CPU_PASS_BYTES) if device == "cpu" else allowed) / bytes_per_row)
    rows = 1
    while rows * 2 <= min(fitting, MOST_ROWS.get(device, 64)):
        rows *= 2
    return rows


def limit_memory(memory_gb: float, device: str) -> None:
    """Makes allocations beyond ``memory_gb`` above the present use fail: RLIMIT_DATA, or the share of a GPU."""
    if device != "cpu":
        _, whole = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_gb * 1e9 / whole))
        return
    try:
        import resource
    except ImportError:  # no limits on this system
        return
    limit = _data_bytes() + int(memory_gb * 1e9)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def keep_freed_memory() -> bool:
    """Makes glibc keep what this process frees, blocks of up to 32 MiB, 512 MiB in all; whether it could.

    By default each tensor of a few hundred kB or more comes fresh from the kernel, which zeroes its pages, and goes
    back at once: up to a fifth of a small model's CPU time. Values are not affected.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none to be asked
        return False
    # Both: to set either ends glibc's own adjustment of the other.
    return bool(option(_MMAP_THRESHOLD, _LARGEST_KEPT)) and bool(option(_TRIM_THRESHOLD, _MOST_KEPT))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed; torch says so with plain RuntimeErrors on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _data_bytes() -> int:
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 (a pseudo-file, read line by line)
            kilobytes = next(line.split()[1] for line in status if line.startswith("VmData"))
    except (OSError, StopIteration):
        return 0
    return int(kilobytes) * 1024
