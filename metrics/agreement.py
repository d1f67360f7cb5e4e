"""Agreement with another method's map: do two explanations of one answer say the same?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import (
    BadInputError,
    Batch,
    Column,
    Context,
    Explainer,
    Explanation,
    Metric,
    Model,
    Paper,
    Reduction,
    Scores,
    Spec,
    Values,
    metric,
)
from ..bench.contract import explainers as explainer_registry
from ._bands import CONSTANT_CURVE, NO_SPECTRUM
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._ranking import spearman

OTHER_NOT_FINITE = "the map of the other method is not finite"
OTHER_CONSTANT = "the map of the other method is constant"
OTHER_NO_SPECTRUM = "the other method has no spectral curve"
Sides = tuple[Tensor, Tensor]


@metric(
    "agreement",
    columns=(
        Column("spatial_agreement", "none", (-1, 1), "rank correlation with the other method's map on the patch grid"),
        Column("spectral_agreement", "none", (-1, 1), "rank correlation with the other method's spectral curve"),
    ),
    version=1,
    paper=Paper("The disagreement problem in explainable machine learning", 2022, "arXiv:2202.01602"),
)
class Agreement(Metric):
    """Spearman's rho with the map that another method makes of the same model, targets and inputs.

    Neither high nor low is good: methods may agree in being wrong. Of a method with a model of its own, the other one
    explains that model. The other method's map is made once for all methods that explain the same model.

    Attributes:
        other: spec of a method that learns nothing and explains the model as it is.
        reduction: of both cubes, over bands for the places and over places for the curve.
    """

    other: str = "integrated_gradients,steps=20"
    reduction: Reduction = "mean_positive"

    def wraps(self) -> tuple[str, ...]:
        return (self.other,)

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """Both columns [B] in [-1, 1]; NaN where a map is constant, and for curves where a method has none.

        Raises:
            BadInputError: no explanation, or an other method that learns, brings its own model or wraps another.
            UnsupportedError: the other method cannot explain this model.
        """
        method = self._method()
        # An explanation lives in memory only: in the store it would outlive a change of the other method.
        other = ctx.probe(model, batch, f"map of {method!r}", lambda: method.explain(model, batch, ctx))
        ours, theirs = self._sides(in_float64(explanation)), self._sides(other)
        return {
            "spatial_agreement": _correlation(ours[0], theirs[0], CONSTANT_MAP),
            "spectral_agreement": _correlation(ours[1], theirs[1], CONSTANT_CURVE),
        }

    def _method(self) -> Explainer:
        method = explainer_registry.create(Spec.parse(self.other))
        learns, brings = type(method).fit is not Explainer.fit, type(method).own_model is not Explainer.own_model
        if learns or brings or method.wraps():
            raise BadInputError(
                f"other={self.other!r} learns, brings a model of its own or wraps another method; compare with one "
                "that explains the model as it is, such as integrated_gradients."
            )
        return method

    def _sides(self, explanation: Explanation) -> Sides:
        """Map [B,P] and curve [B,C], or [B,0] of a method that has none."""
        whole = in_float64(explanation)
        places = whole.grid(self.reduction).flatten(1)
        return places, whole.spectral(self.reduction) if whole.has_spectrum else places[:, :0]


def _correlation(ours: Tensor, theirs: Tensor, constant: str) -> Values:
    for side, reason in ((ours, NO_SPECTRUM), (theirs, OTHER_NO_SPECTRUM)):
        if not side.shape[1]:
            nowhere = side.new_full((len(side),), torch.nan)
            return column(nowhere, {reason: nowhere.isnan()})
    (a, broken), (b, other_broken) = finite_rows(ours), finite_rows(theirs)
    undefined = {
        NOT_FINITE: broken,
        constant: is_constant(a),
        OTHER_NOT_FINITE: other_broken,
        OTHER_CONSTANT: is_constant(b),
    }
    return column(spearman(a, b), undefined)
