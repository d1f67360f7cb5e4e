"""rollout, raw_attention, ag_cam and grad_cam against the written-out forward, one image and one head at a time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from vitxai.bench.contract import Model, TokenGeometry, UnsupportedError, explainers
from vitxai.explainers.rollout import discard
from vitxai.models.tape import Tape

KINDS = [
    "class_token",
    "mean_pooled",
    "mean_pooled_with_class_token",
    "distilled",
    "registers",
    "layer_scale",
    "spectral",
]
FUSE = {"mean": lambda heads: sum(heads) / len(heads), "max": lambda heads: torch.stack(heads).amax(0)}
FUSE["min"] = lambda heads: torch.stack(heads).amin(0)


def decision(matrix, model):
    """Mean of the decision's rows on the patch grid, written from the model rather than from its geometry."""
    net = model.module
    prefix = getattr(net, "num_prefix_tokens", 1)
    if net.global_pool == "avg":
        row = matrix[prefix:].mean(0)
    else:
        row = (matrix[0] + matrix[1]) / 2 if hasattr(net, "head_dist") else matrix[0]
    patches = row[prefix:]
    return patches.reshape(2, 4, 4) if model.geometry.groups else patches.reshape(4, 4)


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11 * wanted.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("start_layer", [0, 1])
def test_rollout(kind, fusion, start_layer, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("rollout")(fusion=fusion, start_layer=start_layer).explain(model, batch, ctx).native
    for row in range(2):
        joint = torch.eye(model.geometry.tokens, dtype=torch.float64)
        for heads in explicit(model, batch.inputs[row]).attention[start_layer:]:
            mixed = FUSE[fusion](heads) + torch.eye(len(joint))
            joint = torch.diag(1 / mixed.sum(1)) @ mixed @ joint
        assert_same(found[row], decision(joint, model))


@dataclass
class Playback:
    """A context whose tape is given."""

    attention: list
    pool: torch.Tensor | None = None

    def tape(self, model, batch):
        return Tape(torch.zeros(1, 2), attention=self.attention, pool_attention=self.pool)


def two_token_model(pooling="avg", prefix=0):
    geometry = TokenGeometry((1, 2), prefix, pooling, (8, 16), 3)
    return Model(nn.Identity(), "two tokens", geometry, (8, 16), (0.0,) * 3, (1.0,) * 3, "")


def test_rollout_of_two_tokens_by_hand(batch_for):
    # A' = (A + I) / 2: [[.75 .25] [.5 .5]] then [[.6 .4] [0 1]]; A'2 A'1 = [[.65 .35] [.5 .5]]; mean row [.575 .425].
    first = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]], dtype=torch.float64)
    second = torch.tensor([[[[0.2, 0.8], [0.0, 1.0]]]], dtype=torch.float64)
    model = two_token_model()
    found = explainers.get("rollout")().explain(model, batch_for(model, 1), Playback([first, second])).native
    torch.testing.assert_close(found, torch.tensor([[[0.575, 0.425]]], dtype=torch.float64))


def test_rollout_of_an_attention_pool_is_its_row_times_the_blocks(batch_for):
    # A'1 as above, read by the pool's row [.25 .75]: [.25*.75 + .75*.5, .25*.25 + .75*.5].
    first = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]], dtype=torch.float64)
    pool = torch.tensor([[[[0.25, 0.75]]]], dtype=torch.float64)
    model = two_token_model("map")
    found = explainers.get("rollout")().explain(model, batch_for(model, 1), Playback([first], pool)).native
    torch.testing.assert_close(found, torch.tensor([[[0.5625, 0.4375]]], dtype=torch.float64))


def test_rollout_composes_a_real_attention_pool(tiny, batch_for, explicit, ctx):
    model = tiny("map_pooled")
    batch = batch_for(model, 2)
    tape = ctx.tape(model, batch)
    found = explainers.get("rollout")().explain(model, batch, ctx).native
    raw = explainers.get("raw_attention")().explain(model, batch, ctx).native
    for row in range(2):
        joint = torch.eye(16, dtype=torch.float64)
        for block in tape.attention:
            joint = 0.5 * (block[row].mean(0) + torch.eye(16)) @ joint
        pool = tape.pool_attention[row].mean(0)[0]
        assert_same(found[row], (pool @ joint).view(4, 4))
        assert_same(raw[row], pool.view(4, 4))


def test_discarding_is_per_sample_and_keeps_the_class_tokens_own_cell():
    matrix = torch.tensor([[[0.1, 0.9], [0.3, 0.7]], [[0.6, 0.4], [0.2, 0.8]]])
    # Two of four cells go: sample 0 loses .1 (kept: class token's own) and .3; sample 1 loses .2 and .4.
    kept = discard(matrix, 0.5, prefix=1)
    torch.testing.assert_close(kept, torch.tensor([[[0.1, 0.9], [0.0, 0.7]], [[0.6, 0.0], [0.0, 0.8]]]))
    assert torch.equal(discard(matrix, 0.5, prefix=0)[0], torch.tensor([[0.0, 0.9], [0.0, 0.7]]))
    assert torch.equal(discard(matrix, 0.0, prefix=0), matrix)


