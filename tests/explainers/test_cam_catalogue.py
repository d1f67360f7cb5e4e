"""The CAM family against its formulas, one image and one channel at a time, on plain ViTs, Swin, CaiT and XCiT."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from timm.models.cait import Cait
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.xcit import Xcit
from torch import nn

from vitxai.bench.context import EngineContext, Shared
from vitxai.bench.contract import BadInputError, Model, TokenGeometry, UnsupportedError, explainers
from vitxai.bench.profile import count_passes
from vitxai.explainers.eigen_cam import first_component
from vitxai.explainers.score_cam import input_masks
from vitxai.models.handle import wrap
from vitxai.models.tape import Tape

EXPLICIT = [
    "class_token",
    "mean_pooled",
    "mean_pooled_with_class_token",
    "distilled",
    "registers",
    "layer_scale",
    "spectral",
]
FAMILIES = ["swin", "swin_v2", "cait", "xcit"]
KINDS = [*EXPLICIT, "map_pooled", *FAMILIES]
GRADIENT = ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "hires_cam", "layer_grad_cam"]
SPECS = [
    *GRADIENT,
    "grad_cam_plus_plus,epsilon=0.01",
    "xgrad_cam,cancellation=0.2",
    "hires_cam,elementwise=true",
    "eigen_cam",
    "eigen_cam,centre=false",
    "score_cam",
    "score_cam,budget=5,output=probability,align_corners=true",
    "ablation_cam",
    "ablation_cam,budget=5",
    "finer_cam",
    "finer_cam,weights=published,references=2,alpha=0.5",
    "diff_cam",
    "diff_cam,reference=same",
    "ssa_cam",
    "ssa_cam,stages=2",
]


@pytest.fixture(scope="module")
def net(tiny):
    """``net(kind)``: the tiny ViTs of conftest, and tiny pyramids and nets whose class token joins late."""
    pyramid = {"img_size": 32, "patch_size": 4, "window_size": 2, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}
    late = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    builders = {
        "swin": lambda: SwinTransformer(**pyramid, num_classes=5),
        "swin_v2": lambda: SwinTransformerV2(**pyramid, num_classes=5),
        "cait": lambda: Cait(**late, num_classes=5, init_values=0.5),
        "xcit": lambda: Xcit(**late, num_classes=5, cls_attn_layers=1, eta=0.5),
    }

    def make(kind: str = "class_token") -> Model:
        if kind not in builders:
            return tiny(kind)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = builders[kind]()
            for name, parameter in module.named_parameters():
                nn.init.normal_(parameter, std=0.3)
                if "norm" in name and name.endswith("weight"):
                    parameter.data += 1.0
        return wrap(module.double().eval().requires_grad_(False), name=f"tiny {kind}", mean=(0.5,) * 3, std=(0.25,) * 3)

    return make


@pytest.fixture
def fitting(batch_for):
    """``fitting(spec, model)``: the method and a context that holds what it learned."""

    def make(spec: str, model: Model):
        method = explainers.create(spec)

        def fit_data(split, count, labels):
            return batch_for(model, min(count, 12), seed=7)

        fitted = method.fit(model, EngineContext(max_rows=7, fit_data=fit_data))
        return method, EngineContext(max_rows=7, fitted=fitted)

    return make


def assert_same(found, wanted, tolerance=1e-9):
    wanted = wanted.view(found.shape)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


def layer_of(model):
    """The default layer, found by hand."""
    module = model.module
    return module.layers[-1].blocks[-1].norm1 if hasattr(module, "layers") else module.blocks[-1].norm1


def watched(model, image, layer):
    """Patch tokens [P,C] at a module, and the logits of one image that hang on them."""
    kept = []
    hook = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        logits = model(image[None].clone().requires_grad_())[0]
    finally:
        hook.remove()
    return kept[0], logits


def patches_and_gradients(model, image, scalar, explicit, kind):
    """[P,C] twice: activations at the default layer and the gradient of ``scalar(logits)`` there."""
    if kind in EXPLICIT:
        trace = explicit(model, image)
        output, logits = trace.norm1[-1], trace.logits
    else:
        output, logits = watched(model, image, layer_of(model))
    (gradient,) = torch.autograd.grad(scalar(logits), output)
    width = output.shape[-1]
    count = model.geometry.patches
    return output.detach().reshape(-1, width)[-count:], gradient.reshape(-1, width)[-count:]


def weighted(weights, activation):
    total = torch.zeros(len(activation), dtype=torch.float64)
    for channel in range(activation.shape[1]):
        total += weights[channel] * activation[:, channel]
    return total


def grad_cam(a, g):
    return weighted([sum(slopes) / len(slopes) for slopes in g.T.tolist()], a)


def grad_cam_plus_plus(a, g, epsilon=0.0):
    weights = []
    for values, slopes in zip(a.T.tolist(), g.T.tolist(), strict=True):
        weight = 0.0
        for slope in slopes:
            weight += slope**2 / (2 * slope**2 + sum(values) * slope**3 + epsilon) * max(slope, 0.0)
        weights.append(weight)
    return weighted(weights, a)


def xgrad_cam(a, g, cancellation=1e-3):
    weights = []
    for values, slopes in zip(a.T.tolist(), g.T.tolist(), strict=True):
        total = sum(values)
        cancels = abs(total) <= cancellation * sum(map(abs, values))
        weights.append(0.0 if cancels else sum(s * v / total for s, v in zip(slopes, values, strict=True)))
    return weighted(weights, a)


def by_patch(a, g, value):
    rows = zip(a.tolist(), g.tolist(), strict=True)
    return torch.tensor([sum(map(value, *pair)) for pair in rows], dtype=torch.float64)


def layer_cam(a, g):
    return by_patch(a, g, lambda v, s: max(s, 0.0) * v)


def hires_cam(a, g, elementwise=False):
    return by_patch(a, g, lambda v, s: max(s * v, 0.0) if elementwise else s * v)


REFERENCES = {
    "grad_cam": grad_cam,
    "layer_grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "grad_cam_plus_plus,epsilon=0.01": lambda a, g: grad_cam_plus_plus(a, g, 0.01),
    "xgrad_cam": xgrad_cam,
    "xgrad_cam,cancellation=0.2": lambda a, g: xgrad_cam(a, g, 0.2),
    "layer_cam": layer_cam,
    "hires_cam": hires_cam,
    "hires_cam,elementwise=true": lambda a, g: hires_cam(a, g, elementwise=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", REFERENCES)
def test_gradient_cams_by_their_formulas(spec, kind, net, batch_for, explicit, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    found = explainers.create(spec).explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        a, g = patches_and_gradients(model, batch.inputs[row], lambda y, t=target: y[t], explicit, kind)
        assert_same(found[row], REFERENCES[spec](a, g))


@pytest.mark.parametrize(
    ("spec", "kind"),
    [(spec, kind) for spec in SPECS for kind in (["registers", "spectral"] if "," in spec else KINDS)],
)
def test_a_batch_is_its_samples(spec, kind, net, batch_for, fitting):
    model = net(kind)
    batch = batch_for(model, 8)
    method, ctx = fitting(spec, model)
    found = method.explain(model, batch, ctx)
    assert found.native.isfinite().all()
    assert not found.native.requires_grad
    assert found.native.dtype == torch.float64
    assert found.layout == ("group_token" if kind == "spectral" else "token")
    alone = method.explain(model, batch.select([5]), replace(ctx, shared=Shared())).native[0]
    assert_same(found.native[5], alone)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("spec", SPECS)
def test_modes_hooks_and_inputs_are_left_as_found(spec, mode, net, batch_for, fitting):
    model = net()
    batch = batch_for(model, 2)
    inputs = batch.inputs.clone()
    method, ctx = fitting(spec, model)
    wanted = method.explain(model, batch, ctx).native
    with mode():
        found = method.explain(model, batch, replace(ctx, shared=Shared())).native.clone()
    assert torch.equal(found, wanted)
    assert torch.equal(batch.inputs, inputs)
    assert not batch.inputs.requires_grad
    for module in model.module.modules():
        assert not {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "budget" not in spec])
def test_float32_agrees_with_float64(spec, net, batch_for, fitting):
    model = net("class_token")
    batch = batch_for(model, 2)
    method, ctx = fitting(spec, model)
    wanted = method.explain(model, batch, ctx).native
    single = wrap(copy.deepcopy(model.module).float(), mean=model.mean, std=model.std)
    floats = replace(batch, inputs=batch.inputs.float(), mask=None, leaf=None, healed=None)
    found = method.explain(single, floats, EngineContext(max_rows=7, fitted=ctx.fitted)).native
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-3 * wanted.abs().max().item())


@pytest.mark.parametrize("name", [*GRADIENT, "finer_cam", "ablation_cam", "ssa_cam"])
def test_a_layer_whose_patches_do_not_reach_the_logit_is_refused(name, net, batch_for, ctx):
    model = net()
    with pytest.raises(UnsupportedError, match=r"does not depend on the patch tokens at .*blocks\.2"):
        explainers.get(name)(layer="blocks.-1").explain(model, batch_for(model), ctx)
    pooled = net("mean_pooled")
    assert explainers.get(name)(layer="blocks.-1").explain(pooled, batch_for(pooled), ctx).native.any()


@pytest.mark.parametrize("name", [spec for spec in SPECS if "," not in spec])
def test_modules_that_do_not_fit_are_refused(name, net, batch_for, fitting):
    model = net()
    _, ctx = fitting(name, model)
    method = explainers.get(name)
    with pytest.raises(UnsupportedError, match="not one vector for each of 17 tokens"):
        # Channels first, and a module inside no block.
        method(layer="blocks.-1.attn.q_norm" if name == "ssa_cam" else "patch_embed.proj").explain(
            model, batch_for(model), ctx
        )
    with pytest.raises(UnsupportedError, match="no module 'body'"):
        method(layer="body").explain(model, batch_for(model), ctx)
    with pytest.raises(UnsupportedError, match="do not lie on one grid"):
        method().explain(replace(model, geometry=None), batch_for(model), ctx)


def test_a_family_without_blocks_has_no_default_layer(net, batch_for, ctx):
    model = net()
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)).double()
    with pytest.raises(UnsupportedError, match="neither blocks nor layers"):
        explainers.get("layer_cam")().explain(replace(model, module=module), batch_for(model), ctx)


def test_gradient_cams_of_a_layer_share_one_pass(net, batch_for, ctx):
    model = net()
    batch = batch_for(model)
    with count_passes(model.module) as count:
        for name in ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam", "hires_cam"]:
            explainers.get(name)().explain(model, batch, ctx)
            explainers.get(name)(layer="blocks.2.norm1").explain(model, batch, ctx)
    assert count.calls == 1


@dataclass
class Playback:
    """A context whose tape is given: activation and gradient of two patch tokens [1,2,C]."""

    activation: list
    gradient: list

    def tape(self, model, batch, **request):
        (name,) = request["activations"]
        a, g = (torch.tensor([rows], dtype=torch.float64) for rows in (self.activation, self.gradient))
        return Tape(torch.zeros(1, 2), activations={name: a}, activation_gradients={name: g})


@pytest.mark.parametrize(
    ("spec", "activation", "gradient", "wanted"),
    [
        # w = mean of g = [1.5, -1]; map = 1.5 a_0 - a_1.
        ("grad_cam", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [-0.5, 0.5]),
        ("layer_cam", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [1, 10]),
        ("hires_cam", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [-5, 10]),
        ("hires_cam,elementwise=true", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [1, 10]),
        # Sums of a: 4, 6. w_0 = (1*1 + 2*3) / 4, w_1 = (-3*2 + 1*4) / 6.
        ("xgrad_cam", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [1.75 - 2 / 3, 5.25 - 4 / 3]),
        # Channel 1 cancels: weight 0, not infinite.
        ("xgrad_cam", [[1, 2], [3, -2]], [[1, -3], [2, 1]], [1.75, 5.25]),
        # Channel 1 cancels to 1/9 of its absolute sum; w_1 = (-3*5 + 1*-4) / 1.
        ("xgrad_cam", [[1, 5], [3, -4]], [[1, -3], [2, 1]], [1.75 - 95, 5.25 + 76]),
        ("xgrad_cam,cancellation=0.12", [[1, 5], [3, -4]], [[1, -3], [2, 1]], [1.75, 5.25]),
        # alpha = 1 / (2 + 4 g): w_0 = 1/6 + 2/10; w_1 = 1 / (2 + 6).
        ("grad_cam_plus_plus", [[1, 2], [3, 4]], [[1, -3], [2, 1]], [11 / 30 + 0.25, 1.1 + 0.5]),
        # Channel 0: g = 0 and g = -2 / sum, where the denominator is 0.
        ("grad_cam_plus_plus", [[1, 2], [-3, 4]], [[0, -3], [1, 1]], [0.25, 0.5]),
    ],
)
def test_two_tokens_by_hand(spec, activation, gradient, wanted, batch_for):
    geometry = TokenGeometry((1, 2), 0, "avg", (8, 16), 3)
    module = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"norm1": nn.Identity()})])})
    model = Model(module, "two tokens", geometry, (8, 16), (0.0,) * 3, (1.0,) * 3, "")
    found = explainers.create(spec).explain(model, batch_for(model, 1), Playback(activation, gradient)).native
    torch.testing.assert_close(found, torch.tensor([[wanted]], dtype=torch.float64))


@pytest.mark.parametrize("kind", EXPLICIT)
def test_captums_layer_grad_cam_is_ours(kind, net, batch_for, ctx):
    model = net(kind)
    batch = batch_for(model)
    for layer in (None, "blocks.0.norm1", "blocks.1"):
        ours = explainers.get("grad_cam")(layer=layer).explain(model, batch, ctx).native
        assert_same(explainers.get("layer_grad_cam")(layer=layer).explain(model, batch, ctx).native, ours)


def test_captum_without_a_tap_makes_no_map(net, batch_for, ctx):
    """The well-known mistake: [B,N,C] read as channels first; 17 tokens become 16 values, one a channel."""
    model = net()
    batch = batch_for(model)
    raw = LayerGradCam(model.module, model.module.blocks[-1].norm1)
    found = raw.attribute(batch.inputs.clone().requires_grad_(), batch.targets).detach()
    assert found.shape == (3, 1, 16)
    tape = ctx.tape(model, batch, attention=False, activations=("blocks.2.norm1",), gradients=True)
    a, g = tape.activations["blocks.2.norm1"], tape.activation_gradients["blocks.2.norm1"]
    assert_same(found, (g.mean(2, keepdim=True) * a).sum(1, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centre", [True, False])
def test_eigen_cam(kind, centre, net, batch_for, explicit, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    found = explainers.get("eigen_cam")(centre=centre).explain(model, batch, ctx).native
    for row in range(2):
        a, _ = patches_and_gradients(model, batch.inputs[row], lambda y: y[0], explicit, kind)
        matrix = a.numpy() - a.numpy().mean(0) if centre else a.numpy()
        projection = matrix @ np.linalg.svd(matrix, full_matrices=False)[2][0]
        sign = np.sign((projection * matrix.mean(1)).sum())
        assert_same(found[row], torch.from_numpy(sign * projection))
        if centre:
            assert np.corrcoef(found[row].flatten(), matrix.mean(1))[0, 1] > 0


@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 9, 5), (1, 4, 4)])
def test_first_component_on_either_side_of_the_gram_matrix(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    right = torch.linalg.svd(matrix).Vh[:, 0]
    right = right * right.sum(1, keepdim=True).sign()
    torch.testing.assert_close(first_component(matrix), (matrix @ right[..., None])[..., 0], rtol=1e-9, atol=1e-12)
    assert not first_component(torch.zeros(shape)).any(), "no patch differs from another"


def test_eigen_cam_needs_no_backward_pass_and_knows_no_class(net, batch_for, ctx):
    model = net()
    batch = batch_for(model)
    method = explainers.get("eigen_cam")()
    other = method.explain(model, replace(batch, targets=(batch.targets + 1) % 5), EngineContext())
    assert torch.equal(method.explain(model, batch, ctx).native, other.native)
    assert method.cost == "forward"
    assert not method.needs


def score_cam(model, image, target, a, channels, probability, align_corners):
    """One channel at a time, one band at a time."""
    scores = []
    groups = model.geometry.groups or (range(model.channels),)
    for channel in channels:
        planes = a[:, channel].view(1, len(groups), *model.geometry.grid)
        planes = nn.functional.interpolate(planes, tuple(image.shape[1:]), mode="bilinear", align_corners=align_corners)
        planes = (planes[0] - planes.min()) / (planes.max() - planes.min())
        masked = image.clone()
        for group, plane in zip(groups, planes, strict=True):
            for band in group:
                masked[band] *= plane
        logits = model(masked[None])[0]
        scores.append((logits.softmax(0) if probability else logits)[target])
    total = sum(math.exp(score) for score in scores)
    return sum(math.exp(s) / total * a[:, c] for s, c in zip(scores, channels, strict=True))


SCORE_CAMS = ["score_cam", "score_cam,output=probability", "score_cam,align_corners=true", "score_cam,budget=6"]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [("score_cam", kind) for kind in KINDS] + [(s, k) for s in SCORE_CAMS[1:] for k in ("class_token", "spectral")],
)
def test_score_cam(spec, kind, net, batch_for, explicit, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    found = explainers.create(spec).explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        a, _ = patches_and_gradients(model, batch.inputs[row], lambda y: y[0], explicit, kind)
        channels = range(a.shape[1])
        if "budget" in spec:
            channels = sorted(channels, key=lambda c, a=a: -a[:, c].var().item())[:5]
        wanted = score_cam(model, batch.inputs[row], target, a, channels, "prob" in spec, "align" in spec)
        assert_same(found[row], wanted)


def test_each_band_is_masked_by_the_map_of_its_own_group():
    geometry = TokenGeometry((1, 2), 0, "avg", (2, 2), 3, groups=((0, 2), (1,)))
    found = input_masks(torch.tensor([[0.0, 2.0, 4.0, 1.0]]), geometry, align_corners=True)
    first, second = [[0, 0.5]] * 2, [[1, 0.25]] * 2
    torch.testing.assert_close(found, torch.tensor([[first, second, first]]))
    assert not input_masks(torch.ones(1, 4), geometry, align_corners=True).any(), "a map without contrast shows nothing"


@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
@pytest.mark.parametrize("budget", [2, 5, 300])
def test_the_budget_is_never_exceeded(name, budget, net, batch_for):
    model = net()
    batch = batch_for(model)
    with count_passes(model.module) as count:
        explainers.get(name)(budget=budget).explain(model, batch, EngineContext(max_rows=4))
    assert count.forwards <= 3 * min(budget, 17)
    with pytest.raises(BadInputError, match="budget"):
        explainers.create(f"{name},budget=1")


@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
def test_the_rows_of_a_pass_do_not_change_the_map(name, net, batch_for):
    model = net("registers")
    batch = batch_for(model)
    seen = []
    hook = model.module.blocks[-1].mlp.register_forward_hook(lambda _, __, output: seen.append(len(output)))
    try:
        maps = [
            explainers.get(name)().explain(model, batch, EngineContext(max_rows=rows)).native for rows in (3, 5, 64)
        ]
    finally:
        hook.remove()
    assert_same(maps[0], maps[2])
    assert_same(maps[1], maps[2])
    # The recorded pass holds the batch's 3 samples; 3 * 16 rows follow in passes of 3, 5 and 64 at most.
    assert seen == [3, *[3] * 16, 3, *[5] * 9, 3, 3, 48]


class Ablated(nn.Module):
    """A module whose output has one channel replaced: at the patch tokens, or at all."""

    def __init__(self, inner, channel, patches, value=None):
        super().__init__()
        self.inner, self.channel, self.patches, self.value = inner, channel, patches, value

    def forward(self, x):
        out = self.inner(x).clone()
        rows = out.view(-1, out.shape[-1])
        if self.value is None:
            rows[-self.patches :, self.channel] = 0
        else:
            rows[:, self.channel] = rows.min() - self.value
        return out


def ablation_cam(model, image, target, place, name, value=None):
    """With a copy of the whole model, one channel at a time."""
    module = copy.deepcopy(model.module)
    layer = getattr(place(module), name)
    output, logits = watched(model, image, getattr(place(model.module), name))
    a = output.detach().reshape(-1, output.shape[-1])[-model.geometry.patches :]
    weights = []
    for channel in range(a.shape[1]):
        setattr(place(module), name, Ablated(layer, channel, model.geometry.patches, value))
        with torch.no_grad():
            weights.append((logits[target] - module(image[None])[0, target]) / abs(logits[target]))
    return weighted(weights, a).detach()


def last_block(module):
    return (module.layers[-1] if hasattr(module, "layers") else module).blocks[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_ablation_cam(kind, net, batch_for, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    found = explainers.get("ablation_cam")().explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        assert_same(found[row], ablation_cam(model, batch.inputs[row], target, last_block, "norm1"))


def test_ablation_runs_only_from_the_block_on_once_a_channel(net, batch_for):
    model = net()
    rows = {0: 0, 1: 0, 2: 0}
    for index, block in enumerate(model.module.blocks):
        block.mlp.register_forward_hook(
            lambda _, __, output, index=index: rows.update({index: rows[index] + len(output)})
        )
    explainers.get("ablation_cam")(layer="blocks.1.norm1").explain(model, batch_for(model), EngineContext(max_rows=64))
    # The recorded pass and the pass that is ablated, 3 samples each; 16 channels of each sample from block 1 on.
    assert rows == {0: 3 + 3, 1: 3 + 48, 2: 3 + 48}


@pytest.mark.parametrize(
    ("layer", "place", "name"),
    [
        ("blocks.0.norm1", lambda net: net.blocks[0], "norm1"),
        ("blocks.1.attn.proj", lambda net: net.blocks[1].attn, "proj"),
        ("norm", lambda net: net, "norm"),
    ],
)
def test_ablation_cam_at_other_layers(layer, place, name, net, batch_for, ctx):
    model = net("mean_pooled")
    if layer == "norm":  # in no block: the whole net is run for each channel
        model.module.norm, model.module.fc_norm = model.module.fc_norm, nn.Identity()
    batch = batch_for(model, 2)
    found = explainers.get("ablation_cam")(layer=layer).explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        assert_same(found[row], ablation_cam(model, batch.inputs[row], target, place, name))


@pytest.mark.parametrize("kind", ["class_token", "swin"])
def test_ablation_by_the_minimum(kind, net, batch_for, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    found = explainers.get("ablation_cam")(ablation="minimum").explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        wanted = ablation_cam(model, batch.inputs[row], target, last_block, "norm1", 1e7)
        assert_same(found[row], wanted, 1e-6)


def test_ablation_cam_keeps_its_sign_where_the_target_logit_is_negative(net, batch_for, ctx):
    model = net()
    batch = batch_for(model, 1)
    found = explainers.get("ablation_cam")().explain(model, batch, ctx).native
    clean = model(batch.inputs)[0, 0]
    model.module.head.bias[0] -= 2 * abs(clean) + 1
    shifted = explainers.get("ablation_cam")().explain(model, batch, EngineContext()).native
    after = model(batch.inputs)[0, 0]
    assert after < 0
    assert_same(shifted * after.abs(), found * clean.abs())


def contrast(logits, target, references, alpha, weights):
    """The lead of the target, written for one image; probabilities from the full softmax."""
    others = sorted(
        (k for k in range(len(logits)) if k != target), key=lambda k: abs(logits[k] - logits[target]).item()
    )
    probability = logits.softmax(0)
    probability = probability if weights == "published" else probability.detach()
    top = bottom = 0.0
    for k in others[:references]:
        share = 1.0 if weights == "uniform" else probability[k]
        top = top + share * (logits[target] - alpha * logits[k])
        bottom = bottom + share
    return top / bottom


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["probability", "uniform", "published"])
@pytest.mark.parametrize(("references", "alpha"), [(3, 1.0), (9, 0.5)])
def test_finer_cam(kind, weights, references, alpha, net, batch_for, explicit, ctx):
    model = net(kind)
    batch = batch_for(model, 2)
    method = explainers.get("finer_cam")(references=references, alpha=alpha, weights=weights)
    found = method.explain(model, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):

        def lead(logits, target=target):
            return contrast(logits, target, references, alpha, weights)

        assert_same(found[row], grad_cam(*patches_and_gradients(model, batch.inputs[row], lead, explicit, kind)))


def test_finer_cam_without_comparison_is_grad_cam(net, batch_for, ctx):
    model = net()
    batch = batch_for(model)
    found = explainers.get("finer_cam")(alpha=0).explain(model, batch, ctx).native
    assert_same(found, explainers.get("grad_cam")().explain(model, batch, ctx).native)


def test_finer_cam_of_edited_attention_is_that_of_the_edited_model(net, batch_for, ctx):
    model = net()
    batch = batch_for(model)
    own = explainers.get("selectivevit")(threshold=0.1).own_model(model, None)
    found = explainers.get("finer_cam")(alpha=0).explain(own, batch, ctx).native
    assert_same(found, explainers.get("grad_cam")().explain(own, batch, ctx).native)
    assert (found - explainers.get("grad_cam")().explain(model, batch, ctx).native).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", ["other", "same"])
def test_diff_cam(kind, reference, net, batch_for, explicit, fitting):
    model = net(kind)
    batch = batch_for(model, 2)
    method, ctx = fitting(f"diff_cam,reference={reference},ridge=0.3", model)
    found = method.explain(model, batch, ctx).native
    fit = batch_for(model, 12, seed=7)
    pooled = [
        patches_and_gradients(model, image, lambda y: y[0], explicit, kind)[0].numpy().mean(0) for image in fit.inputs
    ]
    for row, target in enumerate(batch.targets.tolist()):
        a = patches_and_gradients(model, batch.inputs[row], lambda y: y[0], explicit, kind)[0]
        chosen = [f for f, label in zip(pooled, fit.labels, strict=True) if (label == target) == (reference == "same")]
        covariance = np.cov(np.array(chosen).T, bias=True)
        ridge = 0.3 * np.trace(covariance) / len(covariance)
        weights = np.linalg.inv(covariance + ridge * np.eye(len(covariance))) @ (a.numpy().mean(0) - np.mean(chosen, 0))
        assert_same(found[row], weighted(weights, a), 1e-8)


def test_diff_cam_without_references_is_refused(net, batch_for, fitting, ctx):
    model = net()
    with pytest.raises(BadInputError, match="fit it first"):
        explainers.get("diff_cam")().explain(model, batch_for(model), ctx)
    method, context = fitting("diff_cam,reference=same", model)
    assert method.fit(model, replace(context, fit_data=lambda *_: batch_for(model, 12))).facts == {
        "layer": "blocks.2.norm1", "samples": 12, "classes": 5,
    }  # fmt: skip
    lonely = replace(context.fitted, tensors={**context.fitted.tensors, "labels": torch.full((12,), 4)})
    with pytest.raises(UnsupportedError, match="0 of 12 samples to fit on can be references for class 0"):
        method.explain(model, batch_for(model), replace(context, fitted=lonely))
    same = replace(context.fitted, tensors={**context.fitted.tensors, "pooled": torch.ones(12, 16)})
    with pytest.raises(UnsupportedError, match="the same features"):
        method.explain(model, batch_for(model, 2), replace(context, fitted=same))


@pytest.mark.parametrize("kind", EXPLICIT)
@pytest.mark.parametrize("stages", [1, 2, 7])
def test_ssa_cam(kind, stages, net, batch_for, explicit, ctx):
    model = net(kind)
    batch = batch_for(model, 1)
    found = explainers.get("ssa_cam")(stages=stages).explain(model, batch, ctx).native[0]
    trace = explicit(model, batch.inputs[0])
    (gradient,) = torch.autograd.grad(trace.logits[0], trace.norm1[-1])
    prefix, used = model.geometry.prefix, trace.norm1[-stages:]
    raw = grad_cam(trace.norm1[-1][prefix:].detach(), gradient[prefix:])
    wanted = torch.zeros_like(raw)
    for stage in used:
        tokens = stage[prefix:].detach()
        for p in range(len(tokens)):
            for q in range(len(tokens)):
                cosine = tokens[p] @ tokens[q] / (tokens[p].norm() * tokens[q].norm())
                wanted[p] += max(cosine.item(), 0.0) * raw[q] / len(used)
    assert_same(found, wanted)


@pytest.mark.parametrize(("kind", "blocks"), [("swin", 2), ("swin_v2", 2), ("cait", 2), ("xcit", 2)])
def test_ssa_cam_stays_in_the_stack_of_its_layer(kind, blocks, net, batch_for, ctx):
    model = net(kind)
    batch = batch_for(model)
    few, all_there = (explainers.get("ssa_cam")(stages=s).explain(model, batch, ctx).native for s in (blocks, 9))
    assert torch.equal(few, all_there)


def test_ssa_cam_outside_a_block_is_refused(net, batch_for, ctx):
    model = net("mean_pooled")
    with pytest.raises(UnsupportedError, match="norm lies in no block"):
        explainers.get("ssa_cam")(layer="norm").explain(model, batch_for(model), ctx)
    early = explainers.get("ssa_cam")(layer="blocks.0", stages=3).explain(model, batch_for(model), ctx)
    alone = explainers.get("ssa_cam")(layer="blocks.0", stages=1).explain(model, batch_for(model), ctx)
    assert torch.equal(early.native, alone.native)


def test_statuses_and_costs():
    methods = {name: explainers.get(name) for name in {spec.split(",")[0] for spec in SPECS}}
    assert {name for name, m in methods.items() if m.status == "reconstruction"} == {"diff_cam", "ssa_cam"}
    assert {name for name, m in methods.items() if m.cost == "budget"} == {"score_cam", "ablation_cam"}
    assert {name for name, m in methods.items() if m.cost == "forward"} == {"eigen_cam", "diff_cam"}
    assert all(m.paper for m in methods.values())
