"""Energy of a call, where a driver counts it: RAPL of the processor packages, NVML of an NVIDIA device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RAPL = Path("/sys/class/powercap")
SECONDS = 1.0
"""Counters of devices move every tenth of a second or so; calls are repeated for this long."""

Counter = Callable[[], float]


def energy_counter(device: torch.device, rapl: Path = RAPL) -> Counter | None:
    """Joules that the device has taken since some moment, by its driver; None where no driver tells.

    The whole device is counted: what else runs on it, and what it takes when idle, is in the figure.
    """
    return _nvml(device) if device.type == "cuda" else _rapl(rapl)


def joules_of(call: Callable[[], object], counter: Counter, device: torch.device, seconds: float = SECONDS) -> float:
    """Joules a call, mean over as many calls as fill the time; at least one."""
    calls, start, before = 0, time.perf_counter(), counter()
    while not calls or time.perf_counter() - start < seconds:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        calls += 1
    return (counter() - before) / calls


def _rapl(root: Path) -> Counter | None:
    """All packages (AMD's driver has the same names); their parts are in them, and ``psys`` holds them all again."""
    try:
        names = {file: file.read_text().strip() for file in sorted(root.glob("intel-rapl:*/name"))}
        packages = [file.parent / "energy_uj" for file, name in names.items() if name.startswith("package")]
        ranges = [int((file.parent / "max_energy_range_uj").read_text()) for file in packages]
        last = [int(file.read_text()) for file in packages]
    except (OSError, ValueError):  # only root may read them on most machines
        return None
    if not packages:
        return None
    total = 0

    def joules() -> float:
        nonlocal total
        for place, file in enumerate(packages):
            now = int(file.read_text())
            total += (now - last[place]) % (ranges[place] + 1)  # the counter begins anew at its range
            last[place] = now
        return total / 1e6

    return joules


def _nvml(device: torch.device) -> Counter | None:
    try:
        import pynvml
    except ImportError:
        return None
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (nvml.NVMLError, RuntimeError):
        return None
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
