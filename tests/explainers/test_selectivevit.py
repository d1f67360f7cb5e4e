"""SelectiveViT: the cut attention by hand, explanations of its own model, and fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, UnsupportedError, explainers, metrics
from vitxai.bench.guard import LeftAsFound, ModuleState
from vitxai.explainers.selectivevit import Selection
from vitxai.models.fit_files import obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.tape import EditedAttention, record

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


class TestTraining:
    def test_gradients_pass_the_cut_as_in_the_written_out_model(self, tiny, batch_for):
        model = tiny()
        batch = batch_for(model, 2)
        model.module.requires_grad_(True)
        weights = [model.module.blocks[0].attn.qkv.weight, model.module.cls_token, model.module.head.bias]
        wanted = torch.autograd.grad(selective_forward(model, batch.inputs, 0.05, [], []).square().sum(), weights)
        edited = EditedAttention(model.module, Selection(0.05)).train()
        torch.testing.assert_close(
            torch.autograd.grad(edited(batch.inputs).square().sum(), weights), wanted, rtol=1e-9, atol=1e-12
        )

    def test_dropout_follows_the_edit_and_is_timms_own(self, batch_for):
        net = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5,
            attn_drop_rate=0.3, drop_path_rate=0.3, proj_drop_rate=0.3,
        ).double()  # fmt: skip
        inputs = batch_for(wrap(net)).inputs
        net.requires_grad_(True).train()
        for block in net.blocks:
            block.attn.fused_attn = False
        torch.manual_seed(0)
        wanted = net(inputs)
        torch.manual_seed(0)
        torch.testing.assert_close(EditedAttention(net, Selection(0))(inputs), wanted, rtol=1e-9, atol=1e-12)
        cut = EditedAttention(net, Selection(0.05))
        cut(inputs).sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())
        assert not torch.equal(cut(inputs), cut(inputs)), "modes reach the ViT"
        assert torch.equal(cut.eval()(inputs), cut(inputs))


@pytest.fixture
def single(tiny, batch_for):
    """A float32 model, a batch, and a context with samples to learn from, which look the same in both splits."""
    model = tiny()
    model.module.float()

    def data(split, count, labels):
        batch = batch_for(model, 20, seed=2)
        return replace(batch, inputs=batch.inputs.float())

    batch = batch_for(model)
    return model, replace(batch, inputs=batch.inputs.float()), EngineContext(max_rows=7, fit_data=data)


def tuned(**changes):
    return SelectiveViT(**{"threshold": 0.05, "epochs": 6, "learning_rate": 3e-3, "batch_size": 5, **changes})


class TestFineTuning:
    def test_all_weights_learn_and_the_frozen_model_stays(self, single):
        model, batch, ctx = single
        before = model(batch.inputs)
        with LeftAsFound([(model.module, ModuleState.of(model.module))], batch, may_draw=True):
            fitted = tuned().fit(model, ctx)
            own = tuned().own_model(model, fitted)
            native = tuned().explain(own, batch, replace(ctx, fitted=fitted)).native
        assert torch.equal(model(batch.inputs), before)
        assert {name for name, _ in own.module.named_parameters()} == set(fitted.tensors)
        changed = [not torch.equal(p, dict(model.module.named_parameters())[n.removeprefix("wrapped.")])
                   for n, p in own.module.named_parameters()]  # fmt: skip
        assert all(changed)
        assert not own.module.training
        assert not any(p.requires_grad for p in own.module.parameters())
        assert own.weights_hash != model.weights_hash
        assert dict(own.provenance)["fine_tuned_epochs"] == 6
        untuned = SelectiveViT(threshold=0.05).own_model(model, None)
        assert (own(batch.inputs) - untuned(batch.inputs)).abs().max() > 1e-3
        assert native.shape == (3, 4, 4)

    def test_it_learns_and_the_same_seed_learns_the_same(self, single):
        model, _, ctx = single
        fitted = tuned().fit(model, ctx)
        log = fitted.facts["log"]
        assert fitted.facts["validation_loss"] < log[0]["validation_loss"], "the splits hold the same samples"
        assert fitted.facts["validation_accuracy"] > 0.5
        again = tuned().fit(model, ctx)
        assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in fitted.tensors.items())

    def test_facts_tell_threshold_and_active_tokens(self, single):
        model, _, ctx = single
        method = tuned(threshold=0.8, relative=True, epochs=1)
        facts = method.fit(model, ctx).facts
        assert facts["threshold_in_uniform_shares"] == pytest.approx(0.8)
        assert facts["threshold"] == pytest.approx(0.8 / 17)
        own = method.own_model(model, method.fit(model, ctx))
        maps = record(own, ctx.data("validation", 20).inputs).attention
        counts = torch.stack([(layer > 0).double().sum(-1).mean((0, 2)) for layer in maps])
        assert torch.tensor(facts["active_tokens_by_head"]).sub(counts).abs().max() < 0.006
        assert facts["active_tokens"] == pytest.approx(counts.mean().item())
        assert facts["active_share"] == pytest.approx(counts.mean().item() / 17)
        assert facts["active_share"] < 1

    def test_without_a_cut_it_is_the_plain_vit_by_the_same_recipe(self, single):
        model, batch, ctx = single
        method = tuned(threshold=0)
        fitted = method.fit(model, ctx)
        own = method.own_model(model, fitted)
        plain = own.module.wrapped
        torch.testing.assert_close(own(batch.inputs), plain(batch.inputs), rtol=1e-5, atol=1e-5)
        assert fitted.facts["active_tokens"] == 17

    def test_what_was_learned_is_read_from_an_artefact(self, single, tiny, tmp_path):
        model, batch, ctx = single
        fitted = tuned().fit(model, ctx)
        path = tmp_path / "fit.safetensors"
        write_fit(path, tuned(), model, "data", fitted, "bench fit")
        method = tuned(artefact=path)
        read = obtain_fit(method, model, replace(ctx, fit_data=None), "data")
        assert torch.equal(method.own_model(model, read)(batch.inputs), tuned().own_model(model, fitted)(batch.inputs))
        assert read.facts["active_tokens"] == fitted.facts["active_tokens"]
        with pytest.raises(BadInputError, match="another explainer"):
            obtain_fit(tuned(artefact=path, threshold=0.1), model, ctx, "data")

    def test_what_was_never_fitted_is_refused(self, single):
        with pytest.raises(BadInputError, match="bench fit selectivevit"):
            tuned().own_model(single[0], None)

    def test_batch_norms_are_refused(self, single):
        model, _, ctx = single
        model.module.patch_embed.norm = nn.BatchNorm1d(16)
        with pytest.raises(UnsupportedError, match="batch norms"):
            tuned().fit(model, ctx)


@pytest.mark.parametrize("tau", [0.05, 1e-6])
def test_the_metric_of_active_tokens_counts_what_the_cut_leaves(tau, tiny, batch_for, ctx):
    """The attention sparsity of the paper: any tau up to the threshold counts the keys that patch queries have left."""
    model = tiny()
    batch = batch_for(model)
    own = SelectiveViT(threshold=0.05).own_model(model, None)
    left = torch.stack(
        [(layer[:, :, 1:] > 0).double().mean((1, 2, 3)) for layer in record(own, batch.inputs).attention]
    )
    scores = metrics.get("attention_statistics")(tau=tau).score(own, batch, None, ctx)
    torch.testing.assert_close(
        torch.tensor(scores["attention_active_absolute"].values), left.mean(0), rtol=1e-12, atol=0
    )
    assert left.mean() < 0.9
