"""The Python API: explain, evaluate, register_explainer."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench import Explainer, evaluate, explain, register_explainer
from vitxai.bench.contract import BadInputError, Batch, Explanation, UnknownNameError, UnsupportedError, explainers
from vitxai.bench.guard import LeftChangedError, ModuleState
from vitxai.models.handle import wrap


@pytest.fixture
def vit() -> VisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=4)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def batch_of(inputs: torch.Tensor, **truths: torch.Tensor) -> Batch:
    targets = torch.tensor([0, 1, 2])
    return Batch(("a", "b", "c"), inputs, targets, targets, **truths)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, vitxai.bench as b; print('torch' in sys.modules, set(b.__all__) - set(dir(b)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False set()"
    with pytest.raises(ImportError, match="nothing_of_the_kind"):
        from vitxai.bench import nothing_of_the_kind  # noqa: F401


def test_the_docstrings_examples_run() -> None:
    from vitxai.bench import api

    results = doctest.testmod(api)
    assert results.attempted >= 8
    assert results.failed == 0


class TestExplain:
    def test_the_signed_native_map_of_the_targets(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        explanation = explain(vit, inputs, [0, 1, 2], explainer="input_x_gradient")
        x = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(vit.eval()(x)[[0, 1, 2], [0, 1, 2]].sum(), x)
        assert explanation.layout == "cube"
        torch.testing.assert_close(explanation.native, gradient * inputs)
        assert not explanation.native.requires_grad

    def test_predictions_are_explained_where_no_targets_are_given(
        self, vit: VisionTransformer, inputs: torch.Tensor
    ) -> None:
        predictions = vit.eval()(inputs).argmax(1)
        given = explain(vit, inputs, predictions, explainer="input_x_gradient")
        assert torch.equal(explain(vit, inputs, explainer="input_x_gradient").native, given.native)

    def test_parameters_by_keyword_or_in_the_spec(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        by_keyword = explain(vit, inputs, [0, 1, 2], explainer="integrated_gradients", steps=3)
        by_spec = explain(vit, inputs, [0, 1, 2], explainer="integrated_gradients,steps=3")
        assert torch.equal(by_keyword.native, by_spec.native)
        with pytest.raises(BadInputError, match="step_count"):
            explain(vit, inputs, [0, 1, 2], explainer="integrated_gradients", step_count=3)

    def test_a_training_module_is_left_in_training_with_its_gradients_on(
        self, vit: VisionTransformer, inputs: torch.Tensor
    ) -> None:
        vit.train()
        before, state = ModuleState.of(vit), torch.get_rng_state()
        explain(vit, inputs, [0, 1, 2], explainer="rollout")
        assert before.differences(ModuleState.of(vit)) == []
        assert torch.equal(torch.get_rng_state(), state)

    def test_random_methods_follow_seed_and_ids(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        first = explain(vit, inputs, [0, 1, 2], explainer="random")
        assert torch.equal(explain(vit, inputs, [0, 1, 2], explainer="random").native, first.native)
        assert not torch.equal(explain(vit, inputs, [0, 1, 2], explainer="random", seed=1).native, first.native)
        one = explain(vit, inputs[1:2], [1], explainer="random", ids=["input/1"])
        assert torch.equal(one.native[0], first.native[1])

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"inputs": torch.zeros(2, 3, 8, 8)}, r"\[B, 3, 16, 16\].*\[2, 3, 8, 8\]"),
            ({"inputs": torch.full((3, 3, 16, 16), float("nan"))}, "NaN"),
            ({"targets": [0, 1]}, "targets must be 3 classes in 0..3"),
            ({"targets": [0, 1, 4]}, r"0\.\.3.*4"),
            ({"ids": ["a"]}, "1 ids for 3 inputs"),
            ({"model": 3}, "model is a int"),
        ],
    )
    def test_wrong_arguments(self, vit: VisionTransformer, inputs: torch.Tensor, change: dict, told: str) -> None:
        arguments = {"model": vit, "inputs": inputs, "targets": [0, 1, 2], **change}
        with pytest.raises(BadInputError, match=told):
            explain(**arguments)

    def test_unknown_names_come_with_a_suggestion(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean rollout"):
            explain(vit, inputs, [0, 1, 2], explainer="rolout")


class TestRegister:
    def test_a_method_of_ones_own_is_explained_with_by_name(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        @register_explainer("brightness_here", status="test")
        class Brightness(Explainer):
            power: int = 1

            def explain(self, model, batch, ctx):  # type: ignore[no-untyped-def]
                return Explanation(batch.inputs.mean(1) ** self.power, "pixel", model.geometry)

        explanation = explain(vit, inputs, [0, 1, 2], explainer="brightness_here", power=2)
        torch.testing.assert_close(explanation.native, inputs.mean(1) ** 2)
        assert "brightness_here" in explainers.names()

    def test_one_that_spoils_the_model_is_told(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        @register_explainer("spoils_here", status="test")
        class Spoils(Explainer):
            def explain(self, model, batch, ctx):  # type: ignore[no-untyped-def]
                model.module.head.bias.data += 1
                return Explanation(batch.inputs.mean(1), "pixel", model.geometry)

        with pytest.raises(LeftChangedError, match=r"head\.bias"):
            explain(vit, inputs, [0, 1, 2], explainer="spoils_here")


class TestEvaluate:
    def test_maps_made_elsewhere_in_every_layout(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        for shape in ((3, 4, 4), (3, 16, 16), (3, 3, 16, 16)):
            maps = torch.randn(shape, generator=generator)
            frame = evaluate(maps, batch_of(inputs), vit, metrics=["sparseness"])
            assert frame.index.tolist() == ["a", "b", "c"]
            assert frame["sparseness"].between(0, 1).all()
            pd_equal = evaluate(maps.numpy(), batch_of(inputs), vit, metrics=["sparseness"])
            assert pd_equal.equals(frame)

    def test_an_explanation_and_several_metrics(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        explanation = explain(vit, inputs, [0, 1, 2], explainer="rollout")
        mask = torch.zeros(3, 16, 16, dtype=torch.bool)
        mask[:, :8] = True
        frame = evaluate(
            explanation, batch_of(inputs, mask=mask), wrap(vit), metrics=["localisation", "insertion_deletion"]
        )
        assert frame[["spatial_iou", "auprc", "insertion_auc", "deletion_auc"]].notna().all(axis=None)

    def test_what_is_undefined_is_nan_with_a_reason(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
        maps[1] = 0
        frame = evaluate(maps, batch_of(inputs), vit, metrics=["sparseness"])
        assert frame["sparseness"].isna().tolist() == [False, True, False]
        assert list(frame.attrs["reasons"]["sparseness"]) == ["b"]

    def test_missing_truth_and_wrong_shapes_are_refused(self, vit: VisionTransformer, inputs: torch.Tensor) -> None:
        with pytest.raises(UnsupportedError, match=r"localisation.*mask"):
            evaluate(torch.rand(3, 4, 4), batch_of(inputs), vit, metrics=["localisation"])
        with pytest.raises(BadInputError, match=r"\[3, 5, 5\] fit none"):
            evaluate(torch.rand(3, 5, 5), batch_of(inputs), vit)
        with pytest.raises(BadInputError, match="2 maps for 3 samples"):
            evaluate(torch.rand(2, 4, 4), batch_of(inputs), vit)
        with pytest.raises(BadInputError, match="NaN"):
            evaluate(torch.full((3, 4, 4), float("nan")), batch_of(inputs), vit)
