"""Model parameter randomisation tests: does the map change when the model's weights become random, block by block?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..bench.contract import Batch, Column, Context, Explanation, Metric, Model, Paper, Scores, Values, metric
from ._again import AGAIN_NOT_FINITE, explained_again, gaussian_copies, vectors
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._randomised import randomised_models
from ._ranking import average_ranks, pearson

NO_RANDOM_MAP = "a map of a randomised model is constant or not finite"
NO_ENTROPY = "the map has no entropy"
BINS = 100
REVISITED = Paper(
    "Sanity checks revisited: an exploration to repair the model parameter randomisation test", 2023, "arXiv:2401.06465"
)


@metric(
    "mprt",
    columns=(
        Column("mprt_top_down", "lower", (-1, 1), "rank correlation with the maps as blocks turn random from the head"),
        Column("mprt_bottom_up", "lower", (-1, 1), "the same from the patch embedding"),
        Column("mprt_independent", "lower", (-1, 1), "the same with one random stage at a time"),
        Column("mprt_full", "lower", (-1, 1), "rank correlation with the map of the fully random model"),
        Column("efficient_mprt", "higher", (-1, None), "relative rise of the map's entropy on the fully random model"),
    ),
    version=1,
    needs=("re-explain",),
    paper=Paper("Sanity checks for saliency maps", 2018, "arXiv:1810.03292"),
)
class Mprt(Metric):
    """Spearman's rho of |Phi(x; model)| and |Phi(x; randomised model)|, mean over the randomised stages of an order.

    Stages are the embedding (patches, class and register tokens, positions), each block, and the head with the last
    norm. Top-down and bottom-up are cascades, whose last model is random in all stages; independent ones have one
    random stage. The untouched model is in no mean. Fresh weights come from the model's own initialisation, in one
    stream of random numbers, and are the same in every order, for all samples and explainers. |Phi| is the magnitude
    of the signed map on the patch grid; the target stays that of the given model.

    Efficient MPRT is (H(full) - H(x)) / H(x): H is the entropy of the histogram of the signed pixel map in 100 bins
    between its own extremes.

    With S stages it costs 3 S - 3 explanations a map.
    """

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN for constant maps, of the given model or of a randomised one.

        Raises:
            BadInputError: no explanation.
            UnsupportedError: the model has no blocks, or the explainer of the map is not at hand.
        """
        signed, broken = finite_rows(vectors(explanation, "grid"))
        pixels, _ = finite_rows(in_float64(explanation).spatial("signed").flatten(1))
        randomised = randomised_models(model, ctx)
        again, full = [], explanation
        for chosen, fresh in randomised.models.items():
            explained = ctx.explain(fresh, batch)
            again.append(vectors(explained, "grid").abs())
            full = explained if chosen == randomised.full else full
        rho = dict(zip(randomised.models, similarity(signed.abs(), torch.stack(again)), strict=True))
        full_pixels, full_broken = finite_rows(in_float64(full).spatial("signed").flatten(1))
        before, after = histogram_entropy(pixels), histogram_entropy(full_pixels)
        undefined = {NOT_FINITE: broken, CONSTANT_MAP: is_constant(signed.abs())}
        flat = {NOT_FINITE: broken, AGAIN_NOT_FINITE: full_broken, NO_ENTROPY: before == 0}
        orders = {
            "mprt_top_down": randomised.top_down,
            "mprt_bottom_up": randomised.bottom_up,
            "mprt_independent": randomised.independent,
            "mprt_full": (randomised.full,),
        }
        return {
            **{name: _mean(torch.stack([rho[one] for one in order]), undefined) for name, order in orders.items()},
            "efficient_mprt": column((after - before) / before, flat),
        }


@metric(
    "smooth_mprt",
    columns=(
        Column("smooth_mprt", "lower", (-1, 1), "rank correlation of denoised maps as blocks turn random from below"),
        Column("smooth_mprt_full", "lower", (-1, 1), "the same with the fully random model alone"),
    ),
    version=1,
    needs=("re-explain",),
    paper=REVISITED,
)
class SmoothMprt(Metric):
    """:class:`Mprt`, bottom-up, on maps that are means over noisy copies of the input.

    Denoised maps are means of the signed maps of ``samples`` copies with Gaussian noise, for the given model and for
    each randomised one, on the patch grid; rho compares their magnitudes. The noise is keyed by the sample: the same
    for all models and explainers. With S stages it costs ``samples`` (S + 1) explanations a map.

    Attributes:
        samples: noisy copies (the paper: 50 to 300).
        noise: standard deviation, as a share of the range of the input.
    """

    samples: int = 10
    noise: float = 0.1

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """Both columns [B]; NaN for constant denoised maps, of the given model or of a randomised one.

        Raises:
            BadInputError: no explanation, no samples, or noise that is not positive.
            UnsupportedError: the model has no blocks, or the explainer of the map is not at hand.
        """
        _, broken = finite_rows(vectors(explanation, "grid"))
        copies = gaussian_copies(model, batch, ctx, self.samples, self.noise)

        def denoised(of: Model) -> Tensor:
            maps = explained_again(of, copies, ctx, lambda e: vectors(e, "grid"))
            return maps.view(len(batch), self.samples, -1).mean(1).abs()

        randomised = randomised_models(model, ctx)
        given, given_broken = finite_rows(denoised(model))
        random = torch.stack([denoised(randomised.models[chosen]) for chosen in randomised.bottom_up])
        rho = similarity(given, random)
        undefined = {NOT_FINITE: broken, AGAIN_NOT_FINITE: given_broken, CONSTANT_MAP: is_constant(given)}
        return {"smooth_mprt": _mean(rho, undefined), "smooth_mprt_full": _mean(rho[-1:], undefined)}


def similarity(given: Tensor, others: Tensor) -> Tensor:
    """Spearman's rho [S,B] of maps [B,n] with others [S,B,n]; NaN where one of these is constant or not finite."""
    others, broken = finite_rows(others.flatten(0, 1))
    undefined = (broken | is_constant(others)).view(-1, len(given))
    return pearson(average_ranks(given), average_ranks(others).view(-1, *given.shape)).masked_fill(undefined, torch.nan)


def _mean(rho: Tensor, undefined: Mapping[str, Tensor]) -> Values:
    """Mean [B] over the models of rho [S,B]."""
    mean = rho.mean(0)
    return column(mean, {**undefined, NO_RANDOM_MAP: mean.isnan()})


def histogram_entropy(maps: Tensor) -> Tensor:
    """Entropy [B] in nats of the histogram of each row [B,n] over ``BINS`` bins between its extremes; 0 if constant."""
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    scaled = (maps - low) / (high - low).masked_fill(is_constant(maps)[:, None], torch.inf)
    bins = (scaled * BINS).long().clamp(max=BINS - 1)
    counts = maps.new_zeros(len(maps), BINS).scatter_add_(1, bins, torch.ones_like(maps))
    shares = counts / maps.shape[1]
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropy
