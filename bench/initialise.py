"""Initial weights from which small ViTs learn on little data: sine positions, attention that begins near identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_POSITION_AMPLITUDE = 0.5
_QUERY_KEY = (0.7, 0.7)
_VALUE_OUTPUT = (-0.4, 0.4)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Sets position (and group) embeddings and attention weights of a ViT in place; the rest stays as it was built.

    Positions begin as sines and cosines (Chen et al. 2021, MoCo v3), so that attention can tell neighbours from the
    first step. Queries and keys begin with a product near 0.7 I per head, values and output projection with one near
    -0.4 I, plus noise (mimetic initialisation, Trockman & Kolter 2023, arXiv 2305.09828).
    """
    positions = _POSITION_AMPLITUDE * sine_positions(module.patch_embed.grid_size, module.embed_dim)
    module.pos_embed[..., -len(positions) :, :] = positions
    if hasattr(module, "group_embed"):
        groups = module.group_embed.shape[1]
        module.group_embed[0, :, 0] = _POSITION_AMPLITUDE * sine_positions((1, groups), module.embed_dim)
    for block in module.blocks:
        _mimetic(block.attn, generator)


def sine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines [h*w, D] of column and row at D/4 frequencies from 1 down to about 1/100, row by row."""
    frequencies = 100.0 ** -(torch.arange(dim // 4) / (dim // 4))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


def _mimetic(attention: nn.Module, generator: torch.Generator) -> None:
    dim, heads = attention.proj.weight.shape[0], attention.num_heads
    width = dim // heads
    query, key, value = attention.qkv.weight.view(3, dim, dim)
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        left, right = _factors(dim, *_QUERY_KEY, generator)
        query[rows], key[rows] = left[:, :width].T, right[:width]
    left, right = _factors(dim, *_VALUE_OUTPUT, generator)
    value.copy_(right)
    attention.proj.weight.copy_(left)


def _factors(dim: int, identity: float, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Left [D,D] and right [D,D] factors, sharing singular values, of identity * I + noise * N(0, 1) / sqrt(D)."""
    target = identity * torch.eye(dim) + noise * torch.randn(dim, dim, generator=generator) / dim**0.5
    left, values, right = torch.linalg.svd(target)
    return left * values.sqrt(), values.sqrt()[:, None] * right
