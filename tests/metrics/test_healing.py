"""Healing: exact on models whose probability adds up over features, equal to a plain loop, never a needless row."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation, TokenGeometry
from vitxai.bench.profile import count_passes
from vitxai.metrics.healing import Counterfactual, Healing
from vitxai.models.handle import wrap

NO_EFFECT = "healing lowers p(target) by less than 0.05"


class AdditiveProbability(nn.Module):
    """p(class 0) is .05 plus a weighted sum of the means over the cells (band, patch): effects of healing add up."""

    def __init__(self, weights: Tensor, patch: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.patch = patch

    def forward(self, inputs: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(inputs, self.patch)
        p = 0.05 + (means * self.weights).sum((1, 2, 3)).double()
        return torch.stack([p.log(), (1 - p).log()], dim=1)


@pytest.fixture
def additive():
    """A model of weights [C,h,w] on patches of two pixels, with optional spectral groups."""

    def build(weights, groups=None):
        weights = torch.as_tensor(weights, dtype=torch.float32)
        channels, h, w = weights.shape
        geometry = TokenGeometry((h, w), 0, "avg", (2 * h, 2 * w), channels, groups=groups)
        module = AdditiveProbability(weights, 2)
        return wrap(module, mean=(0.0,) * channels, std=(1.0,) * channels, geometry=geometry)

    return build


@pytest.fixture
def scored(batch_of, ctx):
    """Scores of a native map [B,...] for inputs of ones; healed cells [B,C,h,w] become zero."""

    def score(model, native, healed, layout="token", **params):
        native, healed = torch.as_tensor(native).float(), torch.as_tensor(healed).bool()
        inputs = torch.ones(len(native), model.channels, *model.input_size)
        counterfactual = inputs.masked_fill(healed.repeat_interleave(2, 2).repeat_interleave(2, 3), 0.0)
        batch = batch_of(len(native), model.input_size, inputs=inputs, healed=counterfactual)
        return Healing(**params).score(model, batch, Explanation(native, layout, model.geometry), ctx)

    return score


def everywhere(model, healed_patches, count=1):
    """Cells [count,C,h,w] of these patches [h,w] in all bands."""
    return torch.as_tensor(healed_patches).bool().expand(count, model.channels, -1, -1)


def three_bands(patches):
    """Weights [3,h,w] that spread a patch's weight over the bands of an RGB image."""
    return (torch.as_tensor(patches) / 3).expand(3, -1, -1)


def test_hand_computed(additive, scored):
    # Patches worth .4, .2, .1, .1; the first two are healed: p falls from .85 to .25, two thirds of it by the first.
    model = additive(three_bands([[0.4, 0.2], [0.1, 0.1]]))
    got = scored(model, [[[0.3, 0.1], [0.5, 0.0]]], everywhere(model, [[1, 1], [0, 0]]), steps=4, share=0.5)
    # Order: third (nothing), first, second, fourth.
    effects = [0, 0, 2 / 3, 1, 1]
    assert got["healing_auc"].values[0] == pytest.approx(np.trapezoid(effects, dx=0.25), abs=1e-6)
    # Two patches are healed; the two that the map puts first bring two thirds.
    assert got["healing_top_evidence"].values[0] == pytest.approx(2 / 3, abs=1e-6)
    assert got["healing_top"].values[0] == pytest.approx(2 / 3, abs=1e-6)
    assert got["healing_evidence_share"].values[0] == 0.5


def test_hand_computed_on_a_model_that_saturates(linear, batch_of, ctx):
    model = linear(torch.tensor([[4.0, 2.0], [1.0, 0.0]]), patch=4)
    inputs = torch.ones(1, 3, 8, 8)
    healed = inputs.clone()
    healed[..., :4, :] = 0
    explanation = Explanation(torch.tensor([[[0.5, 0.9], [0.1, 0.2]]]), "token", model.geometry)
    got = Healing(steps=4).score(model, batch_of(1, (8, 8), inputs=inputs, healed=healed), explanation, ctx)
    p = 1 / (1 + np.exp(-np.array([7.0, 5.0, 1.0, 1.0, 1.0])))
    effects = (p[0] - p) / (p[0] - p[-1])
    assert got["healing_auc"].values[0] == pytest.approx(np.trapezoid(effects, dx=0.25), abs=1e-5)


