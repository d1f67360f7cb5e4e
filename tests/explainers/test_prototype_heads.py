"""ProtoPNet and ProtoPFormer: their own models, costs and projection in loops, and their artefacts."""

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
from vitxai.explainers.protopformer import Concentration, foreground
from vitxai.explainers.protopnet import Costs, LikenessHead, project
from vitxai.models.edited import EditedAttention
from vitxai.models.fit_files import obtain_fit, write_fit
from vitxai.models.handle import wrap
from vitxai.models.optimise import CrossEntropy, LabelledInputs
from vitxai.models.tape import record

ProtoPNet, ProtoPFormer = explainers.get("protopnet"), explainers.get("protopformer")
SIZE = {"prototypes": 2, "width": 6, "samples": 96, "batch_size": 16, "learning_rate": 0.02}
NET, FORMER = ProtoPNet(**SIZE, epochs=12), ProtoPFormer(**SIZE, epochs=12)
BOTH = pytest.mark.parametrize("method", [NET, FORMER], ids=["protopnet", "protopformer"])


def embedded(embed, token):
    """One token through norm, linear, ReLU, linear, sigmoid."""
    norm, first, _, second, _ = embed
    centred = token - token.mean()
    x = centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias
    x = (first.weight @ x + first.bias).clamp(min=0)
    return 1 / (1 + (-(second.weight @ x + second.bias)).exp())


def squared(vector, token):
    return sum((a - b) ** 2 for a, b in zip(vector.tolist(), token.tolist(), strict=True))


def alike(vector, token):
    d = squared(vector, token)
    return math.log((d + 1) / (d + 1e-4))


def of_class(prototype, count=2):
    return prototype // count


