"""Leaf scenes: determinism, exact healing, and masks and bands that are true by construction."""

from __future__ import annotations

import numpy as np
import pytest

from vitxai.datasets._leaf_geometry import draw_blobs
from vitxai.datasets._leaf_scene import CLASSES, DEFAULT_SENSOR, LeafScene, generate_leaf, noise_sigma
from vitxai.datasets._prospect import Sensor

ARRAYS = ("cube", "healed", "lesion_mask", "lesion_weight", "leaf_mask", "sham_mask", "band_truth", "wavelengths")
HEALTHY, CHLOROSIS, NECROSIS, WATER_STRESS = range(4)


@pytest.fixture(scope="module")
def scenes() -> list[LeafScene]:
    return [generate_leaf("test", index, 0) for index in range(48)]


def assert_same(a: LeafScene, b: LeafScene) -> None:
    assert a.label == b.label
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_shapes_types_and_range(scenes: list[LeafScene]) -> None:
    for scene in scenes[:8]:
        assert scene.cube.shape == scene.healed.shape == (56, 48, 48)
        assert scene.cube.dtype == scene.healed.dtype == scene.band_truth.dtype == np.float32
        assert scene.cube.flags.c_contiguous
        assert scene.lesion_weight.shape == (48, 48)
        assert scene.lesion_mask.dtype == scene.leaf_mask.dtype == scene.sham_mask.dtype == np.bool_
        assert np.isfinite(scene.cube).all()
        assert scene.cube.min() > -0.2
        assert scene.cube.max() < 1.2
        np.testing.assert_allclose(scene.wavelengths, DEFAULT_SENSOR.wavelengths, rtol=1e-6)


def test_a_scene_depends_on_its_key_only(scenes: list[LeafScene]) -> None:
    for index in (17, 3, 42):
        assert_same(generate_leaf("test", index, 0), scenes[index])


