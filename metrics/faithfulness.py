"""Faithfulness correlation: do the attributions of removed patches add up to what the model loses?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, metric
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._ranking import pearson
from ._removal import responses_without
from ._responses import clean_logits, target_logit

CONSTANT_SUMS = "all removed subsets have the same attribution"
CONSTANT_DROPS = "no removed subset changes the target logit"


@metric(
    "faithfulness_correlation",
    columns=(
        Column(
            "faithfulness_correlation",
            "higher",
            (-1, 1),
            "correlation over random patch subsets of their attribution with the drop of the target logit",
        ),
    ),
    version=1,
    paper=Paper("Evaluating and aggregating feature-based model explanations", 2020, "arXiv:2005.00631"),
    queries_model=True,
)
class FaithfulnessCorrelation(Metric):
    """Pearson correlation over ``runs`` random subsets of patches, set to the mean colour.

    Subsets depend on the sample alone, so that all explainers are compared on the same ones and the drops of the logit
    are a probe: 1 + ``runs`` rows a sample and model, however many explainers there are.

    Attributes:
        runs: subsets a sample.
        share: of the patches that a subset removes (at least one patch).
    """

    runs: int = 100
    share: float = 0.1

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """The correlation [B] in [-1, 1]; NaN where the sums or the drops do not vary over the subsets.

        Raises:
            BadInputError: no explanation, fewer than two runs, or a share outside (0, 1).
        """
        explanation = in_float64(explanation)
        subsets = self._subsets(batch, explanation, ctx).to(explanation.native.device)
        drops = self._drops(model, batch, subsets, explanation, ctx)
        grid, broken = finite_rows(explanation.grid("signed"))
        sums = (subsets * grid.flatten(1)[:, None]).sum(-1)
        undefined = {
            NOT_FINITE: broken,
            CONSTANT_MAP: is_constant(grid),
            CONSTANT_SUMS: is_constant(sums),
            CONSTANT_DROPS: is_constant(drops),
        }
        return {"faithfulness_correlation": column(pearson(sums, drops), undefined)}

    def _subsets(self, batch: Batch, explanation: Explanation, ctx: Context) -> Tensor:
        if self.runs < 2 or not 0 < self.share < 1:
            raise BadInputError(
                f"runs={self.runs}, share={self.share}: use two runs or more and a share inside (0, 1)."
            )
        patches = explanation.geometry.grid[0] * explanation.geometry.grid[1]
        size = max(1, round(self.share * patches))
        return random_subsets(batch, ctx, self.name, self.runs, size, patches)

    def _drops(self, model: Model, batch: Batch, subsets: Tensor, explanation: Explanation, ctx: Context) -> Tensor:
        """Drop [B,runs] of the target logit when a subset takes the mean colour, float64."""
        clean = target_logit(clean_logits(model, batch, ctx), batch.targets)
        name = f"faithfulness_correlation,runs={self.runs},share={self.share}"
        without = ctx.probe(
            model,
            batch,
            name,
            lambda: responses_without(model, batch, subsets, ctx, explanation.geometry, output="logit"),
        )
        return clean[:, None] - without.double()


def random_subsets(batch: Batch, ctx: Context, component: str, runs: int, size: int, patches: int) -> Tensor:
    """Random subsets [B,runs,patches] bool of exactly ``size`` patches, keyed by sample and component alone."""
    draws = [torch.rand(runs, patches, generator=ctx.generator(sample, component)) for sample in batch.ids]
    chosen = torch.stack(draws).argsort(dim=-1, stable=True)[..., :size]
    return torch.zeros(len(batch), runs, patches, dtype=torch.bool).scatter_(-1, chosen, True)
