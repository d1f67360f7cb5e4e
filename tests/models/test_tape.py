"""The tape records what the model computes, and leaves nothing behind."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import DiffAttention, ParallelThingsBlock, VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn
from torch.nn import functional as F

from vitxai.bench.contract import BadInputError, UnknownNameError, UnsupportedError
from vitxai.models.handle import wrap
from vitxai.models.tape import EditedAttention, record

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
TARGETS = torch.tensor([3, 0, 4])

FAMILIES = {
    "vit": lambda: VisionTransformer(**SMALL),
    "vit_avg": lambda: VisionTransformer(**SMALL, global_pool="avg"),
    "no_class_token": lambda: VisionTransformer(**SMALL, global_pool="avg", class_token=False),
    "reg4": lambda: VisionTransformer(**SMALL, reg_tokens=4, init_values=0.1),
    "reg1_gap": lambda: VisionTransformer(**SMALL, global_pool="avg", class_token=False, reg_tokens=1),
    "siglip": lambda: VisionTransformer(**SMALL, global_pool="map", class_token=False),
    "clip": lambda: VisionTransformer(**SMALL, pre_norm=True),
    "qk_norm": lambda: VisionTransformer(**SMALL, qk_norm=True, scale_attn_norm=True, norm_layer=nn.LayerNorm),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    "eva": lambda: Eva(**SMALL, use_rot_pos_emb=True),
    "dinov3": lambda: Eva(**SMALL, use_rot_pos_emb=True, num_reg_tokens=4, qkv_bias=False, use_abs_pos_emb=False),
    "beit": lambda: Beit(**SMALL, use_rel_pos_bias=True, use_abs_pos_emb=False),
    "relpos": lambda: VisionTransformerRelPos(**SMALL),
}


def small_model(family="vit", dtype=torch.float32):
    torch.manual_seed(0)
    module = FAMILIES[family]()
    with torch.no_grad():
        for parameter in module.parameters():  # lively weights: fresh ones make attention nearly uniform
            parameter.add_(0.2 * torch.randn_like(parameter))
    return wrap(module.to(dtype))


def images(count=3, dtype=torch.float32):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


def unfused(model):
    for part in model.module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return model


def by_hooks(model, inputs, targets):
    """Independent reference: timm's unfused path, a hook on each attention dropout, autograd to the input."""
    maps = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: maps.append(output))
        for name, part in unfused(model).module.named_modules()
        if name.endswith("attn_drop")
    ]
    logits = model(inputs.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps)
    return logits, maps, gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_gradients_equal_those_of_hooks_on_the_unfused_model(family):
    model, x = small_model(family, torch.float64), images(dtype=torch.float64)
    tape = record(model, x, TARGETS, gradients=True)
    logits, maps, gradients = by_hooks(model, x, TARGETS)
    torch.testing.assert_close(tape.logits, logits, atol=1e-12, rtol=1e-10)
    assert len(tape.attention) == len(maps) == 2
    for recorded, reference in zip(tape.attention, maps, strict=True):
        torch.testing.assert_close(recorded, reference, atol=1e-12, rtol=1e-10)
    for recorded, reference in zip(tape.attention_gradients, gradients, strict=True):
        torch.testing.assert_close(recorded, reference, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_unchanged(family, fused):
    model = small_model(family) if fused else unfused(small_model(family))
    tape = record(model, images(), TARGETS, gradients=True)
    torch.testing.assert_close(tape.logits, model(images()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_have_one_row_and_column_a_token_and_rows_sum_to_one(family):
    model = small_model(family)
    tape = record(model, images())
    tokens = model.geometry.tokens
    assert len(tape.attention) == SMALL["depth"]
    for attention in tape.attention:
        assert attention.shape == (3, 2, tokens, tokens)
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, tokens))


def test_scores_are_the_input_of_the_softmax_and_values_what_attention_weighs():
    model = small_model()
    tape = record(model, images(), scores=True, values=True)
    block = model.module.blocks[0].attn
    tokens = model.module.blocks[0].norm1(model.module._pos_embed(model.module.patch_embed(images())))
    q, k, v = block.qkv(tokens).reshape(3, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(tape.scores[0], q @ k.transpose(-2, -1) / 4)
    torch.testing.assert_close(tape.values[0], v)
    torch.testing.assert_close(tape.scores[1].softmax(-1), tape.attention[1])


def test_scores_of_beit_hold_the_position_bias():
    tape = record(small_model("beit"), images(), scores=True)
    torch.testing.assert_close(tape.scores[0].softmax(-1), tape.attention[0])


def test_eva_pools_patches_so_the_class_row_of_the_last_block_has_no_gradient():
    tape = record(small_model("eva"), images(), TARGETS, gradients=True)
    assert tape.attention_gradients[-1][:, :, 0].abs().max() == 0
    assert tape.attention_gradients[-1][:, :, 1:].abs().max() > 0


def test_attention_pool_is_recorded_apart_from_the_blocks():
    model = small_model("siglip")
    tape = record(model, images(), TARGETS, gradients=True)
    assert tape.pool_attention.shape == tape.pool_attention_gradient.shape == (3, 2, 1, 16)
    torch.testing.assert_close(tape.pool_attention.sum(-1), torch.ones(3, 2, 1))
    assert tape.pool_attention_gradient.abs().max() > 0


def test_attention_pool_pays_no_attention_to_prefix_tokens_that_it_leaves_out():
    torch.manual_seed(0)
    model = wrap(VisionTransformer(**SMALL, global_pool="map", class_token=False, reg_tokens=2))
    pool = record(model, images()).pool_attention
    assert pool.shape[-1] == model.geometry.tokens == 18
    assert (pool[..., :2] == 0).all()


def test_activations_and_their_gradients_equal_those_of_a_hook():
    model, x = small_model(dtype=torch.float64), images(dtype=torch.float64)
    tape = record(model, x, TARGETS, activations=("blocks.0.norm1", "blocks.1.norm1"), gradients=True)
    seen = {}
    hook = model.module.blocks[1].norm1.register_forward_hook(lambda _, __, output: seen.update(output=output))
    logits = model(x.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), seen["output"])
    torch.testing.assert_close(tape.activations["blocks.1.norm1"], seen["output"], atol=1e-12, rtol=0)
    torch.testing.assert_close(tape.activation_gradients["blocks.1.norm1"], gradient, atol=1e-12, rtol=0)
    assert list(tape.activations) == list(tape.activation_gradients) == ["blocks.0.norm1", "blocks.1.norm1"]


def test_activation_gradients_alone_are_those_recorded_with_attention():
    model = small_model()
    alone = record(model, images(), TARGETS, attention=False, activations=("blocks.1.norm1",), gradients=True)
    joint = record(model, images(), TARGETS, activations=("blocks.1.norm1",), gradients=True)
    assert alone.attention == ()
    torch.testing.assert_close(alone.activation_gradients, joint.activation_gradients)


@pytest.mark.parametrize(("attention", "activations"), [(True, ()), (False, ("blocks.1.norm1",))])
def test_the_graph_begins_at_the_first_recorded_tensor(attention, activations):
    model, needs_gradient = small_model(), {}
    for name in ("patch_embed", "blocks.0", "blocks.1.mlp"):
        model.module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: needs_gradient.update({name: output.requires_grad})
        )
    record(model, images(), TARGETS, attention=attention, activations=activations, gradients=True)
    assert needs_gradient == {"patch_embed": False, "blocks.0": attention, "blocks.1.mlp": True}


