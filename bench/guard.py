"""Checks that a plug-in left models, hooks, gradients, inputs, random states and settings as it found them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .context import tensors_in
from .contract import VitxaiError


class LeftChangedError(VitxaiError):
    """A plug-in changed something that others rely on; its result does not count."""


@dataclass(frozen=True)
class ModuleState:
    """What a plug-in may see but not change in a module."""

    parameters: tuple[tuple[str, int, bool, bool], ...]
    modules: tuple[tuple[str, int, tuple], ...]
    hooks: tuple[tuple[str, str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, module: nn.Module) -> ModuleState:
        """The present state; parameters and buffers by the sum of their bits."""
        tensors = [*module.named_parameters(), *module.named_buffers()]
        return cls(
            parameters=tuple((name, bit_sum(t), t.requires_grad, t.grad is None) for name, t in tensors),
            modules=tuple((name, id(m), _plain_attributes(m)) for name, m in module.named_modules()),
            hooks=tuple(_hooks(module)),
        )

    def differences(self, now: ModuleState) -> list[str]:
        """What differs, in words; empty where nothing does."""
        found = []
        if self.parameters != now.parameters:
            names = _changed_names(self.parameters, now.parameters)
            found.append(f"parameters, buffers or their gradients ({names})")
        if self.modules != now.modules:
            found.append(f"modules, their modes or settings ({_changed_names(self.modules, now.modules)})")
        if self.hooks != now.hooks:
            found.append(f"hooks ({_changed_names(self.hooks, now.hooks)})")
        return found


@dataclass(frozen=True)
class RandomState:
    """The global random states of torch, numpy and Python."""

    torch_cpu: Tensor
    torch_devices: tuple[Tensor, ...]
    numpy: tuple
    python: tuple

    @classmethod
    def now(cls) -> RandomState:
        """The present states."""
        touched: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all() if touched else []
        legacy = np.random.get_state(legacy=True)  # noqa: NPY002 (the global state is what is guarded)
        return cls(torch.get_rng_state(), tuple(devices), tuple(legacy), random.getstate())

    def restore(self) -> None:
        """Makes this the present state again."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_devices:
            torch.cuda.set_rng_state_all(list(self.torch_devices))
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    def differences(self, now: RandomState) -> list[str]:
        """Which generators were drawn from or seeded."""
        found = []
        if not torch.equal(self.torch_cpu, now.torch_cpu) or any(
            not torch.equal(a, b) for a, b in zip(self.torch_devices, now.torch_devices, strict=False)
        ):
            found.append("torch's global random state")
        if any(not np.array_equal(a, b) for a, b in zip(self.numpy, now.numpy, strict=True)):
            found.append("numpy's global random state")
        if self.python != now.python:
            found.append("Python's global random state")
        return found


class LeftAsFound:
    """Context manager around plug-in calls; puts random states and torch's settings back in any case.

    Args:
        models: modules that the plug-in sees, with their states as they should be.
        tensors: anything that holds tensors that it sees (batches, explanations).
        may_draw: global random states may change (building layers draws from them); they are seeded first, so that what
            is built is always the same.

    Attributes:
        found: what was left changed; also filled when the body raises, whose error goes first.

    Raises:
        LeftChangedError: at the end, naming all that differs.
    """

    def __init__(self, models: Sequence[tuple[nn.Module, ModuleState]], tensors: Any, may_draw: bool = False) -> None:
        self._models, self._may_draw = models, may_draw
        self._tensors = list(tensors_in(tensors))
        self.found: list[str] = []

    def __enter__(self) -> LeftAsFound:
        self._bits = [bit_sum(tensor) for tensor in self._tensors]
        self._random, self._settings = RandomState.now(), _settings()
        if self._may_draw:
            _seed_globals(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found = [] if self._may_draw else self._random.differences(RandomState.now())
        found += [f"torch's {name}" for name, value in _settings().items() if value != self._settings[name]]
        self._random.restore()
        _restore_settings(self._settings)
        for module, state in self._models:
            found += state.differences(ModuleState.of(module))
        if self._bits != [bit_sum(tensor) for tensor in self._tensors]:
            found.append("the tensors that it was given")
        self.found = list(dict.fromkeys(found))
        if self.found and kind is None:
            raise LeftChangedError(
                f"changed {'; '.join(self.found)}. Work on copies, remove hooks in a finally, draw from ctx.generator."
            )


def bit_sum(tensor: Tensor) -> int:
    """Sum of a tensor's bits read as integers, modulo 2^64: cheap, exact, the same on every run."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    return int(flat.view(integers[flat.element_size()]).sum(dtype=torch.int64).item()) if flat.numel() else 0


def _plain_attributes(module: nn.Module) -> tuple:
    """Type, modes and settings of a module (training, fused_attn, drop rates) and whether its forward was replaced."""
    plain = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_")
    }
    return (type(module), "forward" in vars(module), *sorted(plain.items()))


def _hooks(module: nn.Module) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for name, m in module.named_modules():
        for kind, hooks in vars(m).items():
            if kind.endswith("_hooks") and hooks:
                yield name, kind, tuple(hooks)
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks:
            yield name, "backward", tuple(parameter._backward_hooks)
    registry = torch.nn.modules.module
    for kind in (
        "_global_forward_hooks",
        "_global_forward_pre_hooks",
        "_global_backward_hooks",
        "_global_backward_pre_hooks",
    ):
        if hooks := getattr(registry, kind):
            yield "every module", kind, tuple(hooks)


def _changed_names(before: tuple, after: tuple) -> str:
    names = list(dict.fromkeys(str(item[0]) or "the model" for item in {*before} ^ {*after}))
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "number of threads": torch.get_num_threads(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
    }


def _restore_settings(settings: dict[str, Any]) -> None:
    if _settings() == settings:
        return
    torch.set_default_dtype(settings["default dtype"])
    torch.set_grad_enabled(settings["grad mode"])
    torch.set_num_threads(settings["number of threads"])
    torch.use_deterministic_algorithms(settings["deterministic mode"])
    torch.autograd.set_detect_anomaly(settings["anomaly mode"])


def _seed_globals(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
