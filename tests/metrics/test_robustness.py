"""Metrics that explain again: noise, other classes, shifted inputs, random weights; and who may ask for it."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.cell import load_cell
from vitxai.bench.cell_plan import cells_of, plan_cell
from vitxai.bench.context import EngineContext
from vitxai.bench.contract import (
    BadInputError,
    Explainer,
    Explanation,
    Model,
    TokenGeometry,
    UnsupportedError,
    explainers,
    metrics,
)
from vitxai.bench.profile import count_passes
from vitxai.bench.run import resolve_suite
from vitxai.bench.suite import parse_suite
from vitxai.bench.tasks import Score
from vitxai.metrics._again import gaussian_copies, uniform_copies
from vitxai.metrics._randomised import fresh_parameters, randomised_models
from vitxai.metrics.input_invariance import shifted
from vitxai.metrics.mprt import histogram_entropy
from vitxai.metrics.relative_stability import relative_changes
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT

RE_EXPLAINING = (
    "max_sensitivity", "relative_stability", "class_sensitivity", "input_invariance", "mprt", "smooth_mprt",
)  # fmt: skip


@dataclass(frozen=True)
class Mean(Explainer):
    """The mean over channels of the input: a method that never asks the model."""

    factor: float = 1.0

    def explain(self, model, batch, ctx):
        return Explanation(self.factor * batch.inputs.mean(1), "pixel", model.geometry)


@dataclass(frozen=True)
class Gradient(Explainer):
    """d logit / d x, times the input where asked for."""

    times_input: bool = False

    def explain(self, model, batch, ctx):
        with torch.inference_mode(False), torch.enable_grad():
            inputs = batch.inputs.clone().requires_grad_()
            total = model(inputs).gather(1, batch.targets.clone()[:, None]).sum()
            (gradient,) = torch.autograd.grad(total, inputs)
        native = gradient * batch.inputs if self.times_input else gradient
        return Explanation(native.detach(), "cube", model.geometry)


@dataclass(frozen=True)
class Constant(Explainer):
    """A method that says the same of everything, given the model is not the one it was made for."""

    def explain(self, model, batch, ctx):
        return Explanation(torch.ones(len(batch), *model.geometry.grid), "token", model.geometry)


@dataclass(frozen=True)
class Counted(Explainer):
    """Another method, counting its maps."""

    method: Explainer
    count: Counter = field(repr=False)

    def explain(self, model, batch, ctx):
        self.count["maps"] += len(batch)
        self.count["largest"] = max(self.count["largest"], len(batch))
        return self.method.explain(model, batch, ctx)


def by(method, **settings):
    return EngineContext(**{"seed": 0, "max_rows": 32, **settings}, method=method)


@pytest.fixture
def gradient_maps(vit, vit_batch):
    return Gradient().explain(vit, vit_batch, EngineContext())


class TestExplainingAgain:
    def test_without_an_explainer_it_is_refused(self, vit, vit_batch, gradient_maps, ctx):
        with pytest.raises(UnsupportedError, match="explains again, and the explainer of these maps is not at hand"):
            ctx.explain(vit, vit_batch)
        for name in RE_EXPLAINING:
            with pytest.raises(UnsupportedError, match="explains again"):
                metrics.create(name).score(vit, vit_batch, gradient_maps, ctx)

    def test_the_same_map_is_made_once_and_others_are_not_taken_for_it(self, vit, vit_batch):
        count = Counter()
        ctx = by(Counted(Gradient(), count))
        first = ctx.explain(vit, vit_batch)
        assert ctx.explain(vit, vit_batch) is first
        ctx.explain(vit, replace(vit_batch, targets=(vit_batch.targets + 1) % 4))
        ctx.explain(replace(vit, module=copy.deepcopy(vit.module)), vit_batch)
        assert count["maps"] == 3 * 8
        other = replace(ctx, method=Mean())
        assert other.explain(vit, vit_batch).layout == "pixel"
        assert (
            replace(ctx, method=Mean(2.0))
            .explain(vit, vit_batch)
            .native.equal(2 * other.explain(vit, vit_batch).native)
        )

    def test_what_a_model_alone_decides_is_made_once_for_all_batches(self, vit, vit_batch, ctx):
        calls = []
        for _ in range(2):
            ctx.probe(vit, None, "of the model", lambda: calls.append(1))
            ctx.probe(vit, vit_batch, "of the model", lambda: calls.append(2))
        assert calls == [1, 2]

    @pytest.mark.parametrize("name", RE_EXPLAINING)
    def test_needs_are_declared_and_the_frozen_model_is_left_out(self, name):
        """On the frozen model a method with its own model has nothing to explain again."""
        assert metrics.get(name).needs == {"re-explain"}
        assert not metrics.get(name).queries_model


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    board = {"name": "glyphs", "dataset": "glyphs", "kind": "RGB", "models": ["builtin,id=glyphs,seed=0"]}
    table = {
        "name": "again", "n": 3, "chunk": 3, "batch_size": 2, "memory_gb": 2, "threads": 1, "costs": False,
        "explainers": ["rollout", "selectivevit", "random"],
        "metrics": ["class_sensitivity", "max_sensitivity,samples=2", "sparseness"], "boards": [board],
    }  # fmt: skip
    suite = resolve_suite(parse_suite(table), ())
    ((board, cell),) = cells_of(suite, store=tmp_path_factory.mktemp("store"), device="cpu", plugins=())
    work, facts = load_cell(cell)
    plan = plan_cell(suite, board, cell, facts)
    patch = pytest.MonkeyPatch()
    patch.setattr(explainers.get("random"), "status", "external")
    outcomes = {task.label: (task, work.run(task)) for task in plan.tasks if task.refusal is None}
    patch.undo()
    return work, outcomes


class TestInACell:
    def scores(self, cell, metric, explainer):
        work, outcomes = cell
        ((task, outcome),) = [
            found for found in outcomes.values()
            if isinstance(found[0], Score) and found[0].metric.name == metric and found[0].explainer.name == explainer
        ]  # fmt: skip
        assert not outcome.recycle
        return work.store.read("score", task.key)

    def test_the_method_is_handed_over(self, cell):
        scores = self.scores(cell, "class_sensitivity", "rollout")
        assert scores.status == "ok", scores.reason
        # Rollout does not look at the class.
        assert scores.record["columns"]["class_similarity"]["values"] == pytest.approx([1, 1, 1])
        values = self.scores(cell, "max_sensitivity", "rollout").record["columns"]["max_sensitivity"]["values"]
        assert all(0 < value < 1 for value in values)

    def test_a_method_explains_its_own_model_again(self, cell):
        scores = self.scores(cell, "class_sensitivity", "selectivevit")
        assert scores.status == "ok", scores.reason
        assert all(value < 0.999 for value in scores.record["columns"]["class_similarity"]["values"])

    def test_maps_made_elsewhere_are_refused_with_a_reason(self, cell):
        scores = self.scores(cell, "max_sensitivity", "random")
        assert scores.status == "unsupported"
        assert "the explainer of these maps is not at hand" in scores.reason
        assert self.scores(cell, "sparseness", "random").status == "ok"


class TestNoise:
    def test_copies_are_the_samples_own_and_shared(self, vit, vit_batch, ctx):
        copies = uniform_copies(vit, vit_batch, ctx, 5, 0.2)
        assert [len(part) for part in copies] == [32, 8]
        assert uniform_copies(vit, vit_batch, ctx, 5, 0.2) is copies
        inputs = torch.cat([part.inputs for part in copies]).view(8, 5, 3, 32, 32)
        noise = inputs - vit_batch.inputs[:, None]
        assert noise.abs().max() <= 0.2 + 1e-6
        assert noise.std().item() == pytest.approx(0.4 / 12**0.5, rel=0.02)
        assert copies[0].ids[4:6] == ("test/00000", "test/00001")
        alone = uniform_copies(vit, vit_batch.select([6]), EngineContext(max_rows=2), 5, 0.2)
        torch.testing.assert_close(torch.cat([part.inputs for part in alone]), inputs[6])
        soft = gaussian_copies(vit, vit_batch, ctx, 20, 0.1)
        inputs = torch.cat([part.inputs for part in soft]).view(8, 20, -1)
        flat = vit_batch.inputs.flatten(1)
        expected = 0.1 * (flat.amax(1) - flat.amin(1))
        torch.testing.assert_close((inputs - flat[:, None]).std((1, 2)), expected, rtol=0.02, atol=0)

    @pytest.mark.parametrize("spec", ["max_sensitivity,samples=0", "max_sensitivity,radius=0", "smooth_mprt,noise=0"])
    def test_bad_parameters_are_refused(self, vit, vit_batch, gradient_maps, spec):
        with pytest.raises(BadInputError, match="samples="):
            metrics.create(spec).score(vit, vit_batch, gradient_maps, by(Gradient()))


class TestMaxSensitivity:
    def test_hand_computed(self, linear, batch_of):
        """A map that is the input changes by the noise."""
        model = linear(torch.ones(4, 4))
        inputs = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
        batch = batch_of(2, (4, 4), inputs=inputs)
        ctx = by(Mean())
        explanation = Mean().explain(model, batch, ctx)
        got = metrics.create("max_sensitivity,samples=6,radius=0.3").score(model, batch, explanation, ctx)
        (copies,) = uniform_copies(model, batch, ctx, 6, 0.3)
        noise = (copies.inputs.view(2, 6, 3, 4, 4) - inputs[:, None]).mean(2).flatten(2)
        expected = noise.norm(dim=-1) / inputs[:, 0].flatten(1).norm(dim=-1)[:, None]
        np.testing.assert_allclose(got["max_sensitivity"].values, expected.amax(1).numpy(), rtol=1e-5)
        np.testing.assert_allclose(got["avg_sensitivity"].values, expected.mean(1).numpy(), rtol=1e-5)

    @pytest.mark.parametrize("on", ["grid", "native"])
    def test_agrees_with_quantus_and_captum_on_the_same_noise(self, vit, vit_batch, gradient_maps, on):
        quantus = pytest.importorskip("quantus")
        from captum.metrics import sensitivity_max

        ctx = by(Gradient())
        got = metrics.create(f"max_sensitivity,samples=4,on={on}").score(vit, vit_batch, gradient_maps, ctx)
        copies = torch.cat([part.inputs for part in uniform_copies(vit, vit_batch, ctx, 4, 0.2)]).view(8, 4, 3, 32, 32)

        def maps(inputs, targets):
            batch = replace(vit_batch.select([0] * len(inputs)), inputs=inputs, targets=targets)
            explanation = Gradient().explain(vit, batch, ctx)
            return explanation.native if on == "native" else explanation.grid("signed")[:, None]

        steps = iter(range(4))
        size = gradient_maps.native.shape[-2:] if on == "native" else (4, 4)
        # Quantus wants maps of the input's size; patches of equal values keep the ratio of norms.
        spread = torch.nn.Upsample(size=(32, 32)) if size == (4, 4) else torch.nn.Identity()
        reference = quantus.MaxSensitivity(
            nr_samples=4, normalise=False, disable_warnings=True,
            perturb_func=lambda arr, indices, **_: copies[:, next(steps)].reshape(arr.shape).numpy(),
        )(model=vit.module, x_batch=vit_batch.inputs.numpy(), y_batch=vit_batch.targets.numpy(),
          a_batch=None, channel_first=True, device="cpu",
          explain_func=lambda model, inputs, targets, **_: spread(
              maps(torch.as_tensor(inputs), torch.as_tensor(targets))).numpy(),
        )  # fmt: skip
        np.testing.assert_allclose(got["max_sensitivity"].values, reference, rtol=1e-5)

        def explained(inputs, target):
            return tuple(maps(part, target) for part in inputs)

        reference = sensitivity_max(
            explained, vit_batch.inputs, perturb_func=lambda inputs, _: (copies.flatten(0, 1),), n_perturb_samples=4,
            target=vit_batch.targets,
        )  # fmt: skip
        np.testing.assert_allclose(got["max_sensitivity"].values, reference.numpy(), rtol=1e-5)

    def test_maps_are_counted(self, vit, vit_batch, gradient_maps):
        count = Counter()
        ctx = by(Counted(Gradient(), count), max_rows=16)
        metrics.create("max_sensitivity,samples=6").score(vit, vit_batch, gradient_maps, ctx)
        assert (count["maps"], count["largest"]) == (8 * 6, 16)
        with count_passes(vit.module) as passes:
            metrics.create("relative_stability,samples=6").score(vit, vit_batch, gradient_maps, ctx)
        assert count["maps"] == 8 * 6  # the same noise: no map is made twice
        assert passes.forwards == 8 * (1 + 6)
        with count_passes(vit.module) as passes:
            other = replace(ctx, method=Mean())
            metrics.create("relative_stability,samples=6").score(vit, vit_batch, gradient_maps, other)
        assert passes.forwards == 0

    def test_undefined_values_have_reasons(self, vit, vit_batch):
        native = torch.ones(8, 4, 4)
        native[0], native[1, 0, 0] = 0, torch.nan
        explanation = Explanation(native, "token", vit.geometry)
        got = metrics.create("max_sensitivity,samples=2").score(vit, vit_batch, explanation, by(Constant()))
        assert got["max_sensitivity"].reasons[:3] == ("the map is zero", "the map is not finite", "")
        assert got["max_sensitivity"].values[2] == 0
        broken = metrics.create("max_sensitivity,samples=2").score(vit, vit_batch, explanation, by(Mean(float("nan"))))
        assert broken["avg_sensitivity"].reasons[2] == "a map explained again is not finite"


class TestRelativeStability:
    def test_hand_computed(self):
        values = torch.tensor([[2.0, -4.0, 0.0]], dtype=torch.float64)
        others = torch.tensor([[[1.0, -4.0, 0.0], [2.0, -5.0, 0.004]]], dtype=torch.float64)
        # Zero counts as 1e-3 of the largest: 0.004.
        expected = torch.tensor([[0.5, (1 / 16 + 1) ** 0.5]], dtype=torch.float64)
        torch.testing.assert_close(relative_changes(values, others), expected)

    def test_agrees_with_a_plain_loop(self, vit, vit_batch, gradient_maps):
        ctx = by(Gradient())
        got = metrics.create("relative_stability,samples=5,radius=0.6").score(vit, vit_batch, gradient_maps, ctx)
        copies = torch.cat([part.inputs for part in uniform_copies(vit, vit_batch, ctx, 5, 0.6)]).view(8, 5, 3, 32, 32)
        left_out = 0
        for row in range(8):
            x, e = vit_batch.inputs[row].double() * 0.25 + 0.5, gradient_maps.grid("signed")[row].double()
            with torch.no_grad():
                clean = vit(vit_batch.inputs[row : row + 1])[0]
            by_input, by_output = [], []
            for noisy in copies[row]:
                with torch.no_grad():
                    logits = vit(noisy[None])[0]
                if logits.argmax() != clean.argmax():
                    left_out += 1
                    continue
                again = Gradient().explain(vit, replace(vit_batch.select([row]), inputs=noisy[None]), ctx)
                gap = (again.grid("signed")[0].double() - e) / e.abs().clamp(min=1e-3 * e.abs().max())
                moved = (noisy.double() * 0.25 + 0.5 - x) / x.abs().clamp(min=1e-3 * x.abs().max())
                by_input.append(float(gap.norm() / moved.norm()))
                by_output.append(float(gap.norm() / (logits - clean).norm()))
            assert got["relative_input_stability"].values[row] == pytest.approx(max(by_input), rel=1e-4)
            assert got["relative_output_stability"].values[row] == pytest.approx(max(by_output), rel=1e-3)
        assert left_out  # Quantus makes such a sample NaN, though others of its copies keep the class

    def test_copies_that_all_change_the_prediction(self, linear, batch_of):
        model = linear(torch.ones(2, 2))
        inputs = torch.full((1, 3, 2, 2), 1e-9)  # logit 1e-9 against 0; the copies are clearly negative

        class Negative(EngineContext):
            def probe(self, model, batch, name, compute):
                value = super().probe(model, batch, name, compute)
                return (
                    tuple(replace(b, inputs=-b.inputs.abs() - 1) for b in value) if isinstance(value, tuple) else value
                )

        batch = batch_of(1, inputs=inputs)
        ctx = Negative(method=Mean())
        got = metrics.create("relative_stability,samples=3").score(
            model, batch, Explanation(torch.rand(1, 2, 2), "token", model.geometry), ctx
        )
        assert got["relative_input_stability"].reasons == ("every noisy copy changes the prediction",)


class TestClassSensitivity:
    def test_a_method_that_ignores_the_class_scores_one(self, vit, vit_batch):
        ctx = by(Mean())
        got = metrics.create("class_sensitivity").score(vit, vit_batch, Mean().explain(vit, vit_batch, ctx), ctx)
        np.testing.assert_allclose(got["class_similarity"].values, 1)

    @pytest.mark.parametrize("on", ["grid", "native"])
    def test_agrees_with_a_plain_loop(self, vit, vit_batch, gradient_maps, on):
        got = metrics.create(f"class_sensitivity,on={on}").score(vit, vit_batch, gradient_maps, by(Gradient()))
        with torch.no_grad():
            second = vit(vit_batch.inputs).topk(2).indices[:, 1]
        other = Gradient().explain(vit, replace(vit_batch, targets=second), EngineContext())
        for row in range(8):
            a, b = ((e.native if on == "native" else e.grid("signed"))[row].flatten() for e in (gradient_maps, other))
            assert got["class_similarity"].values[row] == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)

    def test_the_rival_is_the_strongest_other_class(self, vit, vit_batch):
        """Of a target that is not the prediction the rival is the prediction."""
        asked = []

        @dataclass(frozen=True)
        class Listening(Mean):
            def explain(self, model, batch, ctx):
                asked.append(batch.targets)
                return super().explain(model, batch, ctx)

        batch = replace(vit_batch, targets=(vit_batch.targets + 1) % 4)
        ctx = by(Listening())
        metrics.create("class_sensitivity").score(vit, batch, Mean().explain(vit, batch, ctx), ctx)
        torch.testing.assert_close(asked[0], vit_batch.targets)

    def test_undefined_values_have_reasons(self, vit, vit_batch, gradient_maps):
        got = metrics.create("class_sensitivity").score(vit, vit_batch, gradient_maps, by(Constant()))
        assert set(got["class_similarity"].reasons) == {"the map of the other class is constant"}
        flat = Constant().explain(vit, vit_batch, None)
        got = metrics.create("class_sensitivity").score(vit, vit_batch, flat, by(Gradient()))
        assert set(got["class_similarity"].reasons) == {"the map is constant"}


def spectral_model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = SpectralViT(groups=[[0, 2], [1, 3, 4]], num_classes=3, img_size=16, patch_size=4, embed_dim=16,
                             depth=2, num_heads=2)  # fmt: skip
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return wrap(module, mean=(0.5,) * 5, std=(0.25,) * 5)


class TestInputInvariance:
    @pytest.mark.parametrize("spectral", [False, True])
    def test_gradients_are_invariant_and_products_with_the_input_are_not(self, vit, vit_batch, batch_of, spectral):
        model, batch = vit, vit_batch
        if spectral:
            model = spectral_model()
            inputs = torch.randn(3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
            batch = batch_of(3, inputs=inputs)
        for shift in (1.0, -0.5):
            changed = shifted(model, shift)
            torch.testing.assert_close(changed(batch.inputs + shift), model(batch.inputs), atol=1e-4, rtol=1e-4)
            assert not torch.allclose(changed(batch.inputs), model(batch.inputs), atol=1e-2)
            for method, invariant in ((Gradient(), True), (Gradient(times_input=True), False)):
                ctx = by(method)
                maps = method.explain(model, batch, ctx)
                got = metrics.create(f"input_invariance,shift={shift}").score(model, batch, maps, ctx)
                assert ((got["input_invariance"].values < 1e-3) == invariant).all()

    def test_the_shifted_model_shares_its_weights_and_knows_its_mean(self, vit):
        before = {name: parameter.clone() for name, parameter in vit.module.named_parameters()}
        changed = shifted(vit, 1.0)
        assert changed.mean == pytest.approx((0.25,) * 3)
        for name, parameter in changed.module.named_parameters():
            assert torch.equal(vit.module.get_parameter(name), before[name])
            shared = parameter.data_ptr() == vit.module.get_parameter(name).data_ptr()
            assert shared == (name != "patch_embed.proj.bias")

    def test_a_projection_without_bias_gets_one(self, vit_batch):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=4)
        module.patch_embed.proj.bias = None
        model = wrap(module)
        changed = shifted(model, 2.0)
        torch.testing.assert_close(changed(vit_batch.inputs + 2), model(vit_batch.inputs), atol=1e-5, rtol=1e-4)

    def test_models_that_cannot_take_the_shift_back_are_refused(self, linear, vit, vit_batch, gradient_maps):
        with pytest.raises(UnsupportedError, match="no patch embedding of convolutions"):
            shifted(linear(torch.ones(2, 2)), 1.0)
        module = copy.deepcopy(vit.module)
        module.patch_embed.register_forward_pre_hook(lambda _, args: (args[0] ** 3,))
        with pytest.raises(UnsupportedError, match="not compensated"):
            metrics.create("input_invariance").score(wrap(module), vit_batch, gradient_maps, by(Gradient()))
        with pytest.raises(BadInputError, match="shift=0"):
            metrics.create("input_invariance,shift=0").score(vit, vit_batch, gradient_maps, by(Gradient()))


class TestRandomisedModels:
    def test_stages_and_orders(self, vit, ctx):
        made = randomised_models(vit, ctx)
        assert made.stages == ("embedding", "blocks.0", "blocks.1", "head")
        assert [sorted(s) for s in made.top_down] == [[3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]
        assert [sorted(s) for s in made.bottom_up] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
        assert [sorted(s) for s in made.independent] == [[0], [1], [2], [3]]
        assert len(made.models) == 3 * 4 - 3
        assert randomised_models(vit, ctx) is made

    def test_exactly_the_chosen_stages_are_fresh_and_nothing_is_copied_twice(self, vit, ctx):
        made = randomised_models(vit, ctx)
        block = made.models[frozenset({1})].module
        for name, parameter in block.named_parameters():
            original = vit.module.get_parameter(name)
            assert torch.equal(parameter, original) == (not name.startswith("blocks.0."))
            assert parameter.data_ptr() == (made.fresh[name] if name.startswith("blocks.0.") else original).data_ptr()
        cascade = made.models[made.top_down[2]].module.get_parameter("blocks.0.attn.qkv.weight")
        assert cascade.data_ptr() == block.get_parameter("blocks.0.attn.qkv.weight").data_ptr()
        full = made.models[made.full].module
        assert all(not torch.equal(full.get_parameter(name), p) for name, p in vit.module.named_parameters())
        assert block.blocks[0] is full.blocks[0]
        assert block.blocks[1] is vit.module.blocks[1]
        assert block.norm is vit.module.norm

    def test_shared_parts_give_what_a_whole_copy_gives(self, vit, vit_batch, ctx):
        before = vit(vit_batch.inputs)
        for fresh in randomised_models(vit, ctx).models.values():
            whole = copy.deepcopy(vit.module)
            whole.load_state_dict(fresh.module.state_dict())
            assert torch.equal(fresh(vit_batch.inputs), whole(vit_batch.inputs))
        assert torch.equal(vit(vit_batch.inputs), before)

    def test_parts_that_share_a_parameter_across_stages_keep_sharing_it(self, ctx):
        first, last = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
        last.weight = first.weight
        module = torch.nn.ModuleDict(
            {"stem": first, "blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)]), "head": last}
        )
        made = randomised_models(Model(module, "tied", None, (2, 2), (0.0,), (1.0,), ""), ctx)
        stem_alone = made.models[frozenset({0})].module
        assert stem_alone["stem"].weight is stem_alone["head"].weight
        assert torch.equal(stem_alone["stem"].weight, made.fresh["stem.weight"])
        assert module["stem"].weight is module["head"].weight is not stem_alone["head"].weight

    def test_weights_are_drawn_as_the_model_draws_them(self, vit, ctx):
        """Quantus keeps tokens and positions, uses torch's defaults, and gives blocks of one seed equal weights."""
        fresh = randomised_models(vit, ctx).fresh
        assert not torch.equal(fresh["blocks.0.attn.qkv.weight"], fresh["blocks.1.attn.qkv.weight"])
        for name, deviation in (("blocks.0.mlp.fc1.weight", 0.02), ("pos_embed", 0.02), ("cls_token", 1e-6)):
            assert fresh[name].std().item() == pytest.approx(deviation, rel=0.3), name
        assert torch.equal(fresh["blocks.0.norm1.weight"], torch.ones(32))
        assert torch.equal(fresh["blocks.0.attn.qkv.bias"], torch.zeros(96))

    def test_a_model_without_its_own_rule_gets_timms(self):
        model = spectral_model()
        fresh = randomised_models(model, EngineContext()).fresh
        for name in ("cls_token", "pos_embed", "group_embed", "blocks.1.mlp.fc2.weight", "head.weight"):
            assert fresh[name].std().item() == pytest.approx(0.02, rel=0.5), name
        assert not fresh["head.bias"].any()

    def test_loose_parameters_are_permuted(self):
        class Scaled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
                self.scale = torch.nn.Parameter(torch.arange(50.0))

        module = Scaled()
        scale = fresh_parameters(module, 0)["scale"]
        assert not torch.equal(scale, module.scale)
        assert torch.equal(scale.sort().values, module.scale)

    def test_the_model_and_the_random_states_are_left_as_found(self, vit):
        before, state = copy.deepcopy(vit.module.state_dict()), torch.get_rng_state()
        first = fresh_parameters(vit.module, 5)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in vit.module.state_dict().items())
        torch.rand(3)
        second = fresh_parameters(vit.module, 5)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(fresh_parameters(vit.module, 6)["head.weight"], first["head.weight"])

    def test_models_without_blocks_are_refused(self, linear, ctx):
        with pytest.raises(UnsupportedError, match="no `blocks`"):
            randomised_models(linear(torch.ones(2, 2)), ctx)

    def test_parts_between_blocks_belong_to_the_block_before(self, ctx):
        stage = torch.nn.ModuleDict(
            {"blocks": torch.nn.ModuleList([torch.nn.Linear(2, 2)]), "down": torch.nn.Linear(2, 2)}
        )
        module = torch.nn.ModuleDict(
            {"stem": torch.nn.Linear(2, 2), "layers": torch.nn.ModuleList([stage, copy.deepcopy(stage)])}
        )
        made = randomised_models(Model(module, "pyramid", None, (2, 2), (0.0,), (1.0,), ""), ctx)
        assert made.stages == ("embedding", "layers.0.blocks.0", "layers.1.blocks.0", "head")
        changed = {
            name for name, p in made.models[frozenset({1})].module.named_parameters()
            if not torch.equal(p, module.get_parameter(name))
        }  # fmt: skip
        assert changed == {f"layers.0.{part}.{leaf}" for part in ("blocks.0", "down") for leaf in ("weight", "bias")}


