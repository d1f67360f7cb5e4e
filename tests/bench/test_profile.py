"""Costs of an explanation: exact counts on methods whose passes are known, memory and time by construction."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitxai.bench import profile as profiling
from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Explainer, Explanation, Fitted, Model
from vitxai.bench.profile import added_parameters, count_flops, count_passes, peak_bytes, profile_explainer, time_pairs
from vitxai.models.handle import wrap
from vitxai.models.lean_pass import as_far_as_read
from vitxai.models.perturb import target_responses
from vitxai.models.tape import EditedAttention

B, CPU = 4, torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=4))


@pytest.fixture
def batch() -> Batch:
    inputs = torch.randn(B, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(B, dtype=torch.long)
    return Batch(ids=tuple("abcd"), inputs=inputs, targets=labels, labels=labels)


def blank(model: Model, batch: Batch) -> Explanation:
    return Explanation(torch.zeros(len(batch), *model.geometry.grid), "token", model.geometry)


@dataclass(frozen=True)
class Plain(Explainer):
    """Runs the plain forward and nothing else."""

    def explain(self, model, batch, ctx):
        with torch.inference_mode():
            model(batch.inputs)
        return blank(model, batch)


@dataclass(frozen=True)
class InputGradient(Explainer):
    def explain(self, model, batch, ctx):
        inputs = batch.inputs.clone().requires_grad_()
        torch.autograd.grad(model(inputs)[:, 0].sum(), inputs)
        return blank(model, batch)


@dataclass(frozen=True)
class Perturbation(Explainer):
    rows: int = 7

    def explain(self, model, batch, ctx):
        count = self.rows * len(batch)

        def inputs(start, stop):
            return batch.inputs[torch.arange(start, stop) % len(batch)]

        target_responses(model, inputs, count, None, output="logits", max_rows=5)
        return blank(model, batch)


@dataclass(frozen=True)
class TapeGradient(Explainer):
    """Asks twice for the same recording, which runs once within one explanation."""

    def explain(self, model, batch, ctx):
        for _ in range(2):
            ctx.tape(model, batch, attention=True, gradients=True)
        return blank(model, batch)


@dataclass(frozen=True)
class EveryClass(Explainer):
    """One forward and one backward pass for each class, to the last block's input only."""

    def explain(self, model, batch, ctx):
        seen = []
        hook = model.module.blocks[-1].register_forward_hook(
            lambda _, args, output: seen.append(args[0]), with_kwargs=False
        )
        logits = model(batch.inputs.clone().requires_grad_())
        hook.remove()
        for index in range(logits.shape[1]):
            torch.autograd.grad(logits[:, index].sum(), seen[0], retain_graph=True)
        return blank(model, batch)


@dataclass(frozen=True)
class Features(Explainer):
    """Calls parts of the model, never the whole."""

    def explain(self, model, batch, ctx):
        features = model.module.forward_features(batch.inputs.clone().requires_grad_())
        model.module.forward_head(features)[:, 1].sum().backward()
        return blank(model, batch)


@dataclass(frozen=True)
class OwnHead(Plain):
    """Explains the frozen model with its attention changed and a gain of its own."""

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        module = EditedAttention(model.module, edit=lambda attention, layer: attention)
        module.gain = nn.Parameter(torch.full((11,), 0.5), requires_grad=False)
        return replace(model, module=module)


def costs(explainer, model, batch, **options):
    return profile_explainer(explainer, model, batch, lambda: EngineContext(max_rows=64), **{"pairs": 1, **options})


