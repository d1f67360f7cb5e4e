"""Band overlap: hand-computed cases, exact expectation over ties, undefined cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from vitxai.bench.contract import BadInputError
from vitxai.metrics.bio import BandOverlap


def overlap(picked, expert) -> float:
    picked, expert = set(picked), set(expert)
    return len(picked & expert) / len(picked | expert)


def over_tie_breaks(curve, expert, k, figure) -> float:
    """Mean of a figure over all sets that some tie break picks as the top k."""
    kth = sorted(curve, reverse=True)[k - 1]
    sure = [i for i, v in enumerate(curve) if v > kth]
    tied = [i for i, v in enumerate(curve) if v == kth]
    return float(np.mean([figure([*sure, *drawn], expert) for drawn in itertools.combinations(tied, k - len(sure))]))


@pytest.fixture
def scored(batch_of, explained, vit, ctx):
    """Scores of curves [B,L], laid out as cubes of one pixel, against band truth [B,L]."""

    def score(curves, bands, **params):
        curves = torch.as_tensor(curves, dtype=torch.float32)
        batch = batch_of(len(curves), (1, 1), curves.shape[1], bands=torch.as_tensor(bands, dtype=torch.float32))
        return BandOverlap(**params).score(vit, batch, explained(curves[:, :, None, None], "cube"), ctx)

    return score


def test_hand_computed(scored):
    # Top 2 bands are {0, 1}; expert bands, at least half of 1.0, are {1, 2, 3}.
    got = scored([[0.9, 0.8, 0.1, 0.0, -1.0]], [[0.4, 1.0, 0.5, 0.6, 0.49]], k=2)
    assert got["bio_at_5"].values[0] == 1 / 4
    assert got["precision_at_5"].values[0] == 1 / 2
    assert got["bio_at_5_ceiling"].values[0] == 2 / 3
    # 2 of 5 drawn with 3 experts: P(1 hit) = 6/10 at 1/4, P(2 hits) = 3/10 at 2/3.
    assert got["bio_at_5_chance"].values[0] == pytest.approx(0.6 / 4 + 0.3 * 2 / 3)
    assert got["bio_at_5_lift"].values[0] == pytest.approx(1 / 4 - 0.35)


def test_focus_takes_the_maximum_over_positions(batch_of, explained, vit, ctx):
    # Band 0 has the larger mean (0.5 against 0.4), band 3 the larger maximum.
    cube = torch.zeros(1, 4, 1, 2)
    cube[0, 0] = torch.tensor([[0.5, 0.5]])
    cube[0, 3] = torch.tensor([[0.8, 0.0]])
    batch = batch_of(1, (1, 2), 4, bands=torch.tensor([[1.0, 0, 0, 0]]))
    got = BandOverlap(k=1).score(vit, batch, explained(cube, "cube"), ctx)
    assert got["bio_at_5"].values[0] == 1
    assert got["bio_at_5_focus"].values[0] == 0


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ties_are_averaged_exactly(scored, k):
    rng = np.random.default_rng(k)
    curves = rng.integers(0, 3, (12, 9)).astype(float)
    curves[:, 0] = 3  # no curve is constant
    bands = rng.random((12, 9))
    got = scored(curves, bands, k=k)
    for row, (curve, truth) in enumerate(zip(curves, bands, strict=True)):
        expert = np.flatnonzero(truth >= truth.max() / 2)
        expected = over_tie_breaks(curve, expert, k, overlap)
        precision = over_tie_breaks(curve, expert, k, lambda picked, expert: len({*picked} & {*expert}) / k)
        assert got["bio_at_5"].values[row] == pytest.approx(expected, abs=1e-12)
        assert got["precision_at_5"].values[row] == pytest.approx(precision, abs=1e-12)


def test_chance_is_the_mean_over_all_draws(scored):
    bands = torch.zeros(3, 8)
    for row, experts in enumerate(([1], [0, 3, 4], [0, 1, 2, 3, 4, 5])):
        bands[row, experts] = 1
    got = scored(torch.rand(3, 8, generator=torch.Generator().manual_seed(0)), bands)
    for row in range(3):
        expert = np.flatnonzero(bands[row])
        draws = [overlap(picked, expert) for picked in itertools.combinations(range(8), 5)]
        assert got["bio_at_5_chance"].values[row] == pytest.approx(np.mean(draws), abs=1e-12)
        assert got["bio_at_5_ceiling"].values[row] == min(5, len(expert)) / max(5, len(expert))


def test_all_bands_of_a_group_tie(batch_of, explained, vit, ctx):
    # Group {0,1,2} wins, group {3,4,5} is second: k = 5 takes three sure bands and two of three tied ones.
    native = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1)
    groups = ((0, 1, 2), (3, 4, 5), (6, 7))
    bands = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]])
    got = BandOverlap().score(vit, batch_of(1, (1, 1), 8, bands=bands), explained(native, "group_token", groups), ctx)
    # The fourth expert band is drawn with probability 2/3: overlap 4/5 then, else 3/6.
    assert got["bio_at_5"].values[0] == pytest.approx(2 / 3 * 4 / 5 + 1 / 3 * 1 / 2)
    assert got["precision_at_5"].values[0] == pytest.approx((3 + 2 / 3) / 5)


def test_fewer_bands_than_k(scored):
    got = scored([[0.4, 0.3, 0.2, 0.1]], [[1.0, 0.0, 0.0, 0.0]])
    assert got["bio_at_5"].values[0] == pytest.approx(1 / 4)
    assert got["bio_at_5_lift"].values[0] == pytest.approx(0)


def test_band_spearman_agrees_with_scipy(scored):
    rng = np.random.default_rng(0)
    curves, bands = rng.integers(0, 6, (5, 20)).astype(float), rng.integers(1, 6, (5, 20)).astype(float)
    got = scored(curves, bands)["band_spearman"].values
    expected = [spearmanr(c, b).statistic for c, b in zip(curves, bands, strict=True)]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_undefined_values_have_reasons(scored):
    curves = [[1.0, 2, 3, 4], [1.0, 1, 1, 1], [0.0, 0, 0, 0], [1.0, 2, 3, 4]]
    bands = [[0.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 1, 1, 1]]
    got = scored(curves, bands, k=1)
    constant = "the spectral curve is constant"
    assert got["bio_at_5"].reasons == ("no evidence in this sample", constant, constant, "")
    assert got["band_spearman"].reasons[3] == "the band truth is constant"
    assert got["bio_at_5_chance"].reasons == ("no evidence in this sample", "", "", "")
    assert np.isnan(got["precision_at_5"].values).tolist() == [True, True, True, False]


def test_spatial_maps_have_no_spectral_axis(batch_of, explained, vit, ctx):
    batch = batch_of(2, bands=torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    got = BandOverlap().score(vit, batch, explained(torch.rand(2, 2, 2)), ctx)
    assert got.keys() == {column.name for column in BandOverlap.columns}
    assert got["bio_at_5"].reasons == ("no spectral axis", "no evidence in this sample")
    assert got["bio_at_5_ceiling"].values[0] == pytest.approx(1 / 3)


def test_the_truth_beats_chance_and_scale_does_not_matter(scored):
    bands = torch.rand(16, 30, generator=torch.Generator().manual_seed(3)) ** 4
    ideal, scaled = scored(bands, bands), scored(1e4 * bands, bands)
    assert (ideal["bio_at_5"].values > ideal["bio_at_5_chance"].values).all()
    assert (ideal["bio_at_5"].values == ideal["bio_at_5_ceiling"].values).all()
    np.testing.assert_array_equal(ideal["bio_at_5"].values, scaled["bio_at_5"].values)
    np.testing.assert_allclose(ideal["band_spearman"].values, 1)


def test_each_sample_alone_scores_the_same(scored):
    generator = torch.Generator().manual_seed(5)
    curves, bands = torch.rand(8, 12, generator=generator), torch.rand(8, 12, generator=generator)
    together = scored(curves, bands)
    for row in range(8):
        alone = scored(curves[row : row + 1], bands[row : row + 1])
        for name, values in alone.items():
            assert values.values[0] == pytest.approx(together[name].values[row], abs=1e-12)


def test_bad_input_is_refused(scored, batch_of, explained, vit, ctx):
    with pytest.raises(BadInputError, match="k=0"):
        scored([[1.0, 2, 3, 4]], [[1.0, 0, 0, 0]], k=0)
    with pytest.raises(BadInputError, match="this batch has none"):
        BandOverlap().score(vit, batch_of(1), explained(torch.rand(1, 2, 2)), ctx)
    with pytest.raises(BadInputError, match="of 2 bands does not fit"):
        BandOverlap().score(vit, batch_of(1, bands=torch.ones(1, 2)), explained(torch.rand(1, 2, 2)), ctx)
