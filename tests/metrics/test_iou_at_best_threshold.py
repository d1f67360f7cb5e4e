"""The threshold is the best one on validation data, and nothing else decides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Explainer, Explanation, Model, UnsupportedError
from vitxai.metrics.iou_at_best_threshold import NO_THRESHOLD, IouAtBestThreshold

# Four patches of one pixel each: 1.0 and 0.6 in the mask of validation samples, 0.25 and 0.0 beside it.
RELEVANCE = torch.tensor([[1.0, 0.6], [0.25, 0.0]])
MASK = torch.tensor([[True, True], [False, False]])


class Fixed(Explainer):
    """Gives every sample the same map."""

    def __init__(self, map_: Tensor) -> None:
        self.map_, self.calls = map_, 0

    def explain(self, model: Model, batch: Batch, ctx: object) -> Explanation:
        self.calls += len(batch)
        assert model.geometry is not None
        return Explanation(self.map_.expand(len(batch), -1, -1).clone(), "token", model.geometry)


@pytest.fixture
def model(linear: Callable[[Tensor], Model]) -> Model:
    return linear(torch.ones(2, 2))


def context(ctx: EngineContext, validation: Batch, map_: Tensor = RELEVANCE) -> EngineContext:
    def fit_data(split: str, count: int, labels: bool) -> Batch:
        assert split == "validation"
        return validation.select(range(min(count, len(validation))))

    return replace(ctx, method=Fixed(map_), fit_data=fit_data)


def score(metric: IouAtBestThreshold, model: Model, batch: Batch, map_: Tensor, ctx: EngineContext):
    assert model.geometry is not None
    explanation = Explanation(map_.expand(len(batch), -1, -1).clone(), "token", model.geometry)
    return metric.score(model, batch, explanation, ctx)


def test_the_smallest_threshold_that_is_best_on_validation(ctx, model, batch_of) -> None:
    validation = batch_of(10, mask=MASK.expand(10, 2, 2))
    # On the test sample the mask is one pixel: cut at 0.25, two pixels are selected; a better cut there is not taken.
    test = batch_of(1, mask=torch.tensor([[[True, False], [False, False]]]))
    scores = score(IouAtBestThreshold(), model, test, RELEVANCE, context(ctx, validation))
    assert scores["validated_threshold"].values.tolist() == [0.25]
    assert scores["spatial_iou_validated"].values.tolist() == [0.5]


def test_validation_samples_without_evidence_do_not_count(ctx, model, batch_of) -> None:
    masks = torch.cat([MASK[None], torch.zeros(3, 2, 2, dtype=torch.bool)])
    scores = score(
        IouAtBestThreshold(), model, batch_of(1, mask=MASK[None]), RELEVANCE, context(ctx, batch_of(4, mask=masks))
    )
    assert scores["validated_threshold"].values.tolist() == [0.25]
    assert scores["spatial_iou_validated"].values.tolist() == [1.0]


def test_without_any_evidence_there_is_no_threshold(ctx, model, batch_of) -> None:
    validation = batch_of(2, mask=torch.zeros(2, 2, 2, dtype=torch.bool))
    scores = score(IouAtBestThreshold(), model, batch_of(1, mask=MASK[None]), RELEVANCE, context(ctx, validation))
    assert scores["spatial_iou_validated"].reasons == (NO_THRESHOLD,)
    assert scores["validated_threshold"].reasons == (NO_THRESHOLD,)


def test_a_constant_map_selects_nothing(ctx, model, batch_of) -> None:
    constant = torch.ones(2, 2)
    validation = batch_of(2, mask=MASK.expand(2, 2, 2))
    scores = score(
        IouAtBestThreshold(), model, batch_of(1, mask=MASK[None]), constant, context(ctx, validation, constant)
    )
    assert scores["spatial_iou_validated"].values.tolist() == [0.0]


def test_validation_samples_are_explained_once_for_a_chunk(ctx, model, batch_of) -> None:
    given = context(ctx, batch_of(12, mask=MASK.expand(12, 2, 2)))
    for _ in range(2):
        score(IouAtBestThreshold(samples=9), model, batch_of(1, mask=MASK[None]), RELEVANCE, given)
    assert given.method.calls == 9


def test_maps_made_elsewhere_are_refused(ctx, model, batch_of) -> None:
    given = replace(context(ctx, batch_of(2, mask=MASK.expand(2, 2, 2))), method=None)
    with pytest.raises(UnsupportedError, match="made elsewhere"):
        score(IouAtBestThreshold(), model, batch_of(1, mask=MASK[None]), RELEVANCE, given)
