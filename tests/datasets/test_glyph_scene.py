"""Glyph scenes: determinism, exact healing, disjoint pools of digits, and a distractor that keeps its distance."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from vitxai.datasets import _textures
from vitxai.datasets._digits import Digits, digit_pool
from vitxai.datasets._glyph_scene import GlyphScene, _draw_boxes, _shuffle_tiles, _strokes, generate_glyph

ARRAYS = ("image", "healed", "mask", "distractor_mask")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@pytest.fixture(scope="module")
def scenes() -> list[GlyphScene]:
    return [generate_glyph("test", index, 0) for index in range(120)]


def luminance(image: np.ndarray) -> np.ndarray:
    return np.tensordot(LUMINANCE, image, 1)


def test_shapes_types_and_range(scenes: list[GlyphScene]) -> None:
    for scene in scenes:
        assert scene.image.shape == scene.healed.shape == (3, 64, 64)
        assert scene.image.dtype == scene.healed.dtype == np.float32
        assert scene.image.flags.c_contiguous
        assert scene.mask.shape == scene.distractor_mask.shape == (64, 64)
        assert scene.mask.dtype == scene.distractor_mask.dtype == np.bool_
        assert scene.image.min() >= 0
        assert scene.image.max() <= 1


def test_a_scene_depends_on_its_key_only(scenes: list[GlyphScene]) -> None:
    for index in (17, 3, 42):
        again = generate_glyph("test", index, 0)
        assert again.label == scenes[index].label
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(again, name), getattr(scenes[index], name), err_msg=name)


@pytest.mark.parametrize("key", [("fit", 3, 0), ("validation", 3, 0), ("test", 3, 1), ("test", 13, 0)])
def test_every_part_of_the_key_matters(scenes: list[GlyphScene], key: tuple[str, int, int]) -> None:
    assert not np.array_equal(generate_glyph(*key).healed, scenes[3].healed)


def test_labels_are_balanced_by_index(scenes: list[GlyphScene]) -> None:
    assert [scene.label for scene in scenes[:20]] == [*range(10), *range(10)]


def test_healing_removes_the_digit_and_nothing_else(scenes: list[GlyphScene]) -> None:
    for scene in scenes:
        changed = (scene.image != scene.healed).any(axis=0)
        assert changed[scene.mask].all()
        rows, columns = np.nonzero(scene.mask)
        box = np.zeros_like(changed)
        box[max(rows.min() - 3, 0) : rows.max() + 4, max(columns.min() - 3, 0) : columns.max() + 4] = True
        assert not changed[~box].any()
        assert not changed[scene.distractor_mask].any()


def test_the_healed_image_does_not_know_the_label() -> None:
    one, other = (generate_glyph("fit", 5, 9, label=label) for label in (1, 8))
    np.testing.assert_array_equal(one.healed, other.healed)
    np.testing.assert_array_equal(one.distractor_mask, other.distractor_mask)
    assert not np.array_equal(one.mask, other.mask)


def test_digit_and_distractor_do_not_touch(scenes: list[GlyphScene]) -> None:
    for scene in scenes:
        assert scene.mask.any()
        assert scene.distractor_mask.any()
        assert not (binary_dilation(scene.mask, iterations=2) & scene.distractor_mask).any()


def test_boxes_are_apart_and_inside_the_frame() -> None:
    rng = np.random.default_rng(0)
    for size in (32, 33, 64, 128):
        for _ in range(500):
            boxes = _draw_boxes(rng, size)
            frame = np.zeros((size, size), dtype=int)
            for box in boxes:
                assert all(0 <= side.start < side.stop <= size for side in box)
                assert box[0].stop - box[0].start == box[1].stop - box[1].start
                frame[box] += 1
            assert frame.max() == 1
            gaps = [max(b.start - a.stop, a.start - b.stop) for a, b in zip(*boxes, strict=True)]
            assert max(gaps) >= 2


def test_digit_is_legible(scenes: list[GlyphScene]) -> None:
    contrast = [np.abs(luminance(s.image - s.healed))[s.mask].mean() for s in scenes]
    assert min(contrast) > 0.2
    for scene in scenes:
        assert 80 <= scene.mask.sum() <= 0.2 * scene.mask.size


def test_distractor_has_the_colour_of_the_digit(scenes: list[GlyphScene]) -> None:
    for scene in scenes:
        inner = [np.median(scene.image[:, mask], axis=1) for mask in (scene.mask, scene.distractor_mask)]
        np.testing.assert_allclose(inner[0], inner[1], atol=0.15)


def test_pools_are_disjoint_and_complete() -> None:
    pools = {split: digit_pool(split) for split in ("fit", "validation", "test")}
    ids = np.concatenate([pool.ids for pool in pools.values()])
    np.testing.assert_array_equal(np.sort(ids), np.arange(1797))
    for pool in pools.values():
        assert np.bincount(pool.labels, minlength=10).min() >= 25
        assert pool.ink.min() == 0
        assert pool.ink.max() == 1


@pytest.mark.parametrize("split", ["fit", "validation", "test"])
def test_scenes_draw_digits_from_their_own_pool_only(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def spy(name: str) -> Digits:
        asked.append(name)
        return digit_pool(name)

    monkeypatch.setattr("vitxai.datasets._glyph_scene.digit_pool", spy)
    generate_glyph(split, 0, 0)
    assert set(asked) == {split}


def test_shipped_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    source = datasets.load_digits()
    for split in ("fit", "validation", "test"):
        pool = digit_pool(split)
        np.testing.assert_array_equal(pool.ink * 16, source.images[pool.ids])
        np.testing.assert_array_equal(pool.labels, source.target[pool.ids])


def test_shuffling_keeps_the_ink_and_the_tiles() -> None:
    ink = np.arange(64.0).reshape(8, 8)
    shuffled = _shuffle_tiles(np.random.default_rng(1), ink)
    np.testing.assert_array_equal(np.sort(shuffled, axis=None), np.arange(64.0))
    tiles = {tuple(shuffled[r : r + 2, c : c + 2].ravel()) for r in range(0, 8, 2) for c in range(0, 8, 2)}
    assert (0.0, 1.0, 8.0, 9.0) in tiles
    assert not np.array_equal(shuffled, ink)


def test_strokes_of_a_bar_stand_upright_and_turn() -> None:
    bar = np.zeros((8, 8))
    bar[:, 3:5] = 1.0
    box = (slice(10, 46), slice(20, 56))
    upright, quarter = _strokes(bar, box, 64, 0.0), _strokes(bar, box, 64, 90.0)
    assert upright[28, 38] == 1.0  # centre of the box
    rows, columns = np.nonzero(upright > 0.5)
    assert (rows.min(), rows.max()) == pytest.approx((12, 43), abs=1)  # 8 of 9 cells of 4 pixels
    assert (columns.min(), columns.max()) == pytest.approx((34, 41), abs=1)  # 2 cells
    np.testing.assert_allclose(quarter[box], upright[box].T, atol=1e-9)


def test_textures_come_with_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise AssertionError("a texture was looked for on the network")

    monkeypatch.setattr(socket, "create_connection", offline)
    _textures._textures.cache_clear()
    textures = _textures._textures()
    assert len(textures) == len(_textures.TEXTURES)
    for texture in textures:
        assert texture.shape[2] == 3
        assert min(texture.shape[:2]) >= _textures.MAX_SIZE
        assert 0 <= texture.min() < texture.max() <= 1


def test_size_is_a_parameter() -> None:
    for size in (32, 96, 300):
        assert generate_glyph("fit", 4, 0, size=size).image.shape == (3, size, size)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="fit, validation, test"):
        generate_glyph("train", 0, 0)
    with pytest.raises(ValueError, match="labels are 0 to 9; got 10"):
        generate_glyph("fit", 0, 0, label=10)
    with pytest.raises(ValueError, match="seed is a non-negative integer; got -3"):
        generate_glyph("fit", 0, -3)
    with pytest.raises(ValueError, match="32 to 300"):
        generate_glyph("fit", 0, 0, size=301)
