"""Prompted ViTs against one masked sequence in plain matrices; what stays of the backbone; what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from timm.layers import AttentionRope
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, UnsupportedError, metrics
from vitxai.bench.guard import ModuleState
from vitxai.explainers._prompts import BandAdapter, Router, allowed_tokens
from vitxai.models.file_model import _head_width
from vitxai.models.handle import geometry_of, wrap
from vitxai.models.prompted import Prompted, PromptedViT
from vitxai.models.spectral import SpectralViT
from vitxai.models.spectral_backbone import SpectralBackbone
from vitxai.models.tape import record

CLASSES = 3
SIZE = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}
GROUPS = ((0, 3), (1, 2, 4))
TIMM = {
    "class_token": {},
    "mean_pooled": {"global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 2, "init_values": 0.5},
    "query_norm": {"qk_norm": True, "qkv_bias": False},
    "wide_heads": _head_width(SIZE, {"blocks.0.attn.qkv.weight": torch.empty(3 * 2 * 10, 12)}),
}
KINDS = (*TIMM, "spectral", "group_blocks")
SPECTRAL = ("spectral", "group_blocks")
"""``group_blocks``: a backbone that brings a mask of its own."""


def built(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "spectral":
            module = SpectralViT(**SIZE, num_classes=CLASSES, groups=GROUPS)
        elif kind == "group_blocks":
            vit = VisionTransformer(**SIZE, num_classes=0)
            module = SpectralBackbone(vit, groups=GROUPS, num_classes=CLASSES, embed="projection", mixing="blocks")
        else:
            module = VisionTransformer(**SIZE, num_classes=CLASSES, **TIMM[kind])
        # Trained nets have attention far from uniform; fresh weights do not.
        for name, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.3)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1.0
    return module.double().eval().requires_grad_(False)


def images(kind: str, count: int = 2) -> Tensor:
    channels = 5 if kind in SPECTRAL else 3
    return torch.randn(count, channels, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Given(nn.Module):
    """Prompt tokens as they are."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens)

    def forward(self) -> Tensor:
        return self.tokens


class FirstThree(nn.Module):
    """Three class scores, one of each of the first three prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(drawn(12))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs[:, :3] @ self.weight


def prompted(
    kind: str,
    *,
    sink: bool = False,
    deep: bool = False,
    routed: bool = False,
    adapted: bool = False,
    apart: bool = False,
    prompts: int = 4,
    **options: bool,
) -> PromptedViT:
    """Random prompts that may attend to random tokens; with ``apart`` to those of their group."""
    backbone = built(kind)
    geometry = geometry_of(backbone)
    layers, added = 3 if deep else 1, prompts + sink
    allowed = torch.rand(added, added + geometry.tokens, generator=torch.Generator().manual_seed(3)) < 0.6
    allowed[:, 0] |= sink
    allowed |= torch.eye(added, added + geometry.tokens, dtype=torch.bool)
    if apart:
        allowed = allowed_tokens(geometry, prompts, len(GROUPS), sink, separate=True)
    router, adapter = (
        Router(backbone.blocks[0].attn.proj.in_features) if routed else None,
        BandAdapter(geometry, 12) if adapted else None,
    )
    for part in (router, adapter):
        for parameter in part.parameters() if part else ():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(4))
    return PromptedViT(
        backbone,
        Given(drawn(layers, prompts, 12)),
        FirstThree(),
        allowed,
        sink=nn.Parameter(drawn(layers, 1, 12, seed=5)) if sink else None,
        router=router,
        adapter=adapter,
        separate=apart,
        **options,
    ).double().eval()  # fmt: skip


@dataclass
class Written:
    """One image's pass: prompts after the last norm [P,D], and lists over blocks of lists over heads."""

    outputs: Tensor
    maps: list[list[Tensor]]  # [S+N,S+N]