def test_random_orders_get_one_half_and_the_ideal_order_the_most(additive, scored):
    """Where effects add up: mean 1/2 over all orders, an order and its reverse sum to 1, ideal 1 - m/2n for m equal."""
    model = additive(three_bands([[0.3, 0.3], [0.1, 0.1]]))
    orders = torch.tensor(list(itertools.permutations((4.0, 3.0, 2.0, 1.0)))).view(24, 2, 2)
    healed = everywhere(model, [[1, 1], [0, 0]], 24)
    areas = scored(model, orders, healed, steps=4)["healing_auc"].values
    opposite = scored(model, -orders, healed, steps=4, reduction="signed")["healing_auc"].values
    assert areas.mean() == pytest.approx(1 / 2, abs=1e-6)
    np.testing.assert_allclose(areas + opposite, 1, atol=1e-6)
    ideal = (orders[:, 0] > 2.5).all(1).numpy()
    np.testing.assert_allclose(areas[ideal], 1 - 2 / (2 * 4), atol=1e-6)
    assert areas[~ideal].max() < areas[ideal].min()


def test_ties_heal_in_proportion(additive, scored):
    """The value of tied patches is the mean over the orders that they may take, where effects add up."""
    model = additive(three_bands([[0.3, 0.2, 0.1], [0.1, 0.1, 0.05]]))
    healed = [[1, 1, 1], [0, 0, 1]]
    tied = torch.tensor([[[3.0, 1.0, 1.0], [1.0, 1.0, 0.5]]])
    jitters = torch.tensor(list(itertools.permutations((0.01, 0.02, 0.03, 0.04))))
    broken = tied.expand(24, 2, 3).reshape(24, 6).clone()
    broken[:, 1:5] += jitters
    got = scored(model, tied, everywhere(model, healed), steps=6, share=0.5)
    parts = scored(model, broken.view(24, 2, 3), everywhere(model, healed, 24), steps=6, share=0.5)
    for name in ("healing_auc", "healing_top", "healing_top_evidence"):
        assert got[name].values[0] == pytest.approx(parts[name].values.mean(), abs=1e-6), name


def test_whoever_ranks_the_evidence_first_explains_all_of_it(vit, vit_batch, ctx):
    generator = torch.Generator().manual_seed(0)
    evidence = torch.zeros(8, 4, 4, dtype=torch.bool)
    evidence[:, 1:3, 1:] = True
    batch = with_healed(vit_batch, evidence, generator)
    maps = torch.rand(8, 4, 4, generator=generator) + evidence
    got = Healing(smallest_effect=1e-3).score(vit, batch, Explanation(maps, "token", vit.geometry), ctx)
    defined = ~np.isnan(got["healing_auc"].values)
    assert defined.sum() > 2
    assert (got["healing_top_evidence"].values[defined] == 1).all()


def with_healed(batch, evidence, generator):
    """The batch with other pixels in these patches [B,4,4] as its counterfactual."""
    where = evidence.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = torch.randn(batch.inputs.shape, generator=generator)
    return replace(batch, healed=torch.where(where, other, batch.inputs))


