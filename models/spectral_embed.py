"""Patch embeddings of band groups that begin as the one of a given ViT: projections, adapters, aggregated bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .spectral import Groups, SpectralPatchEmbed


class ProjectionPatchEmbed(SpectralPatchEmbed):
    """A linear patch embedding a group, which begins as a ViT's own of the mean over the group's bands."""

    def __init__(self, rgb: Any, groups: Groups) -> None:
        width = rgb.proj.out_channels
        super().__init__(_pair(rgb.img_size), _pair(rgb.patch_size), groups, width)
        with torch.no_grad():
            for projection in self.proj:
                assert isinstance(projection, nn.Conv2d)
                assert projection.bias is not None
                projection.weight.copy_(rgb.proj.weight.sum(1, keepdim=True) / projection.in_channels)
                projection.bias.copy_(torch.zeros(width) if rgb.proj.bias is None else rgb.proj.bias)


class AdapterPatchEmbed(SpectralPatchEmbed):
    """A 1x1 convolution from each group's bands to three channels, then one patch embedding for all groups.

    Attributes:
        proj: the adapters; each begins as the mean over its bands, in all three channels.
        rgb: the ViT's own patch embedding.
    """

    def __init__(self, rgb: Any, groups: Groups) -> None:
        nn.Module.__init__(self)
        self.img_size, self.patch_size, self.groups = _pair(rgb.img_size), _pair(rgb.patch_size), groups
        self.grid_size, self.num_patches = _pair(rgb.grid_size), int(rgb.num_patches)
        self.proj = nn.ModuleList(nn.Conv2d(len(group), rgb.proj.in_channels, 1) for group in groups)
        self.rgb = rgb
        with torch.no_grad():
            for adapter in self.proj:
                assert isinstance(adapter, nn.Conv2d)
                assert adapter.bias is not None
                adapter.weight.fill_(1 / adapter.in_channels)
                adapter.bias.zero_()

    def tokens_of(self, inputs: Tensor, group: int) -> Tensor:
        """One group's tokens, [B, h*w, D]."""
        tokens: Tensor = self.rgb(self.proj[group](inputs[:, list(self.groups[group])]))
        return tokens.flatten(1, -2)


class AggregatedPatchEmbed(nn.Module):
    """One token a patch from all bands, aggregated in two steps of cross-attention over channels: [B,C,H,W] -> [B,N,D].

    Every band is embedded by itself; in each group a learned query attends to the group's bands at the same patch,
    then another to the groups. A step gives the mean of its tokens plus the projected attention output, whose
    projection begins at zero, so that the model begins as one that reads the mean of all bands.

    Reconstruction of D-CHAG (distributed cross-channel hierarchical aggregation), without the distribution over
    machines: the number of levels, the sharing of keys, values and projection between groups, and the mean beside the
    attention are choices of this project.

    Args:
        bands: embeds each band by itself, bands of a group next to each other.
        sizes: bands of each group.
        heads: of the cross-attention.
    """

    groups = None

    def __init__(self, bands: SpectralPatchEmbed, sizes: tuple[int, ...], heads: int) -> None:
        super().__init__()
        self.bands, self.sizes = bands, sizes
        self.img_size, self.patch_size, self.grid_size = bands.img_size, bands.patch_size, bands.grid_size
        self.num_patches = bands.num_patches
        sample: Any = bands.rgb.proj if isinstance(bands, AdapterPatchEmbed) else bands.proj[0]
        width = sample.out_channels
        self.band_embed = nn.Parameter(torch.zeros(len(bands.groups), width))
        self.queries = nn.Parameter(torch.zeros(len(sizes) + 1, width))
        self.steps = nn.ModuleList(ChannelAttention(width, heads) for _ in range(2))
        for embedding in (self.band_embed, self.queries):
            nn.init.trunc_normal_(embedding, std=0.02)

    @property
    def proj(self) -> nn.Module:
        """The first convolutions that see the bands, by timm's name for them."""
        return self.bands.proj

    def forward(self, inputs: Tensor) -> Tensor:
        self.bands.require_size(inputs)
        seen, means = 0, []
        for group, size in enumerate(self.sizes):
            members = range(seen, seen + size)
            tokens = torch.stack([self.bands.tokens_of(inputs, band) for band in members], dim=2)  # [B,N,M,D]
            named = tokens + self.band_embed[list(members)]
            means.append(tokens.mean(2) + self.steps[0](self.queries[group], named))
            seen += size
        groups = torch.stack(means, dim=2)
        pooled: Tensor = groups.mean(2) + self.steps[1](self.queries[-1], groups)
        return pooled


class ChannelAttention(nn.Module):
    """A learned query attends to the channels of each patch: query [D], tokens [B,N,M,D] -> [B,N,D].

    Written as plain products, because recordings count calls of torch's attention kernel as the blocks' own.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        joined = self.key_value(self.norm(tokens))
        joined = joined.view(*joined.shape[:3], 2, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        key, value = joined.unbind(0)  # [B,N,heads,M,d]
        asked = query.view(self.heads, -1, 1)  # [heads,d,1]
        weights = (key @ asked * asked.shape[1] ** -0.5).softmax(-2)  # [B,N,heads,M,1]
        mixed: Tensor = self.proj((weights.transpose(-2, -1) @ value).flatten(2))
        return mixed


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