def written(net: PromptedViT, image: Tensor, edit: bool = False) -> Written:
    """One sequence [added, own] and one mask, a row at a time; ``edit`` makes the last block's first row uniform."""
    backbone, added, own_geometry = net.backbone, net.added, net.seen
    own = entering(backbone, image)
    if net.adapter is not None:
        own[own_geometry.prefix :] += band_embedding(net, image)
    mask = whole_mask(net)
    first = [] if net.sink is None else [net.sink]
    sets = torch.cat([*first, net.prompts()], dim=1)  # [L,S,D]
    tokens = torch.cat([sets[0], own])
    out = Written(tokens, [])
    for layer, block in enumerate(backbone.blocks):
        if layer and len(sets) > 1:
            tokens = torch.cat([sets[layer] if net.renew else tokens[:added] + sets[layer], tokens[added:]])
        normed = normalised(tokens, block.norm1)
        q, k, v = affine(normed, block.attn.qkv).chunk(3, dim=1)
        maps, mixed = [], []
        width = q.shape[1] // 2
        for head in (slice(0, width), slice(width, 2 * width)):
            queries, keys = normalised(q[:, head], block.attn.q_norm), normalised(k[:, head], block.attn.k_norm)
            rows = []
            for i, query in enumerate(queries):
                seen = mask[i].nonzero()[:, 0]
                scores = keys[seen] @ query / math.sqrt(width)
                if net.router is not None and 0 < i < added:
                    readable = net.allowed[i, added:].nonzero()[:, 0]
                    mean = v[added + readable].sum(0) / max(len(readable), 1)
                    scores = scores + (seen == 0) * affine(mean, net.router.linear)
                weights = scores.exp() / scores.exp().sum()
                rows.append(torch.zeros(len(tokens), dtype=torch.float64).index_add(0, seen, weights))
            if edit and layer == 2:
                rows[0] = torch.full_like(rows[0], 1 / len(rows[0]))
            maps.append(torch.stack(rows))
            mixed.append(maps[-1] @ v[:, head])
        out.maps.append(maps)
        tokens = tokens + scaled(block, "ls1") * affine(torch.cat(mixed, 1), block.attn.proj)
        hidden = affine(normalised(tokens, block.norm2), block.mlp.fc1)
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + scaled(block, "ls2") * affine(hidden, block.mlp.fc2)
    # timm's mean-pooled ViTs norm after the pooling.
    last = backbone.fc_norm if isinstance(backbone.norm, nn.Identity) else backbone.norm
    assert isinstance(last, nn.LayerNorm)
    out.outputs = normalised(tokens[int(net.sink is not None) : added], last)
    return out


def entering(backbone: nn.Module, image: Tensor) -> Tensor:
    """The backbone's tokens [N,D] before its first block."""
    seen = []
    handle = backbone.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
    backbone(image[None])
    handle.remove()
    return seen[0]


def band_embedding(net: PromptedViT, image: Tensor) -> Tensor:
    bands = net.adapter.bands
    rows = []
    for group in net.seen.groups or (range(net.seen.channels),):
        for y, x in ((0, 0), (0, 8), (8, 0), (8, 8)):
            rows.append(sum(image[band, y : y + 8, x : x + 8].mean() * bands[band] for band in group))
    return torch.stack(rows)


def whole_mask(net: PromptedViT) -> Tensor:
    """[S+N,S+N]: isolation is a mask under which the backbone's tokens do not see the added ones."""
    geometry, added = net.seen, net.added
    below = torch.full((geometry.tokens, added + geometry.tokens), True)
    below[:, :added] = not net.isolate
    if net.apart is not None or getattr(net.backbone, "mask", None) is not None:
        for i in range(geometry.prefix, geometry.tokens):
            for j in range(geometry.tokens):
                same = j >= geometry.prefix and (i - geometry.prefix) // 4 == (j - geometry.prefix) // 4
                below[i, added + j] = same
    return torch.cat([net.allowed, below])


