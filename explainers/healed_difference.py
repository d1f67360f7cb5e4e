"""Oracle: what changes the decision between the healed counterfactual and the input."""

from __future__ import annotations

from pydantic import PositiveInt

from ..bench.contract import BadInputError, Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid
from ._path import integrate


@explainer("healed_difference", needs=("gradient", "healed"), status="oracle")
class HealedDifference(Explainer):
    """Gradients of the target logit integrated from the sample without its evidence to the sample; signed.

    Zero wherever the evidence changed nothing, so that it knows the truth; it bounds what an explainer can reach.

    Attributes:
        steps: Gauss-Legendre nodes, each one forward and one backward pass.
    """

    steps: PositiveInt = 50

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        if batch.healed is None:
            raise BadInputError("healed_difference needs Batch.healed; this data set has no counterfactuals.")
        return Explanation(integrate(model, batch, batch.healed, self.steps, ctx.max_rows), "cube", geometry)
