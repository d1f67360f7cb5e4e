"""How much each band has to do with a patch's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bench.contract import UnsupportedError


def band_shares(backbone: nn.Module, inputs: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Each band's share in the linear patch embedding of its group, times the group's bands: [B,C,H,W] -> [B,C,h,w].

    The share of band b is |W_b x_b| / sum over the group's bands b' of |W_b' x_b'|; the mean over a group's bands is 1.

    Raises:
        UnsupportedError: the patch embedding is no single convolution a group.
    """
    embed = getattr(backbone, "patch_embed", None)
    proj = getattr(embed, "proj", None)
    convolutions: list[Any] = list(proj) if isinstance(proj, nn.ModuleList) else [proj]
    if not all(isinstance(conv, nn.Conv2d) for conv in convolutions) or len(convolutions) not in (1, len(groups)):
        raise UnsupportedError("band shares need a patch embedding that is one convolution, or one a spectral group.")
    behind = getattr(getattr(embed, "rgb", None), "proj", None)  # what an adapter of the bands feeds, if proj is one
    stride = convolutions[0].stride if behind is None else behind.stride
    size = [inputs.shape[-2] // stride[0], inputs.shape[-1] // stride[1]]
    shares = inputs.new_empty(len(inputs), inputs.shape[1], *size)
    for index, group in enumerate(groups):
        bands = list(group)
        weight = convolutions[index].weight if len(convolutions) > 1 else convolutions[0].weight[:, bands]
        if behind is not None:
            weight = torch.einsum("dchw,cb->dbhw", behind.weight, weight[..., 0, 0])
        dim, count = weight.shape[:2]
        single = weight.transpose(0, 1).reshape(count * dim, 1, *weight.shape[2:])
        parts = functional.conv2d(inputs[:, bands], single, stride=stride, groups=count)
        size_of = torch.linalg.vector_norm(parts.unflatten(1, (count, dim)), dim=2)
        total = size_of.sum(1, keepdim=True).clamp(min=torch.finfo(size_of.dtype).tiny)
        shares[:, bands] = size_of / total * count
    return shares
