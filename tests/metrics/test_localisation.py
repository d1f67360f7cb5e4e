"""Localisation: maps worked out by hand, references of scikit-learn, ties, ignored pixels, undefined cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from vitxai.bench.contract import BadInputError, Explanation, TokenGeometry
from vitxai.metrics.localisation import Localisation


@pytest.fixture
def scored(batch_of, explained, vit, ctx):
    """Scores of token maps [B,h,w] on pixels."""

    def score(maps, mask, **fields):
        explanation = explained(maps)
        batch = batch_of(len(explanation), explanation.geometry.image_size, mask=torch.as_tensor(mask).bool(), **fields)
        return Localisation().score(vit, batch, explanation, ctx)

    return score


def test_hand_computed(scored):
    got = scored([[[4.0, 3.0], [1.0, 0.0]]], [[[1, 0], [1, 0]]])
    # Otsu parts {4, 3} from {1, 0}: one hit of three pixels in the union.
    assert got["spatial_iou"].values[0] == pytest.approx(1 / 3)
    assert got["spatial_iou_topg"].values[0] == pytest.approx(1 / 3)
    # Precision at the two true pixels: 1/1 and 2/3.
    assert got["auprc"].values[0] == pytest.approx((1 + 2 / 3) / 2)
    assert got["auprc_chance"].values[0] == 0.5
    # Pairs (true, false): 4>3, 4>0, 1<3, 1>0.
    assert got["auroc"].values[0] == 3 / 4
    assert got["pointing_game"].values[0] == 1
    assert got["relevance_mass"].values[0] == pytest.approx(5 / 8)
    assert got["spatial_iou_ceiling"].values[0] == 1


def test_focus_sums_over_bands(batch_of, explained, vit, ctx):
    # Pixel 0 has 3 and -3 in two bands: first by its positive part, nothing by its sum.
    cube = torch.zeros(1, 4, 1, 2)
    cube[0, :2, 0, 0] = torch.tensor([3.0, -3.0])
    cube[0, 0, 0, 1] = 1.0
    batch = batch_of(1, (1, 2), 4, mask=torch.tensor([[[True, False]]]))
    got = Localisation().score(vit, batch, explained(cube, "cube"), ctx)
    assert (got["spatial_iou"].values[0], got["spatial_iou_focus"].values[0]) == (1, 0)
    assert (got["auprc"].values[0], got["auprc_focus"].values[0]) == (1, 0.5)


def test_areas_agree_with_scikit_learn(scored):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 9, (10, 6, 5)).astype(float)  # many ties
    mask = rng.random((10, 6, 5)) < 0.3
    got = scored(maps, mask)
    for row in range(10):
        y, s = mask[row].ravel(), maps[row].ravel()
        assert got["auprc"].values[row] == pytest.approx(average_precision_score(y, s), abs=1e-12)
        assert got["auroc"].values[row] == pytest.approx(roc_auc_score(y, s), abs=1e-12)


def test_top_pixels_are_averaged_over_ties(scored):
    maps, mask = np.array([[[2.0, 1, 1], [1, 0, 0]]]), np.array([[[0, 1, 0], [1, 0, 1]]])
    # |G| = 3: pixel 0 is sure, two of pixels {1, 2, 3} are drawn.
    flat = mask.ravel().astype(bool)
    hits = [flat[[0, *drawn]].sum() for drawn in itertools.combinations((1, 2, 3), 2)]
    expected = np.mean([h / (6 - h) for h in hits])
    assert scored(maps, mask)["spatial_iou_topg"].values[0] == pytest.approx(expected)


def test_pointing_game_shares_the_point_among_maximal_pixels(scored):
    got = scored([[[5.0, 5.0], [5.0, 0.0]]], [[[1, 0], [1, 1]]])
    assert got["pointing_game"].values[0] == pytest.approx(2 / 3)


def test_rank_accuracy_identity(scored):
    """IoU of the top |G| is r / (2 - r) with r the relevance rank accuracy (Quantus)."""
    rng = np.random.default_rng(2)
    maps, mask = rng.random((6, 5, 5)), rng.random((6, 5, 5)) < 0.4
    got = scored(maps, mask)["spatial_iou_topg"].values
    for row in range(6):
        g = mask[row].sum()
        r = mask[row].ravel()[np.argsort(-maps[row].ravel())[:g]].mean()
        assert got[row] == pytest.approx(r / (2 - r))


def test_ignored_pixels_are_in_no_figure(scored):
    rng = np.random.default_rng(1)
    maps, mask = rng.random((1, 4, 4)), rng.random((1, 4, 4)) < 0.4
    ignore = np.zeros((1, 4, 4), dtype=bool)
    ignore[:, :2] = True
    cropped = scored(maps[:, 2:], mask[:, 2:], distractors=torch.as_tensor(~mask[:, 2:]))
    wild = maps.copy()
    wild[:, :2] = [[-50.0, 80.0, 7.0, 0.0], [3.0, 99.0, -4.0, 1.0]]
    got = scored(wild, mask, ignore=torch.as_tensor(ignore), distractors=torch.as_tensor(~mask))
    for name in got.keys() - {"spatial_iou_ceiling"}:
        assert got[name].values[0] == pytest.approx(cropped[name].values[0], abs=1e-12), name


def test_constant_maps_select_nothing_and_rank_by_chance(scored):
    mask = [[[1, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 0], [0, 0]]]
    maps = [[[2.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0 + 3e-7], [1.0, 1.0]]]
    got = scored(maps, mask)
    for name, value in {
        "spatial_iou": 0,
        "spatial_iou_focus": 0,
        "spatial_iou_topg": 0,
        "auprc": 0.25,
        "auroc": 0.5,
    }.items():
        assert got[name].values.tolist() == [value] * 3, name
    assert got["pointing_game"].reasons == ("the map is constant",) * 3
    assert got["relevance_mass"].reasons == ("", "no positive relevance", "")


def test_undefined_values_have_reasons(scored):
    maps = [[[1.0, 0.5], [0.2, 0.1]], [[1.0, 0.5], [0.2, 0.1]], [[-1.0, -2.0], [-3.0, -4.0]]]
    got = scored(maps, [[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]]])
    for name in got.keys() - {"distractor_rate"}:
        assert got[name].reasons[0] == "no evidence in this sample", name
        assert np.isnan(got[name].values[0])
    assert got["auroc"].reasons[1] == "the mask covers every pixel"
    assert got["auprc"].values[1] == 1
    assert got["relevance_mass"].reasons[2] == "no positive relevance"
    assert got["distractor_rate"].reasons == ("the data set has no distractors",) * 3


def test_distractor_rate(scored):
    distractors = torch.tensor([[[0, 1], [1, 0]], [[0, 0], [0, 0]]]).bool()
    maps = [[[4.0, 3.0], [-1.0, 1.0]], [[1.0, 2.0], [3.0, 4.0]]]
    got = scored(maps, [[[0, 0], [0, 0]], [[1, 0], [0, 0]]], distractors=distractors)["distractor_rate"]
    assert got.values[0] == pytest.approx(3 / 8)
    assert got.reasons == ("", "no distractors in this sample")


def test_the_patch_grid_bounds_small_evidence(batch_of, vit, ctx):
    geometry = TokenGeometry((2, 2), prefix=1, pooling="token", image_size=(16, 16), channels=3)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 3:5, 3:5] = True
    mask[1, :8] = True
    explanation = Explanation(torch.rand(2, 2, 2), "token", geometry)
    ceiling = (
        Localisation().score(vit, batch_of(2, (16, 16), mask=mask), explanation, ctx)["spatial_iou_ceiling"].values
    )
    # Around the first patch's centre all pixels of (0..3, 0..3) are equally high: four of them are in the mask.
    assert ceiling[0] < 0.3
    assert ceiling[1] == 1


def test_the_mask_beats_noise_and_scale_does_not_matter(scored):
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(6, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 3:6] = True
    noise = torch.rand(6, 8, 8, generator=generator)
    ideal, random, scaled = scored(mask.float(), mask), scored(noise, mask), scored(1e-5 * noise, mask)
    for name in ("spatial_iou", "spatial_iou_topg", "auprc", "auroc", "relevance_mass"):
        assert (ideal[name].values == 1).all(), name
        assert (random[name].values < 1).all(), name
        np.testing.assert_allclose(random[name].values, scaled[name].values, atol=1e-6)


def test_samples_do_not_influence_each_other(scored):
    generator = torch.Generator().manual_seed(4)
    maps, mask = torch.randn(8, 6, 6, generator=generator), torch.rand(8, 6, 6, generator=generator) < 0.3
    maps[3] *= 1e6
    together = scored(maps, mask)
    order = torch.randperm(8, generator=generator)
    shuffled = scored(maps[order], mask[order])
    for name in together:
        np.testing.assert_array_equal(shuffled[name].values, together[name].values[order.numpy()])
        alone = [scored(maps[row : row + 1], mask[row : row + 1])[name].values[0] for row in range(8)]
        np.testing.assert_allclose(alone, together[name].values, atol=1e-12)


def test_masks_of_another_size_are_refused(batch_of, explained, vit, ctx):
    with pytest.raises(BadInputError, match="this batch has none"):
        Localisation().score(vit, batch_of(1), explained(torch.rand(1, 2, 2)), ctx)
    with pytest.raises(BadInputError, match=r"\[3, 3\] pixels do not lie on maps of \[2, 2\]"):
        Localisation().score(vit, batch_of(1, mask=torch.ones(1, 3, 3).bool()), explained(torch.rand(1, 2, 2)), ctx)