def affine(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def scaled(block: nn.Module, name: str) -> Tensor | float:
    return getattr(getattr(block, name), "gamma", 1.0)


VARIANTS = {
    "isolated": {},
    "isolated, sink": {"sink": True},
    "isolated, deep": {"deep": True},
    "isolated, sink, deep": {"sink": True, "deep": True},
    "isolated, sink, renewed": {"sink": True, "deep": True, "renew": True},
    "isolated, routed": {"sink": True, "deep": True, "routed": True},
    "isolated, adapted": {"sink": True, "adapted": True},
    "joint": {"isolate": False},
    "joint, sink": {"isolate": False, "sink": True},
    "joint, sink, deep": {"isolate": False, "sink": True, "deep": True},
    "joint, renewed": {"isolate": False, "deep": True, "renew": True},
    "joint, sink, adapted": {"isolate": False, "sink": True, "adapted": True},
}
CASES = [(kind, variant) for kind in KINDS for variant in VARIANTS] + [
    (kind, "apart" + extra) for kind in SPECTRAL for extra in ("", ", sink, deep", ", sink, deep, routed")
]


def variant_of(kind: str, variant: str) -> PromptedViT:
    if variant.startswith("apart"):
        return prompted(kind, apart=True, **dict.fromkeys(variant.split(", ")[1:], True))
    return prompted(kind, **VARIANTS[variant])


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def masked(allowed: Tensor, sink: bool, routed: bool) -> PromptedViT:
    prompts = len(allowed) - sink
    router = Router(12) if routed else None
    for parameter in router.parameters() if router else ():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(4))
    sinks = nn.Parameter(drawn(1, 1, 12, seed=5)) if sink else None
    return PromptedViT(
        built("registers"), Given(drawn(1, prompts, 12)), FirstThree(), allowed, sink=sinks, router=router
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_prompts_of_any_mask_read_as_one_masked_sequence(seed: int, routed: bool) -> None:
    """Sets of tokens that several prompts share, as many or not, in any order, overlapping, or empty."""
    generator, tokens = torch.Generator().manual_seed(seed), built("registers").patch_embed.num_patches + 3
    sets = torch.rand(3, tokens, generator=generator) < torch.tensor([[0.0], [0.4], [1.0]])
    prompts, sink = 7, routed or seed % 2 == 0
    allowed = torch.rand(prompts + sink, prompts + sink + tokens, generator=generator) < 0.4
    allowed[:, prompts + sink :] = sets[torch.randint(3, (prompts + sink,), generator=generator)]
    allowed |= torch.eye(*allowed.shape, dtype=torch.bool)
    allowed[:, 0] |= sink
    net, inputs = masked(allowed, sink, routed), images("registers")
    read = net.read(inputs)
    for row, image in enumerate(inputs):
        wanted = written(net, image)
        same(read.outputs[row], wanted.outputs)
        for layer, heads in enumerate(wanted.maps):
            for head, whole in enumerate(heads):
                same(read.attention[layer].whole()[row, head], whole[int(sink) : net.added])


@pytest.mark.parametrize(("kind", "variant"), CASES)
@torch.no_grad()
def test_a_reading_is_that_of_one_masked_sequence(kind: str, variant: str) -> None:
    net, inputs = variant_of(kind, variant), images(kind)
    read = net.read(inputs)
    first = int(net.sink is not None)
    assert len(read.attention) == 3
    assert len(read.sink) == 3 * first
    for row, image in enumerate(inputs):
        wanted = written(net, image)
        same(read.outputs[row], wanted.outputs)
        for layer, heads in enumerate(wanted.maps):
            for head, whole in enumerate(heads):
                found = read.attention[layer].whole()[row, head]
                same(found, whole[first : net.added])
                assert not found[~net.allowed[first:]].any(), "what is not allowed is exactly 0"
                if first:
                    rows = slice(1, net.added if net.isolate else None)
                    same(read.sink[layer][row, head], whole[rows, 0].mean())
        for rows in (block.whole() for block in read.attention):
            same(rows.sum(-1), torch.ones_like(rows[..., 0]))


@pytest.mark.parametrize(("kind", "variant"), [("class_token", "isolated, routed"), *CASES[-14:]])
@torch.no_grad()
def test_forward_gives_the_scores_of_the_reading_and_a_batch_is_its_samples(kind: str, variant: str) -> None:
    net, inputs = variant_of(kind, variant), images(kind, 8)
    read, scores = net.read(inputs), net(inputs)
    assert scores.shape == (8, CLASSES)
    same(scores, net.scores(read))
    alone = [net.read(image[None]) for image in inputs]
    same(read.outputs, torch.cat([single.outputs for single in alone]))
    same(read.attention[-1].whole(), torch.cat([single.attention[-1].whole() for single in alone]))
    if net.isolate:
        beside = net.beside(net.keys_values(inputs))
        assert isinstance(beside, Prompted)
        assert torch.equal(beside.outputs, read.outputs)
        assert all(torch.equal(a.whole(), b.whole()) for a, b in zip(beside.attention, read.attention, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_isolated_prompts_leave_the_backbone_bit_equal(kind: str) -> None:
    net, inputs = prompted(kind, sink=True, deep=True), images(kind)
    backbone, outputs = net.backbone, []
    handles = [block.register_forward_hook(lambda _, __, tokens: outputs.append(tokens)) for block in backbone.blocks]
    logits = backbone(inputs)
    scores = net(inputs)
    read = net.read(inputs)
    again = backbone(inputs)
    for handle in handles:
        handle.remove()
    assert torch.equal(logits, again)
    assert torch.equal(logits, built(kind)(inputs))
    for alone, beside in zip(outputs[:3], outputs[3:6], strict=True):
        assert torch.equal(alone, beside)
    # Of the last block, ``read`` runs keys and values alone.
    assert torch.equal(outputs[1], outputs[7])
    assert torch.equal(scores, net.scores(read))
    assert net.geometry == geometry_of(backbone)


@torch.no_grad()
def test_without_isolation_the_backbone_sees_the_prompts() -> None:
    net, inputs = prompted("class_token", isolate=False), images("class_token")
    features = []
    handle = net.backbone.blocks[1].register_forward_hook(lambda _, __, tokens: features.append(tokens[:, net.added :]))
    net(inputs)
    handle.remove()
    seen = []
    handle = net.backbone.blocks[1].register_forward_hook(lambda _, __, tokens: seen.append(tokens))
    net.backbone(inputs)
    handle.remove()
    assert (features[0] - seen[0]).abs().max() > 1e-3


@torch.no_grad()
def test_an_edit_changes_the_whole_sequence_of_joint_prompts() -> None:
    net, inputs = prompted("class_token", isolate=False), images("class_token")

    def first_row_uniform(attention: Tensor, layer: int) -> Tensor:
        changed = attention.clone()
        if layer == 2:
            changed[:, :, 0] = 1 / attention.shape[-1]
        return changed

    for row, image in enumerate(inputs):
        same(net.read(inputs, first_row_uniform).outputs[row], written(net, image, edit=True).outputs)
    same(net.read(inputs, lambda attention, _: attention).outputs, net.read(inputs).outputs)
    with pytest.raises(BadInputError, match="isolated prompts is not edited"):
        prompted("class_token").read(inputs, first_row_uniform)


@pytest.mark.parametrize("extra", ["", "sink", "sink, deep", "sink, deep, routed", "sink, adapted"])
@torch.no_grad()
def test_a_prompt_of_separate_groups_sees_its_own_bands_alone(extra: str) -> None:
    options = dict.fromkeys(filter(None, extra.split(", ")), True)
    inputs = images("spectral")
    other = inputs.clone()
    other[:, list(GROUPS[1])] += 1.0
    net = prompted("spectral", apart=True, **options)
    before, after = net.read(inputs), net.read(other)
    # Prompts are class-major: groups 0, 1, 0, 1.
    assert torch.equal(before.outputs[:, [0, 2]], after.outputs[:, [0, 2]])
    assert torch.equal(before.attention[-1].whole()[:, :, [0, 2]], after.attention[-1].whole()[:, :, [0, 2]])
    assert (before.outputs - after.outputs)[:, [1, 3]].abs().amax((0, 2)).min() > 1e-3
    joined = prompted("spectral", **options)
    joined.reach = net.reach
    assert (joined.read(inputs).outputs - joined.read(other).outputs)[:, [0, 2]].abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("kind", ["class_token", "spectral"])
@torch.no_grad()
def test_an_adapter_and_a_router_that_begin_at_zero_change_nothing(kind: str) -> None:
    inputs = images(kind)
    plain = prompted(kind, sink=True)
    for options in ({"routed": True}, {"adapted": True}, {"adapted": True, "isolate": False}):
        net = prompted(kind, sink=True, **options)
        for part in filter(None, (net.router, net.adapter)):
            for parameter in part.parameters():
                parameter.zero_()
        reference = prompted(kind, sink=True, isolate=False) if "isolate" in options else plain
        same(net(inputs), reference(inputs))
    fresh = [*Router(12).parameters(), *BandAdapter(geometry_of(built(kind)), 12).parameters()]
    assert not any(parameter.any() for parameter in fresh)


@pytest.mark.parametrize(
    "variant", ["isolated, routed", "isolated, adapted", "joint, sink, deep", "joint, sink, adapted"]
)
def test_gradients_reach_what_was_added_and_nothing_else(variant: str) -> None:
    net, inputs = prompted("class_token", **VARIANTS[variant]), images("class_token")
    net.train()
    assert not any(part.training for part in net.backbone.modules())
    assert net.head.training
    net(inputs).square().sum().backward()
    added = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert added == {name for name, _ in net.named_parameters() if not name.startswith("backbone.")}
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == (name not in added), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("isolate", [True, False])
def test_nothing_is_left_behind_also_where_a_pass_fails(isolate: bool) -> None:
    net = prompted("spectral", sink=True, deep=True, adapted=True, isolate=isolate)
    before = ModuleState.of(net)
    inputs = images("spectral")
    with torch.inference_mode():
        net(inputs)
        net.read(inputs)
    assert before.differences(ModuleState.of(net)) == []
    for wrong in (inputs[:, :3], inputs[..., :8]):
        with pytest.raises((RuntimeError, IndexError, BadInputError)):
            net(wrong)
        assert before.differences(ModuleState.of(net)) == []


@pytest.mark.parametrize("kind", ["class_token", "registers", "mean_pooled", "spectral"])
@pytest.mark.parametrize("sink", [True, False])
def test_the_geometry_of_joint_prompts_is_that_of_the_sequence(kind: str, sink: bool) -> None:
    net, inputs = prompted(kind, isolate=False, sink=sink), images(kind)
    vit = wrap(built(kind))
    model = replace(vit, module=net.requires_grad_(False), geometry=net.geometry)
    assert net.geometry.tokens == net.seen.tokens + net.added
    assert net.geometry.prefix == net.seen.prefix + net.added
    assert net.geometry.query_rows == tuple(range(sink, net.added))
    tape = record(model, inputs)
    read = net.read(inputs)
    same(tape.logits, net(inputs))
    for attention, rows in zip(tape.attention, read.attention, strict=True):
        assert attention.shape[-2:] == (net.geometry.tokens,) * 2
        same(attention[:, :, sink : net.added], rows.whole())
    batch = Batch(("a", "b"), inputs, torch.zeros(2).long(), torch.zeros(2).long())
    scores = metrics.create("sink_rate,token=0").score(model, batch, None, EngineContext())
    wanted = torch.stack([a[:, :, net.geometry.prefix :, 0].mean((1, 2)) for a in tape.attention]).mean(0)
    same(torch.from_numpy(scores["sink_rate"].values), wanted)


def test_a_recording_of_isolated_prompts_is_that_of_the_backbone() -> None:
    net, inputs = prompted("class_token", sink=True), images("class_token")
    model = replace(wrap(built("class_token")), module=net.requires_grad_(False), geometry=net.geometry)
    tape = record(model, inputs)
    alone = record(wrap(built("class_token")), inputs)
    same(tape.logits, net(inputs))
    assert len(tape.attention) == 3
    for found, wanted in zip(tape.attention, alone.attention, strict=True):
        same(found, wanted)


def test_it_passes_for_a_timm_vit_and_can_be_copied() -> None:
    net, inputs = prompted("class_token", sink=True), images("class_token")
    assert net.blocks is net.backbone.blocks
    assert net.embed_dim == 12
    with pytest.raises(AttributeError, match="no_such_part"):
        _ = net.no_such_part
    twin = copy.deepcopy(net)
    assert torch.equal(twin(inputs), net(inputs))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}


def vit_of(module: nn.Module) -> PromptedViT:
    geometry = geometry_of(module)
    tokens = geometry.tokens if geometry else 1
    return PromptedViT(module, Given(drawn(1, 3, 12)), FirstThree(), torch.ones(3, 3 + tokens, dtype=torch.bool))


PECULIAR = {
    "rotary": lambda: Eva(**{**SIZE, "embed_dim": 16}, num_classes=3, use_rot_pos_emb=True),
    "rotary attention": lambda: VisionTransformer(**SIZE, attn_layer=AttentionRope),
    "windows": lambda: SwinTransformer(
        img_size=16, patch_size=4, embed_dim=12, depths=(1,), num_heads=(2,), window_size=2
    ),
    "relative positions": lambda: Beit(**SIZE, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "norm of the attention's output": lambda: VisionTransformer(**SIZE, scale_attn_norm=True),
    "no blocks": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(768, 3)),
}


@pytest.mark.parametrize("what", PECULIAR)
def test_other_blocks_are_refused(what: str) -> None:
    with pytest.raises(UnsupportedError, match=r"no plain blocks|plain pre-norm Block|gates or norms"):
        vit_of(PECULIAR[what]())


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("class_token", {"apart": True}, "need a spectral-token model"),
        ("spectral", {"apart": True, "isolate": False}, "need isolate=true"),
        ("spectral", {"routed": True, "sink": True, "isolate": False}, "need isolate=true"),
        ("spectral", {"routed": True}, "need a sink"),
    ],
)
def test_what_contradicts_itself_is_refused(kind: str, options: dict[str, bool], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        prompted(kind, **options)
