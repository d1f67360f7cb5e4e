"""Floor: noise."""

from __future__ import annotations

import torch

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid


@explainer("random", status="floor")
class Random(Explainer):
    """Uniform noise on [0, 1), one draw a token, keyed by the sample."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        draws = [
            torch.rand(geometry.tokens, generator=ctx.generator(id, "random"), dtype=torch.float64) for id in batch.ids
        ]
        return Explanation.of_tokens(torch.stack(draws).to(batch.inputs), geometry)