def test_agrees_with_a_plain_loop(vit, vit_batch, ctx):
    generator = torch.Generator().manual_seed(1)
    batch = with_healed(vit_batch, torch.rand(8, 4, 4, generator=generator) < 0.5, generator)
    maps = torch.rand(8, 4, 4, generator=generator)
    metric = Healing(steps=5, share=0.25, smallest_effect=1e-3)
    got = metric.score(vit, batch, Explanation(maps, "token", vit.geometry), ctx)
    counts = [round(i * 16 / 5) for i in range(6)]
    seen = 0
    for row in range(8):
        order = maps[row].flatten().argsort(descending=True).tolist()
        p = []
        for count in range(17):
            image = batch.inputs[row].clone()
            for patch in order[:count]:
                y, x = divmod(patch, 4)
                cell = (slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
                image[cell] = batch.healed[row][cell]
            with torch.inference_mode():
                p.append(float(vit(image[None]).softmax(1)[0, batch.targets[row]]))
        effects = (p[0] - np.array(p)) / (p[0] - p[16])
        if p[0] - p[16] < 1e-3:
            assert got["healing_auc"].reasons[row] == "healing lowers p(target) by less than 0.001"
            continue
        seen += 1
        area = np.trapezoid(effects[counts], np.array(counts) / 16)
        assert got["healing_auc"].values[row] == pytest.approx(area, rel=1e-3, abs=1e-3)
        assert got["healing_top"].values[row] == pytest.approx(effects[4], rel=1e-3, abs=1e-3)
    assert seen > 2


def test_bands_heal_everywhere(additive, scored):
    # Four bands of one patch each worth .3, .2, .1, .1; two are healed.
    weights = torch.tensor([0.3, 0.2, 0.1, 0.1]).view(4, 1, 1).expand(4, 1, 2) / 2
    model = additive(weights)
    healed = torch.zeros(1, 4, 1, 2, dtype=torch.bool)
    healed[0, :2] = True
    native = torch.tensor([0.1, 0.4, 0.3, 0.2]).view(1, 4, 1, 1).expand(1, 4, 2, 4)
    got = scored(model, native, healed, "cube", steps=4, share=0.25)
    # Order: second (.2 of .5), third, fourth, first.
    assert got["healing_auc_bands"].values[0] == pytest.approx(np.trapezoid([0, 0.4, 0.4, 0.4, 1], dx=0.25), abs=1e-6)
    assert got["healing_top_bands"].values[0] == pytest.approx(0.4, abs=1e-6)
    # The map is flat in space, but its cells differ by band; both patches' cells of a band tie.
    assert got["healing_auc"].reasons == ("the map is constant",)
    expected = np.trapezoid([0, 0.4, 0.4, 0.4, 1], dx=0.25)
    assert got["healing_auc_cube"].values[0] == pytest.approx(expected, abs=1e-6)


def test_cells_of_the_cube(additive, scored):
    # Cells (band, patch): only (1, right) is healed and marked most; band and patch curves know half of it each.
    model = additive(torch.full((4, 1, 2), 0.1))
    healed = torch.zeros(1, 4, 1, 2, dtype=torch.bool)
    healed[0, 1, 0, 1] = True
    native = torch.zeros(1, 4, 2, 4)
    native[0, 1, :, 2:], native[0, 2, :, :2] = 1.0, 0.5
    got = scored(model, native, healed, "cube", steps=8, share=1 / 8)
    assert got["healing_top_cube"].values[0] == 1
    assert got["healing_auc_cube"].values[0] == pytest.approx(1 - 1 / 16)
    assert got["healing_auc_bands"].values[0] == pytest.approx(1 - 1 / 8)
    assert got["healing_auc"].values[0] == pytest.approx(1 - 1 / 4)
    assert got["healing_evidence_share"].values[0] == 0.5


def test_cells_of_fused_models_are_patches_times_groups_of_neighbouring_bands(additive, scored):
    # Two groups of two bands on two patches; the marked cell holds both healed bands, one of them unmarked by itself.
    model = additive(torch.full((4, 1, 2), 0.1))
    healed = torch.zeros(1, 4, 1, 2, dtype=torch.bool)
    healed[0, :2, 0, 1] = True
    native = torch.zeros(1, 4, 2, 4)
    native[0, 1, :, 2:], native[0, 2, :, :2] = 1.0, 0.5
    got = scored(model, native, healed, "cube", steps=4, share=1 / 4, groups=2)
    assert got["healing_top_cube"].values[0] == 1
    assert got["healing_auc_cube"].values[0] == pytest.approx(1 - 1 / 8)
    # By itself the unmarked band ties with all that is zero: half of the effect comes from six cells in proportion.
    alone = scored(model, native, healed, "cube", steps=4, share=1 / 4, groups=4)
    effects = [0, 1 / 2, 1 / 2 + 1 / 6, 1 / 2 + 2 / 6, 1]
    assert alone["healing_auc_cube"].values[0] == pytest.approx(np.trapezoid(effects, dx=1 / 4), abs=1e-6)


def test_groups_stand_for_all_their_bands(additive, scored):
    weights = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(0)) / 25
    groups = ((0, 3), (1, 2), (4,))
    model, healed = additive(weights, groups), torch.ones(3, 5, 2, 2, dtype=torch.bool)
    healed[:, :, 0, 0] = False
    native = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    whole = native[:, [0, 1, 1, 0, 2]].repeat_interleave(2, 2).repeat_interleave(2, 3)
    got = scored(model, native, healed, "group_token")
    for name, values in scored(model, whole, healed, "cube").items():
        np.testing.assert_allclose(got[name].values, values.values, atol=1e-6)


def test_rows_are_the_different_images_between_the_ends(vit, vit_batch):
    generator = torch.Generator().manual_seed(2)
    evidence = torch.zeros(8, 4, 4, dtype=torch.bool)
    evidence[1:, 0, :3] = True  # sample 0 is healthy
    batch = with_healed(vit_batch, evidence, generator)
    maps = torch.rand(8, 4, 4, generator=generator)
    maps[2] = 1.0  # orders nothing
    ctx = EngineContext(max_rows=5)
    metric = Healing(steps=16, smallest_effect=1e-12)
    with count_passes(vit.module) as first:
        got = metric.score(vit, batch, Explanation(maps, "token", vit.geometry), ctx)
    defined = int((~np.isnan(got["healing_auc"].values)).sum())
    # Three changed patches have two images between the ends, at whichever of the sixteen steps they come.
    assert first.forwards == 8 + 8 + 2 * defined
    with count_passes(vit.module) as second:
        metric.score(vit, batch, Explanation(maps, "token", vit.geometry), ctx)
    assert second.forwards == 2 * defined
    assert 2 <= defined <= 6
    everything = with_healed(vit_batch, torch.ones_like(evidence), generator)
    with count_passes(vit.module) as third:
        full = Healing(steps=4, share=0.25, smallest_effect=1e-12)
        got = full.score(vit, everything, Explanation(maps, "token", vit.geometry), EngineContext())
    # Where all features change, a curve of four steps has three inner images; a quarter is one of them.
    assert third.forwards == 8 + 8 + 3 * int((~np.isnan(got["healing_auc"].values)).sum())


