"""Flipping, SaCo, estimate, single deletion, infidelity, sufficiency, ROAD: by hand, by plain loops, against peers."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import pearsonr, spearmanr

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation, TokenGeometry, metrics
from vitxai.bench.profile import count_passes
from vitxai.metrics import _imputation
from vitxai.metrics._imputation import impute, sparse_solution
from vitxai.metrics._removal import cuts, group_sums, groups_of, patch_sums, ranks
from vitxai.metrics.infidelity import Infidelity, random_squares, scaled_residual
from vitxai.metrics.saco import coefficient

CONSTANT = "the map is constant"
ROWS = {  # forward rows a sample: of the first explanation, of every further one
    "pixel_flipping,steps=6": (12, 10),
    "patch_flipping,steps=6": (12, 10),
    "saco,groups=5": (6, 5),
    "faithfulness_estimate,steps=4": (5, 4),
    "idsds": (17, 0),
    "idsds,cells=2": (5, 0),
    "infidelity,runs=9": (10, 0),
    "sufficiency": (9, 8),
    "road,levels=3": (7, 6),
}


@pytest.fixture
def random_maps(vit):
    def build(count: int, seed: int = 0) -> Explanation:
        native = torch.randn(count, *vit.geometry.grid, generator=torch.Generator().manual_seed(seed))
        return Explanation(native, "token", vit.geometry)

    return build


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def upsampled(explanation):
    """In float64, where no rounding decides between equal pixels."""
    return Explanation(explanation.native.double(), explanation.layout, explanation.geometry).spatial("signed")


def answers(model, images, target):
    with torch.inference_mode():
        logits = model(torch.stack(images)).double()
    return logits[:, target].numpy(), logits.softmax(1)[:, target].numpy()


def cell(patch, side=8, grid=4):
    y, x = divmod(int(patch), grid)
    return (slice(None), slice(side * y, side * y + side), slice(side * x, side * x + side))


def without(image, patches, fill=0.0):
    changed = image.clone()
    for patch in patches:
        changed[cell(patch)] = fill
    return changed


class TestOrders:
    def test_groups_and_ties_by_hand(self):
        values = torch.tensor([[[1.0, 3.0, 3.0], [0.0, 3.0, -1.0]]])
        assert ranks(values, descending=True).tolist() == [[3, 0, 1, 4, 2, 5]]  # equal ones in raster order
        assert ranks(values, descending=False).tolist() == [[2, 3, 4, 1, 5, 0]]
        counts = cuts(6, 4, values.device)
        assert counts.tolist() == [0, 2, 3, 4, 6]  # 1.5 and 4.5 round to even
        assert groups_of(ranks(values, True), counts)[0].int().tolist() == [
            [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1],
        ]  # fmt: skip
        assert group_sums(values, counts).tolist() == [[6, 3, 1, -1]]
        assert cuts(3, 12, values.device).tolist() == [0, 1, 2, 3]

    def test_patch_sums_hold_all_attribution(self):
        geometry = TokenGeometry((2, 2), 1, "token", (4, 4), channels=3)
        cube = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        sums = patch_sums(Explanation(cube, "cube", geometry))
        torch.testing.assert_close(sums[:, 0, 1], cube[:, :, :2, 2:].sum((1, 2, 3)))
        torch.testing.assert_close(patch_sums(Explanation(cube[:, 0], "pixel", geometry)).sum(), cube[:, 0].sum())
        tokens = cube[:, 0, :2, :2]
        torch.testing.assert_close(patch_sums(Explanation(tokens, "token", geometry)), tokens)


class TestFlipping:
    def test_hand_computed(self, linear, batch_of, ctx):
        # Four patches worth 4, 2, 1, 0; the map ranks them 2nd, 1st, 3rd, 4th. p = softmax over (logit, 0).
        model = linear(torch.tensor([[4.0, 2.0], [1.0, 0.0]]), patch=4)
        batch = batch_of(1, (8, 8), inputs=torch.ones(1, 3, 8, 8))
        explanation = Explanation(torch.tensor([[[0.5, 0.9], [-1.0, -2.0]]]), "token", model.geometry)
        got = metrics.create("patch_flipping,steps=4").score(model, batch, explanation, ctx)
        shares = np.arange(5) / 4
        morf = np.trapezoid(sigmoid([7, 5, 1, 0, 0]), shares)
        lerf = np.trapezoid(sigmoid([7, 7, 6, 2, 0]), shares)
        top, end = sigmoid(7), 0.5
        expected = {
            "patch_morf_auc": morf,
            "patch_lerf_auc": lerf,
            "patch_abpc": lerf - morf,
            "patch_morf_auc_normalised": (morf - end) / (top - end),
            "patch_lerf_auc_normalised": (lerf - end) / (top - end),
            "patch_abpc_normalised": (lerf - morf) / (top - end),
        }
        assert {name: values.values[0] for name, values in got.items()} == pytest.approx(expected, abs=1e-5)

    def test_morf_of_patches_is_deletion(self, vit, vit_batch, random_maps, ctx):
        flipped = metrics.create("patch_flipping,steps=6").score(vit, vit_batch, random_maps(8), ctx)
        deleted = metrics.create("insertion_deletion,steps=6").score(vit, vit_batch, random_maps(8), ctx)
        for name in ("auc", "auc_normalised"):
            np.testing.assert_array_equal(flipped[f"patch_morf_{name}"].values, deleted[f"deletion_{name}"].values)

    def test_pixels_are_the_patches_where_a_patch_is_a_pixel(self, linear, batch_of, ctx):
        generator = torch.Generator().manual_seed(0)
        model = linear(torch.randn(4, 4, generator=generator))
        batch = batch_of(3, (4, 4), inputs=torch.randn(3, 3, 4, 4, generator=generator))
        explanation = Explanation(torch.randn(3, 4, 4, generator=generator), "token", model.geometry)
        pixels = metrics.create("pixel_flipping").score(model, batch, explanation, ctx)
        patches = metrics.create("patch_flipping").score(model, batch, explanation, ctx)
        for name, values in pixels.items():
            np.testing.assert_array_equal(values.values, patches[name.replace("pixel", "patch")].values)

    def test_pixels_agree_with_a_plain_loop(self, vit, vit_batch, random_maps, ctx):
        explanation = random_maps(3)
        got = metrics.create("pixel_flipping,steps=5").score(vit, vit_batch.select([0, 1, 2]), explanation, ctx)
        for row in range(3):
            values = upsampled(explanation)[row].flatten().numpy()
            for name, key in (("morf", -values), ("lerf", values)):
                order = np.argsort(key, kind="stable")
                counts = [round(i * 1024 / 5) for i in range(6)]
                images = []
                for count in counts:
                    keep = torch.ones(1024)
                    keep[torch.from_numpy(order[:count])] = 0
                    images.append(vit_batch.inputs[row] * keep.view(32, 32))
                _, p = answers(vit, images, vit_batch.targets[row])
                area = np.trapezoid(p, np.array(counts) / 1024)
                assert got[f"pixel_{name}_auc"].values[row] == pytest.approx(area, abs=1e-6)

    def test_curve_agrees_with_quantus(self, linear, batch_of, ctx):
        """On one channel and one-pixel patches, where Quantus tears no pixel apart; it leaves the clean point out."""
        flipping = pytest.importorskip("quantus").PixelFlipping
        generator = torch.Generator().manual_seed(2)
        model = linear(torch.randn(4, 4, generator=generator))
        images = torch.randn(3, 1, 4, 4, generator=generator)
        maps = torch.randn(3, 4, 4, generator=generator)
        batch = batch_of(3, (4, 4), inputs=images.expand(-1, 3, -1, -1))
        got = metrics.create("pixel_flipping,steps=8").score(
            model, batch, Explanation(maps, "token", model.geometry), ctx
        )
        curves = flipping(
            features_in_step=2, perturb_baseline=0.0, normalise=False, disable_warnings=True,
        )(model=OneChannel(model).eval(), x_batch=images.numpy(), y_batch=np.zeros(3, int),
          a_batch=maps[:, None].numpy(), channel_first=True, device="cpu")  # fmt: skip
        clean = model(batch.inputs).softmax(1)[:, 0].detach().numpy()
        for row in range(3):
            area = np.trapezoid([clean[row], *curves[row]], np.arange(9) / 8)
            assert got["pixel_morf_auc"].values[row] == pytest.approx(area, abs=1e-6)

    def test_the_true_contributions_beat_their_opposite(self, linear, batch_of, ctx):
        generator = torch.Generator().manual_seed(0)
        model = linear(torch.randn(4, 4, generator=generator))
        batch = batch_of(5, (4, 4), inputs=torch.randn(5, 3, 4, 4, generator=generator))
        contributions = batch.inputs.mean(1) * model.module.weights.detach()
        best = metrics.create("pixel_flipping").score(
            model, batch, Explanation(contributions, "token", model.geometry), ctx
        )
        worst = metrics.create("pixel_flipping").score(
            model, batch, Explanation(-contributions, "token", model.geometry), ctx
        )
        assert (best["pixel_abpc"].values > 0).all()
        np.testing.assert_allclose(worst["pixel_abpc"].values, -best["pixel_abpc"].values, atol=1e-6)

    def test_ends_that_are_alike_normalise_nothing(self, linear, batch_of, ctx):
        model = linear(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
        explanation = Explanation(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "token", model.geometry)
        got = metrics.create("pixel_flipping").score(
            model, batch_of(1, inputs=torch.ones(1, 3, 2, 2)), explanation, ctx
        )
        assert got["pixel_abpc"].reasons == ("",)
        assert got["pixel_abpc_normalised"].reasons == ("the ends of the curve differ by less than 0.05",)


class OneChannel(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.expand(-1, 3, -1, -1))


class TestSaCo:
    def test_coefficient_by_hand(self):
        # Salience 3, 2, 0; pairs weigh 1, 3, 2. Drops 0.1, 0.3, 0.2: only (2, 3) agrees, and (1, 2), (1, 3) do not.
        salience = torch.tensor([[3.0, 2.0, 0.0]], dtype=torch.float64)
        drops = torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float64)
        assert coefficient(salience, drops).item() == pytest.approx((-1 - 3 + 2) / 6)
        assert coefficient(salience, -salience).item() == -1
        assert coefficient(1e-30 * salience, salience).item() == 1
        assert coefficient(salience, torch.tensor([[0.2, 0.2, 0.2]])).item() == 1  # equal drops agree

    def test_exact_contributions_of_a_linear_model_score_one(self, linear, batch_of, ctx):
        generator = torch.Generator().manual_seed(0)
        model = linear(torch.randn(4, 4, generator=generator))
        inputs = torch.randn(1, 3, 4, 4, generator=generator)
        batch = batch_of(1, (4, 4), inputs=inputs - inputs.mean((2, 3), keepdim=True))  # its own mean is zero
        contributions = batch.inputs.mean(1) * model.module.weights.detach()
        for sign, expected in ((1, 1), (-1, -1)):
            explanation = Explanation(sign * contributions, "token", model.geometry)
            got = metrics.create("saco,groups=4").score(model, batch, explanation, ctx)["saco"]
            assert got.values[0] == pytest.approx(expected)

    @pytest.mark.parametrize(("features", "count"), [("pixels", 1024), ("patches", 16)])
    def test_agrees_with_a_plain_loop_over_pairs(self, vit, vit_batch, random_maps, ctx, features, count):
        explanation = random_maps(4)
        batch = vit_batch.select(range(4))
        got = metrics.create(f"saco,groups=5,features={features}").score(vit, batch, explanation, ctx)["saco"]
        for row in range(4):
            image = batch.inputs[row]
            grid = explanation.native[row] if features == "patches" else upsampled(explanation)[row]
            values = grid.double().flatten().numpy()
            order = np.argsort(-values, kind="stable")
            ends = [round(i * count / 5) for i in range(6)]
            images, salience = [image], []
            for first, last in pairwise(ends):
                where = torch.zeros(count, dtype=torch.bool)
                where[torch.from_numpy(order[first:last])] = True
                side = math.isqrt(count)
                where = where.view(side, side).repeat_interleave(32 // side, 0).repeat_interleave(32 // side, 1)
                images.append(torch.where(where, image.mean((1, 2), keepdim=True), image))
                salience.append(values[order[first:last]].mean())
            _, p = answers(vit, images, batch.targets[row])
            drops, total, weight = p[0] - p[1:], 0.0, 0.0
            for i, j in combinations(range(5), 2):
                gap = salience[i] - salience[j]
                total += gap if drops[i] >= drops[j] else -gap
                weight += gap
            assert got.values[row] == pytest.approx(total / weight, abs=1e-5)

    def test_a_model_that_sees_no_group_is_no_success(self, linear, batch_of, ctx):
        model = linear(torch.zeros(2, 2))
        explanation = Explanation(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "token", model.geometry)
        got = metrics.create("saco").score(model, batch_of(1, inputs=torch.rand(1, 3, 2, 2)), explanation, ctx)
        assert got["saco"].reasons == ("all groups change p(target) alike",)


class TestEstimateAndSingleDeletion:
    def test_exact_contributions_of_a_linear_model_correlate_perfectly(self, linear, batch_of, ctx):
        generator = torch.Generator().manual_seed(0)
        model = linear(torch.randn(4, 4, generator=generator))
        batch = batch_of(2, (4, 4), inputs=torch.randn(2, 3, 4, 4, generator=generator))
        contributions = batch.inputs.mean(1) * model.module.weights.detach()
        for name in ("faithfulness_estimate", "faithfulness_estimate,steps=16", "idsds", "idsds,cells=2"):
            for sign in (1, -1):
                explanation = Explanation(sign * contributions, "pixel", model.geometry)
                (got,) = metrics.create(name).score(model, batch, explanation, ctx).values()
                np.testing.assert_allclose(got.values, sign, atol=1e-6)

    def test_agree_with_plain_loops(self, vit, vit_batch, random_maps, ctx):
        explanation = random_maps(8)
        estimate = metrics.create("faithfulness_estimate,steps=5").score(vit, vit_batch, explanation, ctx)
        single = metrics.create("idsds").score(vit, vit_batch, explanation, ctx)
        for row in range(8):
            image, values = vit_batch.inputs[row], explanation.native[row].flatten().numpy()
            order = np.argsort(-values, kind="stable")
            blocks = np.split(order, [round(i * 16 / 5) for i in range(1, 5)])
            logits, _ = answers(vit, [image, *(without(image, block) for block in blocks)], vit_batch.targets[row])
            expected = pearsonr([values[block].sum() for block in blocks], logits[0] - logits[1:]).statistic
            assert estimate["faithfulness_estimate"].values[row] == pytest.approx(expected, abs=1e-4)
            logits, _ = answers(vit, [image, *(without(image, [patch]) for patch in range(16))], vit_batch.targets[row])
            expected = spearmanr(values, logits[0] - logits[1:]).statistic
            assert single["single_deletion_score"].values[row] == pytest.approx(expected, abs=1e-6)

    def test_cells_sum_the_map_and_need_not_be_patches(self, vit, vit_batch, ctx):
        pixels = torch.randn(8, 32, 32, generator=torch.Generator().manual_seed(0))
        got = metrics.create("idsds,cells=3").score(vit, vit_batch, Explanation(pixels, "pixel", vit.geometry), ctx)
        edges = [0, 11, 22, 32]
        cells = [(slice(edges[y], edges[y + 1]), slice(edges[x], edges[x + 1])) for y in range(3) for x in range(3)]
        for row in range(2):
            images = [vit_batch.inputs[row]] + [vit_batch.inputs[row].clone() for _ in cells]
            for image, where in zip(images[1:], cells, strict=True):
                image[:, where[0], where[1]] = 0
            logits, _ = answers(vit, images, vit_batch.targets[row])
            sums = [float(pixels[row][where].sum()) for where in cells]
            assert got["single_deletion_score"].values[row] == pytest.approx(
                spearmanr(sums, logits[0] - logits[1:]).statistic
            )

    def test_estimate_agrees_with_quantus(self, linear, batch_of, ctx):
        estimate = pytest.importorskip("quantus").FaithfulnessEstimate
        generator = torch.Generator().manual_seed(2)
        model = linear(torch.randn(4, 4, generator=generator))
        images = torch.randn(3, 1, 4, 4, generator=generator)
        maps = torch.randn(3, 4, 4, generator=generator)
        batch = batch_of(3, (4, 4), inputs=images.expand(-1, 3, -1, -1))
        got = metrics.create("faithfulness_estimate,steps=8").score(
            model, batch, Explanation(maps, "token", model.geometry), ctx
        )
        reference = estimate(
            features_in_step=2, perturb_baseline=0.0, normalise=False, disable_warnings=True,
        )(model=OneChannel(model).eval(), x_batch=images.numpy(), y_batch=np.zeros(3, int),
          a_batch=maps[:, None].numpy(), channel_first=True, softmax=False, device="cpu")  # fmt: skip
        np.testing.assert_allclose(got["faithfulness_estimate"].values, reference, atol=1e-6)

    def test_a_model_that_sees_nothing_has_no_drops(self, linear, batch_of, ctx):
        model = linear(torch.zeros(2, 2))
        explanation = Explanation(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "token", model.geometry)
        batch = batch_of(1, inputs=torch.rand(1, 3, 2, 2))
        for name, reason in (("faithfulness_estimate", "no group changes"), ("idsds", "no cell changes")):
            (got,) = metrics.create(name).score(model, batch, explanation, ctx).values()
            assert got.reasons[0].startswith(reason)


class TestInfidelity:
    def test_hand_computed(self):
        sums = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        drops = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
        assert scaled_residual(sums, drops).item() == pytest.approx(1 - 16 / 25)
        assert scaled_residual(1e-30 * sums, -3 * sums).item() == pytest.approx(0, abs=1e-12)

    def test_exact_contributions_of_a_linear_model_have_none(self, linear, batch_of, ctx):
        generator = torch.Generator().manual_seed(0)
        model = linear(torch.randn(4, 4, generator=generator), patch=2)
        batch = batch_of(2, (8, 8), inputs=torch.randn(2, 3, 8, 8, generator=generator))
        weights = model.module.weights.detach().repeat_interleave(2, 0).repeat_interleave(2, 1)
        cube = batch.inputs * weights / 12  # each patch is a mean over 3 channels and 4 pixels
        got = Infidelity(runs=30).score(model, batch, Explanation(cube, "cube", model.geometry), ctx)
        np.testing.assert_allclose(got["infidelity"].values, 0, atol=1e-10)
        np.testing.assert_allclose(got["infidelity_normalised"].values, 0, atol=1e-10)
        scaled = Infidelity(runs=30).score(model, batch, Explanation(3 * cube, "cube", model.geometry), ctx)
        assert (scaled["infidelity"].values > 1e-3).all()
        np.testing.assert_allclose(scaled["infidelity_normalised"].values, 0, atol=1e-10)

    def test_agrees_with_captum(self, linear, batch_of, ctx):
        from captum.metrics import infidelity

        generator = torch.Generator().manual_seed(1)
        model = linear(torch.randn(5, 5, generator=generator).double())
        model.module.double()
        images = torch.randn(3, 3, 5, 5, generator=generator, dtype=torch.float64)
        maps = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
        batch = batch_of(3, (5, 5), inputs=images)
        got = Infidelity(runs=12).score(model, batch, Explanation(maps, "token", model.geometry), ctx)
        squares = random_squares(batch, ctx, 12, (5, 5))

        def removed(inputs):
            # Captum repeats the inputs sample by sample.
            where = squares.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
            return where.double() / 3, torch.where(where, 0.0, inputs)

        for normalised in (False, True):
            reference = infidelity(
                model, removed, images, maps[:, None].expand(-1, 3, -1, -1), target=0, n_perturb_samples=12,
                normalize=normalised,
            )  # fmt: skip
            drops = model(images)[:, :1] - model(
                torch.where(squares.flatten(0, 1)[:, None], 0.0, images.repeat_interleave(12, 0))
            )[:, 0].view(3, 12)
            scale = drops.square().mean(1) if normalised else 1
            name = "infidelity_normalised" if normalised else "infidelity"
            np.testing.assert_allclose(got[name].values, (reference / scale).detach().numpy(), atol=1e-6)

    def test_squares_are_squares_of_the_sample(self, vit_batch, ctx):
        squares = random_squares(vit_batch, ctx, 200, (4, 6))
        height, width = squares.any(3).sum(2), squares.any(2).sum(2)
        assert torch.equal(height, width)
        assert set(height.flatten().tolist()) == {1, 2}
        assert torch.equal(squares.sum((2, 3)), height * width)
        assert squares.any(1).all()  # every patch is removed sometimes
        torch.testing.assert_close(random_squares(vit_batch.select([5]), ctx, 200, (4, 6))[0], squares[5])
        assert random_squares(vit_batch, ctx, 3, (1, 1)).all()

    def test_undefined_values_have_reasons(self, linear, batch_of, ctx):
        model = linear(torch.ones(2, 2))
        inputs = torch.ones(2, 3, 2, 2)
        inputs[1] = 0
        maps = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]])
        got = Infidelity().score(model, batch_of(2, inputs=inputs), Explanation(maps, "token", model.geometry), ctx)
        assert got["infidelity"].values[0] == pytest.approx(1)  # one patch at a time, each worth one
        assert got["infidelity_normalised"].reasons == (
            "no removed square has attribution", "no removed square changes the target logit",
        )  # fmt: skip


class TestSufficiency:
    def test_hand_computed(self, linear, batch_of, ctx):
        # Twenty patches worth 20, 19, ..., 1 tenths; the map knows the order. Tops of 1, 1, 2, 4 and 10 patches.
        weights = torch.arange(20, 0, -1).view(4, 5) / 10
        model = linear(weights)
        batch = batch_of(1, (4, 5), inputs=torch.ones(1, 3, 4, 5))
        got = metrics.create("sufficiency").score(
            model, batch, Explanation(weights[None], "token", model.geometry), ctx
        )
        worth, tops = weights.flatten().numpy(), [1, 1, 2, 4, 10]
        clean = sigmoid(worth.sum())
        expected = np.mean([clean - sigmoid(worth[top:].sum()) for top in tops])
        assert got["comprehensiveness"].values[0] == pytest.approx(expected, abs=1e-6)
        expected = np.mean([clean - sigmoid(worth[:top].sum()) for top in tops])
        assert got["sufficiency"].values[0] == pytest.approx(expected, abs=1e-6)


class TestRoad:
    @pytest.mark.parametrize("size", [(64, 64), (32, 64), (64, 40)])
    def test_imputation_equals_an_independent_sparse_solve(self, size):
        generator = torch.Generator().manual_seed(0)
        shares = (0.1, 0.5, 0.9)
        images = torch.randn(len(shares), 2, *size, generator=generator)
        smooth = torch.nn.functional.interpolate(
            torch.randn(len(shares), 1, 8, 8, generator=generator), size=size, mode="bilinear"
        )[:, 0]
        hidden = torch.stack([m > m.flatten().quantile(1 - s) for m, s in zip(smooth, shares, strict=True)])
        expected = np.stack(
            [reference_imputation(i, h) for i, h in zip(images.double().numpy(), hidden.numpy(), strict=True)]
        )
        np.testing.assert_allclose(impute(images, hidden).numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(impute(images.double(), hidden).numpy(), expected, atol=1e-10)
        sparse = torch.stack([sparse_solution(i, h) for i, h in zip(images.double(), hidden, strict=True)])
        np.testing.assert_allclose(sparse.numpy(), expected, atol=1e-10)

    def test_imputation_by_hand_and_in_parts(self, monkeypatch):
        image = torch.arange(9.0).view(1, 1, 3, 3)
        hidden = torch.zeros(1, 3, 3, dtype=torch.bool)
        hidden[0, 1, 1] = hidden[0, 0, 0] = True
        # Corner: (2 x1 + 2 x3 + x4) / 5; centre: (2 (1 + 3 + 5 + 7) + x0 + 2 + 6 + 8) / 12.
        filled = impute(image, hidden)
        corner, centre = filled[0, 0, 0, 0].item(), filled[0, 0, 1, 1].item()
        assert corner == pytest.approx((2 * 1 + 2 * 3 + centre) / 5, abs=1e-5)
        assert centre == pytest.approx((32 + corner + 16) / 12, abs=1e-5)
        assert torch.equal(filled[0, 0][~hidden[0]], image[0, 0][~hidden[0]])
        assert torch.equal(impute(image, torch.zeros_like(hidden)), image)
        assert torch.equal(sparse_solution(image[0], torch.zeros_like(hidden[0])), image[0])
        monkeypatch.setattr(_imputation, "WIDEST_BLOCK", 2)
        torch.testing.assert_close(impute(image, hidden), filled, atol=1e-5, rtol=0)
        monkeypatch.undo()
        monkeypatch.setattr(_imputation, "STORED_BYTES", 1)
        many = impute(image.repeat(3, 1, 1, 1), hidden.repeat(3, 1, 1))
        torch.testing.assert_close(many, filled.repeat(3, 1, 1, 1))

    def test_agrees_with_a_plain_loop(self, vit, vit_batch, random_maps, ctx):
        explanation, batch = random_maps(3), vit_batch.select(range(3))
        got = metrics.create("road,levels=3,noise=0.0").score(vit, batch, explanation, ctx)
        for row in range(3):
            values = upsampled(explanation)[row].flatten().numpy()
            for name, key in (("road_morf", -values), ("road_lerf", values)):
                order, images = np.argsort(key, kind="stable"), []
                for count in (256, 512, 768):
                    hidden = np.zeros(1024, dtype=bool)
                    hidden[order[:count]] = True
                    filled = reference_imputation(batch.inputs[row].double().numpy(), hidden.reshape(32, 32))
                    images.append(torch.from_numpy(filled).float())
                with torch.inference_mode():
                    same = vit(torch.stack(images)).argmax(1) == vit(batch.inputs[row : row + 1]).argmax(1)
                assert got[name].values[row] == pytest.approx(same.double().mean().item())
        np.testing.assert_allclose(
            got["road_gap"].values, got["road_lerf"].values - got["road_morf"].values, atol=1e-12
        )

    def test_noise_is_the_samples_own(self, vit_batch, ctx):
        road = metrics.create("road")
        noise = road._noise(vit_batch, ctx)
        assert noise.std().item() == pytest.approx(0.01, rel=0.05)
        torch.testing.assert_close(road._noise(vit_batch.select([3]), ctx)[0], noise[3])

    def test_many_channels_are_no_error_and_every_batch_counts(self, batch_of, ctx):
        """Quantus' ROAD fails on more than one channel and scores the first chunk only."""
        geometry = TokenGeometry((4, 4), 0, "avg", (8, 8), channels=5)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5 * 64, 3))
        from vitxai.models.handle import wrap

        model = wrap(module, mean=(0.0,) * 5, std=(1.0,) * 5, geometry=geometry)
        generator = torch.Generator().manual_seed(0)
        batch = batch_of(5, (8, 8), 5, inputs=torch.randn(5, 5, 8, 8, generator=generator))
        explanation = Explanation(torch.randn(5, 4, 4, generator=generator), "token", geometry)
        together = metrics.create("road").score(model, batch, explanation, ctx)["road_morf"].values
        last = Explanation(explanation.native[4:], "token", geometry)
        alone = metrics.create("road").score(model, batch.select([4]), last, EngineContext(max_rows=3))["road_morf"]
        assert together.shape == (5,)
        assert alone.values[0] == together[4]