def test_rollout_normalises_rows_after_discarding(tiny, batch_for, ctx, explicit):
    model = tiny()
    batch = batch_for(model, 2)
    found = explainers.get("rollout")(discard_ratio=0.7).explain(model, batch, ctx).native
    for row in range(2):
        joint = torch.eye(17, dtype=torch.float64)
        for heads in explicit(model, batch.inputs[row]).attention:
            mixed = (sum(heads) / len(heads)).detach().clone()
            threshold = mixed.flatten().sort().values[int(17 * 17 * 0.7)]
            own = mixed[0, 0].clone()
            mixed[mixed < threshold] = 0.0
            mixed[0, 0] = own
            mixed += torch.eye(17)
            joint = mixed / mixed.sum(1, keepdim=True) @ joint
        assert_same(found[row], decision(joint, model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "fusion"), [(-1, "mean"), (0, "max"), (1, "min")])
def test_raw_attention(kind, layer, fusion, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("raw_attention")(layer=layer, fusion=fusion).explain(model, batch, ctx).native
    for row in range(2):
        heads = explicit(model, batch.inputs[row]).attention[layer]
        assert_same(found[row], decision(FUSE[fusion](heads), model))


@pytest.mark.parametrize("layer", [3, -4])
def test_raw_attention_of_a_layer_that_is_not_there_is_refused(layer, tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match=f"layer={layer} is none of the 3"):
        explainers.get("raw_attention")(layer=layer).explain(model, batch_for(model), ctx)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detached", [True, False])
def test_ag_cam(kind, detached, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("ag_cam")(detach_attention_input=detached).explain(model, batch, ctx).native
    for row in range(2):
        target = int(batch.targets[row])
        trace = explicit(model, batch.inputs[row], detach_attention_input=detached)
        total = 0.0
        for scores, gradients in zip(trace.scores, trace.gradients(target), strict=True):
            for score, gradient in zip(scores, gradients, strict=True):
                total = total + decision(gradient.clamp(min=0) / (1 + (-score).exp()), model)
        assert_same(found[row], total)


def test_detaching_the_attention_inputs_changes_ag_cam(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    method = explainers.get("ag_cam")
    detached, full = (method(detach_attention_input=flag).explain(model, batch, ctx).native for flag in (True, False))
    assert (detached - full).abs().max() > 0.05 * full.abs().max()


def test_ag_cam_with_means_is_the_sum_over_heads_and_layers(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    method = explainers.get("ag_cam")
    mean = method(head_fusion="mean", layer_fusion="mean").explain(model, batch, ctx).native
    torch.testing.assert_close(mean * 2 * 3, method().explain(model, batch, ctx).native)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [-1, 0])
def test_grad_cam_by_its_formula(kind, block, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("grad_cam")(layer=f"blocks.{block}.norm1").explain(model, batch, ctx).native
    for row in range(2):
        trace = explicit(model, batch.inputs[row])
        activation = trace.norm1[block]
        (gradient,) = torch.autograd.grad(trace.logits[int(batch.targets[row])], activation)
        total = torch.zeros(len(activation), dtype=torch.float64)
        for channel in range(activation.shape[1]):
            total += gradient[model.geometry.prefix :, channel].mean() * activation[:, channel]
        assert_same(found[row], total[model.geometry.prefix :].view_as(found[row]))


class ChannelFirstTap(nn.Module):
    """Norm, then an identity on [B,D,h,w] where Captum can look: it takes axis 1 for the channels."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.tap = norm, nn.Identity()

    def forward(self, x):
        normed = self.norm(x)
        grid = self.tap(normed[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
        return torch.cat([normed[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def test_grad_cam_equals_captum_on_a_channel_first_tap(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    found = explainers.get("grad_cam")().explain(model, batch, ctx).native
    block = model.module.blocks[-1]
    block.norm1 = ChannelFirstTap(block.norm1)
    captum = LayerGradCam(model.module, block.norm1.tap).attribute(batch.inputs.requires_grad_(), batch.targets)
    assert_same(found, captum[:, 0].detach())


def test_grad_cam_where_no_patch_reaches_the_logit_is_refused(tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match=r"does not depend on the patch tokens at blocks\.2"):
        explainers.get("grad_cam")(layer="blocks.-1").explain(model, batch_for(model), ctx)
    pooled = tiny("mean_pooled")
    assert explainers.get("grad_cam")(layer="blocks.-1").explain(pooled, batch_for(pooled), ctx).native.any()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [("blocks.7.norm1", "no module '7'"), ("body", "no module 'body'"), ("patch_embed.proj", "not one vector")],
)
def test_grad_cam_at_a_module_that_does_not_fit_is_refused(layer, reason, tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match=reason):
        explainers.get("grad_cam")(layer=layer).explain(model, batch_for(model), ctx)
