"""Spectral-token ViT: one token for each (patch, group of bands), over ordinary timm blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, TokenGeometry

Groups = tuple[tuple[int, ...], ...]


def contiguous_groups(wavelengths: Sequence[float], count: int) -> Groups:
    """Band indices in `count` groups of neighbouring wavelengths, sizes as equal as possible (larger groups first).

    Raises:
        BadInputError: there are fewer bands than groups, or no group is asked for.
    """
    if not 1 <= count <= len(wavelengths):
        raise BadInputError(f"{len(wavelengths)} bands make 1 to {len(wavelengths)} groups, not {count}.")
    order = sorted(range(len(wavelengths)), key=lambda band: wavelengths[band])
    size, larger = divmod(len(order), count)
    starts = [g * size + min(g, larger) for g in range(count + 1)]
    return tuple(tuple(order[start:stop]) for start, stop in zip(starts, starts[1:], strict=False))  # noqa: RUF007


def groups_apart(geometry: TokenGeometry) -> Tensor:
    """What each query (row) may attend to, [N,N] bool: patch tokens those of their group, prefix tokens all."""
    patches = geometry.grid[0] * geometry.grid[1]
    group = torch.arange(geometry.patches) // patches
    mask = torch.ones(geometry.tokens, geometry.tokens, dtype=torch.bool)
    mask[geometry.prefix :, : geometry.prefix] = False
    mask[geometry.prefix :, geometry.prefix :] = group[:, None] == group
    return mask


class SpectralPatchEmbed(nn.Module):
    """One linear patch embedding a group of bands: [B,C,H,W] -> [B, G*h*w, D], group-major.

    Attributes:
        grid_size: patches (h, w).
        groups: band indices of each group; sizes may differ.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: tuple[int, int], groups: Groups, embed_dim: int) -> None:
        super().__init__()
        if any(side % patch for side, patch in zip(img_size, patch_size, strict=True)):
            raise BadInputError(f"patches of {patch_size} do not tile an image of {img_size} pixels.")
        self.img_size, self.patch_size, self.groups = img_size, patch_size, groups
        self.grid_size = (img_size[0] // patch_size[0], img_size[1] // patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.ModuleList(
            nn.Conv2d(len(group), embed_dim, kernel_size=patch_size, stride=patch_size) for group in groups
        )

    def forward(self, inputs: Tensor) -> Tensor:
        self.require_size(inputs)
        return torch.cat([self.tokens_of(inputs, group) for group in range(len(self.groups))], dim=1)

    def tokens_of(self, inputs: Tensor, group: int) -> Tensor:
        """One group's tokens, [B, h*w, D]."""
        tokens: Tensor = self.proj[group](inputs[:, list(self.groups[group])])
        return tokens.flatten(2).transpose(1, 2)

    def require_size(self, inputs: Tensor) -> None:
        """Refuses images of another size.

        Raises:
            BadInputError: they are.
        """
        if tuple(inputs.shape[-2:]) != self.img_size:
            raise BadInputError(f"this model eats images of {self.img_size} pixels, not {tuple(inputs.shape[-2:])}.")


class SpectralViT(nn.Module):
    """A ViT whose patches hold one token a spectral group.

    The sequence is [class token, group 0 at all positions (row by row), group 1 at all positions, ...], that is index
    1 + g*h*w + y*w + x. A token is its group's patch embedding plus a position embedding shared by the groups plus a
    group embedding shared by the positions. The blocks are timm's, the head reads the class token; attributes bear
    timm's names, so that whatever walks a timm ViT walks this one.

    Args:
        groups: band indices of each group, every band in exactly one group (see :func:`contiguous_groups`).

    Raises:
        BadInputError: the groups leave bands out or repeat them, or the patches do not tile the image.
    """

    num_prefix_tokens = 1
    global_pool: Literal["token"] = "token"

    def __init__(
        self,
        *,
        groups: Sequence[Sequence[int]],
        num_classes: int,
        img_size: int | tuple[int, int] = 48,
        patch_size: int | tuple[int, int] = 8,
        embed_dim: int = 64,
        depth: int = 3,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        from timm.models.vision_transformer import Block  # here, because importing timm takes seconds

        super().__init__()
        self.groups: Groups = tuple(tuple(int(band) for band in group) for group in groups)
        self.num_classes, self.embed_dim, self.num_features = num_classes, embed_dim, embed_dim
        self.in_chans = sum(map(len, self.groups))
        self.patch_embed = SpectralPatchEmbed(_pair(img_size), _pair(patch_size), self.groups, embed_dim)
        self.geometry = TokenGeometry(
            grid=self.patch_embed.grid_size,
            prefix=1,
            pooling="token",
            image_size=self.patch_embed.img_size,
            channels=self.in_chans,
            groups=self.groups,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1, self.patch_embed.num_patches, embed_dim))
        self.group_embed = nn.Parameter(torch.zeros(1, len(self.groups), 1, embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(_initialise)
        for embedding in (self.cls_token, self.pos_embed, self.group_embed):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Normalised tokens after the last block: [B,C,H,W] -> [B, 1 + G*h*w, D]."""
        positions: Tensor = (self.pos_embed + self.group_embed).flatten(1, 2)
        patches = self.patch_embed(inputs) + positions
        tokens: Tensor = self.blocks(torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1))
        normed: Tensor = self.norm(tokens)
        return normed

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B,K] from the class token, or the class token itself."""
        logits: Tensor = tokens[:, 0] if pre_logits else self.head(tokens[:, 0])
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(inputs))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