def reference_imputation(image, hidden):
    """Entry by entry, from the paper's rule, solved by scipy."""
    channels, height, width = image.shape
    ys, xs = np.nonzero(hidden)
    number = {(y, x): i for i, (y, x) in enumerate(zip(ys, xs, strict=True))}
    matrix, right = lil_matrix((len(ys), len(ys))), np.zeros((len(ys), channels))
    for (y, x), i in number.items():
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if (v, u) == (y, x):
                    continue
                weight = 1 / 6 if v == y or u == x else 1 / 12
                matrix[i, i] += weight
                if hidden[v, u]:
                    matrix[i, number[v, u]] = -weight
                else:
                    right[i] += weight * image[:, v, u]
    filled = image.copy()
    filled[:, ys, xs] = spsolve(matrix.tocsc(), right).reshape(len(ys), channels).T
    return filled


@pytest.mark.parametrize("spec", ROWS)
def test_forwards_are_as_documented(vit, vit_batch, random_maps, ctx, spec):
    metric = metrics.create(spec)
    with count_passes(vit.module) as first:
        metric.score(vit, vit_batch, random_maps(8, seed=0), ctx)
    with count_passes(vit.module) as second:
        metric.score(vit, vit_batch, random_maps(8, seed=1), ctx)
    # The clean answer and, for flipping, the grey one are shared; with `idsds` and `infidelity` everything is.
    assert (first.forwards, second.forwards) == tuple(8 * rows for rows in ROWS[spec])