@pytest.mark.parametrize("kind", ["class_token", "mean_pooled", "spectral"])
def test_protopnet_is_the_written_out_head(kind, learnt, batch_for, ctx):
    model, fitted, own = learnt(NET, kind)
    batch = batch_for(model, 2)
    head, tokens = own.module.own_head, final_tokens(model)(model.module, batch.inputs)
    weights, vectors = fitted.tensors["weights"], fitted.tensors["likeness.prototypes.vectors"]
    maps = {of: replace(NET, map=of).explain(own, batch, ctx).native.flatten(1) for of in ("class", "top", "all")}
    for row, target in enumerate(batch.targets.tolist()):
        seen = [embedded(head.likeness.embed, token) for token in tokens[row]]
        similar = torch.tensor([[alike(vector, token) for token in seen] for vector in vectors], dtype=torch.float64)
        logits = [
            sum(float(w) * max(row) for w, row in zip(weights[c], similar.tolist(), strict=True)) for c in range(5)
        ]
        torch.testing.assert_close(own(batch.inputs)[row].tolist(), logits, rtol=1e-9, atol=1e-9)
        mine = [j for j in range(10) if of_class(j) == target]
        wanted = sum(weights[target, j] * similar[j] for j in mine)
        torch.testing.assert_close(maps["class"][row], wanted, rtol=1e-9, atol=1e-9)
        best = max(mine, key=lambda j: float(weights[target, j]) * float(similar[j].max()))
        torch.testing.assert_close(maps["top"][row], weights[target, best] * similar[best], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(maps["all"][row], weights[target] @ similar, rtol=1e-9, atol=1e-9)


def random_head(seed=0, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LikenessHead(tokens=4, classes=classes, count=2, width=5).double()


def test_the_costs_of_protopnet():
    head, entropy = random_head(), CrossEntropy()
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randn(4, 3, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    cluster, separation = [], []
    for image, label in zip(tokens, labels.tolist(), strict=True):
        seen = [embedded(head.likeness.embed, token) for token in image]
        least = [min(squared(vector, token) for token in seen) for vector in head.likeness.prototypes.vectors]
        cluster.append(min(d for j, d in enumerate(least) if of_class(j) == label))
        separation.append(min(d for j, d in enumerate(least) if of_class(j) != label))
    loss, figures = Costs(entropy, 0.8, 0.08).loss(head, tokens, labels)
    assert figures["cluster"].item() == pytest.approx(sum(cluster) / 4, rel=1e-9)
    assert figures["separation"].item() == pytest.approx(sum(separation) / 4, rel=1e-9)
    wanted = nn.functional.cross_entropy(head(tokens), labels) + 0.8 * sum(cluster) / 4 - 0.08 * sum(separation) / 4
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_a_prototype_becomes_the_nearest_token_of_its_class():
    head = random_head(classes=4)
    before = head.likeness.prototypes.vectors.clone()
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randn(7, 3, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    places = project(head, LabelledInputs(tokens, labels), rows=3)
    for j, (vector, place) in enumerate(zip(before, map(tuple, places.tolist()), strict=True)):
        found = {
            (row, patch): squared(vector, embedded(head.likeness.embed, tokens[row, patch]))
            for row in range(7)
            for patch in range(3)
            if labels[row] == of_class(j)
        }
        assert place == (min(found, key=found.__getitem__) if found else (-1, -1))
        now = head.likeness.prototypes.vectors[j]
        wanted = vector if place == (-1, -1) else embedded(head.likeness.embed, tokens[place])
        torch.testing.assert_close(now, wanted, rtol=1e-12, atol=1e-12)
    assert places[6:].tolist() == [[-1, -1]] * 2, "no sample of class 3"


def test_prototypes_are_patches_of_fit_samples_and_the_fit_names_them(learnt, toy):
    model, fitted, own = learnt(NET, "class_token")
    fit = toy(model).data("fit", 96, labels=True)
    tokens = final_tokens(model)(model.module, fit.inputs)
    sources = fitted.tensors["sources"].tolist()
    assert sources[6:] == [[-1, -1]] * 4, "classes 3 and 4 have no samples"
    for j, (row, patch) in enumerate(sources[:6]):
        assert int(fit.labels[row]) == of_class(j)
        similarity = own.module.own_head.likeness(tokens[row : row + 1])[0, j]
        assert similarity.item() == pytest.approx(math.log(1 / 1e-4), abs=1e-6)
        assert (
            alike(
                fitted.tensors["likeness.prototypes.vectors"][j],
                embedded(own.module.own_head.likeness.embed, tokens[row, patch]),
            )
            > 9.2
        )
    fixed = replace(NET, weight_epochs=0).fit(model, toy(model))
    assert set(fixed.tensors["weights"].flatten().tolist()) == {1.0, -0.5}
    assert torch.equal(fixed.tensors["likeness.prototypes.vectors"], fitted.tensors["likeness.prototypes.vectors"]), (
        "the last step changes the weights alone"
    )
    assert set(fitted.tensors["weights"].flatten().tolist()) != {1.0, -0.5}
    assert fitted.facts["validation_loss"] < fixed.facts["validation_loss"]


@pytest.mark.parametrize("kind", ["class_token", "mean_pooled", "distilled", "map_pooled", "spectral"])
def test_protopformer_is_the_written_out_head(kind, learnt, batch_for, ctx, explicit):
    model, fitted, own = learnt(FORMER, kind)
    batch, geometry = batch_for(model, 2), model.geometry
    head, count = own.module.own_head, round(0.4 * geometry.patches)
    maps = {of: replace(FORMER, map=of).explain(own, batch, ctx).native.flatten(1) for of in ("class", "top", "all")}
    for row, target in enumerate(batch.targets.tolist()):
        image = batch.inputs[row]
        tokens = model.module.forward_features(image[None])[0]
        rollout = rolled_out(model, image)[geometry.prefix :]
        kept = set(rollout.argsort(descending=True)[:count].tolist())
        seen = [embedded(head.embed, token) for token in tokens[geometry.prefix :]]
        similar = torch.tensor(
            [[alike(v, token) * (p in kept) for p, token in enumerate(seen)] for v in fitted.tensors["local.vectors"]],
            dtype=torch.float64,
        )
        whole = embedded(head.embed, decision(model, tokens))
        together = [
            0.5 * alike(v, whole) + 0.5 * float(local.max())
            for v, local in zip(fitted.tensors["whole.vectors"], similar, strict=True)
        ]
        weights = [[1.0 if of_class(j) == c else -0.5 for j in range(10)] for c in range(5)]
        logits = [sum(w * s for w, s in zip(weights[c], together, strict=True)) for c in range(5)]
        torch.testing.assert_close(own(batch.inputs)[row].tolist(), logits, rtol=1e-9, atol=1e-9)
        mine = [j for j in range(10) if of_class(j) == target]
        torch.testing.assert_close(maps["class"][row], similar[mine].sum(0), rtol=1e-9, atol=1e-9)
        best = max(mine, key=lambda j: float(similar[j].max()))
        torch.testing.assert_close(maps["top"][row], similar[best], rtol=1e-9, atol=1e-9)
        every = sum(w * s for w, s in zip(weights[target], similar, strict=True))
        torch.testing.assert_close(maps["all"][row], every, rtol=1e-9, atol=1e-9)
        assert {p for p, value in enumerate(maps["class"][row].tolist()) if value} == kept


def rolled_out(model, image):
    """Attention rollout of one image from the model's recorded maps, one block at a time."""
    tape, geometry = record(model, image[None]), model.geometry
    joint = torch.eye(geometry.tokens, dtype=torch.float64)
    for block in tape.attention:
        step = sum(head for head in block[0]) / block.shape[1] + torch.eye(geometry.tokens, dtype=torch.float64)
        joint = torch.stack([row / row.sum() for row in step]) @ joint
    if tape.pool_attention is not None:
        return (tape.pool_attention[0].mean(0) @ joint)[0]
    rows = geometry.head_tokens if geometry.pooling == "token" else range(geometry.prefix, geometry.tokens)
    return sum(joint[row] for row in rows) / len(rows)


def decision(model, tokens):
    """What the frozen head reads."""
    if model.geometry.pooling == "map":
        return model.module.fc_norm(model.module.attn_pool(tokens[None])[0])
    if model.geometry.pooling == "token":
        return sum(tokens[t] for t in model.geometry.head_tokens) / len(model.geometry.head_tokens)
    return model.module.fc_norm(tokens[model.geometry.prefix :].mean(0))


def test_concentration_costs():
    places = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    similarities = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread, apart = [], []
    for image in similarities.tolist():
        centres = []
        for weights in image:
            total = sum(weights)
            centre = [
                sum(w * place[a] for w, place in zip(weights, places.tolist(), strict=True)) / total for a in (0, 1)
            ]
            variance = [
                sum(w * (place[a] - centre[a]) ** 2 for w, place in zip(weights, places.tolist(), strict=True)) / total
                for a in (0, 1)
            ]
            spread.append(max(sum(variance) / 2 - 0.5, 0))
            centres.append(centre)
        apart += [max(0.4 - math.dist(a, b), 0) * (a is not b) for a in centres for b in centres]
    found = Concentration(CrossEntropy(), ProtoPFormer(spread=0.5, apart=0.4)).costs(similarities, places)
    assert found[0].item() == pytest.approx(sum(spread) / len(spread), rel=1e-9)
    assert found[1].item() == pytest.approx(sum(apart) / len(apart), rel=1e-9)
    assert min(found).item() > 0


def test_concentration_is_of_the_labels_own_prototypes(learnt, batch_for):
    model, _, own = learnt(FORMER, "spectral")
    batch = batch_for(model, 4)
    head, read = own.module.own_head, foreground(model, 0.4)(model.module, batch.inputs)
    costs = Concentration(CrossEntropy(), replace(FORMER, spread=0.1, spread_weight=2.0, apart_weight=3.0))
    loss, figures = costs.loss(head, read, batch.labels)
    scores, local = head.scores(read)
    mine = torch.stack([local[row, 2 * label : 2 * label + 2] for row, label in enumerate(batch.labels.tolist())])
    grid = [[y, x] for _ in range(2) for y in range(4) for x in range(4)]
    spread, apart = costs.costs(mine, torch.tensor(grid, dtype=torch.float64))
    assert (figures["spread"], figures["apart"]) == (spread, apart)
    wanted = nn.functional.cross_entropy(scores, batch.labels) + 2 * spread + 3 * apart
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)


@BOTH
def test_the_frozen_vit_is_left_as_it_was(method, tiny, batch_for, toy):
    model = tiny()
    batch = batch_for(model)
    before, state = model(batch.inputs), {name: t.clone() for name, t in model.module.state_dict().items()}
    global_state = torch.random.get_rng_state()
    own = method.own_model(model, replace(method, epochs=1).fit(model, toy(model)))
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert torch.equal(model(batch.inputs), before)
    assert all(torch.equal(t, state[name]) for name, t in model.module.state_dict().items())
    assert not any(part.training for part in own.module.modules())
    assert not any(parameter.requires_grad for parameter in own.module.parameters())
    reads = final_tokens(model) if method is NET else foreground(model, 0.4)
    assert torch.equal(own.module.own_head(reads(model.module, batch.inputs)), own(batch.inputs))
    tape, frozen = record(own, batch.inputs), record(model, batch.inputs)
    assert len(tape.attention) == len(frozen.attention) == 3, "what listens does not hide the calls"
    for mine, theirs in zip(tape.attention, frozen.attention, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize("kind", ["class_token", "spectral"])
def test_a_batch_equals_its_samples(method, kind, learnt, batch_for, ctx):
    model, _, own = learnt(method, kind)
    batch = batch_for(model, 8)
    whole = method.explain(own, batch, ctx).native
    singles = torch.cat([method.explain(own, batch.select([row]), ctx).native for row in range(8)])
    torch.testing.assert_close(whole, singles, rtol=1e-9, atol=1e-9)
    assert whole.shape == ((8, 2, 4, 4) if kind == "spectral" else (8, 4, 4))


@BOTH
def test_a_separable_task_is_learned(method, learnt):
    _, fitted, _ = learnt(method, "class_token")
    assert fitted.facts["validation_accuracy"] >= 0.8, "chance is a third"
    assert len(fitted.facts["log"]) == 12
    learned = {name: tensor for name, tensor in fitted.tensors.items() if name != "sources"}
    assert fitted.facts["parameters"] == sum(tensor.numel() for tensor in learned.values())


@BOTH
def test_an_artefact_gives_the_same_maps_and_only_for_its_model(method, learnt, tiny, batch_for, ctx, tmp_path):
    model, fitted, own = learnt(method, "class_token")
    path = tmp_path / "fit.safetensors"
    write_fit(path, method, model, "toy", fitted, "bench fit")
    read = replace(method, artefact=path)
    again = read.own_model(model, obtain_fit(read, model, EngineContext(), "toy"))
    batch = batch_for(model)
    assert torch.equal(read.explain(again, batch, ctx).native, method.explain(own, batch, ctx).native)
    with pytest.raises(BadInputError, match="another weights"):
        obtain_fit(read, tiny(seed=1), EngineContext(), "toy")
    with pytest.raises(BadInputError, match="another explainer"):
        obtain_fit(replace(read, width=7), model, EngineContext(), "toy")
    with pytest.raises(BadInputError, match="does not fit this model"):
        replace(method, width=7).own_model(model, fitted)


@BOTH
def test_what_cannot_be_read_is_refused(method, tiny, ctx):
    with pytest.raises(BadInputError, match="learned nothing yet"):
        method.own_model(tiny(), None)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnsupportedError, match="one grid"):
        method.fit(wrap(net, mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(32, 32)), ctx)
    model = tiny()
    with pytest.raises(UnsupportedError, match="does not tell its final tokens"):
        method.fit(replace(model, module=EditedAttention(model.module, lambda a, layer: a)), ctx)


def test_windows_have_no_rollout(ctx, toy):
    size = {"img_size": 32, "patch_size": 4, "window_size": 2, "embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2)}
    with torch.random.fork_rng():
        model = wrap(SwinTransformer(**size, num_classes=5).double(), mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(UnsupportedError, match="no attention row carries the decision"):
        FORMER.fit(model, ctx)
    own = NET.own_model(model, replace(NET, epochs=1).fit(model, toy(model)))
    assert NET.explain(own, toy(model).data("validation", 2), ctx).native.shape == (2, 4, 4)
