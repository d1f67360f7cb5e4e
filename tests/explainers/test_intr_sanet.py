"""INTR and SANet: their own models written out in loops, what they learn, and their artefacts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, UnsupportedError, explainers
from vitxai.explainers._own_head import final_tokens
from vitxai.models.edited import EditedAttention
from vitxai.models.fit_files import obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.tape import record

INTR, SANet = explainers.get("intr"), explainers.get("sanet")
SMALL = INTR(decoder_layers=2, width=8, heads=2, samples=96, epochs=12, batch_size=16, learning_rate=0.01)
SMALL_SANET = SANet(width=4, sparsity=0.1, samples=96, epochs=4, batch_size=16, learning_rate=0.05)


def normed(x, norm):
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def linear(x, layer):
    return layer.weight @ x + (0 if layer.bias is None else layer.bias)


def attended(layer, queries, keys, values):
    """Outputs and weights [heads][Q][K], one dot product at a time."""
    depth = len(layer.query.weight) // layer.heads
    weights, outputs = [], []
    q, k, v = (
        [linear(x, part) for x in xs] for part, xs in ((layer.query, queries), (layer.key, keys), (layer.value, values))
    )
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        rows = []
        for query in q:
            scores = torch.stack([(query[part] * key[part]).sum() / math.sqrt(depth) for key in k])
            rows.append(scores.exp() / scores.exp().sum())
        weights.append(rows)
    for row in range(len(q)):
        parts = []
        for head in range(layer.heads):
            part = slice(head * depth, (head + 1) * depth)
            parts.append(sum(weights[head][row][c] * v[c][part] for c in range(len(v))))
        outputs.append(linear(torch.cat(parts), layer.out))
    return outputs, weights


def decoded(head, tokens):
    """Logits and cross-attention of each layer for the tokens [P,D] of one image."""
    memory = [linear(normed(token, head.tokens[0]), head.tokens[1]) for token in tokens]
    queries, maps = list(head.queries), []
    found = [torch.zeros_like(query) for query in queries]
    for layer in head.layers:
        asked = [f + q for f, q in zip(found, queries, strict=True)]
        mixed, _ = attended(layer.self_attention, asked, asked, found)
        found = [normed(f + m, layer.norm1) for f, m in zip(found, mixed, strict=True)]
        asked = [f + q for f, q in zip(found, queries, strict=True)]
        mixed, weights = attended(layer.cross, asked, memory, memory)
        maps.append(weights)
        found = [normed(f + m, layer.norm2) for f, m in zip(found, mixed, strict=True)]
        hidden = [linear(linear(f, layer.mlp[0]).clamp(min=0), layer.mlp[2]) for f in found]
        found = [normed(f + h, layer.norm3) for f, h in zip(found, hidden, strict=True)]
    return torch.stack([(head.presence.weight[0] * normed(f, head.norm)).sum() for f in found]), maps


@pytest.mark.parametrize("kind", ["class_token", "mean_pooled", "registers", "spectral"])
def test_intr_is_the_written_out_decoder(kind, learnt, batch_for, ctx, explicit):
    model, _, own = learnt(SMALL, kind)
    batch = batch_for(model, 2)
    head = own.module.own_head
    tokens = final_tokens(model)(model.module, batch.inputs)
    assert tokens.shape == (2, model.geometry.patches, 16)
    last, mean = (replace(SMALL, layer=layer).explain(own, batch, ctx).native for layer in ("last", "mean"))
    logits = own(batch.inputs)
    for row, target in enumerate(batch.targets.tolist()):
        wanted, maps = decoded(head, tokens[row])
        torch.testing.assert_close(logits[row], wanted, rtol=1e-9, atol=1e-9)
        layers = torch.stack([torch.stack([weights[target] for weights in heads]).mean(0) for heads in maps])
        torch.testing.assert_close(last[row].flatten(), layers[-1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(mean[row].flatten(), layers.mean(0), rtol=1e-9, atol=1e-12)
    assert last.shape == ((2, 2, 4, 4) if kind == "spectral" else (2, 4, 4))
    torch.testing.assert_close(last.flatten(1).sum(1), torch.ones(2, dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_frozen_features_are_what_the_own_model_reads(learnt, batch_for):
    model, _, own = learnt(SMALL, "class_token")
    batch = batch_for(model)
    features = final_tokens(model)(model.module, batch.inputs)
    assert torch.equal(own.module.own_head(features), own(batch.inputs))


def test_the_own_model_passes_for_the_vit_and_leaves_it_as_it_was(tiny, toy, batch_for):
    model = tiny()
    batch = batch_for(model)
    before, state = model(batch.inputs), {name: t.clone() for name, t in model.module.state_dict().items()}
    own = SMALL.own_model(model, replace(SMALL, epochs=1).fit(model, toy(model)))
    assert torch.equal(model(batch.inputs), before)
    assert all(torch.equal(t, state[name]) for name, t in model.module.state_dict().items())
    assert [name for name, _ in model.module.named_children()] == [
        name for name, _ in own.module.named_children() if name != "own_head"
    ]
    assert not own.module.training
    assert not any(part.training for part in own.module.modules())
    assert not any(parameter.requires_grad for parameter in own.module.parameters())
    own.module.train()
    assert own.module.own_head.training
    assert not own.module.blocks.training, "the frozen parts stay in eval mode"
    own.module.eval()
    tape, frozen = record(own, batch.inputs), record(model, batch.inputs)
    assert len(tape.attention) == len(frozen.attention) == 3, "the decoder's attention is not the ViT's"
    for mine, theirs in zip(tape.attention, frozen.attention, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("method", "kind"), [(SMALL, "class_token"), (SMALL, "spectral"), (SMALL_SANET, "spectral")])
def test_a_batch_equals_its_samples(method, kind, learnt, batch_for, ctx):
    model, _, own = learnt(method, kind)
    batch = batch_for(model, 8)
    whole = method.explain(own, batch, ctx).native
    singles = torch.cat([method.explain(own, batch.select([row]), ctx).native for row in range(8)])
    torch.testing.assert_close(whole, singles, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "kind"), [(SMALL, "class_token"), (SMALL, "spectral"), (SMALL_SANET, "spectral")])
def test_the_same_seed_learns_the_same(method, kind, toy, tiny):
    model, method = tiny(kind), replace(method, epochs=1)
    fitted = method.fit(model, toy(model))
    state = torch.random.get_rng_state()
    again = method.fit(tiny(kind), toy(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.tensors.keys() == fitted.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in fitted.tensors.items())
    other = method.fit(model, replace(toy(model), seed=4))
    assert any(not torch.equal(other.tensors[name], tensor) for name, tensor in fitted.tensors.items())


def test_intr_learns_a_separable_task(learnt):
    _, fitted, own = learnt(SMALL, "class_token")
    assert fitted.facts["validation_accuracy"] >= 0.9
    assert fitted.facts["fit_samples"] == 96
    head = own.module.own_head
    assert fitted.facts["parameters"] == sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize(("method", "kind"), [(SMALL, "class_token"), (SMALL_SANET, "spectral")])
def test_an_artefact_gives_the_same_maps_and_only_for_its_model(
    method, kind, learnt, tiny, toy, batch_for, ctx, tmp_path
):
    model, fitted, own = learnt(method, kind)
    path = tmp_path / "fit.safetensors"
    write_fit(path, method, model, "toy", fitted, "bench fit")
    read = replace(method, artefact=path)
    found = obtain_fit(read, model, EngineContext(), "toy")
    again = read.own_model(model, found)
    batch = batch_for(model)
    assert torch.equal(read.explain(again, batch, ctx).native, method.explain(own, batch, ctx).native)
    with pytest.raises(BadInputError, match="another weights"):
        obtain_fit(read, tiny(kind, seed=1), EngineContext(), "toy")
    with pytest.raises(BadInputError, match="another data"):
        obtain_fit(read, model, EngineContext(), "other")
    with pytest.raises(BadInputError, match="another explainer"):
        obtain_fit(replace(read, epochs=99), model, EngineContext(), "toy")


def test_what_intr_cannot_read_is_refused(tiny, ctx):
    with pytest.raises(BadInputError, match="no multiple of heads=3"):
        INTR(width=8, heads=3)
    with pytest.raises(BadInputError, match="learned nothing yet"):
        SMALL.own_model(tiny(), None)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnsupportedError, match="one grid"):
        SMALL.fit(wrap(net, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(32, 32)), ctx)
    model = tiny()
    with pytest.raises(UnsupportedError, match="does not tell its final tokens"):
        SMALL.fit(replace(model, module=EditedAttention(model.module, lambda a, layer: a)), ctx)


def test_intr_reads_the_last_features_of_a_pyramid(toy):
    size = {"img_size": 32, "patch_size": 4, "window_size": 2, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}
    torch.manual_seed(0)
    model = wrap(SwinTransformer(**size, num_classes=5).double(), mean=(0.5,) * 3, std=(0.25,) * 3)
    own = SMALL.own_model(model, replace(SMALL, epochs=1).fit(model, toy(model)))
    batch = toy(model).data("validation", 2)
    assert SMALL.explain(own, batch, EngineContext()).native.shape == (2, 4, 4)


@pytest.mark.parametrize("kind", ["spectral", "fused"])
def test_sanet_is_band_weight_times_grad_cam(kind, tiny, toy, batch_for, ctx):
    model = tiny("spectral") if kind == "spectral" else five_bands(tiny)
    own = SMALL_SANET.own_model(model, SMALL_SANET.fit(model, toy(model)))
    batch = batch_for(model, 2)
    attention, net, geometry = own.module.band_attention, model.module, model.geometry
    cube = SMALL_SANET.explain(own, batch, ctx).native
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]
        means = [band.sum() / band.numel() for band in image]
        deviations = [((band - m).square().sum() / band.numel()).sqrt() for band, m in zip(image, means, strict=True)]
        hidden = linear(torch.stack(means + deviations), attention.squeeze).clamp(min=0)
        weights = 1 / (1 + (-linear(hidden, attention.excite)).exp())
        assert bool(((weights > 0) & (weights < 1)).all())

        kept = []
        handle = net.blocks[2].norm1.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
        logits = net((weights[:, None, None] * image)[None].requires_grad_())
        handle.remove()
        torch.testing.assert_close(own(batch.inputs[row : row + 1]), logits, rtol=1e-9, atol=1e-12)
        (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
        cam = (gradient[0, 1:].mean(0) * kept[0][0, 1:]).sum(1).detach().clamp(min=0).view(-1, 4, 4)
        sizes = [len(group) for group in geometry.groups] if geometry.groups else [5]
        spatial = sum(size * group for size, group in zip(sizes, cam, strict=True)) / 5
        upsampled = nn.functional.interpolate(spatial[None, None], size=(32, 32), mode="bilinear")[0, 0]
        for band in range(5):
            torch.testing.assert_close(cube[row, band], weights[band] * upsampled, rtol=1e-9, atol=1e-12)


def five_bands(tiny):
    """A fused ViT on five bands."""
    from timm.models.vision_transformer import VisionTransformer

    spectral = tiny("spectral")
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VisionTransformer(**size, in_chans=5).double()
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return wrap(net, mean=spectral.mean, std=spectral.std)


def test_sanet_trains_its_bands_and_if_wished_a_copy_of_the_head(tiny, toy, batch_for):
    model = tiny("spectral")
    frozen = SMALL_SANET.fit(model, toy(model))
    assert set(frozen.tensors) == {f"band_attention.{part}" for part in PARTS}
    method = replace(SMALL_SANET, head="trained", epochs=8)
    fitted = method.fit(model, toy(model))
    assert set(fitted.tensors) == {*(f"band_attention.{part}" for part in PARTS), "head.weight", "head.bias"}
    assert fitted.facts["validation_accuracy"] > frozen.facts["validation_accuracy"] + 0.1
    own = method.own_model(model, fitted)
    assert not torch.equal(own.module.head.weight, model.module.head.weight)
    assert torch.equal(own.module.head.weight, fitted.tensors["head.weight"])
    batch = batch_for(model)
    weights = own.module.band_attention(batch.inputs)[:, :, None, None]
    tokens = model.module.forward_features(weights * batch.inputs)[:, 0]
    torch.testing.assert_close(own(batch.inputs), own.module.head(tokens), rtol=1e-9, atol=1e-12)
    dense, sparse = (
        replace(SMALL_SANET, sparsity=sparsity).fit(model, toy(model)).facts["log"][-1]["band_weight"]
        for sparsity in (0.0, 10.0)
    )
    assert sparse < dense - 0.1


PARTS = ("squeeze.weight", "squeeze.bias", "excite.weight", "excite.bias")


def test_three_channels_are_no_bands(tiny, toy):
    model = tiny()
    with pytest.raises(UnsupportedError, match="3 channels are no spectrum"):
        SMALL_SANET.fit(model, toy(model))
    assert SANet.status == "reconstruction"
    assert "spectrum" in SANet.needs
