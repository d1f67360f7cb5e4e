"""Passes from tokens and passes that stop at what is read, against whole passes over pixels."""

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitxai.bench.guard import ModuleState
from vitxai.explainers._prompts import BandAdapter
from vitxai.models.edited import EditedAttention
from vitxai.models.handle import geometry_of, wrap
from vitxai.models.lean_pass import as_far_as_read, patch_embedding
from vitxai.models.perturb import mixed_responses, mixed_rows, patch_source, patches_to_pixels, target_responses
from vitxai.models.prompted import PromptedViT
from vitxai.models.spectral import SpectralViT
from vitxai.models.spectral_backbone import SpectralBackbone
from vitxai.models.tape import record

SIZE = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}
GROUPS = ((0, 3), (1, 2, 4))
SAMPLES = torch.tensor([0, 0, 1, 1, 1])
TARGETS = torch.tensor([0, 1, 2, 0, 1])

VITS = {
    "class token": {},
    "registers": {"reg_tokens": 2, "init_values": 0.5},
    "norm of queries, no bias": {"qk_norm": True, "qkv_bias": False},
    "norm before the blocks": {"pre_norm": True},
    "mean": {"global_pool": "avg", "class_token": False},
    "attention pool": {"global_pool": "map", "class_token": False},
    "dynamic size": {"dynamic_img_size": True},
    "gated attention": {},
}
BACKBONES = {
    "projection": {"embed": "projection"},
    "adapter": {},
    "aggregated": {"tokens": "aggregated"},
    "bands": {"tokens": "band"},
    "groups apart": {"mixing": "blocks"},
}


def vit(kind="class token", **more) -> VisionTransformer:
    net = VisionTransformer(**SIZE, num_classes=3, **VITS[kind], **more)
    if kind == "gated attention":
        for block in net.blocks:
            block.attn.gate = nn.Linear(12, 12)
    return net


