"""Does a map depend on what the model learned: the same method on a model trained on shuffled labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..bench.contract import (
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Paper,
    Scores,
    Spec,
    UnsupportedError,
    metric,
)
from ._again import AGAIN_NOT_FINITE, vectors
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, is_constant
from ._ranking import average_ranks, pearson

NO_RANDOM_MAP = "the map on the model of shuffled labels is constant"


@metric(
    "label_randomisation",
    columns=(
        Column("label_randomisation", "lower", (-1, 1), "rank correlation with the map of a model that memorised"),
    ),
    version=1,
    needs=("re-explain",),
    paper=Paper("Sanity checks for saliency maps (data randomisation)", 2018, "arXiv:1810.03292"),
)
class LabelRandomisation(Metric):
    """Spearman's rho of |Phi(x; model)| and |Phi(x; other)|, ``other`` trained on shuffled labels, on the patch grid.

    The other model has the same architecture, data and recipe, and fits labels that have nothing to do with the inputs,
    until its training accuracy is high: what is then left of a map comes from the input and the architecture. The
    target stays that of the given model. Costs one explanation a map. The two models differ in their training seed too,
    so compare rho with that of two models on true labels before you call a high value a failure.

    Attributes:
        checkpoint: the other model, a file that `bench train` wrote on shuffled labels.
    """

    checkpoint: Path

    def content_hash(self) -> str:
        """Of the checkpoint; part of the keys of scores."""
        from ..models.file_model import file_hash

        return file_hash(self.checkpoint) if self.checkpoint.is_file() else "absent"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """rho [B]; NaN for constant maps.

        Raises:
            BadInputError: no explanation, or no checkpoint there.
            UnsupportedError: the other model has another architecture or normalisation, or is the given one; or the
                explainer of the map is not at hand.
        """
        maps, broken = finite_rows(vectors(explanation, "grid").abs())
        other = ctx.probe(model, None, f"model of {self.checkpoint}", partial(self._other, model))
        again, again_broken = finite_rows(vectors(ctx.explain(other, batch), "grid").abs())
        rho = pearson(average_ranks(maps), average_ranks(again))
        undefined = {
            NOT_FINITE: broken,
            AGAIN_NOT_FINITE: again_broken,
            CONSTANT_MAP: is_constant(maps),
            NO_RANDOM_MAP: is_constant(again),
        }
        return {"label_randomisation": column(rho, undefined)}

    def _other(self, model: Model) -> Model:
        from ..models.load import load_model

        other = load_model(Spec("file", {"path": str(self.checkpoint)}), device=str(model.device))
        shapes = [{name: tuple(p.shape) for name, p in m.module.named_parameters()} for m in (model, other)]
        if shapes[0] != shapes[1]:
            raise UnsupportedError(
                f"{self.checkpoint} is no copy of the explained model: its parameters differ in shape."
            )
        if model.weights_hash == other.weights_hash:
            raise UnsupportedError(f"{self.checkpoint} is the explained model itself.")
        # Both are shown the same normalised inputs.
        if (model.mean, model.std) != (other.mean, other.std):
            raise UnsupportedError(
                f"{self.checkpoint} expects other inputs: mean {other.mean[:3]} and std {other.std[:3]}, the explained "
                f"model {model.mean[:3]} and {model.std[:3]}. `bench train` takes both from the first 256 fit samples: "
                "train the copy on the same data, with --fit 256 or more."
            )
        return other