def test_an_identity_module_hands_out_no_callers_tensor():
    x = images()
    tape = record(small_model(), x, TARGETS, attention=False, activations=("patch_embed.norm",), gradients=True)
    assert tape.activation_gradients["patch_embed.norm"].abs().max() > 0
    assert not x.requires_grad


def test_detached_attention_input_leaves_the_residual_stream_as_the_only_way_back():
    """Reference: the same detachment written into the forward pass of timm's block (AG-CAM's own ViT)."""
    model, x = small_model(dtype=torch.float64), images(dtype=torch.float64)
    tape = record(model, x, TARGETS, gradients=True, detach_attention_input=True)
    maps = []
    hidden = model.module._pos_embed(model.module.patch_embed(x))
    for block in model.module.blocks:
        q, k, v = block.attn.qkv(block.norm1(hidden).detach()).reshape(3, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        maps.append((q @ k.transpose(-2, -1) / 4).softmax(-1).requires_grad_())
        hidden = hidden + block.attn.proj((maps[-1] @ v).transpose(1, 2).reshape(3, 17, 32))
        hidden = hidden + block.mlp(block.norm2(hidden))
    logits = model.module.head(model.module.norm(hidden)[:, 0])
    gradients = torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), maps)
    for recorded, reference in zip(tape.attention_gradients, gradients, strict=True):
        torch.testing.assert_close(recorded, reference, atol=1e-12, rtol=1e-9)
    full = record(model, x, TARGETS, gradients=True)
    assert not torch.allclose(full.attention_gradients[0], tape.attention_gradients[0])


