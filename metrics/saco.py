"""SaCo: do groups of pixels that a map ranks higher matter more, weighted by how much higher it ranks them?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._removal import Features, cuts, feature_values, group_sums, groups_of, ranks, responses_without, source_of
from ._responses import clean_logits, target_probability

NO_EFFECT = "all groups change p(target) alike"
SMALLEST_CHANGE = 1e-6


@metric(
    "saco",
    columns=(Column("saco", "higher", (-1, 1), "agreement of salience and effect over pairs of pixel groups"),),
    version=1,
    paper=Paper("On the faithfulness of Vision Transformer explanations", 2024, "arXiv:2404.01415"),
    queries_model=True,
)
class SaCo(Metric):
    """Salience-guided faithfulness coefficient F = sum_{i<j} c_ij (s_i - s_j) / sum_{i<j} |s_i - s_j|, in [-1, 1].

    The features, by falling salience (the signed map, stable), are cut into K groups of one size; s_i is the mean
    salience of group i. Each group alone takes the mean colour of its own image; d_i is the drop of the softmax
    probability of the target. c_ij is 1 where d_i >= d_j - 1e-6, else -1. The paper sums salience over groups of equal
    size, which is the same F; means keep it so where sizes differ by one.

    An explanation costs K rows a sample; the clean answer is a probe.

    Attributes:
        groups: K, at most one a feature.
        features: pixels of the upsampled map (the paper's), or patches.
    """

    groups: int = 10
    features: Features = "pixels"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """F [B]; NaN for a constant map, and where no group changes the probability more than another.

        Raises:
            BadInputError: no explanation, or fewer than two groups.
        """
        if self.groups < 2:
            raise BadInputError(f"groups={self.groups}: pairs need at least two.")
        explanation = in_float64(explanation)
        values, broken = finite_rows(feature_values(explanation, self.features))
        counts = cuts(values[0].numel(), self.groups, values.device)
        salience = group_sums(values, counts) / counts.diff()
        members = groups_of(ranks(values, descending=True), counts)
        geometry = explanation.geometry
        mean = source_of(model, batch, ctx, geometry, "own_mean", lambda: own_mean(batch.inputs))
        without = responses_without(model, batch, members, ctx, geometry, baseline=mean)
        drops = target_probability(clean_logits(model, batch, ctx), batch.targets)[:, None] - without
        undefined = {
            NOT_FINITE: broken,
            CONSTANT_MAP: is_constant(values),
            NO_EFFECT: drops.amax(1) - drops.amin(1) <= SMALLEST_CHANGE,
        }
        return {"saco": column(coefficient(salience, drops), undefined)}


def own_mean(inputs: Tensor) -> Tensor:
    """Each image in its own mean colour, [B,C,H,W]."""
    return inputs.mean((2, 3), keepdim=True).expand_as(inputs)


def coefficient(salience: Tensor, drops: Tensor) -> Tensor:
    """F [B] from the salience and the drops [B,K] of groups by falling salience; NaN where the salience is constant."""
    i, j = torch.triu_indices(salience.shape[1], salience.shape[1], offset=1, device=salience.device)
    salience = salience / salience.abs().amax(1, keepdim=True)
    weights = salience[:, i] - salience[:, j]
    agree = drops[:, i] >= drops[:, j] - SMALLEST_CHANGE
    return torch.where(agree, weights, -weights).sum(1) / weights.sum(1)
