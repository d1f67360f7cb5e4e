"""Healing: how fast the target's probability falls when the exact counterfactual replaces what a map marks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..bench.contract import (
    BadInputError,
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Reduction,
    Scores,
    TokenGeometry,
    metric,
)
from ..models.perturb import PatchSource, mixed_responses, mixed_rows, patches_to_pixels, target_responses
from ..models.spectral import Groups, contiguous_groups
from ._bands import CONSTANT_CURVE, NO_SPECTRUM
from ._maps import CONSTANT_MAP, NOT_FINITE, column, finite_rows, in_float64, is_constant
from ._removal import source_of
from ._responses import clean_logits, logits_of, target_probability

ALL_CHANGED = "healing changes every patch"


@metric(
    "healing",
    columns=(
        Column("healing_auc", "higher", (None, None), "area under the effect of healing patches by rank", truth=True),
        Column("healing_auc_bands", "higher", (None, None), "the same of bands, everywhere", truth=True),
        Column("healing_auc_cube", "higher", (None, None), "the same of cells (patch, band group)", truth=True),
        Column("healing_top_evidence", "higher", (None, None), "effect of as many patches as changed", truth=True),
        Column("healing_top", "higher", (None, None), "effect of the top share of the patches", truth=True),
        Column("healing_top_bands", "higher", (None, None), "effect of the top share of the bands", truth=True),
        Column("healing_top_cube", "higher", (None, None), "effect of the top share of the cells", truth=True),
        Column("healing_evidence_share", "none", (0, 1), "share of the patches that healing changes", truth=True),
    ),
    version=1,
    needs=("healed",),
    queries_model=True,
)
class Healing(Metric):
    """Area under e(s) = (p(x) - p(x_s)) / (p(x) - p(healed)), x_s: x with its top share s of features healed (ours).

    p is the softmax probability of the target. Features are the patches of the spatial map, the bands of the spectral
    curve (healed everywhere), or the cells (patch, group of bands) of the cube; a healed feature takes the
    counterfactual's values. Shares are the multiples of 1/``steps``, rounded to whole features, 0 and 1 included; e is
    0 at the first and 1 at the last, and the area is that of the trapezoids. Equal features heal in proportion: within
    a tie e is linear, its expectation over the tie's orders where effects add up.

    Features that healing does not change are never run: an explanation costs, for each kind, one row for each different
    image between the clean and the healed one, at most ``steps`` + 1 a sample without ties and twice that with ties,
    and always fewer than there are changed features. The clean and the healed image are probes.

    Attributes:
        steps: of each curve; at most one a feature.
        share: of the features for the ``healing_top`` columns (at least one feature).
        smallest_effect: p(x) - p(healed) below which nothing is defined.
        groups: of neighbouring bands, for the cells; a model with spectral tokens has its own.
        reduction: of the map.
    """

    steps: int = 12
    share: float = 0.1
    smallest_effect: float = 0.05
    groups: int = 10
    reduction: Reduction = "mean_positive"

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN where healing lowers p too little, for constant maps, and without a spectral axis.

        Raises:
            BadInputError: no explanation, no counterfactual, or parameters out of range.
        """
        if self.steps < 2 or self.groups < 1 or not 0 < self.share < 1 or not 0 < self.smallest_effect < 1:
            raise BadInputError(
                f"steps={self.steps}, groups={self.groups}, share={self.share}, smallest_effect={self.smallest_effect}"
                ": use at least two steps and one group, and a share and an effect inside (0, 1)."
            )
        explanation = in_float64(explanation)
        swap = Counterfactual.of(model, batch, explanation.geometry, ctx)
        weak = {f"healing lowers p(target) by less than {self.smallest_effect}": swap.drop < self.smallest_effect}
        changed = swap.changed()
        evidence = changed.any(1).flatten(1).sum(1)
        patches = changed.shape[2] * changed.shape[3]

        space = self._curve(
            swap, explanation.grid(self.reduction)[:, None], changed.any(1, keepdim=True), weak, CONSTANT_MAP
        )
        scores = {
            "healing_auc": column(space.area, space.undefined),
            "healing_top": column(space.top, space.undefined),
            "healing_top_evidence": column(space.at_evidence, {**space.undefined, ALL_CHANGED: evidence == patches}),
            "healing_evidence_share": column(evidence.double() / patches),
        }
        if not explanation.has_spectrum:
            nowhere, everywhere = torch.full_like(swap.drop, torch.nan), torch.ones_like(evidence, dtype=torch.bool)
            missing = column(nowhere, weak | {NO_SPECTRUM: everywhere})
            return scores | {c.name: missing for c in self.columns if c.name not in scores}
        channels = explanation.geometry.channels
        groups = explanation.geometry.groups or contiguous_groups(
            model.wavelengths or range(channels), min(self.groups, channels)
        )
        curve = explanation.spectral(self.reduction)[..., None, None]
        bands = self._curve(swap, curve, changed.flatten(2).any(2)[..., None, None], weak, CONSTANT_CURVE)
        cube = self._curve(swap, cell_relevance(explanation, groups, self.reduction), changed, weak, CONSTANT_MAP)
        return scores | {
            "healing_auc_bands": column(bands.area, bands.undefined),
            "healing_top_bands": column(bands.top, bands.undefined),
            "healing_auc_cube": column(cube.area, cube.undefined),
            "healing_top_cube": column(cube.top, cube.undefined),
        }

    def _curve(
        self, swap: Counterfactual, relevance: Tensor, changed: Tensor, weak: Mapping[str, Tensor], constant: str
    ) -> HealingCurve:
        """The figures of one kind of features, from relevance and change [B,C or 1,h or 1,w or 1]."""
        relevance, broken = finite_rows(relevance)
        undefined = {NOT_FINITE: broken, **weak, constant: is_constant(relevance)}
        features = relevance[0].numel()
        steps = min(self.steps, features)
        grid = (torch.arange(steps + 1, device=relevance.device) * features / steps).round().long()
        top = torch.tensor([max(1, round(self.share * features))], device=relevance.device)
        counts = torch.cat([torch.cat([grid, top]).expand(len(relevance), -1), changed.flatten(1).sum(1)[:, None]], 1)
        skipped = torch.stack(list(undefined.values())).any(0)
        effects = HealingOrder.of(relevance, changed).effects(swap, counts, skipped)
        area = torch.trapezoid(effects[:, : steps + 1], grid.double() / features)
        return HealingCurve(area, effects[:, -2], effects[:, -1], undefined)


