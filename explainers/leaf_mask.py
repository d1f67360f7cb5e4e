"""Floor: the leaf or foreground."""

from __future__ import annotations

from ..bench.contract import BadInputError, Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid


@explainer("leaf_mask", needs=("leaf",), status="floor")
class LeafMask(Explainer):
    """1 on the leaf (or foreground), 0 elsewhere; no spectral axis. The model is not asked."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        if batch.leaf is None:
            raise BadInputError("leaf_mask needs Batch.leaf; this data set has no foreground masks.")
        return Explanation(batch.leaf.to(batch.inputs), "pixel", on_grid(model))