def test_undefined_values_have_reasons(additive, scored, batch_of, ctx):
    model = additive(three_bands([[0.4, 0.2], [0.1, 0.04]]))
    evidence = ([[0, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 0]])
    healed = torch.cat([everywhere(model, patches) for patches in evidence])
    maps = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(0))
    maps[2], maps[4, 0, 0] = 2.0, torch.nan
    got = scored(model, maps, healed)
    reasons = (NO_EFFECT, NO_EFFECT, "the map is constant", "", "the map is not finite")
    assert got["healing_auc"].reasons == reasons
    assert got["healing_top_evidence"].reasons == (*reasons[:3], "healing changes every patch", reasons[4])
    assert got["healing_auc_cube"].reasons[3] == "no spectral axis"
    assert got["healing_evidence_share"].values.tolist() == [0, 0.25, 0.25, 1, 0.25]
    with pytest.raises(BadInputError, match="this batch has none"):
        Healing().score(model, batch_of(5, (4, 4)), Explanation(maps, "token", model.geometry), ctx)


def test_healing_that_raises_the_probability_is_no_evidence_for_the_class(additive, batch_of, ctx):
    model = additive(three_bands([[0.4, 0.2], [0.1, 0.1]]))
    inputs = torch.full((1, 3, 4, 4), 0.5)
    batch = batch_of(1, (4, 4), inputs=inputs, healed=2 * inputs)
    got = Healing().score(model, batch, Explanation(torch.rand(1, 2, 2), "token", model.geometry), ctx)
    assert got["healing_auc"].reasons == (NO_EFFECT,)


def test_only_the_order_matters(additive, scored):
    generator = torch.Generator().manual_seed(3)
    model = additive(three_bands(torch.rand(4, 4, generator=generator) / 16))
    maps, healed = torch.rand(6, 4, 4, generator=generator), torch.rand(6, 1, 4, 4, generator=generator) < 0.6
    healed = healed.expand(6, 3, 4, 4)
    got = scored(model, maps, healed)
    for other in (maps.exp(), 2**-60 * maps, maps**3):
        for name, values in scored(model, other, healed).items():
            np.testing.assert_array_equal(values.values, got[name].values)


def test_samples_do_not_influence_each_other(vit, vit_batch, ctx):
    generator = torch.Generator().manual_seed(4)
    batch = with_healed(vit_batch, torch.rand(8, 4, 4, generator=generator) < 0.5, generator)
    native = torch.rand(8, 3, *vit.input_size, generator=generator)
    explanation = Explanation(native, "cube", vit.geometry)
    metric = Healing(smallest_effect=0.01)
    together = metric.score(vit, batch, explanation, ctx)
    assert (~np.isnan(together["healing_auc"].values)).sum() > 2
    for rows in ([6], [5, 1, 3]):
        part = Explanation(native[rows], "cube", vit.geometry)
        got = metric.score(vit, batch.select(rows), part, EngineContext(max_rows=5))
        for name, values in got.items():
            np.testing.assert_allclose(values.values, together[name].values[rows], atol=1e-3)


def test_changed_cells_follow_the_patches_of_a_grid_that_does_not_divide_the_image(batch_of, ctx, vit):
    # Five pixels on two patches: pixels 0 to 2 are the first.
    geometry = TokenGeometry((2, 2), 0, "avg", (5, 5), 3)
    inputs = torch.zeros(1, 3, 5, 5)
    healed = inputs.clone()
    healed[0, 1, 2, 3] = 1
    batch = batch_of(1, (5, 5), inputs=inputs)
    swap = Counterfactual(vit, batch, geometry, ctx, healed, torch.ones(1), torch.zeros(1))
    assert swap.changed().nonzero().tolist() == [[0, 1, 0, 1]]


@pytest.mark.parametrize(
    "params", [{"steps": 1}, {"groups": 0}, {"share": 0.0}, {"share": 1.0}, {"smallest_effect": 0.0}]
)
def test_bad_parameters_are_refused(additive, scored, params):
    model = additive(three_bands([[0.4, 0.2], [0.1, 0.1]]))
    with pytest.raises(BadInputError, match="steps="):
        scored(model, [[[1.0, 0.0], [0.0, 0.0]]], everywhere(model, [[1, 0], [0, 0]]), **params)
