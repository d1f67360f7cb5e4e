"""Band grouping: every band once, no empty group, and each scheme's rule by hand."""

import pytest

from vitxai.bench.contract import BadInputError, UnknownNameError
from vitxai.models.spectral_groups import SCHEMES, spectral_groups

AVIRIS = [380 + 2120 * i / 223 for i in range(224)]  # evenly spaced, 380 to 2500 nm
VNIR = [397.0 + 3 * i for i in range(204)]  # no shortwave infrared


def centres(groups, wavelengths):
    return [[wavelengths[band] for band in group] for group in groups]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 20])
@pytest.mark.parametrize("wavelengths", [AVIRIS, VNIR], ids=["aviris", "vnir"])
def test_every_band_is_in_exactly_one_group_and_no_group_is_empty(scheme, count, wavelengths):
    groups = spectral_groups(wavelengths, count, scheme)
    assert len(groups) == count
    assert all(groups)
    assert sorted(band for group in groups for band in group) == list(range(len(wavelengths)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_in_which_bands_are_stored_changes_no_group_but_a_random_one(scheme):
    stored = VNIR[::-1]
    first, second = spectral_groups(VNIR, 10, scheme), spectral_groups(stored, 10, scheme)
    assert (centres(first, VNIR) == centres(second, stored)) == (scheme != "random")
    assert all(group == sorted(group) for group in centres(second, stored))


def test_equal_width_by_hand():
    # 100 nm each from 400 to 600: the last band belongs to the last group.
    assert spectral_groups([400.0, 450.0, 499.0, 500.0, 600.0], 2, "equal_width") == ((0, 1, 2), (3, 4))


def test_an_empty_width_is_refused_with_its_range():
    with pytest.raises(BadInputError, match=r"500 to 600.*fewer groups"):
        spectral_groups([400.0, 420.0, 700.0], 3, "equal_width")


def test_four_physiological_groups_are_the_regions_of_the_paper():
    bands = [350.0, 399.9, 400.0, 699.9, 700.0, 749.9, 750.0, 1099.9, 1100.0, 2500.0, 2600.0]
    assert spectral_groups(bands, 4, "physiological") == ((0, 1, 2, 3), (4, 5), (6, 7), (8, 9, 10))


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, ((0, 1), (2,), (3,))), (2, ((0, 1), (2, 3))), (1, ((0, 1, 2, 3),))],
)
def test_fewer_groups_merge_red_edge_into_visible_then_the_infrared(count, expected):
    assert spectral_groups([500.0, 720.0, 900.0, 1500.0], count, "physiological") == expected


def test_more_groups_cut_the_region_with_most_bands_a_group():
    # Visible 6 bands, red edge 1, near infrared 3. Fifth group: visible 3 + 3; sixth: 2 + 2 + 2 (3.0 = 3.0: shorter).
    bands = [410.0, 450, 500, 550, 600, 650, 720, 800, 900, 1000]
    assert spectral_groups(bands, 3, "physiological") == ((0, 1, 2, 3, 4, 5), (6,), (7, 8, 9))
    assert spectral_groups(bands, 4, "physiological") == ((0, 1, 2), (3, 4, 5), (6,), (7, 8, 9))
    assert spectral_groups(bands, 5, "physiological") == ((0, 1), (2, 3), (4, 5), (6,), (7, 8, 9))


def test_physiological_boundaries_stay_boundaries_when_regions_are_cut():
    for count in (5, 10, 20):
        for group in centres(spectral_groups(AVIRIS, count, "physiological"), AVIRIS):
            assert sum(any(low <= nm < high for nm in group) for low, high in
                       ((0, 700), (700, 750), (750, 1100), (1100, 3000))) == 1  # fmt: skip


def test_regions_without_bands_get_no_group():
    first, second = centres(spectral_groups(VNIR, 2, "physiological"), VNIR)
    assert max(first) < 750 <= min(second)


def test_random_groups_depend_on_the_seed_alone():
    assert spectral_groups(VNIR, 10, "random", seed=1) == spectral_groups(VNIR, 10, "random", seed=1)
    assert spectral_groups(VNIR, 10, "random", seed=1) != spectral_groups(VNIR, 10, "random", seed=2)
    sizes = [len(group) for group in spectral_groups(VNIR, 10, "random")]
    assert sizes == [21] * 4 + [20] * 6


@pytest.mark.parametrize(
    ("wavelengths", "count", "scheme", "text"),
    [
        ([500.0, 600.0], 3, "random", "2 bands make 1 to 2 groups, not 3"),
        ([500.0, 600.0], 0, "contiguous", "not 0"),
        ([0.5, 0.6], 2, "physiological", "micrometres"),
        ([500.0, float("nan")], 2, "equal_width", "nan"),
    ],
)
def test_what_cannot_be_grouped_is_refused_with_the_reason(wavelengths, count, scheme, text):
    with pytest.raises(BadInputError, match=text):
        spectral_groups(wavelengths, count, scheme)


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(UnknownNameError, match="physiological"):
        spectral_groups([500.0], 1, "physiologic")
