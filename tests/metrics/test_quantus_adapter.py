"""The adapter to Quantus, and every fault that it lists: there in Quantus, not here."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import (
    BadInputError,
    Explainer,
    Explanation,
    Spec,
    UnknownNameError,
    UnsupportedError,
    metrics,
)
from vitxai.bench.keys import plugin_identity
from vitxai.bench.suite import _runs_bare
from vitxai.metrics import quantus_adapter
from vitxai.metrics.quantus_adapter import KNOWN_FAULTS, parsed

quantus = pytest.importorskip("quantus")
QUIET = {"disable_warnings": True, "display_progressbar": False}
SCORE = "quantus_score"


@dataclass(frozen=True)
class Gradient(Explainer):
    """d logit / d x, summed over channels."""

    def explain(self, model, batch, ctx):
        with torch.inference_mode(False), torch.enable_grad():
            inputs = batch.inputs.clone().requires_grad_()
            total = model(inputs).gather(1, batch.targets.clone()[:, None]).sum()
            (gradient,) = torch.autograd.grad(total, inputs)
        return Explanation(gradient.sum(1), "pixel", model.geometry)


@pytest.fixture
def ctx():
    return EngineContext(seed=0, max_rows=32, method=Gradient())


@pytest.fixture
def batch(vit_batch):
    mask = torch.zeros(8, 32, 32, dtype=torch.bool)
    mask[1:, 8:20, 8:20] = True
    return replace(vit_batch, mask=mask).select(range(4))


@pytest.fixture
def maps(vit, batch):
    return Gradient().explain(vit, batch, None)


@pytest.fixture
def adapted(vit, batch, maps, ctx):
    def score(spec, rows=None, explanation=maps, context=ctx):
        part = batch if rows is None else batch.select(rows)
        native = explanation.native if rows is None else explanation.native[rows]
        return metrics.create(spec).score(vit, part, replace(explanation, native=native), context)[SCORE]

    return score


def called(scorer, model, batch, maps, **more):
    """Quantus on a whole batch, as its users call it."""
    explain = more.pop("explain_func", None)
    return scorer(
        model=model.module, x_batch=batch.inputs.numpy(), y_batch=batch.targets.numpy(), channel_first=True,
        a_batch=None if maps is None else maps.native[:, None].numpy().copy(), explain_func=explain, device="cpu",
        **more,
    )  # fmt: skip


class TestAdapter:
    @pytest.mark.parametrize("name", ["Sparseness", "Complexity", "EffectiveComplexity"])
    def test_gives_what_quantus_gives_sample_by_sample(self, vit, batch, maps, adapted, name):
        expected = [
            called(getattr(quantus, name)(**QUIET), vit, batch.select([row]), replace(maps, native=maps.native[[row]]))[
                0
            ]
            for row in range(4)
        ]
        np.testing.assert_allclose(adapted(f"quantus,metric={name}").values, expected, atol=1e-6)

    def test_constructor_arguments_are_passed_on(self, vit, batch, maps, adapted):
        plain = adapted("quantus,metric=Sparseness,kwargs=abs=false;normalise=false").values
        table = Spec("quantus", {"metric": "Sparseness", "kwargs": '{"abs": false, "normalise": false}'})
        np.testing.assert_array_equal(adapted(table).values, plain)
        one = replace(maps, native=maps.native[[0]])
        expected = called(quantus.Sparseness(abs=False, normalise=False, **QUIET), vit, batch.select([0]), one)
        assert plain[0] == pytest.approx(expected[0], abs=1e-6)

    def test_arguments_are_json_or_text(self):
        assert parsed("a=1; b=true;c=black ;d=[1, 2]") == {"a": 1, "b": True, "c": "black", "d": [1, 2]}
        assert parsed('{"a": {"b": 1}}') == {"a": {"b": 1}}
        assert parsed("") == {}
        for text in ("a", "=1", "{1}"):
            with pytest.raises(BadInputError, match="kwargs"):
                parsed(text)

    def test_scores_depend_on_the_sample_alone(self, adapted):
        """In Quantus the score of a sample changes with the size of its batch, whatever the seed."""
        spec = "quantus,metric=FaithfulnessCorrelation,kwargs=nr_runs=8;subset_size=40;return_aggregate=false"
        together = adapted(spec).values
        assert len(set(together)) == 4
        np.testing.assert_allclose(adapted(spec, [2]).values, together[[2]], atol=1e-6)
        np.testing.assert_allclose(adapted(spec, [3, 0]).values, together[[3, 0]], atol=1e-6)
        np.random.seed(5)  # noqa: NPY002
        np.testing.assert_array_equal(adapted(spec).values, together)
        other = adapted(spec, context=EngineContext(seed=1)).values
        assert not np.allclose(other, together)

    def test_random_states_model_maps_and_inputs_are_left_as_found(self, vit, batch, maps, adapted):
        """Quantus seeds torch's global generator, and changes maps in place that it does not scale first."""
        torch.manual_seed(1)
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        tensors = [batch.inputs, maps.native, *vit.module.parameters()]
        before = [tensor.clone() for tensor in tensors]
        adapted("quantus,metric=MPRT,kwargs=return_last_correlation=true", [0])
        adapted("quantus,metric=Sparseness,kwargs=abs=false;normalise=false")
        adapted("quantus,metric=MaxSensitivity,kwargs=nr_samples=2", [0])
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
        assert random.getstate() == states[2]
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))

    def test_methods_are_asked_again_for_the_sample(self, vit, batch, adapted, ctx):
        asked = []

        class Listening(Gradient):
            def explain(self, model, batch, ctx):
                asked.append((batch.ids, model.module is vit.module))
                return super().explain(model, batch, ctx)

        got = adapted(
            "quantus,metric=MaxSensitivity,kwargs=nr_samples=3", [1], context=replace(ctx, method=Listening())
        )
        assert np.isfinite(got.values).all()
        assert asked == [(("test/00001",), True)] * 3
        asked.clear()
        adapted("quantus,metric=MPRT,kwargs=skip_layers=true;return_last_correlation=true", [1],
                context=replace(ctx, method=Listening()))  # fmt: skip
        assert {same for _, same in asked} == {True, False}

    def test_without_an_explainer_only_what_explains_again_is_refused(self, adapted):
        alone = EngineContext()
        assert np.isfinite(adapted("quantus,metric=Sparseness", context=alone).values).all()
        with pytest.raises(UnsupportedError, match="explains again"):
            adapted("quantus,metric=MaxSensitivity,kwargs=nr_samples=1", context=alone)

    def test_masks_are_handed_over(self, maps, adapted):
        got = adapted("quantus,metric=RelevanceRankAccuracy")
        inside = maps.native[1].flatten().argsort(descending=True)[:144]
        expected = torch.zeros(32, 32, dtype=torch.bool)
        expected[8:20, 8:20] = True
        assert got.values[1] == pytest.approx(expected.flatten()[inside].double().mean().item(), abs=1e-6)
        assert got.reasons[0] == "Quantus gave nan"

    def test_failures_and_maps_that_are_not_finite_are_reasons_of_their_sample(self, maps, adapted):
        native = maps.native.clone()
        native[0], native[2, 0, 0] = 1, torch.nan
        got = adapted("quantus,metric=Sparseness", explanation=replace(maps, native=native))
        assert got.reasons[0].startswith("AssertionError: The elements in the attribution vector are all equal to one")
        assert got.reasons[1:] == ("", "the map is not finite", "")

    def test_answers_that_are_no_number_are_reasons(self, adapted):
        assert adapted("quantus,metric=MPRT,kwargs=skip_layers=true", [0]).reasons == (
            "Quantus gave a table of 2 entries, not one number; choose kwargs that reduce it",
        )
        (reason,) = adapted("quantus,metric=PixelFlipping,kwargs=features_in_step=512", [0]).reasons
        assert reason == "Quantus gave float64 values of shape [1, 6], not one number"

    def test_bad_requests_are_refused(self, adapted, monkeypatch):
        with pytest.raises(UnknownNameError, match=r"unknown Quantus metric 'Sparsness'\. Did you mean Sparseness"):
            adapted("quantus,metric=Sparsness")
        with pytest.raises(BadInputError, match=r"Quantus' Sparseness takes abs, normalise, .*; not layers, x"):
            adapted("quantus,metric=Sparseness,kwargs=x=1;abs=false;layers=2")
        with pytest.raises(BadInputError, match="does not take"):
            adapted("quantus,metric=MPRT,kwargs=return_average_correlation=true;return_last_correlation=true")
        with pytest.raises(UnsupportedError, match=r"Quantus 0\.1 is asked for and 0\.\d+\.\d+ is installed"):
            adapted("quantus,metric=Sparseness,release=0.1")
        monkeypatch.setattr(quantus_adapter, "installed_version", lambda: "")
        with pytest.raises(UnsupportedError, match=r"none is installed; `pip install vitxai\[quantus\]`"):
            adapted("quantus,metric=Sparseness")

    def test_it_does_not_run_bare_and_its_release_is_in_the_key(self):
        with pytest.raises(BadInputError, match="metric"):
            metrics.create("quantus")
        assert not _runs_bare(metrics, "quantus")
        identity = plugin_identity(metrics, Spec("quantus", {"metric": "Sparseness"}))
        assert identity["params"]["release"] == quantus_adapter.installed_version() != ""

    def test_every_fault_is_in_the_description(self):
        (column,) = metrics.get("quantus").columns
        for name, faults in KNOWN_FAULTS.items():
            assert name == "any metric" or hasattr(quantus, name)
            assert all(fault in column.description for fault in faults)


