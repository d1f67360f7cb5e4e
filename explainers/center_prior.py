"""Floor: the middle of the image."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, explainer
from ._attention import on_grid


@explainer("center_prior", status="floor")
class CenterPrior(Explainer):
    """A Gaussian around the image's centre, the same for every sample and model; no spectral axis.

    Attributes:
        sigma: standard deviation, as a share of half the image's height and width.
    """

    sigma: PositiveFloat = 0.5

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        geometry = on_grid(model)
        down, across = (self._profile(size) for size in geometry.image_size)
        prior = (down[:, None] * across[None, :]).to(batch.inputs)
        return Explanation(prior.expand(len(batch), -1, -1).clone(), "pixel", geometry)

    def _profile(self, size: int) -> torch.Tensor:
        position = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
        return (-(position**2) / (2 * self.sigma**2)).exp()