@pytest.mark.parametrize("spec", ROWS)
def test_same_score_alone_in_another_order_and_at_any_scale(vit, vit_batch, random_maps, ctx, spec):
    metric, explanation = metrics.create(spec), random_maps(8)
    together = metric.score(vit, vit_batch, explanation, ctx)
    for rows in ([6], [5, 1, 3]):
        part = Explanation(explanation.native[rows], "token", vit.geometry)
        got = metric.score(vit, vit_batch.select(rows), part, EngineContext(max_rows=5))
        for name, values in got.items():
            if "normalised" not in name or "infidelity" in name:
                np.testing.assert_allclose(values.values, together[name].values[rows], atol=1e-4)
    scaled = metric.score(vit, vit_batch, Explanation(explanation.native * 2**-30, "token", vit.geometry), ctx)
    for name, values in scaled.items():
        if name != "infidelity":
            np.testing.assert_allclose(values.values, together[name].values, atol=1e-6)


@pytest.mark.parametrize("spec", [spec for spec in ROWS if not spec.startswith("infidelity")])
def test_a_constant_map_orders_nothing(vit, vit_batch, ctx, spec):
    native = torch.ones(8, 4, 4)
    native[1, 0, 0] = 2
    native[2, 1, 1] = torch.nan
    for values in metrics.create(spec).score(vit, vit_batch, Explanation(native, "token", vit.geometry), ctx).values():
        assert values.reasons[:3] == (CONSTANT, "", "the map is not finite")