def test_a_batch_of_eight_equals_eight_singles():
    model, x = small_model(dtype=torch.float64), images(8, torch.float64)
    targets = torch.arange(8) % 5
    whole = record(model, x, targets, gradients=True)
    for row in range(8):
        single = record(model, x[row : row + 1], targets[row : row + 1], gradients=True)
        for layer in range(2):
            torch.testing.assert_close(single.attention[layer][0], whole.attention[layer][row], atol=1e-9, rtol=0)
            torch.testing.assert_close(
                single.attention_gradients[layer][0], whole.attention_gradients[layer][row], atol=1e-9, rtol=0
            )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_recorded_under_any_grad_mode_of_the_caller(mode):
    model = small_model()
    expected = record(model, images(), TARGETS, gradients=True)
    with mode():
        tape = record(model, images() + 0, TARGETS, gradients=True)
    torch.testing.assert_close(tape.attention_gradients, expected.attention_gradients)
    assert not tape.logits.is_inference()
    assert not tape.attention_gradients[0].is_inference()


def test_bfloat16_is_recorded_in_bfloat16():
    model = small_model(dtype=torch.bfloat16)
    tape = record(model, images(dtype=torch.bfloat16), TARGETS, gradients=True)
    exact = record(small_model(), images())
    assert tape.attention[0].dtype == tape.attention_gradients[0].dtype == torch.bfloat16
    torch.testing.assert_close(tape.attention[0].float(), exact.attention[0], atol=0.03, rtol=0)


def test_gradient_checkpointing_does_not_record_twice():
    model = small_model()
    expected = record(model, images(), TARGETS, gradients=True)
    model.module.set_grad_checkpointing(True)
    tape = record(model, images(), TARGETS, gradients=True)
    assert model.module.grad_checkpointing
    torch.testing.assert_close(tape.attention_gradients, expected.attention_gradients)


def hooks_of(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    model = small_model()
    model.module.blocks[0].attn.fused_attn = False
    x = images().requires_grad_()
    before = ({k: v.clone() for k, v in model.module.state_dict().items()}, torch.get_rng_state(), x.detach().clone())
    request = {"activations": ("blocks.0.norm1",), "gradients": True, "detach_attention_input": True}
    if fails:
        with pytest.raises(RuntimeError, match="edit"):
            record(model, x, TARGETS, edit=raising, **request)
    else:
        record(model, x, TARGETS, **request)
    assert hooks_of(model.module) == 0
    assert [block.attn.fused_attn for block in model.module.blocks] == [False, True]
    assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
    assert not any(part.training for part in model.module.modules())
    torch.testing.assert_close(model.module.state_dict(), before[0], atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), before[1])
    assert x.grad is None
    assert torch.equal(x.detach(), before[2])
    assert F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 2, 2)).shape == (1, 1, 2, 2)
    assert not torch._C._len_torch_function_stack()