@dataclass(frozen=True, eq=False)
class HealingCurve:
    """Figures of one kind of features, each [B].

    Attributes:
        area: under the effect over the share of features healed.
        top: effect of the top share.
        at_evidence: effect of as many features as healing changes.
        undefined: rows by reason.
    """

    area: Tensor
    top: Tensor
    at_evidence: Tensor
    undefined: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class HealingOrder:
    """Features of one kind in falling relevance.

    Attributes:
        falling: [B,F] relevance.
        changed_before: [B,F+1] how many of the first 0..F features healing changes.
        place: like the features; place of a changed one among the changed, from 1, and F+1 for the others.
    """

    falling: Tensor
    changed_before: Tensor
    place: Tensor

    @classmethod
    def of(cls, relevance: Tensor, changed: Tensor) -> HealingOrder:
        """From relevance and change, both [B,...]."""
        falling, order = relevance.flatten(1).sort(dim=1, descending=True, stable=True)
        ordered = changed.flatten(1).gather(1, order)
        place = ordered.cumsum(1)
        never = torch.full_like(place, order.shape[1] + 1)
        by_feature = torch.empty_like(place).scatter_(1, order, torch.where(ordered, place, never))
        return cls(falling, pad(place, (1, 0)), by_feature.view_as(changed))

    def effects(self, swap: Counterfactual, counts: Tensor, skipped: Tensor) -> Tensor:
        """Share of the whole effect [B,K] that the top features, ``counts`` [B,K] in 0..F of them, bring about."""
        kth = self.falling.gather(1, (counts - 1).clamp(min=0))
        rising = -self.falling
        upper = torch.searchsorted(rising, -kth, side="right").where(counts > 0, counts)
        lower = torch.searchsorted(rising, -kth, side="left").where(counts < upper, upper)
        at_lower, at_upper = self._at(swap, torch.cat([lower, upper], 1), skipped).chunk(2, dim=1)
        within = (counts - lower).double() / (upper - lower).clamp(min=1)
        return at_lower + within * (at_upper - at_lower)

    def _at(self, swap: Counterfactual, counts: Tensor, skipped: Tensor) -> Tensor:
        """The same at the ends of ties; samples to skip are not run, their figures mean nothing."""
        healed = self.changed_before.gather(1, counts)
        all_healed = healed == self.changed_before[:, -1:]
        p = torch.where(all_healed, swap.p_healed[:, None], swap.p_clean[:, None])
        inner = (healed > 0) & ~all_healed & ~skipped[:, None]
        if inner.any():
            span = self.changed_before.shape[1]
            rows = torch.arange(len(counts), device=counts.device)[:, None] * span
            images, where = torch.unique((rows + healed)[inner], return_inverse=True)
            p[inner] = swap.probabilities(images // span, images % span, self.place)[where]
        return (swap.p_clean[:, None] - p) / swap.drop[:, None]


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """A batch, its healed counterfactual, and what the model answers to both.

    Attributes:
        healed: [B,C,H,W].
        p_clean, p_healed: softmax probability [B] of the target, float64.
    """

    model: Model
    batch: Batch
    geometry: TokenGeometry
    ctx: Context
    healed: Tensor
    p_clean: Tensor
    p_healed: Tensor

    @classmethod
    def of(cls, model: Model, batch: Batch, geometry: TokenGeometry, ctx: Context) -> Counterfactual:
        """Runs the clean and the healed batch, each a probe.

        Raises:
            BadInputError: the batch has no counterfactual.
        """
        if batch.healed is None:
            raise BadInputError("healing needs counterfactuals and this batch has none; use a data set with `healed`.")
        p_clean = target_probability(clean_logits(model, batch, ctx), batch.targets)
        p_healed = target_probability(logits_of(model, batch, ctx, "healed_logits", batch.healed), batch.targets)
        return cls(model, batch, geometry, ctx, batch.healed, p_clean, p_healed)

    @property
    def drop(self) -> Tensor:
        """What complete healing takes from the target's probability, [B]."""
        return self.p_clean - self.p_healed

    def changed(self) -> Tensor:
        """Cells [B,C,h,w] bool in which healing changes any pixel."""

        def compute() -> Tensor:
            h, w = self.geometry.grid
            patch = patches_to_pixels(torch.arange(h * w, device=self.healed.device).view(h, w), self.geometry)
            differs = (self.batch.inputs != self.healed).flatten(2).float()
            counts = differs.new_zeros(*differs.shape[:2], h * w).index_add_(2, patch.flatten(), differs)
            return (counts > 0).view(*counts.shape[:2], h, w)

        return self.ctx.probe(self.model, self.batch, "healing_changed_cells", compute)

    def probabilities(self, samples: Tensor, counts: Tensor, place: Tensor) -> Tensor:
        """Softmax probability [R] of the target, float64, with the first ``counts`` [R] changed features healed."""

        inputs, targets, max_rows = self.batch.inputs, self.batch.targets[samples], self.ctx.max_rows
        if place.shape[1] == 1:
            patches = place[samples, 0] <= counts[:, None, None]
            shown, healed = self._source("inputs", inputs), self._source("healed", self.healed)
            return mixed_responses(
                self.model,
                shown,
                patches,
                samples,
                targets,
                self.geometry,
                baseline=healed,
                output="probability",
                max_rows=max_rows,
            ).double()

        def build(start: int, stop: int) -> Tensor:
            rows = samples[start:stop]
            chosen = place[rows] <= counts[start:stop, None, None, None]
            if tuple(chosen.shape[-2:]) == self.geometry.grid:
                chosen = patches_to_pixels(chosen, self.geometry)
            return mixed_rows(inputs, rows, chosen, self.healed)

        return target_responses(
            self.model, build, len(samples), targets, output="probability", max_rows=max_rows
        ).double()

    def _source(self, name: str, images: Tensor) -> PatchSource:
        return source_of(self.model, self.batch, self.ctx, self.geometry, name, lambda: images)


def cell_relevance(explanation: Explanation, groups: Groups, reduction: Reduction) -> Tensor:
    """Relevance [B,C,h,w] of each group of bands in each patch, averaged over both and given to all its bands."""
    a = explanation.native.clamp(min=0) if reduction == "mean_positive" else explanation.native
    if explanation.layout != "group_token":
        bands = adaptive_avg_pool2d(a, explanation.geometry.grid)
        a = torch.stack([bands[:, list(group)].mean(1) for group in groups], dim=1)
    owner = [0] * explanation.geometry.channels
    for index, group in enumerate(groups):
        for band in group:
            owner[band] = index
    return a[:, owner]
