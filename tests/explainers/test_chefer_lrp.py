"""chefer_lrp against the published rules written out backward, layer by layer, one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import Attention, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import nn

from vitxai.bench.contract import UnsupportedError, explainers
from vitxai.explainers._relevance import AddRule, LinearRule, MatmulRule, MeanRule, attention_relevance, safe_divide
from vitxai.models.handle import wrap


def divide(a, b):
    return torch.where(b == 0, torch.zeros_like(a), a / (b + 1e-9))


def through_linear(x, weight, relevance):
    total = torch.zeros_like(x)
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    for row in range(x.shape[0]):
        up, down = x[row].clamp(min=0), x[row].clamp(max=0)
        share = divide(relevance[row], positive @ up + negative @ down)
        total[row] = up * (positive.T @ share) + down * (negative.T @ share)
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


def relevance_by_hand(model, image, target):
    """Attention relevances [L][H] of matrices [N,N] for one image [C,H,W]."""
    net = model.module
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
        relevance = relevance_by_hand(model, batch.inputs[row], target)
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
    heads = relevance_by_hand(model, batch.inputs[0], 0)[2]
    wanted = sum(head.clamp(min=0) for head in heads)[0, 1:] / len(heads)
    torch.testing.assert_close(found.flatten(), wanted, rtol=1e-9, atol=1e-12)


def test_fused_and_unfused_attention_give_the_same_relevance(tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    fused = attention_relevance(model, batch.inputs, batch.targets)
    for module in model.module.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = not module.fused_attn
    for one, other in zip(fused, attention_relevance(model, batch.inputs, batch.targets), strict=True):
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
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    module = family(**size, **changes).double()
    model = wrap(module, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(UnsupportedError, match=reason):
        explainers.get("chefer_lrp")().explain(model, batch_for(model), ctx)


def test_a_start_layer_beyond_the_last_is_refused(tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match="start_layer=3"):
        explainers.get("chefer_lrp")(start_layer=3).explain(model, batch_for(model), ctx)