def raising(attention, layer):
    raise RuntimeError("edit failed")


def test_edit_changes_the_attention_used_and_recorded():
    model = small_model()
    uniform = record(model, images(), edit=lambda attention, layer: torch.full_like(attention, 1 / 17))
    assert torch.equal(uniform.attention[1], torch.full((3, 2, 17, 17), 1 / 17))
    assert not torch.allclose(uniform.logits, model(images()))
    same = record(model, images(), edit=lambda attention, layer: attention)
    torch.testing.assert_close(same.logits, model(images()), atol=1e-5, rtol=0)


def test_edit_is_told_the_block():
    layers = []
    record(small_model("siglip"), images(), edit=lambda attention, layer: layers.append(layer) or attention)
    assert layers == [0, 1]


def halve_first_block(attention, layer):
    return attention / 2 if layer == 0 else attention


def test_edited_attention_is_a_model_of_its_own():
    model = small_model()
    edited = replace(model, module=EditedAttention(model.module, halve_first_block))
    expected = record(model, images(), edit=halve_first_block)
    torch.testing.assert_close(edited(images()), expected.logits)
    torch.testing.assert_close(edited(images()[:1]), expected.logits[:1])
    assert not torch.allclose(edited(images()), model(images()))
    tape = record(edited, images(), TARGETS, gradients=True, activations=("blocks.1.norm1",))
    torch.testing.assert_close(tape.attention, expected.attention)
    twice = EditedAttention(edited.module, halve_first_block)
    torch.testing.assert_close(record(replace(model, module=twice), images()).attention[0], expected.attention[0] / 2)


def test_edited_attention_passes_for_the_vit_that_it_wraps():
    module = small_model().module
    edited = EditedAttention(module, halve_first_block)
    assert edited.num_prefix_tokens == 1
    assert edited.blocks is module.blocks
    assert edited.geometry == wrap(module).geometry == wrap(edited).geometry
    with pytest.raises(AttributeError, match="no_such"):
        edited.no_such  # noqa: B018


def test_edited_attention_is_differentiable_in_its_input():
    edited = EditedAttention(small_model().module, halve_first_block)
    x = images().requires_grad_()
    edited(x).sum().backward()
    assert x.grad.abs().max() > 0


class NoAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 5)

    def forward(self, x):
        return self.head(x.flatten(1))


