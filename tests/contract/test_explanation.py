"""Reductions of explanations, computed by hand on 2x2 grids."""

from __future__ import annotations

import pytest
import torch

from vitxai.bench.contract import BadInputError, Explanation, TokenGeometry, UnsupportedError

RGB = TokenGeometry(grid=(2, 2), prefix=1, pooling="token", image_size=(4, 4), channels=3)
SPECTRAL = TokenGeometry(
    grid=(1, 2), prefix=1, pooling="token", image_size=(2, 4), channels=4, groups=((0, 1, 2), (3,))
)


def test_tokens_lose_the_prefix_and_fill_the_grid_row_by_row() -> None:
    e = Explanation.of_tokens(torch.tensor([[9.0, 1, 2, 3, 4]]), RGB)
    assert e.layout == "token"
    assert e.native.tolist() == [[[1, 2], [3, 4]]]


def test_groups_come_before_positions() -> None:
    e = Explanation.of_tokens(torch.tensor([[9.0, 1, 2, 3, 4]]), SPECTRAL)
    assert e.layout == "group_token"
    assert e.native.tolist() == [[[[1, 2]], [[3, 4]]]]


def test_spatial_reductions_weigh_a_group_as_its_bands() -> None:
    e = Explanation(torch.tensor([[[[-1.0, 2.0]], [[4.0, -8.0]]]]), "group_token", SPECTRAL)
    assert e.spatial("mean_positive", upsample=False).tolist() == [[[1.0, 1.5]]]  # (0*3+4)/4, (2*3+0)/4
    assert e.spatial("focus", upsample=False).tolist() == [[[1.0, -2.0]]]  # -1*3+4, 2*3-8
    assert e.spatial("signed", upsample=False).tolist() == [[[0.25, -0.5]]]


def test_spectral_reductions_spread_a_group_over_its_bands() -> None:
    e = Explanation(torch.tensor([[[[-1.0, 2.0]], [[4.0, -8.0]]]]), "group_token", SPECTRAL)
    assert e.spectral("mean_positive").tolist() == [[1.0, 1.0, 1.0, 2.0]]
    assert e.spectral("focus").tolist() == [[2.0, 2.0, 2.0, 4.0]]
    assert e.spectral("signed").tolist() == [[0.5, 0.5, 0.5, -2.0]]


def test_cube_reductions() -> None:
    native = torch.zeros(1, 4, 2, 4)
    native[0, 1, 0, 0], native[0, 2, 0, 0] = 8.0, -4.0
    e = Explanation(native, "cube", SPECTRAL)
    assert e.spatial("mean_positive")[0, 0, 0] == 2.0
    assert e.spatial("focus")[0, 0, 0] == 4.0
    assert e.spectral("mean_positive").tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert e.cube() is native


def test_upsampling_keeps_a_constant_and_the_order_of_patches() -> None:
    e = Explanation(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), "token", RGB)
    up = e.spatial()
    assert up.shape == (1, 4, 4)
    assert up[0, 0, 0] == 1.0
    assert up[0].flatten().argmax() == 0
    assert torch.equal(Explanation(torch.ones(1, 2, 2), "token", RGB).spatial(), torch.ones(1, 4, 4))


def test_grid_averages_the_pixels_of_a_patch() -> None:
    pixels = torch.arange(16.0).reshape(1, 4, 4)
    assert Explanation(pixels, "pixel", RGB).grid().tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


def test_rgb_maps_have_no_spectrum() -> None:
    e = Explanation(torch.zeros(1, 3, 4, 4), "cube", RGB)
    assert not e.has_spectrum
    with pytest.raises(UnsupportedError, match="no spectral curve"):
        e.spectral()
    with pytest.raises(UnsupportedError, match="no cube"):
        e.cube()


@pytest.mark.parametrize(
    ("native", "layout", "text"),
    [
        (torch.zeros(1, 3, 2), "token", r"shape \[B, 2, 2\], not \[1, 3, 2\]"),
        (torch.zeros(2, 2), "token", r"not \[2, 2\]"),
        (torch.zeros(1, 2, 2), "patch", "unknown layout 'patch'"),
        (torch.zeros(1, 2, 2, 2), "group_token", "one token a patch"),
    ],
)
def test_wrong_shapes_and_layouts_are_named(native: torch.Tensor, layout: str, text: str) -> None:
    with pytest.raises(BadInputError, match=text):
        Explanation(native, layout, RGB)  # type: ignore[arg-type]


def test_query_rows_follow_the_pooling() -> None:
    attention = torch.arange(25.0).reshape(5, 5)
    mean_pooled = TokenGeometry((2, 2), 1, "avg", (4, 4), 3)
    distilled = TokenGeometry((1, 3), 2, "token", (4, 12), 3, head_tokens=(0, 1))
    assert RGB.query(attention).tolist() == [0, 1, 2, 3, 4]
    assert mean_pooled.query(attention).tolist() == attention[1:].mean(0).tolist()
    assert distilled.query(attention).tolist() == attention[:2].mean(0).tolist()


def test_geometry_refuses_what_cannot_be() -> None:
    with pytest.raises(BadInputError, match="head tokens"):
        TokenGeometry((2, 2), 0, "token", (4, 4), 3)
    with pytest.raises(BadInputError, match="exactly once"):
        TokenGeometry((2, 2), 1, "token", (4, 4), 3, groups=((0, 1), (1, 2)))
    with pytest.raises(BadInputError, match="expected 5 token values"):
        RGB.unfold(torch.zeros(1, 4))