class TestFaults:
    """What Quantus 0.6.0 gets wrong; where one of these no longer fails, strike it from the list."""

    def test_a_huge_map_changes_the_scores_beside_it(self, vit, batch, maps, ctx):
        native = maps.native.clone()
        native[0] *= 1e7
        spoiled = replace(maps, native=native)
        plain = called(quantus.Sparseness(**QUIET), vit, batch, maps)
        assert abs(called(quantus.Sparseness(**QUIET), vit, batch, spoiled)[1] - plain[1]) > 0.05
        ours = [metrics.create("sparseness").score(vit, batch, e, ctx)["sparseness"].values for e in (maps, spoiled)]
        np.testing.assert_allclose(ours[1], ours[0], atol=1e-9)

    def test_one_map_with_a_nan_spoils_the_batch(self, vit, batch, maps, ctx):
        native = maps.native.clone()
        native[0, 0, 0] = torch.nan
        spoiled = replace(maps, native=native)
        assert np.isnan(called(quantus.Sparseness(**QUIET), vit, batch, spoiled)).all()
        ours = metrics.create("sparseness").score(vit, batch, spoiled, ctx)["sparseness"]
        assert ours.reasons == ("the map is not finite", "", "", "")

    def test_zero_map_is_sparseness_zero_in_a_batch_and_an_error_alone(self, vit, batch, maps, ctx):
        native = maps.native.clone()
        native[0] = 0
        spoiled = replace(maps, native=native)
        assert called(quantus.Sparseness(**QUIET), vit, batch, spoiled)[0] == pytest.approx(0, abs=1e-6)
        with pytest.raises(AssertionError):
            called(quantus.Sparseness(**QUIET), vit, batch.select([0]), replace(maps, native=native[[0]]))
        ours = metrics.create("sparseness").score(vit, batch, spoiled, ctx)["sparseness"]
        assert ours.reasons[0] == "the map is zero"

    def test_pointing_game_scores_an_empty_mask_and_a_constant_map_as_hits(self, vit, batch, maps, adapted, ctx):
        assert adapted("quantus,metric=PointingGame").values[0] == 1
        native = maps.native.clone()
        native[1] = 0.5
        spoiled = replace(maps, native=native)
        assert called(quantus.PointingGame(**QUIET), vit, batch, spoiled, s_batch=batch.mask[:, None].numpy())[1]
        ours = metrics.create("localisation").score(vit, batch, spoiled, ctx)["pointing_game"]
        assert ours.reasons[:2] == ("no evidence in this sample", "the map is constant")

    def test_mass_accuracy_of_signed_maps_is_unbounded(self, vit, batch, maps, adapted, ctx):
        native = maps.native.clone()
        native[1] = torch.where(batch.mask[1], 2.0, -1.0) + 0.0
        native[1] -= native[1].mean() - 0.01
        spoiled = replace(maps, native=native)
        assert adapted("quantus,metric=RelevanceMassAccuracy,kwargs=normalise=false", explanation=spoiled).values[1] > 1
        assert metrics.create("localisation").score(vit, batch, spoiled, ctx)["relevance_mass"].values[1] == 1

    def test_repeats_of_infidelity_are_all_equal(self, adapted, vit, batch, maps, ctx):
        one, two = (
            adapted(f"quantus,metric=Infidelity,kwargs=n_perturb_samples={n};perturb_patch_sizes=[8]").values
            for n in (1, 2)
        )
        np.testing.assert_allclose(two, one, rtol=1e-6)
        ours = [
            metrics.create(f"infidelity,runs={n}").score(vit, batch, maps, ctx)["infidelity"].values for n in (5, 10)
        ]
        assert not np.allclose(*ours)

    def test_mean_correlation_of_mprt_counts_the_untouched_model(self, vit, batch):
        def explain(model, inputs, targets, **_):
            part = replace(batch, inputs=torch.as_tensor(inputs), targets=torch.as_tensor(targets))
            return Gradient().explain(replace(vit, module=model), part, None).native[:, None].numpy()

        table = called(quantus.MPRT(**QUIET), vit, batch, None, explain_func=explain)
        mean = called(quantus.MPRT(return_average_correlation=True, **QUIET), vit, batch, None, explain_func=explain)
        np.testing.assert_allclose(table["original"], 1, atol=1e-6)
        np.testing.assert_allclose(mean, np.mean(list(table.values()), axis=0), atol=1e-6)
        # Ours: test_robustness.py::TestMprt::test_agrees_with_a_plain_loop.

    def test_random_layers_of_one_shape_are_equal_and_tokens_stay(self, vit):
        interface = quantus.helpers.model.pytorch_model.PyTorchModel(vit.module)
        *_, (_, last) = ((name, model) for name, model in interface.get_random_layer_generator(order="bottom_up"))
        assert torch.equal(last.blocks[0].attn.qkv.weight, last.blocks[1].attn.qkv.weight)
        assert torch.equal(last.cls_token, vit.module.cls_token)
        assert torch.equal(last.pos_embed, vit.module.pos_embed)
        # Ours: test_robustness.py::TestRandomisedModels::test_weights_are_drawn_as_the_model_draws_them.

    def test_mprt_fails_on_a_constant_map(self, vit, batch):
        def explain(model, inputs, targets, **_):
            part = replace(batch, inputs=torch.as_tensor(inputs), targets=torch.as_tensor(targets))
            maps = Gradient().explain(replace(vit, module=model), part, None).native[:, None].numpy().copy()
            maps[0] = 1
            return maps

        with pytest.raises(AttributeError):
            called(quantus.MPRT(skip_layers=True, **QUIET), vit, batch, None, explain_func=explain)
        # Ours: test_robustness.py::TestMprt::test_constant_maps_are_undefined_for_their_sample_alone.

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ("ROAD", "IndexError"),
            ("InputInvariance", "AttributeError: 'PatchEmbed' object has no attribute 'out_channels'"),
            ("PixelFlipping,kwargs=return_auc_per_sample=true;features_in_step=512", "AttributeError: module 'numpy'"),
            ("RandomLogit", "RuntimeError: index"),
        ],
    )
    def test_what_fails_on_a_vit_with_three_channels(self, adapted, spec, reason):
        if "numpy" in reason and hasattr(np, "trapz"):
            pytest.skip("this numpy has trapz")
        assert [text[: len(reason)] for text in adapted(f"quantus,metric={spec}").reasons] == [reason] * 4

    def test_what_compares_samples_says_nothing_of_one(self, adapted):
        for name in ("Consistency", "Sufficiency"):
            assert (adapted(f"quantus,metric={name}").values == 0).all()

    def test_scores_change_with_the_size_of_the_batch(self, vit, batch, maps):
        scores = []
        for size in (4, 1):
            np.random.seed(0)  # noqa: NPY002
            scorer = quantus.FaithfulnessCorrelation(nr_runs=8, subset_size=40, return_aggregate=False, **QUIET)
            scores.append(called(scorer, vit, batch, maps, batch_size=size)[0])
        assert abs(scores[0] - scores[1]) > 1e-3
        # Ours, through the adapter: test_scores_depend_on_the_sample_alone.
