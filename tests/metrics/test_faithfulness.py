"""Faithfulness correlation: exact on a linear model, equal to a plain loop and to Quantus, common masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Explanation
from vitxai.bench.profile import count_passes
from vitxai.metrics.faithfulness import FaithfulnessCorrelation, random_subsets

COLUMN = "faithfulness_correlation"


@pytest.fixture
def random_maps(vit):
    def build(count: int, seed: int = 0) -> Explanation:
        native = torch.randn(count, *vit.geometry.grid, generator=torch.Generator().manual_seed(seed))
        return Explanation(native, "token", vit.geometry)

    return build


def test_exact_contributions_of_a_linear_model_correlate_perfectly(linear, batch_of, ctx):
    generator = torch.Generator().manual_seed(0)
    model = linear(torch.randn(4, 4, generator=generator))
    batch = batch_of(2, (4, 4), inputs=torch.randn(2, 3, 4, 4, generator=generator))
    contributions = batch.inputs.mean(1) * model.module.weights.detach()
    metric = FaithfulnessCorrelation(runs=30, share=0.25)
    got = metric.score(model, batch, Explanation(contributions, "token", model.geometry), ctx)
    np.testing.assert_allclose(got[COLUMN].values, 1, atol=1e-6)
    got = metric.score(model, batch, Explanation(-contributions, "token", model.geometry), ctx)
    np.testing.assert_allclose(got[COLUMN].values, -1, atol=1e-6)


def test_hand_computed(linear, batch_of, ctx):
    """One patch at a time: drops (3, 2, 1) against attributions (1, 3, 2), as often as each is drawn."""
    model = linear(torch.tensor([[3.0, 2.0, 1.0]]))
    batch = batch_of(1, (1, 3), inputs=torch.ones(1, 3, 1, 3))
    explanation = Explanation(torch.tensor([[[1.0, 3.0, 2.0]]]), "token", model.geometry)
    got = FaithfulnessCorrelation(runs=12, share=0.2).score(model, batch, explanation, ctx)
    drawn = random_subsets(batch, ctx, COLUMN, 12, 1, 3)[0].int().argmax(1).numpy()
    expected = pearsonr(np.array([1.0, 3, 2])[drawn], np.array([3.0, 2, 1])[drawn]).statistic
    assert got[COLUMN].values[0] == pytest.approx(expected)


def test_subsets_have_the_size_and_depend_on_the_sample_alone(vit_batch, ctx):
    subsets = random_subsets(vit_batch, ctx, COLUMN, runs=20, size=3, patches=16)
    assert (subsets.sum(-1) == 3).all()
    alone = random_subsets(vit_batch.select([5]), ctx, COLUMN, runs=20, size=3, patches=16)
    torch.testing.assert_close(alone[0], subsets[5])
    assert not torch.equal(subsets[0], subsets[1])
    other_seed = random_subsets(vit_batch, EngineContext(seed=1), COLUMN, runs=20, size=3, patches=16)
    assert not torch.equal(other_seed, subsets)


def test_agrees_with_a_plain_loop(vit, vit_batch, random_maps, ctx):
    explanation = random_maps(8)
    got = FaithfulnessCorrelation(runs=25).score(vit, vit_batch, explanation, ctx)[COLUMN].values
    subsets = random_subsets(vit_batch, ctx, COLUMN, runs=25, size=2, patches=16)
    for row in range(8):
        image, target = vit_batch.inputs[row : row + 1], vit_batch.targets[row]
        sums, drops = [], []
        for subset in subsets[row]:
            masked = image.clone()
            for patch in subset.nonzero().flatten().tolist():
                y, x = divmod(patch, 4)
                masked[:, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
            with torch.inference_mode():
                drops.append(float(vit(image)[0, target] - vit(masked)[0, target]))
            sums.append(float(explanation.native[row].flatten()[subset].sum()))
        assert got[row] == pytest.approx(pearsonr(sums, drops).statistic, abs=1e-4)


def test_agrees_with_quantus_on_single_channel_pixels(linear, batch_of, ctx, monkeypatch):
    """Quantus on the same subsets: its features are elements, so the image has one-pixel patches and one channel."""
    faithfulness = pytest.importorskip("quantus").FaithfulnessCorrelation
    generator = torch.Generator().manual_seed(2)
    model = linear(torch.randn(5, 5, generator=generator))
    # All channels alike, so that one element of a one-channel image stands for a whole pixel.
    images = torch.randn(3, 1, 5, 5, generator=generator)
    maps = torch.randn(3, 5, 5, generator=generator)
    batch = batch_of(3, (5, 5), inputs=images.expand(-1, 3, -1, -1))
    got = FaithfulnessCorrelation(runs=15, share=0.2).score(
        model, batch, Explanation(maps, "token", model.geometry), ctx
    )
    subsets = random_subsets(batch, ctx, COLUMN, runs=15, size=5, patches=25)
    draws = iter([subsets[row, run].nonzero().flatten().numpy() for run in range(15) for row in range(3)])
    monkeypatch.setattr(np.random, "choice", lambda *args, **kwargs: next(draws))

    class OneChannel(torch.nn.Module):
        def forward(self, x):
            return model(x.expand(-1, 3, -1, -1))

    reference = faithfulness(
        nr_runs=15, subset_size=5, perturb_baseline=0.0, return_aggregate=False, normalise=False,
        disable_warnings=True, display_progressbar=False,
    )(model=OneChannel().eval(), x_batch=images.numpy(), y_batch=np.zeros(3, int), a_batch=maps[:, None].numpy(),
      channel_first=True, softmax=False, device="cpu")  # fmt: skip
    np.testing.assert_allclose(got[COLUMN].values, reference, atol=1e-5)


def test_responses_are_computed_once_for_all_explainers(vit, vit_batch, random_maps, ctx):
    metric = FaithfulnessCorrelation(runs=10)
    with count_passes(vit.module) as first:
        metric.score(vit, vit_batch, random_maps(8, seed=0), ctx)
    with count_passes(vit.module) as second:
        metric.score(vit, vit_batch, random_maps(8, seed=1), ctx)
    assert first.forwards == 8 * (1 + 10)
    assert second.forwards == 0


def test_same_score_alone_in_another_order_and_at_any_scale(vit, vit_batch, random_maps, ctx):
    metric, explanation = FaithfulnessCorrelation(runs=20), random_maps(8)
    together = metric.score(vit, vit_batch, explanation, ctx)[COLUMN].values
    for rows in ([3], [7, 0, 2], list(range(7, -1, -1))):
        part = Explanation(explanation.native[rows], "token", vit.geometry)
        got = metric.score(vit, vit_batch.select(rows), part, EngineContext(max_rows=7))[COLUMN].values
        np.testing.assert_allclose(got, together[rows], atol=1e-4)
    scaled = Explanation(explanation.native * 1e-12, "token", vit.geometry)
    np.testing.assert_allclose(metric.score(vit, vit_batch, scaled, ctx)[COLUMN].values, together, atol=1e-6)


def test_undefined_values_have_reasons(linear, batch_of, ctx):
    model = linear(torch.ones(2, 2))
    inputs = torch.ones(3, 3, 2, 2)
    inputs[2] = 0  # nothing to remove
    maps = torch.tensor([[[1.0, 2], [3, 4]], [[2.0, 2], [2, 2]], [[1.0, 2], [3, 4]]])
    batch = batch_of(3, inputs=inputs)
    got = FaithfulnessCorrelation(runs=8, share=0.5).score(
        model, batch, Explanation(maps, "token", model.geometry), ctx
    )[COLUMN]
    no_drop = "no removed subset changes the target logit"
    assert got.reasons[1:] == ("the map is constant", no_drop)
    assert np.isnan(got.values[1:]).all()


@pytest.mark.parametrize("params", [{"runs": 1}, {"share": 0.0}, {"share": 1.0}])
def test_bad_parameters_are_refused(vit, vit_batch, random_maps, ctx, params):
    with pytest.raises(BadInputError, match="two runs"):
        FaithfulnessCorrelation(**params).score(vit, vit_batch, random_maps(8), ctx)
