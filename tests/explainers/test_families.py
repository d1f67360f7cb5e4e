"""Every explainer on every family of timm ViTs: a right map, or a refusal that says what is missing.

Also what stays the same there: the row that is read, bfloat16 autocast, compiled models.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.beit import Beit
from timm.models.cait import Cait
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from timm.models.vision_transformer_relpos import ResPostRelPosBlock, VisionTransformerRelPos
from timm.models.xcit import Xcit
from torch import nn
from torch.nn.functional import interpolate, softmax

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Model, UnsupportedError, explainers
from vitxai.models.edited import EditedAttention
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
LATE = {**SIZE, "embed_dim": 32, "depth": 2}
PYRAMID = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
ROPE = {"use_rot_pos_emb": True}
EVA02 = {**ROPE, "swiglu_mlp": True, "mlp_ratio": 8 / 3}
DINOV3 = {
    **ROPE, "rope_type": "dinov3", "rope_rotate_half": True, "use_abs_pos_emb": False, "qkv_bias": False,
    "num_reg_tokens": 4, "use_fc_norm": False, "init_values": 0.5, "dynamic_img_size": True,
}  # fmt: skip
BIASED = {"use_abs_pos_emb": False, "init_values": 0.5}
PE = {**ROPE, "attn_type": "rope", "use_pre_transformer_norm": True, "attn_pool_num_heads": 2}


@dataclass(frozen=True)
class Family:
    """How to build one, and what is known of it by its papers.

    Attributes:
        rows: of the last attention map that carry the decision; None where there is no such row.
        input_size: to explain at, for models with a size of their choice.
    """

    build: Callable[[], nn.Module]
    rows: slice | None = field(default_factory=lambda: slice(0, 1))
    input_size: tuple[int, int] | None = None


PATCHES, AFTER_ONE, AFTER_FIVE, POOL = slice(0, None), slice(1, None), slice(5, None), None
FAMILIES = {
    "class_token": Family(partial(VisionTransformer, **SIZE)),
    "gap": Family(partial(VisionTransformer, **SIZE, global_pool="avg", class_token=False), PATCHES),
    "gap_with_class_token": Family(partial(VisionTransformer, **SIZE, global_pool="avg"), AFTER_ONE),
    "distilled": Family(partial(VisionTransformerDistilled, **SIZE), slice(0, 2)),
    "dinov2_reg4": Family(partial(VisionTransformer, **SIZE, reg_tokens=4, no_embed_class=True, init_values=0.5)),
    "reg1_gap": Family(
        partial(VisionTransformer, **SIZE, reg_tokens=1, class_token=False, global_pool="avg"), AFTER_ONE
    ),
    "dinov2_patch14_swiglu": Family(
        partial(
            VisionTransformer, **{**SIZE, "img_size": 42, "patch_size": 14}, init_values=0.5, mlp_layer=SwiGLUPacked,
            act_layer=nn.SiLU,
        )
    ),
    "dinov3": Family(partial(Eva, **SIZE, **DINOV3), AFTER_FIVE, (48, 40)),
    "eva02": Family(
        partial(Eva, **SIZE, **EVA02, qkv_fused=False, scale_mlp=True, scale_attn_inner=True), AFTER_ONE
    ),
    "eva_class_token": Family(partial(Eva, **SIZE, **EVA02, global_pool="token")),
    "eva_post_norm": Family(partial(Eva, **SIZE, use_post_norm=True, global_pool="token")),
    "pe_map": Family(partial(Eva, **SIZE, **PE, global_pool="map"), POOL),
    "siglip": Family(partial(VisionTransformer, **SIZE, global_pool="map", class_token=False), POOL),
    "clip": Family(
        partial(
            VisionTransformer, **SIZE, pre_norm=True, norm_layer=partial(nn.LayerNorm, eps=1e-5), act_layer="quick_gelu"
        )
    ),
    "beit": Family(partial(Beit, **SIZE, **BIASED, use_rel_pos_bias=True), AFTER_ONE),
    "beit_shared_bias": Family(partial(Beit, **SIZE, **BIASED, use_shared_rel_pos_bias=True), AFTER_ONE),
    "relpos": Family(partial(VisionTransformerRelPos, **SIZE, init_values=0.5), PATCHES),
    "relpos_class_token": Family(
        partial(
            VisionTransformerRelPos, **SIZE, rel_pos_type="bias", shared_rel_pos=True, class_token=True,
            global_pool="token",
        )
    ),
    "relpos_post_norm": Family(
        partial(VisionTransformerRelPos, **SIZE, init_values=0.5, block_fn=ResPostRelPosBlock), PATCHES
    ),
    "qk_norm": Family(partial(VisionTransformer, **SIZE, qk_norm=True)),
    "non_square": Family(partial(VisionTransformer, **{**SIZE, "img_size": (32, 48)})),
    "dynamic": Family(partial(VisionTransformer, **SIZE, dynamic_img_size=True), input_size=(48, 40)),
    "spectral": Family(partial(SpectralViT, groups=[[0, 1, 2], [3, 4]], **SIZE)),
    "parallel_scaling": Family(partial(VisionTransformer, **SIZE, block_fn=ParallelScalingBlock)),
    "parallel_things": Family(partial(VisionTransformer, **SIZE, block_fn=ParallelThingsBlock)),
    "differential": Family(partial(VisionTransformer, **SIZE, attn_layer="diff")),
    "swin": Family(partial(SwinTransformer, **PYRAMID, num_classes=5), None),
    "swin_v2": Family(partial(SwinTransformerV2, **PYRAMID, num_classes=5), None),
    "cait": Family(partial(Cait, **LATE, init_values=0.5), None),
    # As many tokens as channels a head, so that a map over channels could pass for one over tokens.
    "xcit": Family(partial(Xcit, **LATE, eta=0.5), None),
}  # fmt: skip
SWIN = {"swin", "swin_v2"}
LATE_CLASS_TOKEN = {"cait", "xcit"}
WITHOUT_ROWS = SWIN | LATE_CLASS_TOKEN
SEVERAL_MAPS_A_BLOCK = {"parallel_things", "differential"}

# Methods by what they read, with the layout of their maps; "patch" is one value a patch also where tokens have groups.
METHODS = {
    "attention": {
        "rollout": "token",
        "raw_attention": "token",
        "grad_rollout": "token",
        "ag_cam": "token",
        "chefer_generic": "token",
        "focusvit,skip=0": "token",
        "i_saw": "token",
        "attcat": "token",
        "legrad": "token",
        "legrad,score=cosine,tokens=decision": "token",
        "token_tm": "token",
        "selectivevit,threshold=0.03": "token",
        "selectivevit,threshold=0.03,map=attention": "token",
    },
    "tokens": {"skip_plus": "token", "token_gradient": "token", "tis,budget=4": "token"},
    "relevance": {
        "chefer_lrp": "token",
        "chefer_lrp,method=full": "cube",
        "attn_lrp": "cube",
        "attn_lrp,rule=cp_lrp": "cube",
        "libragrad": "cube",
        "libragrad,of=grad_cam": "token",
    },
    "cam": {
        "grad_cam": "token",
        "grad_cam_plus_plus": "token",
        "hires_cam": "token",
        "layer_cam": "token",
        "xgrad_cam": "token",
        "finer_cam": "token",
        "layer_grad_cam": "token",
        "ssa_cam": "token",
        "eigen_cam": "token",
        "diff_cam": "token",
        "score_cam,budget=4": "token",
        "ablation_cam,budget=4": "token",
    },
    "gradient": {
        "saliency": "cube",
        "input_x_gradient": "cube",
        "smooth_grad,budget=2": "cube",
        "integrated_gradients,steps=2": "cube",
        "gradient_shap,budget=2,baselines=0": "cube",
        "healed_difference,steps=2": "cube",
        "spectral_lift,of=hires_cam": "cube",
    },
    "perturbation": {
        "occlusion": "patch",
        "feature_ablation": "patch",
        "lime,features=patch,budget=6": "patch",
        "kernel_shap,segments=9,budget=16": "pixel",
        "rise,budget=6": "pixel",
        "vit_cx,budget=9": "pixel",
    },
}
LAYOUTS = {spec: layout for specs in METHODS.values() for spec, layout in specs.items()}
LEARNERS = {"focus", "prompt_cam", "intr", "protopnet", "protopformer", "sanet"}
"""Methods with a model of their own; their tests name the families that they work on."""
LEFT_OUT = {
    "precomputed", "attention_flow", "random", "center_prior", "edges", "input_magnitude", "leaf_mask", *LEARNERS,
}  # fmt: skip

TAPED = {"rollout", "raw_attention", "grad_rollout", "ag_cam", "chefer_generic", "focusvit", "i_saw"}
CHEFER = {"chefer_lrp"}
RELATIVE = {"beit", "beit_shared_bias", "relpos", "relpos_class_token", "relpos_post_norm"}
EVAS = {"dinov3", "eva02", "eva_class_token", "eva_post_norm", "pe_map"}
CAMS = {spec.split(",")[0] for spec in METHODS["cam"]}
# (methods, families, reason): everything that is refused; the rest must work. A method may stand with its options.
REFUSALS = [
    (TAPED | {"selectivevit"}, WITHOUT_ROWS, "do not lie on one grid from the first block to the last"),
    ({"attcat", "legrad", "token_tm", "skip_plus", "token_gradient"}, SWIN, "has no `blocks`"),
    ({"attcat", "legrad"}, LATE_CLASS_TOKEN, "do not lie on one grid from the first block to the last"),
    ({"token_tm"}, LATE_CLASS_TOKEN, "between attention and MLP is known for pre-norm blocks"),
    (TAPED - {"ag_cam"} | {"attcat", "token_tm"}, {"differential"}, "6 attention calls in 3 blocks"),
    (TAPED - {"ag_cam"} | {"attcat"}, {"parallel_things"}, "6 attention calls in 3 blocks"),
    ({"ag_cam"}, {"differential"}, "6 attention calls in 3 blocks"),
    ({"ag_cam"}, {"parallel_scaling", "parallel_things"}, "no `blocks` with an `attn` module each"),
    ({"legrad"}, SEVERAL_MAPS_A_BLOCK, "2 attention calls in its first 1 blocks"),
    ({"selectivevit"}, {"differential"}, "more attention calls than it has blocks"),
    ({"selectivevit,threshold=0.03"}, {"parallel_things"}, "no module 'norm1'; it has: attns, ffns"),
    ({"selectivevit,threshold=0.03,map=attention"}, {"parallel_things"}, "more attention calls than it has blocks"),
    (
        {"token_tm"},
        {"eva_post_norm", "relpos_post_norm", "parallel_scaling", "parallel_things"},
        "between attention and MLP is known for pre-norm blocks",
    ),
    (
        CAMS | {"libragrad,of=grad_cam", "spectral_lift", "vit_cx"},
        {"parallel_things"},
        "no module 'norm1'; it has: attns, ffns",
    ),
    ({"tis"}, EVAS | RELATIVE | WITHOUT_ROWS, "cannot run on some of its tokens"),
    ({"spectral_lift"}, {"spectral"}, "which tells bands apart already"),
    (CHEFER, {"dinov2_patch14_swiglu"}, "multiplies two tensors"),
    (CHEFER, EVAS - {"eva_post_norm"}, "multiplies two tensors"),
    (CHEFER, {"differential"}, "multiplies two tensors"),
    (CHEFER, {"clip"}, "no rule for 'sigmoid'"),
    (CHEFER, RELATIVE, "no mask or bias"),
    (CHEFER, {"parallel_things"}, "no rule for 'sum'"),
    ({"chefer_lrp"}, {"swin"}, "no mask or bias|no rule for 'pad'"),
    (CHEFER, {"swin_v2"}, "no call of torch's scaled_dot_product_attention|no rule for 'pad'"),
    (CHEFER, {"cait"}, "no attention row of this model carries the decision|no rule for 'matmul'"),
    (CHEFER, {"xcit"}, "a convolution of the pixels only|no rule for 'batch_norm'"),
]


def reason_to_refuse(spec: str, family: str) -> str | None:
    """The pattern of the one entry of the table, or None where the method must work."""
    found = [
        pattern
        for methods, families, pattern in REFUSALS
        if family in families and methods & {spec, spec.split(",")[0]}
    ]
    assert len(found) < 2, f"{spec} on {family} stands in the table more than once"
    return found[0] if found else None


@cache
def model_of(family: str) -> Model:
    """Random weights with which attention is far from uniform, in float64."""
    channels = 5 if family == "spectral" else 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = FAMILIES[family].build()
        for name, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.25 if name.endswith("weight") else 0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1.0
    return wrap(
        module.double().eval(),
        name=family,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        input_size=FAMILIES[family].input_size,
    )


@cache
def batch_of(family: str, size: int = 3, seed: int = 1) -> Batch:
    """Noise, part of it coarse, so that there are superpixels."""
    model = model_of(family)
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (
        torch.randn(size, model.channels, *sides, generator=generator, dtype=torch.float64)
        for sides in (model.input_size, (4, 4))
    )
    inputs = 0.3 * fine + interpolate(coarse, size=model.input_size, mode="bilinear")
    healed = inputs.clone()
    healed[:, :, 4:14, 10:20] = 0
    targets = torch.arange(size) % 5
    return Batch(tuple(f"test/{row}" for row in range(size)), inputs, targets, targets, healed=healed)


def explain(spec: str, model: Model, batch: Batch, fit: Batch, ctx: EngineContext | None = None):
    ctx = ctx or EngineContext(max_rows=7)
    method = explainers.create(spec)
    fitted = method.fit(model, replace(ctx, fit_data=lambda split, count, labels: fit)) if spec == "diff_cam" else None
    return method.explain(method.own_model(model, fitted), batch, replace(ctx, fitted=fitted))


def outcome(spec: str, family: str, contexts: list[EngineContext], rows: tuple[int, ...] = (0, 2)) -> str:
    """Why it is refused, what is wrong with its map, or nothing."""
    model, batch, fit = model_of(family), batch_of(family), batch_of(family, 6, 9)
    try:
        found = explain(spec, model, batch, fit, contexts[0])
    except UnsupportedError as refusal:
        return str(refusal)
    layout = (
        LAYOUTS[spec].replace("patch", "token") if family != "spectral" or LAYOUTS[spec] != "token" else "group_token"
    )
    native = found.native
    if found.layout != layout or found.geometry != model.geometry or native.dtype != torch.float64:
        return f"wrong: {found.layout} {native.dtype}"
    if native.requires_grad or not native.isfinite().all() or not native.std() > 0:
        return "wrong: not detached, not finite, or the same everywhere"
    for row in rows:
        alone = explain(spec, model, one(family, row), fit, contexts[1 + row]).native[0]
        error = ((alone - native[row]).abs().max() / native[row].abs().max()).item()
        if not error <= 1e-9:
            return f"wrong: sample {row} differs from its batch by {error}"
    return ""


@cache
def one(family: str, row: int) -> Batch:
    return batch_of(family).select([row])


def test_every_explainer_is_in_the_table():
    named = {spec.split(",")[0] for spec in LAYOUTS}
    assert named | LEFT_OUT == set(explainers.names())
    assert not named & LEFT_OUT
    for methods, families, _ in REFUSALS:
        assert methods <= named | set(LAYOUTS)
        assert families <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_works_or_says_what_is_missing(family):
    # Recordings are shared, as in a run.
    contexts = [EngineContext(max_rows=7), *(EngineContext(max_rows=7) for _ in range(3))]
    wrong = {}
    for spec in LAYOUTS:
        found, pattern = outcome(spec, family, contexts), reason_to_refuse(spec, family)
        if found if pattern is None else not re.search(pattern, found):
            wrong[spec] = found or f"works, though the table says: {pattern}"
    assert not wrong


@pytest.mark.parametrize("spec", METHODS["gradient"])
def test_batch_norms_of_xcit_are_differentiated_right_one_input_a_pass(spec):
    model, batch, fit = model_of("xcit"), batch_of("xcit"), batch_of("xcit", 6, 9)
    wanted = explain(spec, model, batch, fit).native
    found = torch.cat(
        [explain(spec, model, one("xcit", row), fit, EngineContext(max_rows=1)).native for row in range(3)]
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 * wanted.abs().max().item())


def test_attention_flow_with_rotary_embedding():
    model = model_of("eva_class_token")
    found = explain("attention_flow", model, one("eva_class_token", 0), batch_of("eva_class_token")).native
    assert found.shape == (1, 4, 4)
    assert found.min() > 0
    assert found.sum() < 1, "the class token takes its share"


def test_parallel_blocks_can_be_explained_by_the_norm_that_they_share():
    """The methods that look for ``norm1`` or ``attn`` have an option for blocks that have neither."""
    model, batch = model_of("parallel_scaling"), batch_of("parallel_scaling")
    ctx = EngineContext(max_rows=7)
    by_default, by_name = (
        explain(s, model, batch, batch, ctx).native for s in ("grad_cam", "grad_cam,layer=blocks.2.in_norm")
    )
    assert torch.equal(by_default, by_name)
    assert explain("ag_cam,detach_attention_input=false", model, batch, batch, ctx).native.any()


@pytest.mark.parametrize("family", ["eva_post_norm", "relpos_post_norm"])
def test_behind_post_norm_attention_cams_read_what_goes_into_the_last_block(family):
    model, batch = model_of(family), batch_of(family)
    assert torch.equal(
        explain("grad_cam", model, batch, batch).native, explain("grad_cam,layer=blocks.1", model, batch, batch).native
    )


# The row that is read.

# Without the methods that read more by their formula: attcat and legrad all rows, token_tm the lengths of all tokens.
READ_THE_DECISION = [
    "rollout", "raw_attention", "grad_rollout", "ag_cam", "chefer_generic", "focusvit,skip=0", "i_saw",
]  # fmt: skip
WITH_A_LAST_ROW = [
    family
    for family, known in FAMILIES.items()
    if known.rows is not None and family not in SEVERAL_MAPS_A_BLOCK | {"parallel_scaling"}
]


def last_attention(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [B,H,N,N] of the last block and the target logits' gradient, by a hook on the unfused model."""
    module = copy.deepcopy(model.module)
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    kept = []
    module.blocks[-1].attn.attn_drop.register_forward_hook(lambda _, __, output: kept.append(output.requires_grad_()))
    total = module(batch.inputs).gather(1, batch.targets[:, None]).sum()
    return kept[0].detach(), torch.autograd.grad(total, kept[0])[0]


