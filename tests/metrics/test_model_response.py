"""Model response: accuracy, probabilities, and when the truth counts as used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitxai.bench.profile import count_passes
from vitxai.metrics.model_response import ModelResponse


@pytest.fixture
def model(linear):
    """Logit 0 is the first pixel, logit 1 is zero."""
    return linear(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def images(*logits: float) -> torch.Tensor:
    inputs = torch.zeros(len(logits), 3, 2, 2)
    inputs[:, :, 0, 0] = torch.tensor(logits)[:, None]
    return inputs


def p(logit: float) -> float:
    return 1 / (1 + np.exp(-logit))


def test_accuracy_and_probability_of_the_target(model, batch_of, ctx):
    batch = batch_of(
        4, inputs=images(2.0, 2.0, -1.0, 2.0), labels=torch.tensor([0, 1, 1, -1]), targets=torch.tensor([0, 1, 1, 0])
    )
    got = ModelResponse().score(model, batch, None, ctx)
    assert got["accuracy"].values[:3].tolist() == [1, 0, 1]
    assert got["accuracy"].reasons == ("", "", "", "label unknown")
    np.testing.assert_allclose(got["p_target"].values, [p(2), 1 - p(2), p(1), p(2)], atol=1e-7)


def test_truth_is_used_where_healing_halves_the_probability(model, batch_of, ctx):
    mask = torch.zeros(3, 2, 2, dtype=torch.bool)
    mask[:2, 0, 0] = True
    batch = batch_of(3, inputs=images(2.0, 2.0, 2.0), healed=images(-1.0, 0.0, 2.0), mask=mask)
    got = ModelResponse().score(model, batch, None, ctx)
    np.testing.assert_allclose(got["p_healed"].values, [p(-1), p(0), p(2)], atol=1e-7)
    # .88 falls to .27, below .44; to .50, above it; the third sample has nothing to heal.
    assert got["truth_used"].values[:2].tolist() == [1, 0]
    assert got["truth_used"].reasons == ("", "", "no evidence in this sample")


def test_without_a_counterfactual_the_truth_cannot_be_tested(model, batch_of, ctx):
    got = ModelResponse().score(model, batch_of(2, inputs=images(1.0, 1.0)), None, ctx)
    for name in ("p_healed", "truth_used"):
        assert got[name].reasons == ("no healed counterfactual",) * 2


TRUTHS = {
    "bands": {"bands": torch.tensor([[0.0, 0, 0], [0, 1, 0]])},
    "mask": {"mask": torch.tensor([False, True]).view(2, 1, 1).expand(2, 2, 2)},
    "counterfactual": {},
}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS.keys())
def test_evidence_is_known_by_mask_bands_or_counterfactual(model, batch_of, ctx, truth):
    batch = batch_of(2, inputs=images(2.0, 2.0), healed=images(2.0, -2.0), **truth)
    got = ModelResponse().score(model, batch, None, ctx)["truth_used"]
    assert got.reasons == ("no evidence in this sample", "")
    assert got.values[1] == 1


def test_clean_and_healed_inputs_run_once(vit, vit_batch, ctx):
    with count_passes(vit.module) as count:
        ModelResponse().score(vit, vit_batch, None, ctx)
        ModelResponse().score(vit, vit_batch, None, ctx)
    assert count.forwards == 8


def test_samples_do_not_influence_each_other(vit, vit_batch, ctx):
    together = ModelResponse().score(vit, vit_batch, None, ctx)
    alone = ModelResponse().score(vit, vit_batch.select([6]), None, ctx)
    for name in ("accuracy", "p_target"):
        assert alone[name].values[0] == pytest.approx(together[name].values[6], abs=1e-5)
