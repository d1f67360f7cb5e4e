"""What the model itself answers: accuracy, confidence, and whether its decision rests on the evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Scores, metric
from ._maps import NO_EVIDENCE, column
from ._responses import clean_logits, logits_of, target_probability

NO_LABEL = "label unknown"
NO_HEALED = "no healed counterfactual"


@metric(
    "model_response",
    columns=(
        Column("accuracy", "higher", (0, 1), "1 where the largest logit is the label's, else 0"),
        Column("p_target", "none", (0, 1), "softmax probability of the target"),
        Column("p_healed", "none", (0, 1), "softmax probability of the target on the healed counterfactual"),
        Column("truth_used", "none", (0, 1), "1 where healing drops p(target) below half of what it was, else 0"),
    ),
    version=1,
    of="model",
)
class ModelResponse(Metric):
    """Clean and healed answers of a model; ``truth_used`` decides which samples a headline with truth may count."""

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN without a label, without a healed counterfactual, and without evidence to heal."""
        logits = clean_logits(model, batch, ctx)
        p_target = target_probability(logits, batch.targets)
        no_healed = torch.full_like(batch.targets, batch.healed is None, dtype=torch.bool)
        p_healed = torch.full_like(p_target, torch.nan)
        if batch.healed is not None:
            p_healed = target_probability(logits_of(model, batch, ctx, "healed_logits", batch.healed), batch.targets)
        undefined = {NO_HEALED: no_healed, NO_EVIDENCE: ~has_evidence(batch)}
        return {
            "accuracy": column((logits.argmax(1) == batch.labels).double(), {NO_LABEL: batch.labels < 0}),
            "p_target": column(p_target),
            "p_healed": column(p_healed, {NO_HEALED: no_healed}),
            "truth_used": column((p_healed < p_target / 2).double(), undefined),
        }


def has_evidence(batch: Batch) -> Tensor:
    """Samples [B] with something to heal: by their mask, else by their bands, else by their counterfactual."""
    if batch.mask is not None:
        return batch.mask.flatten(1).any(1)
    if batch.bands is not None:
        return (batch.bands > 0).any(1)
    if batch.healed is not None:
        return (batch.healed != batch.inputs).flatten(1).any(1)
    return torch.zeros_like(batch.targets, dtype=torch.bool)
