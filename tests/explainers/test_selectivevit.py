"""SelectiveViT: the cut attention by hand, and explanations of its own model."""

from __future__ import annotations

import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import explainers
from vitxai.explainers.selectivevit import Selection

SelectiveViT = explainers.get("selectivevit")


def test_small_attention_is_cut_and_the_rest_normalised():
    attention = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    wanted = torch.tensor([0.6, 0.3, 0.0], dtype=torch.float64) / (0.9 + 1e-6)
    torch.testing.assert_close(Selection(0.1)(attention, 0), wanted, rtol=1e-12, atol=0)
    assert not Selection(0.7)(attention, 0).any(), "a row without large attention is empty, as published"


@pytest.mark.parametrize("relative", [False, True])
def test_threshold_zero_is_the_model_itself(relative, tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    method = SelectiveViT(threshold=0, relative=relative)
    own = method.own_model(model, None)
    torch.testing.assert_close(own(batch.inputs), model(batch.inputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        method.explain(own, batch, ctx).native,
        explainers.get("grad_cam")().explain(model, batch, ctx).native,
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_own_model_is_the_written_out_one(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model, 2)
    method = SelectiveViT(threshold=0.05)
    own = method.own_model(model, None)
    assert (own(batch.inputs) - model(batch.inputs)).abs().max() > 1e-3

    maps, norms = [], []
    logits = selective_forward(model, batch.inputs, 0.05, maps, norms)
    torch.testing.assert_close(own(batch.inputs), logits, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(logits.gather(1, batch.targets[:, None]).sum(), norms[-1])
    wanted = (gradient[:, 1:].mean(1, keepdim=True) * norms[-1]).sum(-1)[:, 1:].view(2, 4, 4)
    torch.testing.assert_close(method.explain(own, batch, ctx).native, wanted.detach(), rtol=1e-9, atol=1e-12)
    attention = SelectiveViT(threshold=0.05, map="attention").explain(own, batch, ctx).native
    torch.testing.assert_close(attention, maps[-1].mean(1)[:, 0, 1:].view(2, 4, 4).detach(), rtol=1e-9, atol=1e-12)


def selective_forward(model, inputs, threshold, maps, norms):
    """The paper's five lines in each block of a class-token ViT; every norm1 is a place to differentiate at."""
    net = model.module
    x = net._pos_embed(net.patch_embed(inputs.clone().requires_grad_()))
    for block in net.blocks:
        normed = block.norm1(x)
        norms.append(normed)
        q, k, v = block.attn.qkv(normed).view(len(inputs), -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        attn = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1)
        attn = torch.where(attn > threshold, attn, 0.0)
        attn = attn / (attn.sum(dim=-1, keepdim=True) + 1e-6)
        maps.append(attn)
        x = x + block.attn.proj((attn @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return net.head(net.norm(x)[:, 0])


def test_a_relative_threshold_counts_in_shares_of_one_over_the_tokens(tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    one, other = (
        SelectiveViT(threshold=t, relative=r).own_model(model, None) for t, r in ((0.5, True), (0.5 / 17, False))
    )
    assert torch.equal(one(batch.inputs), other(batch.inputs))
    facts = SelectiveViT(threshold=0.5, relative=True).fit(model, EngineContext()).facts
    assert facts == {"tokens": 17, "threshold": 0.5 / 17, "threshold_in_uniform_shares": 0.5}


def test_the_frozen_model_is_not_touched(tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    before = model(batch.inputs)
    own = SelectiveViT(threshold=0.1).own_model(model, None)
    own(batch.inputs)
    assert torch.equal(model(batch.inputs), before)
    assert own.weights_hash == model.weights_hash
    assert dict(own.provenance)["selective_attention_threshold"] == 0.1
