"""Floor: how far the input is from the mean colour."""

from __future__ import annotations

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid


@explainer("input_magnitude", status="floor")
class InputMagnitude(Explainer):
    """|normalised input|: the distance from the mean colour in standard deviations; >= 0. The model is not asked."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        return Explanation(batch.inputs.detach().abs(), "cube", on_grid(model))
