"""Insertion and deletion: by hand on a linear model, equal to a plain loop, exact number of forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation
from vitxai.bench.profile import count_passes
from vitxai.metrics.insertion_deletion import InsertionDeletion, PatchWalk
from vitxai.models.perturb import blurred


@pytest.fixture
def random_maps(vit):
    def build(count: int, seed: int = 0) -> Explanation:
        native = torch.randn(count, *vit.geometry.grid, generator=torch.Generator().manual_seed(seed))
        return Explanation(native, "token", vit.geometry)

    return build


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def test_hand_computed_deletion(linear, batch_of, ctx):
    # Four patches worth 4, 2, 1, 0: the map ranks them 2nd, 1st, 3rd, 4th. p = softmax over (logit, 0).
    model = linear(torch.tensor([[4.0, 2.0], [1.0, 0.0]]), patch=4)
    batch = batch_of(1, (8, 8), inputs=torch.ones(1, 3, 8, 8))
    explanation = Explanation(torch.tensor([[[0.5, 0.9], [-1.0, -2.0]]]), "token", model.geometry)
    got = InsertionDeletion(steps=4, sigma=0.5).score(model, batch, explanation, ctx)
    curve = sigmoid([7, 5, 1, 0, 0])
    area = np.trapezoid(curve, [0, 0.25, 0.5, 0.75, 1])
    assert got["deletion_auc"].values[0] == pytest.approx(area, abs=1e-6)
    assert got["deletion_auc_normalised"].values[0] == pytest.approx((area - 0.5) / (curve[0] - 0.5), abs=1e-5)
    # A constant image is its own blur: insertion stays at the clean probability and has nothing to normalise by.
    assert got["insertion_auc"].values[0] == pytest.approx(curve[0], abs=1e-6)
    assert got["insertion_auc_normalised"].reasons == ("the ends of the curve differ by less than 0.05",)


@pytest.mark.parametrize(("logit", "defined"), [(0.15, False), (0.25, True)])
def test_ends_that_are_close_normalise_nothing(linear, batch_of, ctx, logit, defined):
    """p falls from .537 or .562 to .5."""
    model = linear(torch.full((2, 2), logit / 4), patch=4)
    explanation = Explanation(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "token", model.geometry)
    batch = batch_of(1, (8, 8), inputs=torch.ones(1, 3, 8, 8))
    got = InsertionDeletion(steps=4, sigma=0.5).score(model, batch, explanation, ctx)
    assert np.isfinite(got["deletion_auc"].values[0])
    assert np.isfinite(got["deletion_auc_normalised"].values[0]) == defined


def test_hand_computed_order_and_counts():
    walk = PatchWalk.of(torch.tensor([[[1.0, 3.0, 3.0], [0.0, 3.0, -1.0]]]), steps=4)
    assert walk.rank.tolist() == [[3, 0, 1, 4, 2, 5]]  # equal patches in raster order
    assert walk.counts.tolist() == [0, 2, 3, 4, 6]  # 1.5 and 4.5 round to even
    assert walk.reached()[0].int().tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0]]
    assert PatchWalk.of(torch.rand(1, 2, 2), steps=12).counts.tolist() == [0, 1, 2, 3, 4]


def test_agrees_with_a_plain_loop(vit, vit_batch, random_maps, ctx):
    explanation = random_maps(8)
    got = InsertionDeletion(steps=5, sigma=0.75).score(vit, vit_batch, explanation, ctx)
    soft = blurred(vit_batch.inputs, sigma=6.0)
    defined = 0
    for row in range(8):
        order = np.argsort(-explanation.native[row].flatten().numpy(), kind="stable")
        counts = [round(i * 16 / 5) for i in range(6)]
        removed, inserted = [], []
        for count in counts:
            deletion, insertion = vit_batch.inputs[row].clone(), soft[row].clone()
            for patch in order[:count]:
                y, x = divmod(int(patch), 4)
                cell = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
                deletion[cell] = 0
                insertion[cell] = vit_batch.inputs[row][cell]
            with torch.inference_mode():
                p = vit(torch.stack([deletion, insertion])).softmax(1)[:, vit_batch.targets[row]]
            removed.append(float(p[0]))
            inserted.append(float(p[1]))
        fractions = np.array(counts) / 16
        assert got["deletion_auc"].values[row] == pytest.approx(np.trapezoid(removed, fractions), abs=1e-5)
        assert got["insertion_auc"].values[row] == pytest.approx(np.trapezoid(inserted, fractions), abs=1e-5)
        span = inserted[-1] - inserted[0]
        expected = (np.trapezoid(inserted, fractions) - inserted[0]) / span if abs(span) >= 0.05 else np.nan
        normalised = got["insertion_auc_normalised"].values[row]
        assert normalised == pytest.approx(expected, rel=1e-3, nan_ok=True)
        defined += np.isfinite(normalised)
    assert defined


def test_forwards_are_as_documented(vit, vit_batch, random_maps, ctx):
    metric = InsertionDeletion(steps=6)
    with count_passes(vit.module) as first:
        metric.score(vit, vit_batch, random_maps(8, seed=0), ctx)
    with count_passes(vit.module) as second:
        metric.score(vit, vit_batch, random_maps(8, seed=1), ctx)
    assert second.forwards == 8 * 2 * (6 - 1)
    assert first.forwards == second.forwards + 8 * 3


def test_the_true_contributions_beat_their_opposite(linear, batch_of, ctx):
    generator = torch.Generator().manual_seed(0)
    model = linear(torch.rand(4, 4, generator=generator), patch=8)
    batch = batch_of(5, (32, 32), inputs=torch.randn(5, 3, 32, 32, generator=generator))
    contributions = torch.nn.functional.avg_pool2d(batch.inputs.mean(1, keepdim=True), 8)[:, 0] * model.module.weights
    metric = InsertionDeletion()
    best = metric.score(model, batch, Explanation(contributions.detach(), "token", model.geometry), ctx)
    worst = metric.score(model, batch, Explanation(-contributions.detach(), "token", model.geometry), ctx)
    assert (best["deletion_auc"].values < worst["deletion_auc"].values).all()
    assert (best["insertion_auc"].values > worst["insertion_auc"].values).all()


def test_pixels_are_averaged_over_patches(vit, vit_batch, random_maps, ctx):
    tokens = random_maps(8)
    pixels = tokens.native.repeat_interleave(8, 1).repeat_interleave(8, 2)
    for name, values in InsertionDeletion().score(vit, vit_batch, tokens, ctx).items():
        got = InsertionDeletion().score(vit, vit_batch, Explanation(pixels, "pixel", vit.geometry), ctx)[name]
        np.testing.assert_allclose(got.values, values.values, atol=1e-6)


def test_same_score_alone_in_another_order_and_at_any_scale(vit, vit_batch, random_maps, ctx):
    explanation = random_maps(8)
    together = InsertionDeletion().score(vit, vit_batch, explanation, ctx)
    scaled = Explanation(explanation.native * 2**-30, "token", vit.geometry)
    for rows in ([6], [5, 1, 3]):
        part = Explanation(explanation.native[rows], "token", vit.geometry)
        got = InsertionDeletion().score(vit, vit_batch.select(rows), part, EngineContext(max_rows=5))
        for name in ("insertion_auc", "deletion_auc"):
            np.testing.assert_allclose(got[name].values, together[name].values[rows], atol=1e-5)
    for name, values in InsertionDeletion().score(vit, vit_batch, scaled, ctx).items():
        np.testing.assert_allclose(values.values, together[name].values, atol=1e-6)


def test_a_constant_map_orders_nothing(vit, vit_batch, ctx):
    native = torch.ones(8, 4, 4)
    native[1, 0, 0] = 2
    got = InsertionDeletion().score(vit, vit_batch, Explanation(native, "token", vit.geometry), ctx)
    for values in got.values():
        assert values.reasons[0] == "the map is constant"
        assert values.reasons[1] == ""


@pytest.mark.parametrize("params", [{"steps": 1}, {"sigma": 0.0}, {"sigma": 5.0}])
def test_bad_parameters_are_refused(vit, vit_batch, random_maps, ctx, params):
    with pytest.raises(BadInputError, match="sigma"):
        InsertionDeletion(**params).score(vit, vit_batch, random_maps(8), ctx)
