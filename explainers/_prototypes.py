"""Prototypes over tokens: distances, similarities, class weights and maps (ProtoPNet, ProtoPFormer)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

EPSILON = 1e-4
"""Keeps the similarity finite where a token is the prototype itself: at most log(1 / 1e-4) = 9.2."""

OTHER_CLASS = -0.5
"""Weight of a prototype in the logits of other classes, as published; 1 in that of its own."""

MapOf = Literal["class", "top", "all"]


class Embedding(nn.Sequential):
    """Tokens [...,D] as prototypes see them, [...,width] in (0, 1): two linear layers, ReLU between, sigmoid behind.

    Tokens are normalised first, since some frozen ViTs give them without a norm.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__(
            nn.LayerNorm(tokens), nn.Linear(tokens, width), nn.ReLU(), nn.Linear(width, width), nn.Sigmoid()
        )


class Prototypes(nn.Module):
    """Learned vectors [J,width], ``count`` for each class, those of class 0 first."""

    def __init__(self, classes: int, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.rand(classes * count, width))

    def forward(self, embedded: Tensor) -> Tensor:
        """Squared Euclidean distances of tokens [B,P,width] to the prototypes, [B,J,P]."""
        squares = embedded.square().sum(-1)[:, None] + self.vectors.square().sum(-1)[:, None]
        return (squares - 2 * self.vectors @ embedded.transpose(1, 2)).clamp(min=0)


class Similarity(nn.Module):
    """log((d + 1) / (d + epsilon)) of squared distances: positive, falls with d."""

    def forward(self, distances: Tensor) -> Tensor:
        return torch.log((distances + 1) / (distances + EPSILON))


def own_class(classes: int, count: int) -> Tensor:
    """[K,J] bool: whether a prototype is of a class."""
    return torch.eye(classes, dtype=torch.bool).repeat_interleave(count, dim=1)


def connections(own: Tensor) -> Tensor:
    """Weights [K,J] of the prototypes in the logits, as published."""
    return torch.where(own, 1.0, OTHER_CLASS)


def prototype_map(similarities: Tensor, weights: Tensor, own: Tensor, targets: Tensor, of: MapOf) -> Tensor:
    """Sum over prototypes of weight x similarity at each token, signed: [B,J,P] -> [B,P].

    Args:
        weights: of the prototypes in the logits, [K,J].
        own: whether a prototype is of a class, [K,J].
        of: over the target class's prototypes, over the one of them that adds most to the logit, or over all.
    """
    chosen = weights[targets]
    if of == "class":
        chosen = chosen * own[targets]
    if of == "top":
        added = (chosen * similarities.amax(-1)).masked_fill(~own[targets], -torch.inf)
        chosen = chosen * one_hot(added.argmax(1), added.shape[1])
    return (chosen[:, None] @ similarities)[:, 0]
