"""chefer_lrp against the published rules written out backward, layer by layer, one image at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from timm.layers import Attention, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from timm.models.xcit import Xcit
from torch import nn

from vitxai.bench.contract import BadInputError, UnsupportedError, explainers
from vitxai.explainers._relevance import (
    AddRule,
    LinearRule,
    MatmulRule,
    MeanRule,
    Settings,
    attention_relevance,
    safe_divide,
)
from vitxai.models.handle import wrap


def divide(a, b):
    return torch.where(b == 0, torch.zeros_like(a), a / (b + 1e-9))


def plain_through_linear(x, weight, relevance, alpha=1.0):
    total = torch.zeros_like(x)
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    for row in range(x.shape[0]):
        up, down = x[row].clamp(min=0), x[row].clamp(max=0)
        share = divide(relevance[row], positive @ up + negative @ down)
        total[row] = alpha * (up * (positive.T @ share) + down * (negative.T @ share))
        share = divide(relevance[row], negative @ up + positive @ down)
        total[row] -= (alpha - 1) * (up * (negative.T @ share) + down * (positive.T @ share))
    return total


def through_product(a, b, relevance):
    share = divide(relevance, a @ b)
    return a * (share @ b.T) / 2, b * (a.T @ share) / 2


def through_sum(a, b, relevance):
    share = divide(relevance, a + b)
    a_part, b_part = a * share, b * share
    a_total, b_total = a_part.sum(), b_part.sum()
    mass = a_total.abs() + b_total.abs()
    a_wanted, b_wanted = (divide(total.abs(), mass) * relevance.sum() for total in (a_total, b_total))
    return a_part * divide(a_wanted, a_total), b_part * divide(b_wanted, b_total)


def through_fork(x, first, second):
    return x * (divide(first, x) + divide(second, x))


def norm(x, layer):
    return (x - x.mean(1, keepdim=True)) / (
        x.var(1, keepdim=True, unbiased=False) + layer.eps
    ).sqrt() * layer.weight + layer.bias


def relevance_by_hand(model, image, target, alpha=1.0):
    """Attention relevances [L][H] of matrices [N,N] for one image [C,H,W], and those of the first block's input."""
    net = model.module
    through_linear = partial(plain_through_linear, alpha=alpha)
    tokens = []
    hook = net.blocks[0].register_forward_pre_hook(lambda module, args: tokens.append(args[0][0]))
    net(image[None])
    hook.remove()
    x, trace = tokens[0], []
    for block in net.blocks:
        heads, width = block.attn.num_heads, x.shape[1]
        depth = width // heads
        normed1 = norm(x, block.norm1)
        q, k, v = (normed1 @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(width, 1)
        q, k, v = ([m[:, h * depth : (h + 1) * depth] for h in range(heads)] for m in (q, k, v))
        maps = [torch.softmax(q[h] @ k[h].T / math.sqrt(depth), 1) for h in range(heads)]
        mixed = torch.cat([maps[h] @ v[h] for h in range(heads)], 1)
        gamma1, gamma2 = (getattr(getattr(block, name), "gamma", 1.0) for name in ("ls1", "ls2"))
        attended = (mixed @ block.attn.proj.weight.T + block.attn.proj.bias) * gamma1
        middle = x + attended
        normed2 = norm(middle, block.norm2)
        hidden = normed2 @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        active = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        added = (active @ block.mlp.fc2.weight.T + block.mlp.fc2.bias) * gamma2
        trace.append((block, x, normed1, q, k, v, maps, mixed, attended, middle, normed2, active, added))
        x = middle + added
    start = torch.zeros(1, net.head.weight.shape[0], dtype=x.dtype)
    start[0, target] = 1.0
    relevance = torch.zeros_like(x)
    if model.geometry.pooling == "token":
        relevance[0] = through_linear(norm(x, net.norm)[:1], net.head.weight, start)[0]
    else:
        patches = x[model.geometry.prefix :]
        pooled = norm(patches.mean(0, keepdim=True), net.fc_norm)
        share = through_linear(pooled, net.head.weight, start)
        relevance[model.geometry.prefix :] = patches * divide(share, patches.sum(0, keepdim=True))
    found, incoming = [], None
    for number, (block, x, normed1, q, k, v, maps, mixed, attended, middle, normed2, active, added) in reversed(
        list(enumerate(trace))
    ):
        if incoming is not None:
            relevance = through_fork(trace[number + 1][1], *incoming)
        to_middle, to_mlp = through_sum(middle, added, relevance)
        to_mlp = through_linear(normed2, block.mlp.fc1.weight, through_linear(active, block.mlp.fc2.weight, to_mlp))
        relevance = through_fork(middle, to_middle, to_mlp)
        to_x, to_attention = through_sum(x, attended, relevance)
        to_mixed = through_linear(mixed, block.attn.proj.weight, to_attention)
        depth = q[0].shape[1]
        per_head, to_q, to_k, to_v = [], [], [], []
        for h in range(len(maps)):
            to_map, value = through_product(maps[h], v[h], to_mixed[:, h * depth : (h + 1) * depth])
            query, key = through_product(q[h], k[h].T, to_map)
            per_head.append(to_map)
            to_q.append(query)
            to_k.append(key.T)
            to_v.append(value)
        incoming = to_x, through_linear(normed1, block.attn.qkv.weight, torch.cat([*to_q, *to_k, *to_v], 1))
        found.insert(0, per_head)
    return found, through_fork(trace[0][1], *incoming)


def pixels_by_hand(model, image, relevance):
    """From the relevance of the first block's input: the sum with the positions, then the z^B rule patch by patch."""
    net, geometry = model.module, model.geometry
    groups = geometry.groups or (tuple(range(geometry.channels)),)
    projections = net.patch_embed.proj if geometry.groups else [net.patch_embed.proj]
    embedded = net.patch_embed(image[None])[0]
    if geometry.groups:
        embedded, _ = through_sum(embedded, (net.pos_embed + net.group_embed).flatten(1, 2)[0], relevance[1:])
    else:
        # timm puts the class token in front and then adds positions to all.
        embedded = through_sum(torch.cat([net.cls_token[0], embedded]), net.pos_embed[0], relevance)[0][1:]
    (h, w), side = geometry.grid, geometry.image_size[0] // geometry.grid[0]
    found = torch.zeros_like(image)
    for g, (group, projection) in enumerate(zip(groups, projections, strict=True)):
        weight, part = projection.weight.flatten(1), image[list(group)]
        low, high = part.min(), part.max()
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        for token in range(h * w):
            y, x = token // w * side, token % w * side
            patch = part[:, y : y + side, x : x + side].flatten()
            total = weight @ patch - up.sum(1) * low - down.sum(1) * high
            share = divide(embedded[g * h * w + token], total)
            values = patch * (weight.T @ share) - low * (up.T @ share) - high * (down.T @ share)
            found[list(group), y : y + side, x : x + side] = values.view(len(group), side, side)
    return found


@pytest.mark.parametrize(
    "kind", ["class_token", "mean_pooled_with_class_token", "registers", "layer_scale", "spectral"]
)
@pytest.mark.parametrize("start_layer", [0, 1])
def test_the_map_is_that_of_the_rules_written_out(kind, start_layer, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model)
    found = explainers.get("chefer_lrp")(start_layer=start_layer).explain(model, batch, ctx).native
    for row in range(len(batch)):
        target = int(batch.targets[row])
        relevance, _ = relevance_by_hand(model, batch.inputs[row], target)
        gradients = explicit(model, batch.inputs[row]).gradients(target)
        joint = torch.eye(model.geometry.tokens, dtype=torch.float64)
        for layer in range(start_layer, len(relevance)):
            heads = [(r * g).clamp(min=0) for r, g in zip(relevance[layer], gradients[layer], strict=True)]
            joint = joint + sum(heads) / len(heads) @ joint
        wanted = joint[list(model.geometry.query_rows)].mean(0)[model.geometry.prefix :].view_as(found[row])
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-12 * wanted.abs().max().item())


