"""The spectral-token ViT: which token sees what, token order, and that it walks like a timm ViT."""

import pytest
import torch
from timm.models.vision_transformer import Block

from vitxai.bench.contract import BadInputError, TokenGeometry
from vitxai.models.spectral import SpectralViT, contiguous_groups

GROUPS = ((0, 1, 2), (3,), (4, 5))  # of unequal sizes


def spectral_vit(groups=GROUPS, **arguments) -> SpectralViT:
    torch.manual_seed(0)
    sizes = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    return SpectralViT(groups=groups, **{**sizes, **arguments}).eval()


def test_groups_are_neighbours_in_wavelength_whatever_the_order_of_the_bands():
    assert contiguous_groups([700.0, 400.0, 600.0, 500.0], 2) == ((1, 3), (2, 0))


def test_groups_differ_by_one_band_at_most_when_they_cannot_be_equal():
    assert contiguous_groups(range(7), 3) == ((0, 1, 2), (3, 4), (5, 6))


@pytest.mark.parametrize("count", [0, 4])
def test_there_are_no_more_groups_than_bands(count):
    with pytest.raises(BadInputError, match="3 bands make 1 to 3 groups"):
        contiguous_groups([1.0, 2.0, 3.0], count)


def test_geometry_says_how_the_tokens_lie():
    assert spectral_vit().geometry == TokenGeometry(
        grid=(2, 3), prefix=1, pooling="token", image_size=(8, 12), channels=6, groups=GROUPS
    )


def test_the_sequence_is_class_token_then_patches_group_by_group():
    model = spectral_vit()
    tokens = model.forward_features(torch.randn(2, 6, 8, 12))
    assert tokens.shape == (2, 1 + 3 * 6, 16)
    assert model.geometry.tokens == tokens.shape[1]
    assert model.geometry.unfold(tokens.norm(dim=-1)).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(("band", "group"), [(0, 0), (2, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize(("y", "x"), [(0, 0), (1, 2)])
def test_a_token_sees_its_own_patch_and_bands_only(band, group, y, x):
    model = spectral_vit()
    plain = torch.zeros(1, 6, 8, 12)
    touched = plain.clone()
    touched[0, band, 4 * y + 1, 4 * x + 2] = 1.0
    changed = (model.patch_embed(touched) != model.patch_embed(plain)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [group * 6 + y * 3 + x]


def test_patch_embedding_equals_one_linear_map_a_group():
    model = spectral_vit()
    inputs = torch.randn(1, 6, 8, 12)
    projection = model.patch_embed.proj[2]
    patch = inputs[0, 4:6, 4:8, 8:12].reshape(-1)  # bands 4 and 5 at row 1, column 2
    expected = projection.weight.reshape(16, -1) @ patch + projection.bias
    torch.testing.assert_close(model.patch_embed(inputs)[0, 2 * 6 + 1 * 3 + 2], expected)


def test_position_embedding_is_shared_by_groups_and_group_embedding_by_positions():
    model = spectral_vit()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    inputs = torch.randn(1, 6, 8, 12)
    model(inputs)
    added = (seen[0][0, 1:] - model.patch_embed(inputs)[0]).reshape(3, 6, 16)
    torch.testing.assert_close(added[2, 4], (model.pos_embed[0, 0, 4] + model.group_embed[0, 2, 0]))


def test_logits_come_from_the_class_token():
    model = spectral_vit()
    inputs = torch.randn(2, 6, 8, 12)
    tokens = model.forward_features(inputs)
    torch.testing.assert_close(model(inputs), model.head(tokens[:, 0]))
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 0])


def test_it_walks_like_a_timm_vit():
    model = spectral_vit()
    assert (model.num_prefix_tokens, model.global_pool, model.num_classes, model.embed_dim) == (1, "token", 3, 16)
    assert all(isinstance(block, Block) for block in model.blocks)
    assert model.patch_embed.grid_size == (2, 3)


def test_an_output_does_not_depend_on_the_rest_of_the_batch():
    model = spectral_vit()
    inputs = torch.randn(3, 6, 8, 12)
    torch.testing.assert_close(model(inputs)[1:2], model(inputs[1:2]))


@pytest.mark.parametrize("groups", [((0, 1), (1, 2)), ((0,), (2,))])
def test_groups_must_hold_every_band_once(groups):
    with pytest.raises(BadInputError, match="exactly once"):
        spectral_vit(groups)


def test_patches_must_tile_the_image():
    with pytest.raises(BadInputError, match="do not tile"):
        spectral_vit(img_size=(8, 10))


def test_an_image_of_another_size_is_refused():
    with pytest.raises(BadInputError, match=r"\(8, 12\)"):
        spectral_vit()(torch.zeros(1, 6, 12, 8))