class ScoreEach(nn.Module):
    """Three scores, one of each prompt."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(12))

    def forward(self, outputs):
        return outputs @ self.weight


class PromptTokens(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(layers, 3, 12))

    def forward(self):
        return self.tokens


def under_prompts(backbone, *, layers=1, adapted=False, **options):
    geometry = geometry_of(backbone)
    allowed = torch.rand(3, 3 + geometry.tokens, generator=torch.Generator().manual_seed(3)) < 0.6
    adapter = BandAdapter(geometry, 12) if adapted else None
    return PromptedViT(backbone, PromptTokens(layers), ScoreEach(), allowed, adapter=adapter, **options)


class SeesInputs(VisionTransformer):
    """Reads its inputs beside the patches."""

    def forward(self, x):
        return super().forward(x) + x.mean((1, 2, 3))[:, None]


def spectral():
    return SpectralViT(**SIZE, num_classes=3, groups=GROUPS)


MODULES = {
    **{name: lambda name=name: vit(name) for name in VITS},
    "spectral": spectral,
    **{
        name: lambda o=options: SpectralBackbone(vit(), groups=GROUPS, num_classes=3, **o)
        for name, options in BACKBONES.items()
    },
    "edited": lambda: EditedAttention(vit(), lambda attention, _: attention * 0.9),
    "prompts": lambda: under_prompts(vit()),
    "deep prompts": lambda: under_prompts(spectral(), layers=3),
    "prompts of groups apart": lambda: under_prompts(spectral(), separate=True),
    "joint prompts": lambda: under_prompts(vit(), isolate=False),
    "adapted prompts": lambda: under_prompts(spectral(), adapted=True),
    "distilled": lambda: VisionTransformerDistilled(**SIZE, num_classes=3),
    "subclass": lambda: SeesInputs(**SIZE, num_classes=3),
    "swin": lambda: SwinTransformer(
        img_size=(64, 96), patch_size=4, window_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=3
    ),
}
WHOLE_PIXELS = {"dynamic size", "adapted prompts", "distilled", "subclass", "swin"}
"""Models that are shown images all the same."""
WHOLE_BLOCK = {"mean", "attention pool", "gated attention", "edited", "distilled", "subclass", "swin"}
"""Models whose last block runs whole."""
ISOLATED = {"prompts", "deep prompts", "prompts of groups apart", "adapted prompts"}
"""Models whose last block runs for three prompts alone, beside its keys and values."""


@pytest.fixture(params=MODULES)
def built(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MODULES[request.param]()
        # Trained nets have attention far from uniform; fresh weights do not.
        for name, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.3)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1.0
    return request.param, wrap(module.double(), mean=None)


def images(model):
    shape = (2, model.channels, *model.input_size)
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()


@pytest.mark.parametrize("shown", [False, True])
def test_responses_are_those_of_whole_passes_over_pixels(built, shown):
    name, model = built
    inputs, other = images(model)
    hidden = torch.rand(5, *model.geometry.grid, generator=torch.Generator().manual_seed(2)) < 0.5
    where = patches_to_pixels(hidden, model.geometry)[:, None]
    expected = model(mixed_rows(inputs, SAMPLES, where, other if shown else None))
    assert expected.std(0).min() > 1e-3  # rows differ
    before = ModuleState.of(model.module)
    images_shown, baseline = (patch_source(model, some, model.geometry, max_rows=1) for some in (inputs, other))
    got = mixed_responses(
        model,
        images_shown,
        hidden,
        SAMPLES,
        None,
        model.geometry,
        baseline=baseline if shown else None,
        output="logits",
        max_rows=2,
    )
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)
    assert before == ModuleState.of(model.module)
    assert (patch_embedding(model.module) is None) == (name in WHOLE_PIXELS)


def test_images_are_embedded_once_a_sample(built):
    name, model = built
    if name in WHOLE_PIXELS:
        pytest.skip("shown images")
    seen = []
    inputs, _ = images(model)
    first = next(part for part in patch_embedding(model.module).modules() if isinstance(part, nn.Conv2d))
    handle = first.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    hidden = torch.zeros(5, *model.geometry.grid, dtype=torch.bool)
    shown = patch_source(model, inputs, model.geometry, max_rows=2)
    mixed_responses(model, shown, hidden, SAMPLES, TARGETS, model.geometry, max_rows=2)
    handle.remove()
    assert seen == [2, 1]  # the samples, the mean colour


def test_the_last_block_stops_at_what_is_read(built):
    name, model = built
    inputs, _ = images(model)
    expected = model(inputs)
    last = [part for path, part in model.module.named_modules() if path.endswith("mlp") and "blocks." in path][-1]
    tokens, whole = [], last.forward

    def seen(x):
        tokens.append(x.shape[1])
        return whole(x)

    last.forward = seen
    got = target_responses(model, lambda a, b: inputs[a:b], 2, None, output="logits", max_rows=2)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)
    if name in ISOLATED:
        assert tokens == [3]
    elif name == "joint prompts":
        assert tokens == [4]
    elif name in WHOLE_BLOCK:
        assert tokens[-1] > 1
    else:
        assert tokens == [1]


@pytest.mark.parametrize("kind", ["prompts", "deep prompts"])
def test_a_recording_of_a_prompted_backbone_has_every_block(kind):
    model = wrap(MODULES[kind]())
    inputs, _ = images(model)
    assert len(record(model, inputs.float()).attention) == 3


def test_a_block_whose_forward_is_replaced_already_is_left_alone():
    module = vit()
    with as_far_as_read(module):
        lean = module.blocks[-1].forward
        with as_far_as_read(module):
            assert module.blocks[-1].forward is lean
        assert module.blocks[-1].forward is lean


def test_what_was_replaced_is_put_back_after_an_error():
    model = wrap(vit().double())
    before = ModuleState.of(model.module)
    inputs, _ = images(model)
    model.module.head.register_forward_hook(lambda *_: 1 / 0)
    hooked = ModuleState.of(model.module)
    hidden, shown = torch.zeros(5, 2, 3, dtype=torch.bool), patch_source(model, inputs, model.geometry, max_rows=2)
    with pytest.raises(ZeroDivisionError):
        mixed_responses(model, shown, hidden, SAMPLES, TARGETS, model.geometry, max_rows=2)
    assert ModuleState.of(model.module) == hooked
    assert hooked.modules == before.modules


@pytest.mark.parametrize("part", ["", "patch_embed", "blocks.2", "blocks.2.attn.qkv"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_of_other_people_see_and_change_what_they_always_did(part, kind):
    model = wrap(vit().double())
    inputs, _ = images(model)
    shapes = []

    def doubled(_, args, *output):
        shapes.append([tuple(tensor.shape[1:]) for tensor in (*args, *output)])
        return 2 * output[0] if output else (2 * args[0],)

    getattr(model.module.get_submodule(part), f"register_{kind}_hook")(doubled)
    hidden = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(2)) < 0.5
    expected = model(mixed_rows(inputs, SAMPLES, patches_to_pixels(hidden, model.geometry)[:, None]))
    wanted, count = shapes[0], len(shapes)
    shown = patch_source(model, inputs, model.geometry, max_rows=2)
    got = mixed_responses(model, shown, hidden, SAMPLES, None, model.geometry, output="logits", max_rows=5)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)
    assert wanted in shapes[count:]