class TestMprt:
    def test_agrees_with_a_plain_loop(self, vit, vit_batch, gradient_maps):
        ctx = by(Gradient())
        got = metrics.create("mprt").score(vit, vit_batch, gradient_maps, ctx)
        made = randomised_models(vit, ctx)

        def rho(stages, row):
            again = Gradient().explain(made.models[stages], vit_batch, ctx)
            a, b = (e.grid("signed")[row].abs().flatten() for e in (gradient_maps, again))
            return spearmanr(a, b).statistic

        for row in (0, 5):
            for name in ("top_down", "bottom_up", "independent"):
                # The untouched model, which Quantus averages in, would pull every mean towards 1.
                expected = np.mean([rho(stages, row) for stages in getattr(made, name)])
                assert got[f"mprt_{name}"].values[row] == pytest.approx(expected, abs=1e-6)
            assert got["mprt_full"].values[row] == pytest.approx(rho(made.full, row), abs=1e-6)

    def test_correlations_are_those_of_quantus_on_the_same_models(self, vit, vit_batch, gradient_maps, monkeypatch):
        quantus = pytest.importorskip("quantus")
        interface = quantus.helpers.model.pytorch_model.PyTorchModel
        ctx = by(Gradient())
        got = metrics.create("mprt").score(vit, vit_batch, gradient_maps, ctx)
        made = randomised_models(vit, ctx)
        layers = [(str(i), made.models[stages].module) for i, stages in enumerate(made.top_down)]
        monkeypatch.setattr(interface, "get_random_layer_generator", lambda *_, **__: iter(layers))
        monkeypatch.setattr(interface, "random_layer_generator_length", len(layers))

        def explain(model, inputs, targets, **_):
            batch = replace(vit_batch, inputs=torch.as_tensor(inputs), targets=torch.as_tensor(targets))
            maps = Gradient().explain(replace(vit, module=model), batch, ctx).grid("signed")
            return maps.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].numpy()

        found = quantus.MPRT(normalise=False, disable_warnings=True)(
            model=vit.module, x_batch=vit_batch.inputs.numpy(), y_batch=vit_batch.targets.numpy(), channel_first=True,
            explain_func=explain, device="cpu",
        )  # fmt: skip
        reference = np.mean([found[name] for name, _ in layers], axis=0)
        np.testing.assert_allclose(got["mprt_top_down"].values, reference, atol=1e-6)
        np.testing.assert_allclose(got["mprt_full"].values, found["3"], atol=1e-6)

    def test_a_method_that_ignores_the_model_fails_the_test(self, vit, vit_batch):
        ctx = by(Mean())
        maps = Mean().explain(vit, vit_batch, ctx)
        for name in ("mprt", "smooth_mprt,samples=2"):
            for column, values in metrics.create(name).score(vit, vit_batch, maps, ctx).items():
                np.testing.assert_allclose(values.values, 0 if column == "efficient_mprt" else 1, atol=1e-12)

    def test_entropy_equals_that_of_numpys_histogram_and_of_quantus(self):
        maps = torch.randn(5, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        maps[3], maps[4, 1:] = 2.0, 0.0
        expected = [entropy(np.histogram(row, bins=100)[0]) for row in maps.numpy()]
        np.testing.assert_allclose(histogram_entropy(maps).numpy(), expected, atol=1e-12)
        module = pytest.importorskip("quantus.functions.complexity_func")
        reference = [module.discrete_entropy(row, row) for row in maps.numpy()]
        np.testing.assert_allclose(histogram_entropy(maps).numpy(), reference, atol=1e-12)

    def test_efficient_mprt_is_the_relative_rise_of_entropy(self, vit, vit_batch, gradient_maps):
        ctx = by(Gradient())
        got = metrics.create("mprt").score(vit, vit_batch, gradient_maps, ctx)["efficient_mprt"].values
        made = randomised_models(vit, ctx)
        again = Gradient().explain(made.models[made.full], vit_batch, ctx)
        for row in range(8):
            before, after = (
                entropy(np.histogram(e.spatial("signed")[row].double().numpy(), bins=100)[0])
                for e in (gradient_maps, again)
            )
            assert got[row] == pytest.approx((after - before) / before, rel=0.02)

    def test_smooth_mprt_agrees_with_a_plain_loop(self, vit, vit_batch, gradient_maps):
        ctx = by(Gradient())
        got = metrics.create("smooth_mprt,samples=3").score(vit, vit_batch, gradient_maps, ctx)
        made = randomised_models(vit, ctx)
        copies = torch.cat([part.inputs for part in gaussian_copies(vit, vit_batch, ctx, 3, 0.1)]).view(8, 3, 3, 32, 32)

        def denoised(model, row):
            batch = replace(vit_batch.select([row] * 3), inputs=copies[row])
            return Gradient().explain(model, batch, ctx).grid("signed").mean(0).abs().flatten()

        for row in (1, 6):
            rho = [
                spearmanr(denoised(vit, row), denoised(made.models[stages], row)).statistic for stages in made.bottom_up
            ]
            assert got["smooth_mprt"].values[row] == pytest.approx(np.mean(rho), abs=1e-6)
            assert got["smooth_mprt_full"].values[row] == pytest.approx(rho[-1], abs=1e-6)

    def test_maps_are_counted(self, vit, vit_batch, gradient_maps):
        count = Counter()
        ctx = by(Counted(Gradient(), count))
        with count_passes(vit.module) as passes:  # copies made here carry its hooks
            metrics.create("mprt").score(vit, vit_batch, gradient_maps, ctx)
        assert count["maps"] == passes.forwards == passes.backwards == 8 * (3 * 4 - 3)
        count.clear()
        metrics.create("smooth_mprt,samples=2").score(vit, vit_batch, gradient_maps, ctx)
        assert count["maps"] == 8 * 2 * (4 + 1)

    def test_constant_maps_are_undefined_for_their_sample_alone(self, vit, vit_batch, gradient_maps):
        """Quantus raises for the whole batch when one of its first maps is constant."""
        native = gradient_maps.native.clone()
        native[0] = 1
        got = metrics.create("mprt").score(vit, vit_batch, replace(gradient_maps, native=native), by(Gradient()))
        for name, values in got.items():
            first = "the map has no entropy" if name == "efficient_mprt" else "the map is constant"
            assert values.reasons == (first, *[""] * 7)
        got = metrics.create("mprt").score(vit, vit_batch, gradient_maps, by(Constant()))
        assert got["mprt_full"].reasons[0] == "a map of a randomised model is constant or not finite"
        np.testing.assert_allclose(got["efficient_mprt"].values, -1)
        got = metrics.create("smooth_mprt,samples=2").score(vit, vit_batch, gradient_maps, by(Constant()))
        assert got["smooth_mprt"].reasons[0] == "the map is constant"


@pytest.mark.parametrize("name", RE_EXPLAINING)
def test_same_score_alone_in_another_order_and_at_any_scale(vit, vit_batch, gradient_maps, name):
    metric = metrics.create(name)
    together = metric.score(vit, vit_batch, gradient_maps, by(Gradient()))
    for rows in ([6], [5, 1, 3]):
        part = replace(gradient_maps, native=gradient_maps.native[rows])
        got = metric.score(vit, vit_batch.select(rows), part, by(Gradient(), max_rows=5))
        for column, values in got.items():
            np.testing.assert_allclose(values.values, together[column].values[rows], rtol=1e-3, atol=1e-4)

    @dataclass(frozen=True)
    class Tiny(Gradient):
        def explain(self, model, batch, ctx):
            explanation = super().explain(model, batch, ctx)
            return replace(explanation, native=explanation.native * 2**-30)

    scaled = metric.score(vit, vit_batch, replace(gradient_maps, native=gradient_maps.native * 2**-30), by(Tiny()))
    for column, values in scaled.items():
        np.testing.assert_allclose(values.values, together[column].values, rtol=1e-6, atol=1e-9)


def test_models_with_own_attention_are_randomised_inside(vit, vit_batch):
    """The own model of SelectiveViT wraps the ViT; its blocks are found in it."""
    method = explainers.create("selectivevit")
    own = method.own_model(vit, None)
    made = randomised_models(own, EngineContext())
    assert made.stages == ("embedding", "wrapped.blocks.0", "wrapped.blocks.1", "head")
    ctx = by(method)
    got = metrics.create("mprt").score(own, vit_batch, method.explain(own, vit_batch, ctx), ctx)
    assert np.isfinite(got["mprt_full"].values).all()


def test_a_geometry_of_one_token_is_constant(batch_of):
    geometry = TokenGeometry((1, 1), 0, "avg", (8, 8), channels=3)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    model = wrap(module, mean=(0.0,) * 3, std=(1.0,) * 3, geometry=geometry)
    batch = batch_of(2, (8, 8), inputs=torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    ctx = by(Mean())
    maps = Mean().explain(model, batch, ctx)
    got = metrics.create("class_sensitivity").score(model, batch, maps, ctx)
    assert set(got["class_similarity"].reasons) == {"the map is constant"}
    got = metrics.create("max_sensitivity").score(model, batch, maps, ctx)
    assert np.isfinite(got["max_sensitivity"].values).all()