@pytest.mark.parametrize("name", ["pixel_flipping", "patch_flipping", "saco", "faithfulness_estimate", "sufficiency"])
def test_one_patch_is_a_constant_map(linear, batch_of, ctx, name):
    model = linear(torch.ones(1, 1))
    batch = batch_of(1, (1, 1), inputs=torch.ones(1, 3, 1, 1))
    got = metrics.create(name).score(model, batch, Explanation(torch.ones(1, 1, 1), "token", model.geometry), ctx)
    assert {values.reasons for values in got.values()} == {(CONSTANT,)}


@pytest.mark.parametrize("name", ["saco", "faithfulness_estimate", "patch_flipping", "idsds", "sufficiency"])
def test_scores_by_rank_do_not_depend_on_the_batch_beside_them(vit, vit_batch, random_maps, ctx, name):
    """Quantus normalises by the largest value of the whole batch, so that one huge map changes all other scores."""
    explanation = random_maps(8)
    together = metrics.create(name).score(vit, vit_batch, explanation, ctx)
    huge = explanation.native.clone()
    huge[0] *= 1e6
    changed = metrics.create(name).score(vit, vit_batch, Explanation(huge, "token", vit.geometry), ctx)
    for column, values in changed.items():
        np.testing.assert_allclose(values.values[1:], together[column].values[1:], atol=1e-9)


@pytest.mark.parametrize(
    "spec",
    ["pixel_flipping,steps=1", "saco,groups=1", "faithfulness_estimate,steps=1", "infidelity,runs=0", "road,levels=0",
     "road,noise=-1", "idsds,cells=1", "idsds,cells=33"],
)  # fmt: skip
def test_bad_parameters_are_refused(vit, vit_batch, random_maps, ctx, spec):
    name, _, value = spec.partition("=")
    with pytest.raises(BadInputError, match=f"{name.partition(',')[2]}=.*{value}"):
        metrics.create(spec).score(vit, vit_batch, random_maps(8), ctx)
