"""Otsu segmentation: scikit-image's threshold, scikit-learn's overlaps, hand-computed and undefined cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from vitxai.metrics._segmentation import otsu_segmentation
from vitxai.metrics.otsu import Otsu


@pytest.fixture
def scored(batch_of, explained, vit, ctx):
    def score(maps, mask, ignore=None, **params):
        explanation = explained(maps)
        fields = {"mask": torch.as_tensor(mask).bool(), "ignore": ignore}
        batch = batch_of(len(explanation), explanation.geometry.image_size, **fields)
        return Otsu(**params).score(vit, batch, explanation, ctx)

    return score


def test_hand_computed(scored):
    got = scored([[[9.0, 8.0, 1.0], [9.0, 1.0, 0.0]]], [[[1, 1, 1], [0, 0, 0]]])
    # Selected: the two nines and the eight; two of them are in the mask of three.
    assert got["otsu_jaccard"].values[0] == pytest.approx(2 / 4)
    assert got["otsu_f1"].values[0] == pytest.approx(4 / 6)
    assert got["otsu_pixel_accuracy"].values[0] == pytest.approx(4 / 6)
    assert got["otsu_pixel_accuracy_background"].values[0] == pytest.approx(3 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_segmentation_agrees_with_scikit_image(seed):
    rng = np.random.default_rng(seed)
    maps = np.stack([rng.normal(size=400), rng.random(400) ** 5, rng.integers(0, 4, 400), rng.normal(size=400) * 1e-8])
    got = otsu_segmentation(torch.as_tensor(maps, dtype=torch.float64), torch.ones(4, 400, dtype=torch.bool))
    for row, values in enumerate(maps):
        scaled = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_array_equal(got[row].numpy(), scaled > threshold_otsu(scaled, nbins=256))


def test_figures_agree_with_scikit_learn(scored):
    rng = np.random.default_rng(0)
    maps, mask = rng.random((5, 7, 6)).astype(np.float32), rng.random((5, 7, 6)) < 0.3
    got = scored(maps, mask)
    for row in range(5):
        scaled = maps[row].astype(np.float64)
        scaled = ((scaled - scaled.min()) / (scaled.max() - scaled.min())).ravel()
        y, p = mask[row].ravel(), scaled > threshold_otsu(scaled)
        assert got["otsu_jaccard"].values[row] == pytest.approx(jaccard_score(y, p))
        assert got["otsu_f1"].values[row] == pytest.approx(f1_score(y, p))
        assert got["otsu_pixel_accuracy"].values[row] == pytest.approx(accuracy_score(y, p))


def test_ignored_pixels_do_not_move_the_threshold(scored):
    maps, mask = [[[9.0, 8.0, 1.0], [-500.0, 900.0, 40.0]]], [[[1, 0, 0], [1, 1, 1]]]
    ignore = torch.tensor([[[0, 0, 0], [1, 1, 1]]]).bool()
    got, cropped = scored(maps, mask, ignore), scored([[[9.0, 8.0, 1.0]]], [[[1, 0, 0]]])
    for name in got:
        assert got[name].values[0] == cropped[name].values[0]
    assert got["otsu_jaccard"].values[0] == 0.5


def test_negative_relevance_is_background_of_the_signed_map(scored):
    maps, mask = [[[1.0, 0.9], [0.8, -9.0]]], [[[1, 1], [1, 0]]]
    assert scored(maps, mask)["otsu_jaccard"].values[0] == 1
    assert scored(maps, mask, reduction="mean_positive")["otsu_jaccard"].values[0] == 1
    # Two signs: the signed map is cut between -9 and 0, its positive part between 0 and 1.
    maps, mask = [[[1.0, 0.0], [0.0, -9.0]]], [[[1, 0], [0, 0]]]
    assert scored(maps, mask)["otsu_jaccard"].values[0] == pytest.approx(1 / 3)
    assert scored(maps, mask, reduction="mean_positive")["otsu_jaccard"].values[0] == 1


def test_constant_map_is_empty_and_no_evidence_is_undefined(scored):
    got = scored([[[3.0, 3.0], [3.0, 3.0]], [[1.0, 0.0], [0.0, 0.0]]], [[[1, 0], [0, 0]], [[0, 0], [0, 0]]])
    assert got["otsu_jaccard"].values[0] == 0
    assert got["otsu_f1"].values[0] == 0
    assert got["otsu_pixel_accuracy"].values[0] == got["otsu_pixel_accuracy_background"].values[0] == 0.75
    for name in got:
        assert got[name].reasons == ("", "no evidence in this sample")


def test_scale_and_batch_do_not_matter(scored):
    generator = torch.Generator().manual_seed(0)
    maps, mask = torch.randn(8, 6, 6, generator=generator), torch.rand(8, 6, 6, generator=generator) < 0.4
    together, scaled = scored(maps, mask), scored(maps * 2**20, mask)
    for name in together:
        np.testing.assert_array_equal(together[name].values, scaled[name].values)
        alone = [scored(maps[row : row + 1], mask[row : row + 1])[name].values[0] for row in range(8)]
        np.testing.assert_array_equal(alone, together[name].values)


def test_only_confident_samples_count(vit_batch, explained, vit, ctx):
    maps = torch.zeros(8, *vit.input_size)
    maps[:, :5] = 1.0
    batch, explanation = replace(vit_batch, mask=maps.bool()), explained(maps)
    with torch.inference_mode():
        p = vit(batch.inputs).double().softmax(1).amax(1)
    between = p.sort().values[3:5].mean().item()
    for values in Otsu(min_probability=between).score(vit, batch, explanation, ctx).values():
        np.testing.assert_array_equal(np.isnan(values.values), (p <= between).numpy())
        assert {reason for reason in values.reasons if reason} == {f"p(target) is not above {between:g}"}
    assert np.isfinite(Otsu().score(vit, batch, explanation, ctx)["otsu_jaccard"].values).all()