def test_method_rollout_leaves_the_gradient_out(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model, 1)
    found = explainers.get("chefer_lrp")(method="rollout", start_layer=2).explain(model, batch, ctx).native[0]
    heads = relevance_by_hand(model, batch.inputs[0], 0)[0][2]
    wanted = sum(head.clamp(min=0) for head in heads)[0, 1:] / len(heads)
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["class_token", "spectral"])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_method_full_goes_down_to_the_pixels(kind, alpha, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("chefer_lrp")(method="full", alpha=alpha).explain(model, batch, ctx)
    assert found.layout == "cube"
    for row in range(2):
        _, tokens = relevance_by_hand(model, batch.inputs[row], int(batch.targets[row]), alpha)
        wanted = pixels_by_hand(model, batch.inputs[row], tokens)
        torch.testing.assert_close(found.native[row], wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


@pytest.mark.parametrize("kind", ["class_token", "mean_pooled_with_class_token"])
def test_method_last_layer_is_the_relevance_of_the_last_attention(kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.get("chefer_lrp")(method="last_layer", alpha=1.5).explain(model, batch, ctx).native
    for row in range(2):
        heads = relevance_by_hand(model, batch.inputs[row], int(batch.targets[row]), alpha=1.5)[0][-1]
        matrix = sum(head.clamp(min=0) for head in heads) / len(heads)
        wanted = matrix[list(model.geometry.query_rows)].mean(0)[model.geometry.prefix :].view(4, 4)
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-9 * wanted.max().item())


def test_method_last_layer_of_an_attention_pool_is_the_relevance_of_its_row(tiny, batch_for, ctx):
    model = tiny("map_pooled")
    batch = batch_for(model, 2)
    found = explainers.get("chefer_lrp")(method="last_layer").explain(model, batch, ctx).native
    net, pool = model.module, model.module.attn_pool
    for row in range(2):
        x = net.forward_features(batch.inputs[row : row + 1])[0]
        query = pool.latent[0] @ pool.q.weight.T + pool.q.bias
        key, value = (x @ pool.kv.weight.T + pool.kv.bias).split(16, 1)
        columns = [slice(0, 8), slice(8, 16)]
        maps = [torch.softmax(query[:, c] @ key[:, c].T / math.sqrt(8), 1) for c in columns]
        mixed = torch.cat([a @ value[:, c] for a, c in zip(maps, columns, strict=True)], 1)
        first = mixed @ pool.proj.weight.T + pool.proj.bias
        normed = norm(first, pool.norm) if hasattr(pool.norm, "weight") else first
        hidden = normed @ pool.mlp.fc1.weight.T + pool.mlp.fc1.bias
        active = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        added = active @ pool.mlp.fc2.weight.T + pool.mlp.fc2.bias
        start = torch.zeros(1, 5, dtype=x.dtype)
        start[0, batch.targets[row]] = 1.0
        to_first, to_mlp = through_sum(first, added, plain_through_linear(first + added, net.head.weight, start))
        to_mlp = plain_through_linear(active, pool.mlp.fc2.weight, to_mlp)
        to_mlp = plain_through_linear(normed, pool.mlp.fc1.weight, to_mlp)
        to_mixed = plain_through_linear(mixed, pool.proj.weight, through_fork(first, to_first, to_mlp))
        parts = [through_product(a, value[:, c], to_mixed[:, c])[0] for a, c in zip(maps, columns, strict=True)]
        wanted = (sum(part.clamp(min=0) for part in parts) / 2)[0].view(4, 4)
        torch.testing.assert_close(found[row], wanted, rtol=1e-9, atol=1e-9 * wanted.max().item())


@pytest.mark.parametrize("kind", ["class_token", "map_pooled", "spectral"])
def test_method_last_layer_attention_is_raw_attention(kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model)
    found = explainers.get("chefer_lrp")(method="last_layer_attention").explain(model, batch, ctx).native
    assert torch.equal(found, explainers.get("raw_attention")().explain(model, batch, ctx).native)


@pytest.mark.parametrize("kind", ["class_token", "map_pooled", "distilled", "layer_scale", "spectral"])
@pytest.mark.parametrize(
    "parameters", [{"method": "full"}, {"method": "last_layer"}, {"alpha": 2.0}, {"alpha": 1.5, "method": "full"}]
)
def test_a_batch_is_its_samples(parameters, kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model, 8)
    method = explainers.get("chefer_lrp")(**parameters)
    found = method.explain(model, batch, ctx).native
    assert found.isfinite().all()
    for row in (0, 5):
        alone = method.explain(model, batch.select([row]), ctx).native[0]
        torch.testing.assert_close(alone, found[row], rtol=1e-9, atol=1e-9 * found[row].abs().max().item())


def test_the_alpha_beta_rule_changes_the_map_as_written_out(tiny, batch_for, explicit, ctx):
    model = tiny()
    batch = batch_for(model, 1)
    found = explainers.get("chefer_lrp")(alpha=2.0, start_layer=2).explain(model, batch, ctx).native[0]
    heads = relevance_by_hand(model, batch.inputs[0], 0, alpha=2.0)[0][2]
    gradients = explicit(model, batch.inputs[0]).gradients(0)[2]
    weighted = [(r * g).clamp(min=0) for r, g in zip(heads, gradients, strict=True)]
    wanted = (sum(weighted) / len(weighted))[0, 1:].view(4, 4)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    plain = explainers.get("chefer_lrp")(start_layer=2).explain(model, batch, ctx).native[0]
    assert (found - plain).abs().max() > 0.05 * plain.max()


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_linear_rule_is_the_published_one_in_three_products(alpha, dtype, tolerance):
    generator = torch.Generator().manual_seed(2)
    x, weight, bias, start = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(50, 24), (32, 24), (32,), (50, 32)]
    )
    weight[3] = weight[3].abs()
    x[7] = x[7].abs()
    x[8] = -x[8].abs()
    x[9] = 0.0
    wanted = plain_through_linear(x, weight, start, alpha)
    x, weight, bias, start = (tensor.to(dtype) for tensor in (x, weight, bias, start))
    out = LinearRule.apply(x.requires_grad_(), weight, bias, Settings(alpha))
    assert torch.equal(out, nn.functional.linear(x, weight, bias))
    (found,) = torch.autograd.grad(out, x, start)
    scale = wanted.abs().amax(1, keepdim=True).clamp(min=1e-30)
    assert ((found.double() - wanted).abs() / scale).max() < tolerance