@pytest.mark.parametrize(
    ("explainer", "forwards", "backwards"),
    [
        (Plain(), 1, 0),
        (InputGradient(), 1, 1),
        (Perturbation(7), 7, 0),
        (TapeGradient(), 1, 1),
        (EveryClass(), 1, 4),
        (Features(), 1, 1),
        (OwnHead(), 1, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Explainer) else None,
)
def test_passes_are_exact(model, batch, explainer, forwards, backwards):
    got = costs(explainer, model, batch)
    assert (got["forwards"], got["backwards"]) == (forwards, backwards)


@pytest.mark.parametrize("rows", [1, 3])
def test_flops_of_r_perturbed_rows_are_r_times_those_of_a_pass_that_stops_at_what_is_read(model, batch, rows):
    got = costs(Perturbation(rows), model, batch)
    with FlopCounterMode(display=False) as plain, torch.inference_mode():
        model(batch.inputs)
    with FlopCounterMode(display=False) as lean, torch.inference_mode(), as_far_as_read(model.module):
        model(batch.inputs)
    assert 0.3 < lean.get_total_flops() / plain.get_total_flops() < 0.9
    assert got["flops_ratio"] == pytest.approx(rows * lean.get_total_flops() / plain.get_total_flops())
    assert got["gflops"] == pytest.approx(rows * lean.get_total_flops() / B / 1e9)


def test_flops_of_a_backward_pass_are_those_of_torch(model, batch):
    """Torch's own module tracker cannot follow ``autograd.grad`` to a leaf, so the reference calls ``backward``."""

    def by_backward():
        inputs = batch.inputs.clone().requires_grad_()
        model(inputs)[:, 0].sum().backward()

    with FlopCounterMode(display=False) as counter:
        by_backward()
    got = count_flops(lambda: InputGradient().explain(model, batch, EngineContext()))
    assert got == counter.get_total_flops()


def test_a_wrapper_and_the_model_inside_count_once(model, batch):
    wrapper = EditedAttention(model.module, edit=lambda attention, layer: attention)
    with count_passes(wrapper, model.module) as passes:
        logits = wrapper(batch.inputs.clone().requires_grad_())
        logits.sum().backward()
        model(batch.inputs)
    assert (passes.forwards, passes.backwards) == (2 * B, B)


def test_a_failing_forward_leaves_the_count_right(model, batch):
    with count_passes(model.module) as passes:
        with pytest.raises(AssertionError):
            model(batch.inputs[..., :8])
        model(batch.inputs.clone().requires_grad_()).sum().backward()
    assert (passes.forwards, passes.backwards) == (B, B)


def test_modules_without_blocks_count_at_the_module():
    module = nn.Linear(3, 2)
    with count_passes(module) as passes:
        module(torch.ones(5, 3)).sum().backward()
    assert (passes.forwards, passes.backwards) == (5, 5)


def test_nothing_is_left_on_the_model(model, batch):
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.module.named_modules()}
    threads = torch.get_num_threads()
    costs(InputGradient(), model, batch, threads=threads + 1)
    after = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.module.named_modules()}
    assert after == hooks
    assert torch.get_num_threads() == threads


def test_every_call_gets_a_fresh_context(model, batch):
    made = []

    def factory():
        made.append(EngineContext())
        return made[-1]

    profile_explainer(TapeGradient(), model, batch, factory, pairs=3)
    # One for the fitted state, one for counting, three that are timed, one for memory.
    assert len(made) == len({id(ctx.shared) for ctx in made}) == 6


def test_parameters_of_an_own_model(model, batch):
    got = costs(OwnHead(), model, batch)
    assert got["parameters"] == 11
    assert got["parameters_ratio"] == 11 / sum(p.numel() for p in model.module.parameters())
    assert costs(Plain(), model, batch)["parameters"] == 0


def test_copied_parameters_are_not_added():
    frozen, own = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    own[0].load_state_dict(frozen.state_dict())
    assert added_parameters(own, frozen) == 4 * 2 + 2


def test_peak_memory_is_of_what_lives_at_once():
    def both():
        first = torch.ones(250_000)
        second = torch.ones(500_000)
        return first.sum() + second.sum()

    def one_after_the_other():
        for _ in range(3):
            torch.ones(500_000)

    assert peak_bytes(one_after_the_other, CPU) == 2_000_000
    assert 3_000_000 <= peak_bytes(both, CPU) < 3_000_200


def test_memory_repeats_and_gradients_cost_more(model, batch):
    plain, gradient = costs(Plain(), model, batch), costs(InputGradient(), model, batch)
    assert plain["peak_mb"] == costs(Plain(), model, batch)["peak_mb"]
    assert plain["memory_ratio"] == pytest.approx(1, abs=0.01)
    assert gradient["memory_ratio"] > 2


def test_pairs_are_interleaved_and_ratios_taken_within_them(model, batch, monkeypatch):
    order = []
    time_pairs(lambda: order.append("plain"), lambda: order.append("explain"), 2, CPU)
    assert order == ["plain", "explain", "plain", "explain"]
    # Three pairs in seconds: (1, 2), (2, 6), (1, 10); the machine was slower during the second.
    ticks = iter([0, 1, 1, 3, 3, 5, 5, 11, 11, 12, 12, 22])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(ticks))
    assert time_pairs(lambda: None, lambda: None, 3, CPU) == ([1000, 2000, 1000], [2000, 6000, 10000])
    ticks = iter([0, 1, 1, 3, 3, 5, 5, 11, 11, 12, 12, 22])
    got = costs(Plain(), model, batch, pairs=3)
    assert got["latency_ratio"] == 3
    assert got["latency_ms"] == 6000 / B


def test_time_is_measured():
    plain, explain = time_pairs(lambda: None, lambda: time.sleep(0.01), 1, CPU)
    assert plain[0] > 0
    assert explain[0] >= 10


def test_nothing_to_measure_is_refused(model, batch):
    with pytest.raises(BadInputError, match="pairs=0"):
        costs(Plain(), model, batch, pairs=0)
    with pytest.raises(BadInputError, match="0 samples"):
        costs(Plain(), model, batch.select([]))
