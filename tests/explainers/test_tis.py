"""TIS: clusters and samples one at a time, the model in plain matrices on the sampled tokens."""

from __future__ import annotations

import math

import pytest
import torch
from timm.models.eva import Eva
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, UnsupportedError, explainers
from vitxai.bench.profile import count_passes
from vitxai.explainers.tis import k_means, sampled_probabilities
from vitxai.models.handle import wrap

KINDS = [
    "class_token",
    "mean_pooled",
    "mean_pooled_with_class_token",
    "distilled",
    "registers",
    "layer_scale",
    "spectral",
    "map_pooled",
]


def layer_norm(x, layer):
    return nn.functional.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def block_outputs(model, image):
    """Tokens [N,D] that go into the first block, and that come out of each."""
    found, hooks = [], []
    for block in model.module.blocks:
        hooks.append(block.register_forward_hook(lambda _, args, output: found.extend([args[0][0], output[0]])))
    model(image[None])
    for hook in hooks:
        hook.remove()
    return found[0], found[1::2]


def logits_of(model, tokens):
    """The model from its first block on, for any number of tokens."""
    for block in model.module.blocks:
        parts = (layer_norm(tokens, block.norm1) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, 1)
        width, heads = parts[0].shape[1] // block.attn.num_heads, []
        for head in range(block.attn.num_heads):
            q, k, v = (part[:, head * width : (head + 1) * width] for part in parts)
            heads.append(((q @ k.T) / math.sqrt(width)).softmax(1) @ v)
        mixed = torch.cat(heads, 1) @ block.attn.proj.weight.T + block.attn.proj.bias
        tokens = tokens + getattr(block.ls1, "gamma", 1.0) * mixed
        hidden = layer_norm(tokens, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = nn.functional.gelu(hidden) @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        tokens = tokens + getattr(block.ls2, "gamma", 1.0) * hidden
    return model.module.forward_head(model.module.norm(tokens[None]))[0]


def clusters(points, first, iterations):
    """k-means with one distance at a time; points and centroids are lists of lists."""
    centroids = [list(points[index]) for index in first]
    for _ in range(iterations):
        members = [[] for _ in centroids]
        for point in points:
            distances = [sum((a - b) ** 2 for a, b in zip(point, c, strict=True)) for c in centroids]
            members[distances.index(min(distances))].append(point)
        for index, own in enumerate(members):
            if own:
                centroids[index] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    return centroids


@pytest.mark.parametrize("kind", KINDS)
def test_tis(kind, tiny, batch_for, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = explainers.create("tis,budget=6,iterations=3").explain(model, batch, ctx).native
    prefix, patches = model.geometry.prefix, model.geometry.patches
    for sample, (id, target) in enumerate(zip(batch.ids, batch.targets.tolist(), strict=True)):
        first, outputs = block_outputs(model, batch.inputs[sample])
        channels = [column.tolist() for output in outputs for column in output[prefix:].T]
        drawn = torch.randperm(len(channels), generator=ctx.generator(id, "tis"))[:5].tolist()
        total, coverage, scores = [0.0] * patches, [0] * patches, []
        for centroid in clusters(channels, drawn, 3):
            order = sorted(range(patches), key=lambda token, centroid=centroid: -centroid[token])
            kept = order[: patches // 2]
            tokens = torch.stack([*first[:prefix], *(first[prefix + token] for token in kept)])
            scores.append(float(logits_of(model, tokens).softmax(0)[target]))
            for token in kept:
                total[token] += scores[-1]
                coverage[token] += 1
        mean = sum(scores) / len(scores)
        wanted = [t / c if c else mean for t, c in zip(total, coverage, strict=True)]
        torch.testing.assert_close(
            found[sample].flatten(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_are_the_model_itself(kind, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model)
    every = torch.arange(model.geometry.patches).flip(0).expand(3, 2, -1)
    found = sampled_probabilities(model, batch, every, max_rows=4)
    wanted = model(batch.inputs).softmax(1)[torch.arange(3), batch.targets]
    torch.testing.assert_close(found, wanted[:, None].expand(3, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_samples_in_passes_of_any_size(kind, tiny, batch_for):
    model = tiny(kind)
    batch = batch_for(model, 8)
    method = explainers.create("tis,budget=12")
    found = method.explain(model, batch, EngineContext(max_rows=64)).native
    assert found.isfinite().all()
    assert 0 <= found.min() < found.max() <= 1
    torch.testing.assert_close(method.explain(model, batch, EngineContext(max_rows=7)).native, found, rtol=1e-9, atol=0)
    for row in (0, 6):
        alone = method.explain(model, batch.select([row]), EngineContext()).native[0]
        torch.testing.assert_close(alone, found[row], rtol=1e-9, atol=0)


@pytest.mark.parametrize(("budget", "rows"), [(2, 2), (9, 9), (48, 48), (200, 49)])
def test_the_budget_counts_every_pass(budget, rows, tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    with count_passes(model.module) as count:
        explainers.create(f"tis,budget={budget}").explain(model, batch, ctx)
    assert count.forwards == 3 * rows  # 3 blocks of 16 channels make 48 samples at most
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.module.modules())


def test_the_draw_depends_on_seed_and_sample_alone(tiny, batch_for):
    model = tiny()
    batch = batch_for(model)
    method = explainers.create("tis,budget=5")
    first, again, other = (method.explain(model, batch, EngineContext(seed=s)).native for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_k_means_finds_two_heaps():
    heaps = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]]]).repeat(2, 1, 1)
    found = k_means(heaps, 2, 10, [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    assert [sorted(sample.tolist()) for sample in found] == [[[0.0, 0.5], [9.0, 8.5]]] * 2


def test_a_centroid_without_points_stays():
    """Three equal points: all of them go to the first of three equal centroids."""
    points = torch.full((1, 3, 2), 4.0)
    assert torch.equal(k_means(points, 3, 5, [torch.Generator()]), points)


def test_k_means_in_parts_is_k_means(monkeypatch):
    points = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run():
        return k_means(points, 4, 6, [torch.Generator().manual_seed(seed) for seed in (0, 1)])

    whole = run()
    monkeypatch.setattr("vitxai.explainers.tis.CELLS", 30)
    torch.testing.assert_close(run(), whole)


def test_the_inputs_hook_is_removed_when_a_pass_fails(tiny, batch_for):
    model = tiny()
    with pytest.raises(BadInputError, match="max_rows=0"):
        sampled_probabilities(model, batch_for(model), torch.zeros(3, 1, 1, dtype=torch.long), max_rows=0)
    assert not model.module.blocks[0]._forward_pre_hooks


def test_models_whose_positions_are_read_in_every_block_are_refused(batch_for, ctx):
    model = wrap(Eva(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5))
    with pytest.raises(UnsupportedError, match="Eva cannot run on some of its tokens"):
        explainers.create("tis,budget=4").explain(model, batch_for(model), ctx)


def test_a_share_that_keeps_no_token_is_refused(tiny, batch_for, ctx):
    model = tiny()
    with pytest.raises(UnsupportedError, match=r"keep=0\.05 leaves none of 16"):
        explainers.create("tis,keep=0.05").explain(model, batch_for(model), ctx)


@pytest.mark.parametrize("spec", ["tis,budget=1", "tis,keep=0", "tis,keep=1", "tis,iterations=0"])
def test_parameters_out_of_range_are_refused(spec):
    with pytest.raises(BadInputError, match="tis"):
        explainers.create(spec)
