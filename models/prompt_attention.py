"""Attention of added tokens beside a sequence: scores are computed only where a token may attend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Reach(nn.Module):
    """What added tokens may attend to, as places: a sink (if any), then prompts, beside the tokens of a backbone.

    Prompts that may attend to the same tokens of the backbone make a cluster: their scores are one matrix product over
    these tokens alone. To the added tokens, of which each prompt sees few, scores are computed one by one. For K
    classes and G groups of M tokens that is K G (M + 2) scores instead of K G (1 + K G + N).

    Args:
        allowed: [S,S+N] bool over the S added tokens, then the backbone's N.
        sink: whether the first added token is a sink, not a prompt.

    Attributes:
        order: [S'] the added tokens cluster by cluster after the sink, the order that :meth:`attend` works in; small
            clusters repeat a prompt, so that all have as many.
        place: [P] where each prompt is among those that follow the sink in that order.
    """

    allowed: Tensor
    order: Tensor
    place: Tensor
    near: Tensor
    far: Tensor
    shut: Tensor | None
    of_sink: Tensor

    def __init__(self, allowed: Tensor, sink: bool) -> None:
        super().__init__()
        first, added = int(sink), allowed.shape[0]
        prompts = allowed[first:]
        # Sets of tokens in the order of their first: those of groups then lie one after another.
        hidden, cluster = torch.unique(~prompts[:, added:], dim=0, return_inverse=True)
        columns = ~hidden
        members = _padded([(cluster == index).nonzero()[:, 0] for index in range(len(columns))])  # [C,R]
        place = torch.stack([(members.flatten() == prompt).nonzero()[0, 0] for prompt in range(len(prompts))])
        near, near_shut = _places(prompts[:, :added])
        far, far_shut = _places(columns)
        # Added tokens as they lie in the order: the sink stays, prompt p is at first + place[p].
        at = torch.cat([torch.arange(first), first + place])
        shut = torch.cat([near_shut[members], far_shut[:, None].expand(-1, members.shape[1], -1)], dim=-1)
        buffers = {
            "allowed": allowed,
            "order": torch.cat([torch.arange(first), first + members.flatten()]),
            "place": place,
            "near": at[near][members],  # [C,R,A]
            "far": far,  # [C,M]
            "shut": shut if shut.any() else None,  # [C,R,A+M]
            "of_sink": at[allowed[0, :added].nonzero()[:, 0]],
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.sink = sink
        start, run = int(far[0, 0]) if far.numel() else 0, far.flatten()
        self._run = start if torch.equal(run, torch.arange(start, start + run.numel())) else None

    def attend(
        self, query: Tensor, own_key: Tensor, own_value: Tensor, key: Tensor, value: Tensor, router: nn.Module | None
    ) -> tuple[Tensor, PromptRows]:
        """Mixed values [B,H,S',d] of the added tokens in the order of ``order``, and the prompts' rows.

        Args:
            query: of the added tokens in that order, scaled, [B,H,S',d]; ``own_key`` and ``own_value`` likewise.
            key: of the backbone's tokens, [B,H,N,d]; ``value`` likewise.
            router: maps the mean value of the tokens of the backbone that a prompt may attend to, [B,C,D], to what is
                added to its score for the sink, [B,C].
        """
        first = int(self.sink)
        far_key, far_value = self._of_clusters(key), self._of_clusters(value)  # [B,H,C,M,d]
        asking = _split(query[:, :, first:], self.near.shape[:2])  # [B,H,C,R,d]
        near = (self._of_near(own_key) * asking[..., None, :]).sum(-1)
        if router is not None:
            near = near + self._routed(router, far_value)[:, None] * (self.near == 0)
        scores = torch.cat([near, asking @ far_key.transpose(-2, -1)], dim=-1)
        if self.shut is not None:
            scores = scores.masked_fill(self.shut, -torch.inf)
        weights = scores.softmax(-1)
        to_added, to_backbone = torch.split(weights, [near.shape[-1], far_key.shape[-2]], dim=-1)
        mixed = (to_added[..., None] * self._of_near(own_value)).sum(-2) + to_backbone @ far_value
        mixed = mixed.flatten(2, 3)
        if first:
            mixed = torch.cat([self._of_sink(query[:, :, :1], own_key, own_value, key, value), mixed], dim=2)
        return mixed, PromptRows(self, to_added, to_backbone)

    def rows(self, whole: Tensor) -> PromptRows:
        """Of the prompts' whole rows [B,H,P,S+N] what lies where they may attend."""
        added, first = self.allowed.shape[0], int(self.sink)
        of_prompts = _split(whole[:, :, self.order[first:] - first], self.near.shape[:2])
        near_at = self.order[self.near].expand(*whole.shape[:2], -1, -1, -1)
        far_at = self.far[:, None].expand(*whole.shape[:2], -1, self.near.shape[1], -1)
        near, far = of_prompts[..., :added].gather(-1, near_at), of_prompts[..., added:].gather(-1, far_at)
        if self.shut is not None:
            near_shut, far_shut = torch.split(self.shut, [near.shape[-1], far.shape[-1]], dim=-1)
            near, far = near.masked_fill(near_shut, 0), far.masked_fill(far_shut, 0)
        return PromptRows(self, near, far)

    def _of_clusters(self, tokens: Tensor) -> Tensor:
        """[B,H,N,d] -> [B,H,C,M,d]."""
        clusters, width = self.far.shape
        if self._run is None:
            return tokens[:, :, self.far]
        return _split(tokens[:, :, self._run : self._run + clusters * width], self.far.shape)

    def _of_near(self, own: Tensor) -> Tensor:
        """[B,H,S',d] -> [B,H,C,R,A,d]."""
        return _split(own.index_select(2, self.near.flatten()), self.near.shape)

    def _of_sink(self, query: Tensor, own_key: Tensor, own_value: Tensor, key: Tensor, value: Tensor) -> Tensor:
        own_key, own_value = own_key[:, :, self.of_sink], own_value[:, :, self.of_sink]
        added, seen = own_key.shape[2], self.allowed[0, self.allowed.shape[0] :]
        to_backbone = (query @ key.transpose(-2, -1)).masked_fill(~seen, -torch.inf)
        weights = torch.cat([query @ own_key.transpose(-2, -1), to_backbone], dim=-1).softmax(-1)
        mixed: Tensor = weights[..., :added] @ own_value + weights[..., added:] @ value
        return mixed

    def _routed(self, router: nn.Module, far_value: Tensor) -> Tensor:
        """[B,C,1,1] for the sink's place."""
        seen = torch.ones(far_value.shape[2], far_value.shape[3], 1, dtype=torch.bool, device=far_value.device)
        if self.shut is not None:
            seen = ~self.shut[:, :1, self.near.shape[2] :].transpose(1, 2)  # [C,M,1]
        mean = (far_value * seen).sum(3) / seen.sum(1).clamp(min=1)
        bias: Tensor = router(mean.transpose(1, 2).flatten(2))  # [B,C]
        return bias[:, :, None, None]


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Attention of P prompts in one block, kept where they may attend.

    Attributes:
        reach: where that is.
        near: to added tokens, by cluster, [B,H,C,R,A].
        far: to tokens of the backbone, by cluster, [B,H,C,R,M].
    """

    reach: Reach
    near: Tensor
    far: Tensor

    def to_backbone(self) -> Tensor:
        """[B,H,P,M], over the tokens of the backbone that each prompt may attend to, in their order."""
        rows: Tensor = self.far.flatten(2, 3)[:, :, self.reach.place]
        return rows

    def to_sink(self) -> Tensor:
        """Mean over prompts of the attention to the sink, the first added token, [B,H]."""
        to_sink = (self.near * (self.reach.near == 0)).sum(-1).flatten(2)
        return to_sink[:, :, self.reach.place].mean(-1)

    def whole(self) -> Tensor:
        """[B,H,P,S+N], over the S added tokens, then the backbone's N; 0 where a prompt may not attend."""
        reach = self.reach
        added, width = reach.allowed.shape
        far_at = added + reach.far[:, None].expand(-1, reach.near.shape[1], -1)
        rows = self.near.new_zeros(*self.near.shape[:-1], width)
        rows.scatter_add_(-1, reach.order[reach.near].expand_as(self.near), self.near)
        rows.scatter_add_(-1, far_at.expand_as(self.far), self.far)
        return rows.flatten(2, 3)[:, :, reach.place]


def _split(tokens: Tensor, sizes: Sequence[int]) -> Tensor:
    """[B,H,product of sizes,...] -> [B,H,*sizes,...]."""
    return tokens.reshape(*tokens.shape[:2], *sizes, *tokens.shape[3:])


def _places(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The places of each row's True, [R,M] with M the most of any row, the rest being 0; and which are such a rest."""
    rows = [row.nonzero()[:, 0] for row in allowed]
    width = max((len(row) for row in rows), default=0)
    places = torch.zeros(len(rows), width, dtype=torch.long)
    shut = torch.ones(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        places[index, : len(row)], shut[index, : len(row)] = row, False
    return places, shut


def _padded(rows: list[Tensor]) -> Tensor:
    """Rows of unequal length as one matrix; short ones repeat their first."""
    width = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[:1].expand(width - len(row))]) for row in rows])
