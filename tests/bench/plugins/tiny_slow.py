"""An explainer slow enough to be interrupted."""

from __future__ import annotations

import time

from vitxai.bench.contract import Batch, Context, Explainer, Explanation, Model, explainer


@explainer("tiny_slow")
class TinySlow(Explainer):
    """The mean colour, after a nap."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        time.sleep(0.15)
        assert model.geometry is not None
        return Explanation(batch.inputs.mean(1), "pixel", model.geometry)