@pytest.mark.parametrize("family", WITH_A_LAST_ROW)
def test_the_row_read_is_the_one_that_the_logit_hangs_on(family):
    model, batch = model_of(family), batch_of(family)
    attention, gradient = last_attention(model, batch)
    tokens, patches = attention.shape[-1], model.geometry.patches
    decisive = gradient.abs().sum((0, 1, 3)).nonzero().flatten().tolist()
    assert decisive == list(range(tokens))[FAMILIES[family].rows]
    found = explain("raw_attention", model, batch, batch).native.flatten(1)
    torch.testing.assert_close(found, attention[:, :, decisive, -patches:].mean((1, 2)), rtol=1e-9, atol=1e-12)
    if decisive != [0]:
        assert not torch.allclose(found, attention[:, :, 0, -patches:].mean(1), rtol=1e-2)


@pytest.mark.parametrize("family", ["siglip", "pe_map"])
def test_the_row_read_with_an_attention_pool_is_that_of_its_query(family):
    model, batch = model_of(family), batch_of(family)
    module, patches = model.module, model.geometry.patches
    pool = module.attn_pool
    tokens = module.forward_features(batch.inputs)
    width, heads = tokens.shape[-1], pool.num_heads
    query = pool.q(pool.latent)[0, 0].view(heads, -1)
    keys = pool.kv(tokens)[..., :width].unflatten(-1, (heads, -1))
    rows = softmax(torch.einsum("hd,bnhd->bhn", query, keys) * (width // heads) ** -0.5, -1)
    found = explain("raw_attention", model, batch, batch).native.flatten(1)
    torch.testing.assert_close(found, rows.mean(1)[:, -patches:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["class_token", "distilled", "dinov2_reg4", "reg1_gap", "eva02", "dinov3", "beit"])
def test_rows_that_the_decision_does_not_read_do_not_matter(family):
    model, batch = model_of(family), batch_of(family)
    tokens, blocks = model.geometry.tokens, len(model.module.blocks)
    read = list(range(tokens))[FAMILIES[family].rows]
    unread = sorted(set(range(tokens)) - set(read))
    assert unread

    def with_rows_reversed(rows: list[int]) -> Model:
        def edit(attention, layer):
            changed = attention.clone()
            changed[:, :, rows] = changed[:, :, rows].flip(-1)
            return changed if layer == blocks - 1 else attention

        return replace(model, module=EditedAttention(model.module, edit).eval())

    same, other = with_rows_reversed(unread), with_rows_reversed(read)
    torch.testing.assert_close(same(batch.inputs), model(batch.inputs), rtol=1e-12, atol=1e-12)
    for spec in READ_THE_DECISION:
        wanted = explain(spec, model, batch, batch).native
        scale = wanted.abs().max().item()
        torch.testing.assert_close(
            explain(spec, same, batch, batch).native, wanted, rtol=0, atol=1e-11 * scale, msg=spec
        )
        assert (explain(spec, other, batch, batch).native - wanted).abs().max() > 1e-3 * scale, spec


# bfloat16 autocast around a float32 model.

# Lowest correlation with the float32 map, and largest error as a share of its largest value. Measured on two batches of
# twelve families: attention 0.9984 and 0.06, tokens 0.9985 and 0.09, relevance 0.9998 and 0.04, CAMs 0.9988 and 0.07,
# gradients 0.9987 and 0.16, perturbations 0.983 and 0.19; but for ssa_cam (0.99 and 0.36) and perturbations of the tiny
# XCiT, whose logits hardly answer to a patch.
AUTOCAST = {
    "attention": (0.997, 0.1),
    "tokens": (0.997, 0.12),
    "relevance": (0.999, 0.06),
    "cam": (0.997, 0.12),
    "gradient": (0.997, 0.2),
    "perturbation": (0.98, 0.25),
}
# What a rounding turns over: clusters and thresholds (tis, vit_cx, selectivevit), quotients of sums that cancel
# (xgrad_cam, chefer_lrp), an inverse covariance (diff_cam), exponentials of logits (score_cam), and drops of logits by
# less than they are rounded (ablation_cam).
ROUGH = {"tis", "vit_cx", "selectivevit", "xgrad_cam", "chefer_lrp", "diff_cam", "score_cam", "ablation_cam"}


def in_float32(model: Model, batch: Batch) -> tuple[Model, Batch]:
    floats = {
        f.name: value.float()
        for f in fields(batch)
        if isinstance(value := getattr(batch, f.name), torch.Tensor) and value.is_floating_point()
    }
    return replace(model, module=copy.deepcopy(model.module).float()), replace(batch, **floats)


@pytest.mark.parametrize("family", ["class_token", "dinov3", "siglip", "swin"])
def test_bfloat16_autocast_gives_the_same_maps(family):
    model, batch = in_float32(model_of(family), batch_of(family))
    _, fit = in_float32(model, batch_of(family, 6, 9))
    plain, cast = EngineContext(max_rows=7), EngineContext(max_rows=7)
    wrong = {}
    for group, specs in METHODS.items():
        for spec in specs:
            if reason_to_refuse(spec, family):
                continue
            wanted = explain(spec, model, batch, fit, plain).native.flatten(1)
            try:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    found = explain(spec, model, batch, fit, cast).native.flatten(1)
            except UnsupportedError as refusal:
                if "more than the rounding of torch.bfloat16 logits" not in str(refusal):
                    wrong[spec] = str(refusal)
                continue
            # What is read from a pass is of the pass's precision, and so is the map that is made of it.
            if found.dtype not in (torch.float32, torch.bfloat16) or not found.isfinite().all():
                wrong[spec] = f"{found.dtype}, or not finite"
            # An image of one superpixel has the same value everywhere.
            pairs = [pair for pair in zip(found.float(), wanted, strict=True) if pair[1].std() > 0]
            agree = min(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs)
            error = ((found.float() - wanted).abs().amax(1) / wanted.abs().amax(1)).max().item()
            if spec.split(",")[0] not in ROUGH and not (agree >= AUTOCAST[group][0] and error <= AUTOCAST[group][1]):
                wrong[spec] = f"correlation {agree}, error {error}"
    assert not wrong


# Compiled models.

# Methods that only call the model; two of each of the two ways to do so (a third compiles for the same calls again).
ONLY_CALL = {spec for group in ("gradient", "perturbation") for spec in METHODS[group]} - {
    "spectral_lift,of=hires_cam", "vit_cx,budget=9",
}  # fmt: skip
CALLED = {"saliency", "integrated_gradients,steps=2", "occlusion", "rise,budget=6"}


@pytest.fixture(scope="module", params=["wrapped", "in place"])
def compiled(request):
    """A model handle around a compiled module, which ``wrap`` would refuse; nothing is compiled but for tracing."""
    model = model_of("class_token")
    if request.param == "wrapped":
        yield replace(model, module=torch.compile(model.module, backend="eager"))
    else:
        module = copy.deepcopy(model.module)
        module.compile(backend="eager")
        yield replace(model, module=module)
    torch._dynamo.reset()


def test_a_compiled_module_is_refused_as_a_model(compiled):
    with pytest.raises(UnsupportedError, match=r"is compiled and cannot be recorded; pass the module itself"):
        wrap(compiled.module)


def test_compiled_models_are_explained_right_or_refused_as_such(compiled):
    batch, fit = batch_of("class_token"), batch_of("class_token", 6, 9)
    wrong = {}
    for spec in LAYOUTS:
        if spec in ONLY_CALL - CALLED:
            continue
        try:
            found = explain(spec, compiled, batch, fit).native
        except UnsupportedError as refusal:
            if spec in ONLY_CALL or "is compiled and cannot be recorded; pass the module itself" not in str(refusal):
                wrong[spec] = str(refusal)
            continue
        wanted = explain(spec, model_of("class_token"), batch, fit).native
        if spec not in ONLY_CALL or (found - wanted).abs().max() > 1e-9 * wanted.abs().max():
            wrong[spec] = f"differs by {(found - wanted).abs().max()}"
    assert not wrong


def test_relevance_of_a_compiled_model_is_refused():
    model, batch = model_of("class_token"), batch_of("class_token")
    module = copy.deepcopy(model.module)
    # What module.compile() sets, without the wait for a trace.
    module._compiled_call_impl = module._call_impl
    with pytest.raises(UnsupportedError, match="is compiled and cannot be recorded"):
        explain("chefer_lrp", replace(model, module=module), batch, batch)