def test_one_pass_gives_gradients_and_relevance(tiny, batch_for, ctx):
    model = tiny("distilled")
    batch = batch_for(model)
    passes = []
    hook = model.module.register_forward_hook(lambda *_: passes.append(1))
    found = attention_relevance(model, batch.inputs, batch.targets, gradients=True)
    hook.remove()
    assert len(passes) == 1
    alone = attention_relevance(model, batch.inputs, batch.targets)
    assert all(torch.equal(a, b) for a, b in zip(found.relevance, alone.relevance, strict=True))
    tape = ctx.tape(model, batch, gradients=True)
    for mine, recorded in zip(found.gradients, tape.attention_gradients, strict=True):
        torch.testing.assert_close(mine, recorded, rtol=1e-9, atol=1e-12)


def test_fused_and_unfused_attention_give_the_same_relevance(tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    fused = attention_relevance(model, batch.inputs, batch.targets).relevance
    assert len(fused) == len(model.module.blocks)
    for block in model.module.blocks:
        block.attn.fused_attn = not block.attn.fused_attn
    for one, other in zip(fused, attention_relevance(model, batch.inputs, batch.targets).relevance, strict=True):
        assert torch.equal(one, other)


def test_linear_rule_on_a_hand_computed_case():
    # Z = x+ W+ + x- W- = 2*3 + (-1)(-4) = 10; shares 6/10 and 4/10, and the bias takes none.
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    out = LinearRule.apply(
        x, torch.tensor([[3.0, -4.0]], dtype=torch.float64), torch.tensor([7.0], dtype=torch.float64)
    )
    assert out.item() == 17.0
    (relevance,) = torch.autograd.grad(out, x, torch.ones_like(out))
    torch.testing.assert_close(relevance, torch.tensor([[0.6, 0.4]], dtype=torch.float64), rtol=1e-8, atol=0)


def test_product_rule_halves_the_relevance():
    a = torch.tensor([[1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2.0], [1.0]], dtype=torch.float64, requires_grad=True)
    to_a, to_b = torch.autograd.grad(MatmulRule.apply(a, b), (a, b), torch.ones(1, 1, dtype=torch.float64))
    torch.testing.assert_close(to_a, torch.tensor([[0.2, 0.3]], dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(to_b, torch.tensor([[0.2], [0.3]], dtype=torch.float64), rtol=1e-8, atol=0)


def test_sum_and_mean_rules_keep_each_samples_relevance():
    generator = torch.Generator().manual_seed(0)
    a, b, start = (torch.rand(4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    a, b = a.requires_grad_(), b.requires_grad_()
    to_a, to_b = torch.autograd.grad(AddRule.apply(a, b), (a, b), start)
    torch.testing.assert_close((to_a + to_b).sum((1, 2)), start.sum((1, 2)), rtol=1e-7, atol=0)
    (to_a,) = torch.autograd.grad(MeanRule.apply(a, 1, False), a, start[:, 0])
    torch.testing.assert_close(to_a.sum(1), start[:, 0], rtol=1e-7, atol=0)


def test_division_by_zero_gives_zero():
    assert safe_divide(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])).tolist() == [0.0, 0.0]


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class GatedAttention(Attention):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, gated=True, **kwargs)


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        (VisionTransformer, {"act_layer": QuickGELU}, "no rule for 'sigmoid'"),
        (VisionTransformer, {"global_pool": "max"}, "no rule for 'amax'"),
        (VisionTransformer, {"attn_layer": GatedAttention}, "a gate"),
        (VisionTransformer, {"mlp_layer": SwiGLUPacked}, "a gate"),
        (VisionTransformer, {"attn_layer": "diff"}, "two tensors"),
        (VisionTransformer, {"block_fn": ParallelThingsBlock}, "no rule for 'sum'"),
        (Eva, {"use_rot_pos_emb": True}, "rotary"),
        (Beit, {"use_rel_pos_bias": True}, "no mask or bias"),
    ],
)
def test_what_no_rule_covers_is_refused(family, changes, reason, batch_for, ctx):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    module = family(**size, **changes).double()
    model = wrap(module, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UnsupportedError, match=reason):
        explainers.get("chefer_lrp")().explain(model, batch_for(model), ctx)