class TestRefusals:
    @pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "cait_xxs24_224", "xcit_nano_12_p16_224"])
    def test_families_without_one_map_a_block(self, name):
        with torch.device("meta"):
            module = timm.create_model(name)
        model = wrap(VisionTransformer(**SMALL))
        with pytest.raises(UnsupportedError, match=f"{type(module).__name__} do not lie on one grid"):
            record(replace(model, module=module, geometry=None), images())

    def test_no_attention_call_at_all(self):
        geometry = small_model().geometry
        model = wrap(NoAttention(), geometry=geometry)
        with pytest.raises(UnsupportedError, match="NoAttention made no call"):
            record(model, images())
        with pytest.raises(UnsupportedError, match="NoAttention made no call"):
            EditedAttention(model.module, halve_first_block)(images())

    @pytest.mark.parametrize("arguments", [{"block_fn": ParallelThingsBlock}, {"attn_layer": DiffAttention}])
    def test_more_than_one_call_a_block(self, arguments):
        model = wrap(VisionTransformer(**SMALL, **arguments))
        with pytest.raises(UnsupportedError, match="4 attention calls in 2 blocks"):
            record(model, images())

    def test_another_input_size_than_the_geometry(self):
        model = wrap(VisionTransformer(**SMALL, dynamic_img_size=True))
        with pytest.raises(UnsupportedError, match="counts 17 tokens"):
            record(model, torch.zeros(1, 3, 64, 64))

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*")
    def test_compiled_and_scripted_modules(self):
        model = small_model()
        with pytest.raises(UnsupportedError, match="compiled"):
            record(replace(model, module=torch.compile(model.module)), images())
        with pytest.raises(UnsupportedError, match="scripted"):
            record(replace(model, module=torch.jit.trace(nn.Identity(), images())), images())

    def test_training_mode_with_dropout(self):
        model = wrap(VisionTransformer(**SMALL, attn_drop_rate=0.5))
        model.module.train()
        with pytest.raises(UnsupportedError, match="eval mode"):
            record(model, images())

    def test_unpooled_outputs(self):
        module = VisionTransformer(**SMALL, global_pool="")
        with pytest.raises(UnsupportedError, match="not logits"):
            record(wrap(module), images(), attention=False, activations=("norm",))

    @pytest.mark.parametrize("targets", [None, torch.tensor([0]), torch.tensor([0, 1, 5]), torch.tensor([-1, 0, 0])])
    def test_targets(self, targets):
        with pytest.raises(BadInputError, match="target"):
            record(small_model(), images(), targets, gradients=True)

    def test_gradients_of_nothing(self):
        with pytest.raises(BadInputError, match="gradients of what"):
            record(small_model(), images(), TARGETS, attention=False, gradients=True)

    def test_unknown_module_names_a_close_one(self):
        with pytest.raises(UnknownNameError, match=r"Did you mean blocks\.1\.norm2 or blocks\.1\.norm1"):
            record(small_model(), images(), activations=("blocks.1.norm3",))

    def test_module_that_does_not_run(self):
        model = small_model()
        model.module.spare = nn.Identity()
        with pytest.raises(UnsupportedError, match="spare"):
            record(model, images(), activations=("spare",))

    def test_module_that_runs_twice(self):
        model = small_model()
        model.module.blocks[1] = model.module.blocks[0]
        with pytest.raises(UnsupportedError, match="more than once"):
            record(model, images(), activations=("blocks.0",))

    def test_module_that_gives_no_tensor(self):
        class Pair(nn.Module):
            def forward(self, x):
                return x, x

        class First(nn.Module):
            def __init__(self):
                super().__init__()
                self.pair = Pair()

            def forward(self, x):
                return self.pair(x)[0].flatten(1)

        model = wrap(First(), mean=(0.0,) * 3, input_size=(32, 32))
        with pytest.raises(UnsupportedError, match="'pair' gives tuple"):
            record(model, images(), attention=False, activations=("pair",))

    def test_inputs_that_are_not_finite(self):
        x = images()
        x[0, 0, 0, 0] = float("nan")
        with pytest.raises(BadInputError, match="finite"):
            record(small_model(), x)

    def test_detaching_without_attention_modules(self):
        model = wrap(NoAttention(), geometry=small_model().geometry)
        with pytest.raises(UnsupportedError, match="no `blocks`"):
            record(model, images(), detach_attention_input=True)


@pytest.mark.parametrize("masked", ["causal", "boolean", "additive", "grouped"])
def test_explicit_attention_equals_the_fused_kernel(masked):
    from vitxai.models.interception import AttentionCalls

    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=g, dtype=torch.float64)
    arguments = {
        "causal": {"is_causal": True, "scale": 0.3},
        "boolean": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril(1)},
        "additive": {"attn_mask": torch.randn(5, 5, generator=g, dtype=torch.float64)},
        "grouped": {"enable_gqa": True},
    }[masked]
    if masked == "grouped":
        k, v = k[:, :2], v[:, :2]
    expected = F.scaled_dot_product_attention(q, k, v, **arguments)
    with AttentionCalls(keep=True) as calls:
        explicit = F.scaled_dot_product_attention(q, k, v, **arguments)
    torch.testing.assert_close(explicit, expected)
    assert calls.attention[0].shape == (2, 4, 5, 5)
