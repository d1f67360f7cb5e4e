"""Perturbed inputs by row range, and the building blocks that make them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract import BadInputError, TokenGeometry
from vitxai.bench.profile import count_passes
from vitxai.models.handle import wrap
from vitxai.models.perturb import (
    blurred,
    mean_colour,
    mixed_rows,
    patches_to_pixels,
    replace_pixels,
    rows_within,
    target_responses,
)


def small_model(dtype=torch.float32):
    torch.manual_seed(0)
    module = VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=4)
    return wrap(module.to(dtype))


MODEL = small_model()
INPUTS = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1, 2])


def rows(start, stop):
    return INPUTS[start:stop]


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("output", ["logit", "probability", "logits"])
def test_responses_are_those_of_one_pass_whatever_the_chunk(output, max_rows):
    logits = MODEL(INPUTS)
    index = torch.arange(7)
    expected = {"logit": logits[index, TARGETS], "probability": logits.softmax(1)[index, TARGETS], "logits": logits}
    responses = target_responses(MODEL, rows, 7, TARGETS, output=output, max_rows=max_rows)
    torch.testing.assert_close(responses, expected[output], atol=1e-6, rtol=1e-5)


def test_ranges_are_asked_for_in_order_within_max_rows():
    asked = []
    target_responses(MODEL, lambda a, b: asked.append((a, b)) or rows(a, b), 7, TARGETS, max_rows=3)
    assert asked == [(0, 3), (3, 6), (6, 7)]


def test_passes_and_rows_are_counted():
    with count_passes(MODEL.module) as count:
        target_responses(MODEL, rows, 7, TARGETS, max_rows=3)
    assert (count.calls, count.forwards) == (3, 7)
    assert not MODEL.module._forward_pre_hooks


def test_the_model_runs_in_inference_mode_and_responses_may_enter_a_graph():
    modes = []
    hook = MODEL.module.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    responses = target_responses(MODEL, rows, 7, TARGETS, max_rows=4)
    hook.remove()
    assert modes == [True, True]
    weight = torch.ones((), requires_grad=True)
    (weight * responses).sum().backward()
    torch.testing.assert_close(weight.grad, responses.sum())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_responses_are_at_least_float32(dtype, expected):
    model = small_model(dtype)
    responses = target_responses(
        model, lambda a, b: INPUTS[a:b].to(dtype), 7, TARGETS, output="probability", max_rows=7
    )
    assert responses.dtype == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"targets": None}, "one target a row"),
        ({"targets": TARGETS[:3]}, r"shape \(7,\), not \(3,\)"),
        ({"rows": 0}, "at least 1"),
        ({"max_rows": 0}, "at least 1"),
        ({"build": lambda a, b: INPUTS[a : b + 1]}, r"build\(0, 4\) gave 5 inputs, not 4"),
        ({"build": lambda a, b: INPUTS[a:b] * float("nan")}, r"rows \[0, 1, 2, 3, 4\] is not finite"),
    ],
)
def test_bad_requests_are_refused(change, text):
    request = {"build": rows, "rows": 7, "targets": TARGETS, "max_rows": 4, **change}
    with pytest.raises(BadInputError, match=text):
        target_responses(MODEL, **request)


GEOMETRY = TokenGeometry(grid=(2, 3), prefix=1, pooling="token", image_size=(4, 6), channels=3)


def test_each_pixel_gets_the_value_of_its_patch():
    patches = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert patches_to_pixels(patches, GEOMETRY).tolist() == [
        [[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6], [4, 4, 5, 5, 6, 6]]
    ]
    assert patches_to_pixels(patches > 3, GEOMETRY).dtype == torch.bool
    assert patches_to_pixels(torch.zeros(2, 5, 2, 3), GEOMETRY).shape == (2, 5, 4, 6)


def test_patch_values_of_another_grid_are_refused():
    with pytest.raises(BadInputError, match=r"end in shape \(2, 3\), not \(3, 2\)"):
        patches_to_pixels(torch.zeros(1, 3, 2), GEOMETRY)


def test_pixels_are_replaced_in_all_channels_where_the_mask_holds():
    inputs, baseline = torch.ones(2, 3, 2, 2), torch.full((2, 3, 2, 2), 5.0)
    where = torch.tensor([[[True, False], [False, False]], [[False, False], [False, True]]])
    replaced = replace_pixels(inputs, where, baseline)
    assert replaced[0, 1].tolist() == [[5, 1], [1, 1]]
    assert replaced[1, 2].tolist() == [[1, 1], [1, 5]]
    assert inputs.sum() == 24
    assert torch.equal(replace_pixels(inputs, where[:, None].expand(-1, 3, -1, -1), baseline), replaced)


@pytest.mark.parametrize("channels_apart", [False, True])
def test_mixed_rows_are_replaced_pixels_of_each_rows_sample(channels_apart):
    generator = torch.Generator().manual_seed(4)
    inputs, baseline = torch.randn(2, 3, 2, 5, 7, generator=generator).unbind()
    samples = torch.tensor([0, 0, 2, 2, 2, 1])
    shape = (6, 2, 5, 7) if channels_apart else (6, 1, 5, 7)
    where = torch.rand(shape, generator=generator) < 0.5
    wanted = replace_pixels(inputs[samples], where, baseline[samples])
    assert torch.equal(mixed_rows(inputs, samples, where, baseline), wanted)
    grey = replace_pixels(inputs[samples], where, torch.zeros_like(wanted))
    assert torch.equal(mixed_rows(inputs, samples, where), grey)


def test_the_mean_colour_is_zero_in_normalised_space():
    assert torch.equal(mean_colour(INPUTS), torch.zeros_like(INPUTS))


def test_blur_equals_scipys_gaussian_filter():
    expected = gaussian_filter(INPUTS.double().numpy(), (0, 0, 1.5, 1.5), mode="mirror", radius=(0, 0, 4, 4))
    np.testing.assert_allclose(blurred(INPUTS.double(), 1.5).numpy(), expected, atol=1e-12)


def test_blur_leaves_a_constant_image_alone():
    torch.testing.assert_close(blurred(torch.full((1, 2, 16, 16), 3.0), 2.0), torch.full((1, 2, 16, 16), 3.0))


@pytest.mark.parametrize("sigma", [0.0, -1.0, 6.0])
def test_blurs_that_do_not_fit_the_image_are_refused(sigma):
    with pytest.raises(BadInputError, match="sigma"):
        blurred(INPUTS, sigma)


class TestRowsWithin:
    def test_grows_with_the_budget_and_is_at_least_one(self):
        assert rows_within(1, MODEL) == 1
        few, many = rows_within(2**22, MODEL), rows_within(2**24, MODEL)
        assert 1 < few < many
        assert many == pytest.approx(4 * few, rel=0.2)

    def test_a_pass_with_gradients_takes_more_memory(self):
        assert rows_within(2**24, MODEL, gradients=True) < rows_within(2**24, MODEL)

    def test_gradients_hold_at_least_every_block_s_residual_stream(self):
        row_bytes = 2**26 / rows_within(2**26, MODEL, gradients=True)
        assert row_bytes > 2 * 5 * 16 * 4

    def test_leaves_nothing_behind(self):
        rows_within(2**20, MODEL, gradients=True)
        rows_within(2**20, MODEL)
        assert not any(part._forward_hooks for part in MODEL.module.modules())
        assert not any(p.requires_grad or p.grad is not None for p in MODEL.module.parameters())