@pytest.mark.parametrize("key", [("fit", 3, 0), ("validation", 3, 0), ("test", 3, 1), ("test", 7, 0)])
def test_every_part_of_the_key_matters(scenes: list[LeafScene], key: tuple[str, int, int]) -> None:
    assert not np.array_equal(generate_leaf(*key).leaf_mask, scenes[3].leaf_mask)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    generate_leaf("fit", 0, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_labels_are_balanced_by_index(scenes: list[LeafScene]) -> None:
    assert [scene.label for scene in scenes[:6]] == [0, 1, 2, 3, 0, 1]
    assert CLASSES == ("healthy", "chlorosis", "necrosis", "water_stress")


def test_healing_changes_the_lesion_and_nothing_else(scenes: list[LeafScene]) -> None:
    for scene in scenes:
        outside = scene.lesion_weight == 0
        np.testing.assert_array_equal(scene.cube[:, outside], scene.healed[:, outside])
        if scene.label == HEALTHY:
            np.testing.assert_array_equal(scene.cube, scene.healed)
        else:
            assert (scene.cube != scene.healed).any(axis=0)[scene.lesion_mask].all()


@pytest.mark.parametrize("label", [CHLOROSIS, NECROSIS, WATER_STRESS])
def test_the_healed_cube_is_the_healthy_scene_of_the_same_key(label: int) -> None:
    diseased, healthy = (generate_leaf("fit", 11, 5, label=which) for which in (label, HEALTHY))
    np.testing.assert_array_equal(diseased.healed, healthy.cube)
    np.testing.assert_array_equal(diseased.sham_mask, healthy.sham_mask)
    np.testing.assert_array_equal(diseased.leaf_mask, healthy.leaf_mask)


def test_shape_of_the_lesion_tells_nothing_about_its_class() -> None:
    weights = [generate_leaf("fit", 11, 5, label=label).lesion_weight for label in (CHLOROSIS, NECROSIS, WATER_STRESS)]
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_the_lesion_adds_no_noise(scenes: list[LeafScene]) -> None:
    # Water stress leaves the visible alone: in these bands the two cubes, noise included, are the same.
    scene = scenes[WATER_STRESS]
    visible = scene.wavelengths < 700
    np.testing.assert_allclose(scene.cube[visible], scene.healed[visible], atol=1e-5)


def test_masks(scenes: list[LeafScene]) -> None:
    for scene in scenes:
        np.testing.assert_array_equal(scene.lesion_mask, scene.lesion_weight > 0.5)
        assert scene.lesion_mask.any() == (scene.label != HEALTHY)
        assert scene.sham_mask.any()
        assert not (scene.lesion_mask & ~scene.leaf_mask).any()
        assert not (scene.sham_mask & ~scene.leaf_mask).any()
        assert not (scene.lesion_mask & scene.sham_mask).any()
        assert 0.08 < scene.leaf_mask.mean() < 0.6


def test_shams_are_alike_in_all_classes(scenes: list[LeafScene]) -> None:
    areas = [np.mean([s.sham_mask.sum() for s in scenes if s.label == label]) for label in range(4)]
    assert max(areas) < 2.5 * min(areas)


def test_band_truth_lies_where_the_constituent_acts(scenes: list[LeafScene]) -> None:
    for scene in scenes:
        if scene.label == HEALTHY:
            assert not scene.band_truth.any()
            continue
        expert = scene.wavelengths[scene.band_truth >= 0.5 * scene.band_truth.max()]
        if scene.label == CHLOROSIS:
            assert ((expert >= 520) & (expert <= 740)).all()
        elif scene.label == NECROSIS:
            assert ((expert >= 520) & (expert <= 900)).all()
        else:
            assert (expert > 1300).all()


def test_band_truth_is_the_change_of_reflectance_in_the_lesion(scenes: list[LeafScene]) -> None:
    # In the cube the same change is scaled by shade and light, both near one.
    for scene in scenes:
        if scene.label != HEALTHY:
            seen = np.abs(scene.cube - scene.healed)[:, scene.lesion_mask].mean(axis=1)
            assert np.corrcoef(seen, scene.band_truth)[0, 1] > 0.99
            assert 0.5 < seen.sum() / scene.band_truth.sum() < 1.5


def test_necrosis_darkens_the_red_edge_and_chlorosis_brightens_the_green(scenes: list[LeafScene]) -> None:
    def change(scene: LeafScene, nm: float) -> float:
        band = int(np.argmin(np.abs(scene.wavelengths - nm)))
        return float((scene.cube - scene.healed)[band, scene.lesion_mask].mean())

    assert change(scenes[NECROSIS], 740) < -0.02
    assert change(scenes[CHLOROSIS], 560) > 0.02
    assert change(scenes[WATER_STRESS], 1450) > 0.02


def test_noise_is_worst_at_the_end_of_the_range() -> None:
    nm = np.array([800.0, 1000.0, 1900.0, 2475.0])
    sigma = noise_sigma(nm)
    assert sigma[0] == pytest.approx(0.003, rel=0.01)
    assert sigma[3] == sigma.max()
    assert sigma[1] > 2 * sigma[0]


def test_size_and_sensor_are_parameters() -> None:
    sensor = Sensor((550.0, 700.0, 860.0), (10.0,) * 3)
    scene = generate_leaf("validation", 1, 2, size=64, sensor=sensor)
    assert scene.cube.shape == (3, 64, 64)
    assert scene.band_truth.shape == (3,)
    assert scene.lesion_mask.any()


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="fit, validation, test"):
        generate_leaf("train", 0, 0)
    with pytest.raises(ValueError, match="index is a non-negative integer; got -1"):
        generate_leaf("fit", -1, 0)
    with pytest.raises(ValueError, match="labels are 0 to 3; got 4"):
        generate_leaf("fit", 0, 0, label=4)
    with pytest.raises(ValueError, match="at least 24"):
        generate_leaf("fit", 0, 0, size=8)


def test_blobs_stay_in_their_room_and_refuse_an_empty_one() -> None:
    room = np.zeros((48, 48))
    room[20, 20:23] = 1.0  # far smaller than a spot
    weight = draw_blobs(np.random.default_rng(0), room, (1, 1), (3.0, 4.0))
    assert (weight > 0.5).any()
    assert not weight[room == 0].any()
    with pytest.raises(RuntimeError, match="no room"):
        draw_blobs(np.random.default_rng(0), np.zeros((48, 48)), (1, 1), (3.0, 4.0))
