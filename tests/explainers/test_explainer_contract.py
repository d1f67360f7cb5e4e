"""What holds for every explainer on every kind of ViT: shapes, finite maps, batch independence, nothing left behind."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Fitted, Model, UnsupportedError, explainers
from vitxai.models.handle import wrap

SPECS = [
    "rollout",
    "rollout,fusion=max,discard_ratio=0.5",
    "raw_attention",
    "chefer_lrp",
    "chefer_lrp,method=rollout,start_layer=0",
    "ag_cam",
    "focusvit,skip=1",
    "focusvit,skip=0,row=mean,normalise=max",
    "grad_cam",
    "input_x_gradient",
    "integrated_gradients,steps=4",
    "healed_difference,steps=4",
    "selectivevit,threshold=0.03",
    "selectivevit,threshold=1,relative=true,map=attention",
    "random",
    "center_prior",
    "edges",
    "input_magnitude",
    "leaf_mask",
]
KINDS = [
    "class_token",
    "mean_pooled",
    "mean_pooled_with_class_token",
    "map_pooled",
    "distilled",
    "registers",
    "layer_scale",
    "spectral",
]


def explain(spec: str, model: Model, batch, ctx=None):
    method = explainers.create(spec)
    return method.explain(method.own_model(model, None), batch, ctx or EngineContext(max_rows=7))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", SPECS)
def test_maps_are_finite_and_a_batch_is_its_samples(spec, kind, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model, 8)
    found = explain(spec, model, batch)
    assert len(found) == 8
    assert found.native.isfinite().all()
    assert found.native.dtype == torch.float64
    assert not found.native.requires_grad
    assert found.spatial().shape == (8, 32, 32)
    assert found.has_spectrum == (kind == "spectral" and found.layout != "pixel")
    for row in (0, 5):
        alone = explain(spec, model, batch.select([row])).native
        scale = found.native[row].abs().max().item()
        torch.testing.assert_close(alone[0], found.native[row], rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_is_left_behind(spec, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    inputs, truths = batch.inputs.clone(), [batch.mask.clone(), batch.leaf.clone(), batch.healed.clone()]
    weights = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        explain(spec, model, batch)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch.inputs, inputs)
    assert not batch.inputs.requires_grad
    assert all(torch.equal(*pair) for pair in zip(truths, [batch.mask, batch.leaf, batch.healed], strict=True))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())
    assert torch.is_grad_enabled()
    for module in model.module.modules():
        assert not module.training
        assert not {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}
    for parameter in model.module.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


@pytest.mark.parametrize("spec", ["rollout", "raw_attention", "random", "center_prior"])
def test_class_agnostic_methods_ignore_the_target(spec, tiny, batch_for):
    assert target_matters(spec, tiny, batch_for) is False


@pytest.mark.parametrize(
    "spec", ["chefer_lrp", "ag_cam", "focusvit,skip=0", "grad_cam", "integrated_gradients,steps=4"]
)
def test_class_specific_methods_follow_the_target(spec, tiny, batch_for):
    assert target_matters(spec, tiny, batch_for) is True


def target_matters(spec, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    other = replace(batch, targets=(batch.targets + 1) % 5)
    return not torch.equal(explain(spec, model, batch).native, explain(spec, model, other).native)


@pytest.mark.parametrize("spec", SPECS)
def test_a_model_without_token_grid_is_refused(spec, tiny, batch_for):
    model = tiny()
    with pytest.raises(UnsupportedError, match="do not lie on one grid"):
        explain(spec, replace(model, geometry=None), batch_for(model))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "threshold" not in spec])
def test_float32_agrees_with_float64(spec, tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    wanted = explain(spec, model, batch).native
    single = wrap(model.module.float(), mean=model.mean, std=model.std)
    floats = {
        f.name: value.float()
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), torch.Tensor) and value.is_floating_point()
    }
    found = explain(spec, single, replace(batch, **floats)).native
    assert found.dtype == torch.float32
    scale = wanted.abs().max().item()
    # Relevance at layer 0 divides by sums close to zero; the authors leave that layer out.
    tolerance = 0.1 if "start_layer=0" in spec else 2e-3
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    "spec",
    [
        "rollout,discard_ratio=1",
        "rollout,fusion=median",
        "rollout,start_layer=-1",
        "focusvit,skip=-1",
        "selectivevit,threshold=-0.1",
        "integrated_gradients,steps=0",
        "center_prior,sigma=0",
        "ag_cam,head=sum",
    ],
)
def test_parameters_out_of_range_are_refused(spec):
    with pytest.raises(BadInputError, match=spec.split(",")[0]):
        explainers.create(spec)


def test_every_explainer_here_is_declared():
    declared = {explainers.create(spec).name: explainers.create(spec) for spec in SPECS}
    assert {name for name, method in declared.items() if method.status == "floor"} == {
        "random", "center_prior", "edges", "input_magnitude", "leaf_mask",
    }  # fmt: skip
    assert [name for name, method in declared.items() if method.status == "oracle"] == ["healed_difference"]
    assert [name for name, method in declared.items() if method.status == "reconstruction"] == ["focusvit"]
    assert all(method.paper for method in declared.values() if method.status in ("exact", "reconstruction"))
    assert not isinstance(declared["rollout"].fit(None, None), Fitted)
