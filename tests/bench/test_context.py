"""The context: keyed randomness, recordings made once, fit data only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vitxai.bench.context import EngineContext, Shared
from vitxai.bench.contract import BadInputError, Batch, Context, Model, explainers
from vitxai.models.load import load_model


@pytest.fixture
def model(tiny_models: tuple[str, str]) -> Model:
    return load_model(tiny_models[0])


@pytest.fixture
def batch() -> Batch:
    inputs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Batch(("a", "b"), inputs, torch.tensor([0, 1]), torch.tensor([0, 1]))


def draw(ctx: Context, sample: str, component: str) -> list[float]:
    return torch.rand(3, generator=ctx.generator(sample, component)).tolist()


def test_generators_depend_on_seed_sample_and_component_alone() -> None:
    ctx = EngineContext(seed=1)
    first = draw(ctx, "a", "masks")
    torch.manual_seed(5)
    assert draw(EngineContext(seed=1, max_rows=3), "a", "masks") == first
    others = [draw(EngineContext(seed=2), "a", "masks"), draw(ctx, "b", "masks"), draw(ctx, "a", "noise")]
    assert first not in others


def test_a_tape_is_recorded_once_for_equal_requests(model: Model, batch: Batch) -> None:
    ctx = EngineContext()
    tape = ctx.tape(model, batch, attention=True)
    assert ctx.tape(model, batch, attention=True) is tape
    assert ctx.tape(model, batch, attention=True, scores=True) is not tape
    assert ctx.tape(model, batch, activations=["blocks.0"]) is ctx.tape(model, batch, activations=("blocks.0",))
    other = replace(batch, inputs=batch.inputs * 2)
    assert not torch.equal(ctx.tape(model, other, attention=True).logits, tape.logits)


def test_inputs_changed_in_place_get_a_new_tape(model: Model, batch: Batch) -> None:
    ctx = EngineContext()
    before = ctx.tape(model, batch, attention=True).logits
    batch.inputs.mul_(2)
    assert not torch.equal(ctx.tape(model, batch, attention=True).logits, before)


def test_a_probe_is_computed_once_a_model_batch_and_name(model: Model, batch: Batch) -> None:
    ctx, calls = EngineContext(), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return torch.zeros(2)

    probe = ctx.probe(model, batch, "zeros", compute)
    assert ctx.probe(model, batch, "zeros", compute) is probe
    ctx.probe(model, batch, "other", compute)
    ctx.probe(model, batch.select([0]), "zeros", compute)
    assert len(calls) == 3


def test_contexts_share_what_they_are_told_to_share(model: Model, batch: Batch) -> None:
    shared = Shared()
    tape = EngineContext(shared=shared).tape(model, batch, attention=True)
    assert EngineContext(seed=9, shared=shared).tape(model, batch, attention=True) is tape
    assert EngineContext().tape(model, batch, attention=True) is not tape
    shared.clear()
    assert EngineContext(shared=shared).tape(model, batch, attention=True) is not tape


def test_another_draw_asks_the_method_with_another_seed_and_the_metric_draws_as_for_all(
    model: Model, batch: Batch, tiny_plugins: object
) -> None:
    noise, shared = explainers.create("tiny_noise"), Shared()
    first = EngineContext(seed=3, shared=shared, method=noise)
    other = replace(first, draw=2)
    assert draw(first, "a", "mask") == draw(other, "a", "mask")
    plain, redrawn = first.explain(model, batch), other.explain(model, batch)
    assert not torch.equal(plain.native, redrawn.native)
    assert torch.equal(plain.native, noise.explain(model, batch, EngineContext(seed=3)).native)
    assert torch.equal(redrawn.native, noise.explain(model, batch, EngineContext(seed=5)).native)


def test_writing_into_a_shared_tape_is_noticed_and_forgotten(model: Model, batch: Batch) -> None:
    ctx = EngineContext()
    tape = ctx.tape(model, batch, attention=True)
    assert not ctx.shared.changed()
    tape.attention[0].zero_()
    assert ctx.shared.changed()
    assert not ctx.shared.changed()
    assert bool(ctx.tape(model, batch, attention=True).attention[0].any())


def test_old_recordings_make_room_for_new_ones(model: Model, batch: Batch) -> None:
    ctx = EngineContext(shared=Shared(max_bytes=1))
    first = ctx.tape(model, batch, attention=True)
    ctx.tape(model, batch, values=True)
    assert ctx.tape(model, batch, attention=True) is not first


def test_data_are_for_fitting_only() -> None:
    with pytest.raises(BadInputError, match=r"'test'.*fit.*validation"):
        EngineContext().data("test", 4)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="count=0"):
        EngineContext().data("fit", 0)
    with pytest.raises(BadInputError, match="no data to fit on"):
        EngineContext().data("fit", 4)
