"""Spectral tokens over a timm ViT: equal to the ViT where both say the same; each option by what a token may see."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, UnknownNameError, UnsupportedError, explainers
from vitxai.models.checkpoint import Checkpoint, read_checkpoint, round_to_storage, write_checkpoint
from vitxai.models.handle import wrap
from vitxai.models.load import load_model
from vitxai.models.spectral_backbone import SpectralBackbone
from vitxai.models.tape import record

GROUPS = ((4, 0), (1, 3), (2, 5))
PLACES = 6  # 2 x 3 patches

KINDS = {
    "class token": {},
    "registers": {"reg_tokens": 2, "no_embed_class": True},
    "registers with positions": {"reg_tokens": 2},
    "LayerScale": {"init_values": 0.3},
    "mean patch token": {"global_pool": "avg", "class_token": False},
    "mean patch token beside a class token": {"global_pool": "avg"},
    "norm before the blocks": {"pre_norm": True},
}


def vit(**arguments) -> VisionTransformer:
    torch.manual_seed(3)
    sizes = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    module = VisionTransformer(**{**sizes, **arguments})
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return module.eval()


def spectral(groups=GROUPS, kind="class token", **options) -> SpectralBackbone:
    module = SpectralBackbone(vit(**KINDS[kind]), groups=groups, num_classes=3, **options)
    torch.manual_seed(4)
    for parameter in (module.group_embed, module.head.weight):
        parameter.data.normal_(0, 0.5)
    return module.eval()


def images(bands=6, count=2) -> torch.Tensor:
    return torch.randn(count, bands, 8, 12, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_that_hands_rgb_through_is_the_vit_itself(kind):
    plain = vit(**KINDS[kind])
    module = spectral(((0, 1, 2),), kind)
    with torch.no_grad():
        module.patch_embed.proj[0].weight.copy_(torch.eye(3)[:, :, None, None])
        module.group_embed.zero_()
        module.head.load_state_dict(plain.head.state_dict())
    torch.testing.assert_close(module(images(3)), plain(images(3)))


def test_groups_share_positions_and_prefix_tokens():
    module, seen = spectral(kind="registers"), []
    module.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module(images())
    added = (seen[0][:, 3:] - module.patch_embed(images())).reshape(2, 3, PLACES, 16)
    torch.testing.assert_close(added[0, 2, 4], module.pos_embed[0, 4] + module.group_embed[0, 2, 0])
    prefix = torch.cat([module.cls_token, module.reg_token], dim=1)
    torch.testing.assert_close(seen[0][:, :3], prefix.expand(2, -1, -1))


@pytest.mark.parametrize("embed", ["adapter", "projection"])
@pytest.mark.parametrize(("band", "group"), [(4, 0), (3, 1), (5, 2)])
def test_a_token_sees_its_own_patch_and_bands_only(embed, band, group):
    module = spectral(embed=embed)
    touched = torch.zeros(1, 6, 8, 12)
    touched[0, band, 5, 10] = 1.0  # row 1, column 2 of the patches
    changed = (module.patch_embed(touched) != module.patch_embed(torch.zeros(1, 6, 8, 12))).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [group * PLACES + 5]


def test_adapter_and_projection_begin_as_the_patch_embedding_of_the_mean_band():
    rgb = vit().patch_embed
    for group in range(3):
        mean = images()[:, list(GROUPS[group])].mean(1, keepdim=True).expand(-1, 3, -1, -1)
        for embed in ("adapter", "projection"):
            tokens = spectral(embed=embed).patch_embed(images())[:, group * PLACES : (group + 1) * PLACES]
            torch.testing.assert_close(tokens, rgb(mean), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("embed", ["adapter", "projection"])
def test_aggregated_tokens_begin_as_those_of_the_mean_of_all_bands(embed):
    module = spectral(embed=embed, tokens="aggregated")
    mean = images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(module.patch_embed(images()), vit().patch_embed(mean), atol=1e-5, rtol=1e-5)
    assert module.geometry.groups is None
    assert module.geometry.patches == PLACES


def test_an_aggregated_token_sees_all_bands_of_its_patch_and_no_other():
    module = spectral(tokens="aggregated")
    for step in module.patch_embed.steps:
        torch.nn.init.normal_(step.proj.weight)
    inputs = images(count=1).requires_grad_()
    (slope,) = torch.autograd.grad(module.patch_embed(inputs)[0, 4].sum(), inputs)  # row 1, column 1
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert (slope[0][:, inside] != 0).all()
    assert (slope[0][:, ~inside] == 0).all()


def test_an_aggregated_group_attends_by_hand():
    # One head over one band a group: the only channel gets all attention, so a step adds the projected value.
    module = spectral(((0,), (1,)), tokens="aggregated", embed="projection").patch_embed
    step = module.steps[0]
    torch.nn.init.normal_(step.proj.weight)
    token = module.bands.tokens_of(images(2), 0)
    value = step.key_value(step.norm(token + module.band_embed[0]))[..., 16:]
    torch.testing.assert_close(step(module.queries[0], (token + module.band_embed[0])[:, :, None]), step.proj(value))


def test_every_band_is_a_token_in_order_of_the_groups():
    module = spectral(tokens="band")
    assert module.geometry.groups == ((4,), (0,), (1,), (3,), (2,), (5,))
    assert module.forward_features(images()).shape == (2, 1 + 6 * PLACES, 16)


@pytest.mark.parametrize("kind", ["class token", "registers", "mean patch token"])
@pytest.mark.parametrize("mixing", ["full", "blocks"])
def test_groups_meet_below_the_class_token_only_where_they_may(kind, mixing):
    module = spectral(kind=kind, mixing=mixing)
    prefix, touched = module.num_prefix_tokens, images(count=1)
    touched[:, list(GROUPS[1])] += 1.0
    before, after = module.forward_features(images(count=1)), module.forward_features(touched)
    changed = ((before - after).abs().amax(-1)[0] > 1e-6)[prefix:].reshape(3, PLACES).all(1)
    assert changed.tolist() == ([True] * 3 if mixing == "full" else [False, True, False])
    assert not torch.allclose(module(images(count=1)), module(touched))


def test_recorded_attention_of_blocks_stays_within_groups_and_prefix_rows_see_all():
    module = spectral(kind="registers", mixing="blocks")
    attention = record(wrap(module), images()).attention[1]
    assert attention.shape == (2, 2, 21, 21)
    patches = attention[:, :, 3:, 3:].unflatten(-1, (3, PLACES)).unflatten(2, (3, PLACES))
    across = patches.sum((3, 5))  # [B,H,3,3] between groups
    torch.testing.assert_close(across, PLACES * torch.eye(3).expand_as(across))
    assert (attention[:, :, 3:, :3] == 0).all()
    assert (attention[:, :, :3] > 0).all()


@pytest.mark.parametrize("embed", ["adapter", "projection"])
@pytest.mark.parametrize("tokens", ["group", "band", "aggregated"])
def test_a_frozen_backbone_leaves_only_new_parts_to_train(embed, tokens):
    module = spectral(embed=embed, tokens=tokens)
    module.freeze_backbone()
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    of_vit = {name for name, _ in vit().named_parameters() if not name.startswith(("head", "patch_embed"))}
    rgb = {name for name, _ in module.named_parameters() if ".rgb." in name}
    assert frozen == of_vit | rgb
    assert bool(rgb) == (embed == "adapter")
    module(images()).sum().backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


NAMES = [
    "rollout", "grad_cam", "focusvit,skip=0", "input_x_gradient", "integrated_gradients,steps=4", "attn_lrp",
    "libragrad", "chefer_lrp", "legrad", "tis,budget=4", "attcat", "occlusion,budget=8",
]  # fmt: skip
REFUSED = {("tis,budget=4", "blocks"): "only .* with mixing=full", ("chefer_lrp", "blocks"): "no mask or bias"}
VARIANTS = {
    "groups": {},
    "blocks": {"mixing": "blocks", "embed": "projection"},
    "aggregated": {"tokens": "aggregated"},
    "bands": {"tokens": "band", "kind": "registers"},
    "mean": {"kind": "mean patch token"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_ordinary_explainers_walk_it_sample_by_sample(variant):
    module = spectral(**VARIANTS[variant])
    for step in getattr(module.patch_embed, "steps", ()):
        torch.nn.init.normal_(step.proj.weight)
    model = replace(wrap(module.double()), wavelengths=tuple(range(400, 460, 10)))
    inputs = images(count=3).double()
    batch = Batch(("a", "b", "c"), inputs, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    for name in NAMES:
        explainer = explainers.create(name)
        ctx = EngineContext(seed=1, fitted=None, max_rows=8)
        if (name, variant) in REFUSED:
            with pytest.raises(UnsupportedError, match=REFUSED[name, variant]):
                explainer.explain(model, batch, ctx)
            continue
        together = explainer.explain(model, batch, ctx)
        single = explainer.explain(model, batch.select([1]), EngineContext(seed=1, fitted=None, max_rows=8))
        torch.testing.assert_close(together.native[1:2], single.native, atol=1e-9, rtol=1e-9, msg=name)
        assert torch.isfinite(together.native).all()
        if together.layout == "group_token":
            assert tuple(together.native.shape[1:]) == (6 if variant == "bands" else 3, 2, 3)


def test_a_checkpoint_holds_the_frozen_backbone_too(tmp_path):
    options = {
        "backbone": "vit_tiny_patch16_224", "num_classes": 2, "groups": ((0, 1), (2,)), "mixing": "blocks",
        "arguments": {"img_size": (8, 8), "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    }  # fmt: skip
    module = SpectralBackbone(**options).eval()
    round_to_storage(module)
    description = Checkpoint(
        "spectral_backbone", options, (8, 8), (0.0,) * 3, (1.0,) * 3, ("a", "b"), (500.0, 600.0, 900.0)
    )
    write_checkpoint(tmp_path / "model.safetensors", module, description)
    read, _ = read_checkpoint(tmp_path / "model.safetensors")
    inputs = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(read(inputs), module(inputs), rtol=0, atol=0)
    model = load_model(f"file,path={tmp_path / 'model.safetensors'}")
    assert model.geometry.groups == ((0, 1), (2,))
    assert model.wavelengths == (500.0, 600.0, 900.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("eva02_tiny_patch14_224", "rotary"),
        ("beit_base_patch16_224", "relative"),
        ("deit_tiny_distilled_patch16_224", "two class tokens"),
        ("vit_base_patch16_siglip_224", "'map'"),
        ("swin_tiny_patch4_window7_224", "windows"),
    ],
)
def test_vits_of_another_kind_are_refused_with_the_reason(name, text):
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=0)
    with pytest.raises(UnsupportedError, match=text):
        SpectralBackbone(module, groups=((0,),), num_classes=2)


def test_a_vit_without_positions_is_refused():
    with pytest.raises(UnsupportedError, match="no learned position"):
        SpectralBackbone(vit(pos_embed="none"), groups=((0,),), num_classes=2)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"embed": "adaptor"}, UnknownNameError, "adapter"),
        ({"tokens": "fused"}, UnknownNameError, "aggregated"),
        ({"tokens": "aggregated", "mixing": "blocks"}, BadInputError, "no groups"),
        ({"groups": ((0, 1), (1,))}, BadInputError, "exactly once"),
    ],
)
def test_options_that_do_not_exist_or_contradict_each_other_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        spectral(**{"groups": GROUPS, **options})


def test_an_unknown_timm_name_is_refused():
    with pytest.raises(UnknownNameError, match="vit_tiny_patch16_224"):
        SpectralBackbone("vit_tiny_patch16_225", groups=((0,),), num_classes=2)
