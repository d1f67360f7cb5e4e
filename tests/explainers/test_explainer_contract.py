"""What holds for every explainer on every kind of ViT: shapes, finite maps, batch independence, nothing left behind."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Model, UnsupportedError, explainers
from vitxai.models.handle import wrap

SPECS = [
    # attention
    "rollout",
    "rollout,fusion=max,discard_ratio=0.5",
    "raw_attention",
    "attention_flow",
    "grad_rollout",
    "grad_rollout,variant=vit_explain,discard_ratio=0.5",
    "ag_cam",
    "chefer_generic",
    "focusvit,skip=1",
    "focusvit,skip=0,row=mean,normalise=max",
    "i_saw",
    "i_saw,class_weights=head,layer_weights=gradient",
    "attcat",
    "legrad",
    "legrad,layers=2,tokens=decision,score=cosine",
    "token_tm",
    "selectivevit,threshold=0.03",
    "selectivevit,threshold=1,relative=true,map=attention",
    # tokens
    "skip_plus",
    "skip_plus,start=0",
    "token_gradient",
    "tis,budget=4",
    # relevance
    "chefer_lrp",
    "chefer_lrp,method=rollout,start_layer=0",
    "chefer_lrp,method=full",
    "attn_lrp",
    "attn_lrp,rule=cp_lrp,gamma=0.25,conv_gamma=0.25",
    "libragrad",
    "libragrad,of=grad_cam,attention=split",
    # activation maps
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "finer_cam",
    "layer_grad_cam",
    "ssa_cam",
    "eigen_cam",
    "diff_cam",
    "score_cam,budget=4",
    "ablation_cam,budget=4",
    # gradients
    "saliency",
    "input_x_gradient",
    "smooth_grad,budget=3",
    "integrated_gradients,steps=4",
    "gradient_shap,budget=3",
    "healed_difference,steps=4",
    "spectral_lift,of=hires_cam",
    # perturbations
    "occlusion",
    "feature_ablation",
    "lime,budget=8,features=patch",
    "kernel_shap,budget=36,features=patch",
    "rise,budget=6",
    "vit_cx,budget=9",
    # models of their own
    "prompt_cam,epochs=1",
    "prompt_cam,depth=shallow,heads=greedy,epochs=1",
    "intr,epochs=1",
    "protopnet,epochs=1,weight_epochs=1",
    "protopformer,epochs=1",
    # floors
    "random",
    "center_prior",
    "edges",
    "input_magnitude",
    "leaf_mask",
]
# Their fits go other ways in another precision.
LEARNERS = {"prompt_cam", "intr", "protopnet", "protopformer"}
# They refuse three channels; tests of their own hold them to the same rules.
SPECTRAL = {"focus", "sanet"}
FLOORS = {"random", "center_prior", "edges", "input_magnitude", "leaf_mask"}
AGNOSTIC = FLOORS | {"rollout", "raw_attention", "attention_flow", "eigen_cam"}
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


# Maps of groups are what it makes, so that it has nothing to add to them.
CASES = [
    (spec, kind) for spec in SPECS for kind in KINDS if (spec.split(",")[0], kind) != ("spectral_lift", "spectral")
]


def explain(spec: str, model: Model, batch, ctx=None):
    def fit_data(split, count, labels):
        size = min(count, 10)
        noise = torch.randn(size, model.channels, *model.input_size, generator=torch.Generator().manual_seed(9))
        classes = torch.arange(size) % 5
        return Batch(tuple(f"fit/{row}" for row in range(size)), noise.to(batch.inputs), classes, classes)

    method, ctx = explainers.create(spec), ctx or EngineContext(max_rows=7, fit_data=fit_data)
    fitted = method.fit(model, ctx)
    return method.explain(method.own_model(model, fitted), batch, replace(ctx, fitted=fitted))


@pytest.mark.parametrize(("spec", "kind"), CASES)
def test_maps_are_finite_and_a_batch_is_its_samples(spec, kind, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model, 8)
    found = explain(spec, model, batch)
    assert len(found) == 8
    assert found.native.isfinite().all()
    assert found.native.dtype == torch.float64
    assert not found.native.requires_grad
    assert found.spatial().shape == (8, 32, 32)
    assert found.has_spectrum == (kind == "spectral" and found.layout in ("group_token", "cube"))
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


@pytest.mark.parametrize("spec", SPECS)
def test_class_specific_methods_follow_the_target_and_the_others_do_not(spec, tiny, batch_for):
    agnostic = spec.split(",")[0] in AGNOSTIC or spec.endswith("map=attention")
    assert target_matters(spec, tiny, batch_for) is not agnostic


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


# Largest error in float32, as a share of the largest value; measured on two models of five kinds: up to 1e-5 for all
# others, most of them below 2e-6. These divide by sums of terms that cancel (relevance, most of all in layer 0, which
# the authors leave out, and in the pixels: 6e-2 there), or take the difference of two logits.
FLOAT32 = {
    "chefer_lrp": 5e-4,
    "chefer_lrp,method=rollout,start_layer=0": 5e-3,
    "chefer_lrp,method=full": 5e-2,
    "xgrad_cam": 5e-4,
    "ablation_cam,budget=4": 2e-4,
}


@pytest.mark.parametrize(
    "spec",
    # A rounding decides what lies above a threshold.
    [spec for spec in SPECS if "threshold" not in spec and spec.split(",")[0] not in LEARNERS],
)
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
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=FLOAT32.get(spec, 2e-5) * scale)


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


def test_every_explainer_is_here_and_declared():
    declared = {spec.split(",")[0]: explainers.create(spec) for spec in [*SPECS, *SPECTRAL]}
    ours = {name for name in explainers.names() if explainers.get(name).__module__.startswith("vitxai.explainers.")}
    # Maps made elsewhere have files, and tests of their own.
    assert set(declared) == ours - {"precomputed"}
    statuses = {
        status: {name for name, method in declared.items() if method.status == status}
        for status in ("floor", "oracle", "reconstruction")
    }
    assert statuses == {
        "floor": FLOORS,
        "oracle": {"healed_difference"},
        "reconstruction": {"focusvit", "i_saw", "diff_cam", "ssa_cam", "focus", "sanet"},
    }
    assert all(method.paper for method in declared.values() if method.status in ("exact", "reconstruction"))
    assert declared["rollout"].fit(None, None) is None
