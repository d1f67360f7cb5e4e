"""What the guard notices, what it puts back, and what it lets pass."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from vitxai.bench.guard import LeftAsFound, LeftChangedError, ModuleState, bit_sum


@pytest.fixture
def module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return net.eval().requires_grad_(False)


def guarded(module: nn.Module, change: Callable[[], object], may_draw: bool = False) -> list[str]:
    """What the guard found; only an empty list is returned, anything else is raised."""
    tensors = torch.ones(2, 3)
    with LeftAsFound([(module, ModuleState.of(module))], tensors, may_draw) as guard:
        change()
    return guard.found


class TestModules:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda m: m[0].weight.data.mul_(1.0001), r"0\.weight"),
            (lambda m: setattr(m[0].weight, "data", m[0].weight.data + 1), r"0\.weight"),
            (lambda m: m[1].running_mean.add_(1), r"1\.running_mean"),
            (lambda m: m[0].bias.requires_grad_(), r"0\.bias"),
            (lambda m: setattr(m[0].bias, "grad", torch.zeros(4)), r"0\.bias"),
            (lambda m: m[2].train(), "modes or settings \\(2\\)"),
            (lambda m: setattr(m[2], "p", 0.1), "modes or settings \\(2\\)"),
            (lambda m: m.__setitem__(2, nn.Identity()), "modes or settings \\(2\\)"),
            (lambda m: setattr(m[0], "forward", lambda x: x), "modes or settings \\(0\\)"),
            (lambda m: m[0].register_forward_hook(lambda *_: None), "hooks \\(0\\)"),
            (lambda m: m.register_full_backward_hook(lambda *_: None), "hooks \\(the model\\)"),
        ],
    )
    def test_every_lasting_change_is_told_by_name(self, module: nn.Module, change: Callable, told: str) -> None:
        with pytest.raises(LeftChangedError, match=told):
            guarded(module, lambda: change(module))

    def test_what_is_put_back_passes(self, module: nn.Module) -> None:
        before, between = ModuleState.of(module), []

        def work() -> None:
            handle = module[0].register_forward_hook(lambda *_: None)
            weight = module[0].weight.clone()
            module[0].weight.zero_()
            module.train()
            between.extend(before.differences(ModuleState.of(module)))
            module[0].weight.copy_(weight)
            module.eval()
            handle.remove()

        assert guarded(module, work) == []
        assert [told.partition(" (")[0] for told in between] == [
            "parameters, buffers or their gradients",
            "modules, their modes or settings",
            "hooks",
        ]
        assert before.differences(ModuleState.of(module)) == []

    def test_a_global_hook_counts(self, module: nn.Module) -> None:
        handles = []
        with pytest.raises(LeftChangedError, match="every module"):
            guarded(module, lambda: handles.append(nn.modules.module.register_module_forward_hook(lambda *_: None)))
        handles[0].remove()


class TestRandomStatesAndSettings:
    @pytest.mark.parametrize(
        ("draw", "told"),
        [
            (lambda: torch.rand(1), "torch's global random state"),
            (lambda: torch.manual_seed(1), "torch's global random state"),
            (lambda: np.random.rand(), "numpy's global random state"),  # noqa: NPY002
            (lambda: random.random(), "Python's global random state"),
        ],
    )
    def test_global_draws_are_told_and_undone(self, module: nn.Module, draw: Callable, told: str) -> None:
        before = (torch.get_rng_state(), np.random.get_state()[2], random.getstate())  # noqa: NPY002
        with pytest.raises(LeftChangedError, match=told):
            guarded(module, draw)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[2], random.getstate()) == before[1:]  # noqa: NPY002

    def test_keyed_draws_pass(self, module: nn.Module) -> None:
        state, drawn = torch.get_rng_state(), []
        found = guarded(module, lambda: drawn.append(torch.rand(2, generator=torch.Generator().manual_seed(3))))
        assert found == []
        assert torch.equal(drawn[0], torch.rand(2, generator=torch.Generator().manual_seed(3)))
        assert torch.equal(torch.get_rng_state(), state)

    def test_building_layers_may_draw_and_always_builds_the_same(self, module: nn.Module) -> None:
        before, built = torch.get_rng_state(), []
        for _ in range(2):
            torch.manual_seed(len(built))
            guarded(module, lambda: built.append(nn.Linear(2, 2).weight.detach()), may_draw=True)
        torch.set_rng_state(before)
        assert torch.equal(built[0], built[1])

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
            (lambda: torch.set_grad_enabled(False), "grad mode"),
            (lambda: torch.use_deterministic_algorithms(True), "deterministic mode"),
            (lambda: torch.autograd.set_detect_anomaly(True), "anomaly mode"),
            (lambda: torch.set_num_threads(torch.get_num_threads() + 1), "number of threads"),
        ],
    )
    def test_settings_are_told_and_put_back(self, module: nn.Module, change: Callable, told: str) -> None:
        threads = torch.get_num_threads()
        with pytest.raises(LeftChangedError, match=told):
            guarded(module, change)
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.is_anomaly_enabled()
        assert torch.get_num_threads() == threads


def test_inputs_count(module: nn.Module) -> None:
    inputs = {"a": [torch.ones(2, 3)]}
    with pytest.raises(LeftChangedError, match="tensors that it was given"), LeftAsFound([], inputs):
        inputs["a"][0][1, 2] = 1.0000001


def test_an_error_of_the_plug_in_goes_first_and_what_it_left_is_kept(module: nn.Module) -> None:
    check = LeftAsFound([(module, ModuleState.of(module))], ())

    def fails() -> None:
        with check:
            module.train()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert len(check.found) == 1
    assert "modes" in check.found[0]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool, torch.complex64],
)
def test_bit_sums_see_single_bits(dtype: torch.dtype) -> None:
    tensor = torch.zeros(5, dtype=dtype)
    before = bit_sum(tensor)
    tensor[3] = True
    assert bit_sum(tensor) != before
    assert bit_sum(tensor.clone()) == bit_sum(tensor)
    assert bit_sum(torch.empty(0, dtype=dtype)) == 0