def test_a_start_layer_beyond_the_last_is_refused(tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match="start_layer=3"):
        explainers.get("chefer_lrp")(start_layer=3).explain(model, batch_for(model), ctx)


class TwoConvolutions(VisionTransformer):
    def __init__(self, **size):
        super().__init__(**size)
        first = nn.Conv2d(3, 3, 1)
        self.patch_embed.proj = nn.Sequential(first, self.patch_embed.proj)
        self.patch_embed.proj.in_channels = 3


@pytest.mark.parametrize(
    ("family", "method", "reason"),
    [
        (TwoConvolutions, "full", "a convolution of the pixels only"),
        (Xcit, "full", "no rule for 'batch_norm'"),
        (Cait, "full", "no rule for 'matmul'"),
        (Cait, "transformer_attribution", "no attention row"),
        (SwinTransformer, "full", "no rule for 'pad'"),
        (SwinTransformer, "last_layer", "no mask or bias"),
    ],
)
def test_pixels_and_rows_that_no_rule_reaches_are_refused(family, method, reason, batch_for, ctx):
    size = {"img_size": 32, "num_classes": 5, "embed_dim": 32}
    windows = {"patch_size": 4, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    columns = {"patch_size": 8, "depth": 2, "num_heads": 2}
    module = family(**size, **(windows if family is SwinTransformer else columns)).double()
    model = wrap(module, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UnsupportedError, match=reason):
        explainers.get("chefer_lrp")(method=method).explain(model, batch_for(model), ctx)


@pytest.mark.parametrize("method", ["full", "last_layer", "last_layer_attention"])
def test_a_model_without_token_grid_is_refused(method, tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match="do not lie on one grid"):
        explainers.get("chefer_lrp")(method=method).explain(replace(model, geometry=None), batch_for(model), ctx)


@pytest.mark.parametrize("spec", ["chefer_lrp,alpha=0.5", "chefer_lrp,method=pixels"])
def test_parameters_out_of_range_are_refused(spec):
    with pytest.raises(BadInputError, match="chefer_lrp"):
        explainers.create(spec)
