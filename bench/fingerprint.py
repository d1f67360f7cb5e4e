"""What a number's last bits and a latency depend on: the machine, the interpreter and the numerical libraries."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .contract import BadInputError

LIBRARIES = ("torch", "timm", "captum", "numpy", "scipy", "scikit-image")


@dataclass(frozen=True)
class Fingerprint:
    """Two runs whose fingerprints are equal must give the same scores, up to the order of a floating-point sum.

    Attributes:
        cpu: model name as the operating system gives it.
        capability: vector instructions that torch uses, e.g. ``AVX512``; it chooses other kernels on other machines.
        platform: system and machine, e.g. ``Linux-x86_64``.
        python: major.minor.
        versions: installed versions of the numerical libraries; ``absent`` where one is not installed.
        device: ``cpu``, or the accelerator's name.
    """

    cpu: str
    capability: str
    platform: str
    python: str
    versions: Mapping[str, str]
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for the whole; part of every cost key."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """JSON values, read back by :meth:`of_json`."""
        return {**asdict(self), "versions": dict(self.versions)}

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint that a run wrote down.

        Raises:
            BadInputError: a field is missing.
        """
        missing = [f.name for f in fields(cls) if f.name not in facts]
        if missing:
            raise BadInputError(
                f"the fingerprint lacks {', '.join(missing)}; it has {', '.join(sorted(facts)) or 'nothing'}."
            )
        return cls(**{f.name: facts[f.name] for f in fields(cls)})

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """What differs, one readable line each; empty when the two are equal."""
        mine, theirs = self.as_json(), other.as_json()
        mine |= {f"version of {k}": v for k, v in mine.pop("versions").items()}
        theirs |= {f"version of {k}": v for k, v in theirs.pop("versions").items()}
        names = sorted(mine.keys() | theirs.keys())
        return tuple(f"{n}: {mine.get(n)} / {theirs.get(n)}" for n in names if mine.get(n) != theirs.get(n))


@cache
def fingerprint(device: str = "cpu") -> Fingerprint:
    """The fingerprint of this machine for runs on ``device`` (``cpu``, ``cuda``, ``cuda:1``); imports torch."""
    import torch

    name = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    return Fingerprint(
        cpu=cpu_name(),
        capability=str(torch.backends.cpu.get_cpu_capability()),
        platform=f"{platform.system()}-{platform.machine()}",
        python=".".join(platform.python_version_tuple()[:2]),
        versions={library: _installed(library) for library in LIBRARIES},
        device=name,
    )


def cpu_name() -> str:
    """The processor's model name; the machine's architecture where nothing better is known."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or os.uname().machine


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"
