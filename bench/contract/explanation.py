"""The signed native map of an explainer and its named reductions to space, spectrum and cube."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from .errors import BadInputError, UnsupportedError
from .geometry import TokenGeometry

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["token", "group_token", "pixel", "cube"]
Reduction = Literal["mean_positive", "focus", "signed"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What an explainer says of one batch.

    Attributes:
        native: signed map before any normalisation, finite, in one of four layouts:
            ``token`` [B,h,w], ``group_token`` [B,G,h,w], ``pixel`` [B,H,W], ``cube`` [B,C,H,W].
        layout: which of the four.
        geometry: of the model explained; gives h, w, G, H, W, C and the bands of each group.

    The three views below take the same ``reduction`` for every method (charter: one reduction for all):

    ==============  =========================================  =========================================
    reduction       spatial                                    spectral
    ==============  =========================================  =========================================
    mean_positive   mean over bands of max(a, 0)               mean over positions of max(a, 0)
    focus           sum over bands of a (FOCUS eq. 5)          max over positions of a (FOCUS eq. 5)
    signed          mean over bands of a                       mean over positions of a
    ==============  =========================================  =========================================
    """

    native: Tensor
    layout: Layout
    geometry: TokenGeometry

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise BadInputError(f"unknown layout {self.layout!r}; use one of {', '.join(get_args(Layout))}.")
        expected = self._expected_shape()
        if tuple(self.native.shape[1:]) != expected or self.native.ndim != len(expected) + 1:
            raise BadInputError(
                f"a {self.layout} map of this model has shape [B, {', '.join(map(str, expected))}], "
                f"not {list(self.native.shape)}."
            )

    def _expected_shape(self) -> tuple[int, ...]:
        g = self.geometry
        if self.layout == "group_token":
            if g.groups is None:
                raise BadInputError(
                    "layout group_token needs a spectral-token model; this model has one token a patch."
                )
            return (len(g.groups), *g.grid)
        return {"token": g.grid, "pixel": g.image_size, "cube": (g.channels, *g.image_size)}[self.layout]

    def __len__(self) -> int:
        return self.native.shape[0]

    @classmethod
    def of_tokens(cls, values: Tensor, geometry: TokenGeometry) -> Explanation:
        """From one value a token, prefix included: [B, N] -> layout ``token`` or ``group_token``."""
        return cls(geometry.unfold(values), "group_token" if geometry.groups else "token", geometry)

    @property
    def has_spectrum(self) -> bool:
        """Whether the map tells bands apart (on more than three channels)."""
        return self.layout in ("group_token", "cube") and self.geometry.channels > 3

    def spatial(self, reduction: Reduction = "mean_positive", upsample: bool = True) -> Tensor:
        """Spatial map [B,H,W]: reduced over bands, then bilinearly upsampled (align_corners=False) from the patch grid.

        With ``upsample=False`` token layouts stay on the patch grid, [B,h,w].
        """
        a = self.native
        if self.layout == "group_token":
            # A group stands for all its bands, so that groups of unequal size weigh as their bands do.
            per_group = a.clamp(min=0) if reduction == "mean_positive" else a
            sizes = a.new_tensor([len(group) for group in self.geometry.groups or ()]).view(1, -1, 1, 1)
            a = (per_group * sizes).sum(1)
            a = a if reduction == "focus" else a / self.geometry.channels
        elif self.layout == "cube":
            a = a.clamp(min=0) if reduction == "mean_positive" else a
            a = a.sum(1) if reduction == "focus" else a.mean(1)
        elif reduction == "mean_positive":
            a = a.clamp(min=0)
        return self._to_pixels(a[:, None])[:, 0] if upsample else a

    def spectral(self, reduction: Reduction = "mean_positive") -> Tensor:
        """Spectral curve [B,C]: reduced over positions; within a group of a spectral-token model all bands are equal.

        Raises:
            UnsupportedError: the map has no spectral axis (a spatial-only method, or an RGB image).
        """
        if not self.has_spectrum:
            raise UnsupportedError(f"a {self.layout} map on {self.geometry.channels} channels has no spectral curve.")
        a = self.native.flatten(2)
        curve = {"mean_positive": a.clamp(min=0).mean(-1), "focus": a.amax(-1), "signed": a.mean(-1)}[reduction]
        return self._to_bands(curve) if self.layout == "group_token" else curve

    def cube(self) -> Tensor:
        """Signed saliency cube [B,C,H,W] (FOCUS eq. 4): groups spread over their bands, patches upsampled bilinearly.

        Raises:
            UnsupportedError: the map has no spectral axis.
        """
        if not self.has_spectrum:
            raise UnsupportedError(f"a {self.layout} map on {self.geometry.channels} channels has no cube.")
        return self.native if self.layout == "cube" else self._to_bands(self._to_pixels(self.native))

    def grid(self, reduction: Reduction = "signed") -> Tensor:
        """Spatial map on the patch grid, [B,h,w], for patch-wise perturbation; pixels are averaged over a patch."""
        from torch.nn.functional import adaptive_avg_pool2d

        a = self.spatial(reduction, upsample=False)
        if tuple(a.shape[1:]) == self.geometry.grid:
            return a
        return adaptive_avg_pool2d(a[:, None], self.geometry.grid)[:, 0]

    def _to_pixels(self, a: Tensor) -> Tensor:
        from torch.nn.functional import interpolate

        if tuple(a.shape[-2:]) == self.geometry.image_size:
            return a
        return interpolate(a, size=self.geometry.image_size, mode="bilinear", align_corners=False)

    def _to_bands(self, per_group: Tensor) -> Tensor:
        """[B,G,...] -> [B,C,...]."""
        owner = [0] * self.geometry.channels
        for index, group in enumerate(self.geometry.groups or ()):
            for band in group:
                owner[band] = index
        return per_group[:, owner]
