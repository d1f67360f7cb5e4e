"""Parts of prompted ViTs: prompt tokens, heads that read them, masks, the sink's attraction and its heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bench.contract import Batch, Context, Model, TokenGeometry, UnsupportedError
from ..models.interception import Edit
from ..models.optimise import CrossEntropy
from ..models.prompted import Prompted, PromptedViT
from ..models.tape import record

Sharing = Literal["class", "shared", "hierarchical"]
AuxHeads = Literal["all", "entropy", "information", "ablation", "random", "fixed"]


TASK = CrossEntropy()


def start_token(backbone: Any) -> Tensor:
    """Where prompts begin, [1,D] float32 on the CPU: the class token, zeros for ViTs without one."""
    token = getattr(backbone, "cls_token", None)
    return torch.zeros(1, int(backbone.embed_dim)) if token is None else token.detach()[0].float().cpu()


class PromptTokens(nn.Module):
    """Prompt tokens [L,P,D], class-major (P = classes * groups), or one a group (P = groups) where classes share them.

    The first set begins at ``start`` (the class token), so that prompts read from the first step as it reads.
    """

    def __init__(
        self, layers: int, classes: int, groups: int, start: Tensor, sharing: Sharing = "class", spread: float = 0.02
    ) -> None:
        super().__init__()
        dim = start.shape[-1]

        def parameter(count: int, first: Tensor | float) -> nn.Parameter:
            tokens = spread * torch.randn(layers, count, dim, dtype=start.dtype)
            tokens[0] += first
            return nn.Parameter(tokens)

        self.sharing = sharing
        if sharing == "hierarchical":
            self.of_class, self.of_group = parameter(classes, start / 2), parameter(groups, start / 2)
        else:
            self.tokens = parameter(groups if sharing == "shared" else classes * groups, start)

    def forward(self) -> Tensor:
        if self.sharing == "hierarchical":
            return (self.of_class[:, :, None] + self.of_group[:, None]).flatten(1, 2)
        return self.tokens


class GroupedHead(nn.Module):
    """Class scores [B,K]: the mean over groups of a linear score of each prompt's output.

    Args:
        shared: prompts are shared by the classes, so each class has its own weights.
        own: each group has its own weights.
        dropout: share of the groups that a training step leaves out, so that each learns to tell classes alone.
    """

    def __init__(
        self, dim: int, classes: int, groups: int, *, shared: bool = False, own: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.classes, self.groups, self.shared, self.dropout = classes, groups, shared, dropout
        self.weight = nn.Parameter(0.02 * torch.randn(groups if own else 1, classes if shared else 1, dim))
        self.bias = nn.Parameter(torch.zeros(classes if shared else 1))

    def evidence(self, outputs: Tensor) -> Tensor:
        """What each group says for each class, [B,P,D] -> [B,K,G]; the scores are its mean over groups."""
        grouped = outputs.unflatten(1, (-1, self.groups)).transpose(1, 2)
        evidence: Tensor = (grouped * self.weight).sum(-1).transpose(1, 2) + self.bias[:, None]
        return evidence

    def forward(self, outputs: Tensor) -> Tensor:
        evidence = self.evidence(outputs)
        if not (self.training and self.dropout):
            return evidence.mean(2)
        draws = torch.rand(len(evidence), 1, self.groups, device=evidence.device)
        kept = (draws > self.dropout) | (draws == draws.amax(2, keepdim=True))
        return (evidence * kept).sum(2) / kept.sum(2)


class BandAdapter(nn.Module):
    """FOCUS's adapter Phi [C,D]: adds sum_b (patch mean of band b) Phi_b to the token of each (patch, group)."""

    def __init__(self, geometry: TokenGeometry, dim: int) -> None:
        super().__init__()
        self.grid, self.groups = geometry.grid, geometry.groups or (tuple(range(geometry.channels)),)
        self.bands = nn.Parameter(torch.zeros(geometry.channels, dim))

    def forward(self, inputs: Tensor) -> Tensor:
        means = functional.adaptive_avg_pool2d(inputs, self.grid).flatten(2).transpose(1, 2)
        return torch.cat([means[..., list(group)] @ self.bands[list(group)] for group in self.groups], dim=1)


class Router(nn.Module):
    """What is added to a prompt's score for the sink: linear in the mean value of the tokens that it may read."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, mean: Tensor) -> Tensor:
        bias: Tensor = self.linear(mean)[..., 0]
        return bias


class FromKeysValues(nn.Module):
    """Isolated prompts as a module that eats the backbone's keys and values, computed once for all epochs."""

    def __init__(self, net: PromptedViT) -> None:
        super().__init__()
        self.net = net

    def forward(self, keys_values: Tensor) -> Tensor:
        return self.net.scores(self.read(keys_values))

    def read(self, keys_values: Tensor) -> Prompted:
        """Outputs and attention of the prompts."""
        return self.net.beside(keys_values)


@dataclass(frozen=True, eq=False)
class SinkAttraction:
    """Cross-entropy minus ``weight`` * sum over blocks of the mean attention of auxiliary heads to the sink (eq. 3).

    Attributes:
        heads: [L,H] bool, the auxiliary heads of each block.
    """

    weight: float
    heads: Tensor

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        read = module.read(inputs)  # type: ignore[operator]
        net: Any = getattr(module, "net", module)
        task = TASK.of(net.scores(read), labels)
        if not read.sink:
            return task, {}
        mass = torch.stack([layer.mean(0) for layer in read.sink])
        drawn = torch.stack([row[chosen].mean() for row, chosen in zip(mass, self.heads.to(mass.device), strict=True)])
        return task - self.weight * drawn.sum(), {"sink_mass": mass.mean().detach()}

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        return TASK.judged(outputs, labels)


def allowed_tokens(geometry: TokenGeometry, prompts: int, groups: int, sink: bool, separate: bool = False) -> Tensor:
    """What each added token may attend to, [S,S+N] bool.

    A prompt attends to itself, to the sink, and to the patch tokens of its own group (all patch tokens where a patch is
    one token); the sink to itself and to all tokens of the backbone. With ``separate`` the sink attends to itself
    alone: every prompt reads it, and would otherwise learn from it of the bands of other groups.
    """
    added = int(sink) + prompts
    allowed = torch.zeros(added, added + geometry.tokens, dtype=torch.bool)
    allowed[:, :added] = torch.eye(added, dtype=torch.bool)
    patches = geometry.grid[0] * geometry.grid[1]
    for prompt in range(prompts):
        row, start = prompt + int(sink), added + geometry.prefix
        if geometry.groups:
            start += prompt % groups * patches
        allowed[row, start : start + patches] = True
    if sink:
        allowed[0, added:] = not separate
        allowed[:, 0] = True
    return allowed


def auxiliary_heads(rule: AuxHeads, model: Model, batch: Batch, ctx: Context, share: float = 0.5) -> Tensor:
    """The heads of each block that the sink attracts, [L,H] bool: a share of each block's heads, at least one.

    FOCUS calls them heads of low informativeness and does not say which. ``entropy``: those with the highest mean
    entropy of their rows. ``information``: those whose output varies least between samples, relative to its size.
    ``ablation``: those whose replacement by uniform attention changes log p(target) least. ``fixed``: the first ones.
    ``random``: drawn from the context's generator. All are measured on the frozen model, on samples to fit on.
    """
    blocks = list(model.module.blocks)  # type: ignore[arg-type]
    counts = [int(block.attn.num_heads) for block in blocks]
    if len(set(counts)) != 1:
        raise UnsupportedError(f"the blocks have {counts} heads; auxiliary heads need as many in each.")
    heads = counts[0]
    chosen = max(1, int(share * heads))
    if rule == "all":
        return torch.ones(len(blocks), heads, dtype=torch.bool)
    if rule == "fixed":
        informative = torch.arange(heads).expand(len(blocks), -1).double()
    elif rule == "random":
        informative = torch.rand(len(blocks), heads, generator=ctx.generator("", "auxiliary heads"))
    else:
        informative = INFORMATIVENESS[rule](model, batch, ctx)
    return torch.zeros(len(blocks), heads, dtype=torch.bool).scatter(1, informative.argsort(1)[:, :chosen], True)


def _parts(batch: Batch, ctx: Context) -> list[Batch]:
    return [batch.select(rows.tolist()) for rows in torch.arange(len(batch)).split(ctx.max_rows)]


def _negative_entropy(model: Model, batch: Batch, ctx: Context) -> Tensor:
    def of(part: Batch) -> Tensor:
        maps = record(model, part.inputs).attention
        return torch.stack([torch.special.xlogy(a, a).sum(-1).mean(2).sum(0) for a in maps]).double().cpu()

    return torch.stack([of(part) for part in _parts(batch, ctx)]).sum(0) / len(batch)


def _variation(model: Model, batch: Batch, ctx: Context) -> Tensor:
    def outputs(part: Batch) -> list[Tensor]:
        tape = record(model, part.inputs, values=True)
        return [(a @ value).cpu() for a, value in zip(tape.attention, tape.values, strict=True)]

    blocks = [torch.cat(block) for block in zip(*map(outputs, _parts(batch, ctx)), strict=True)]
    return torch.stack([o.std(0).mean((1, 2)) / o.abs().mean((0, 2, 3)) for o in blocks]).double()


def _ablation_effect(model: Model, batch: Batch, ctx: Context) -> Tensor:
    def log_p(edit: Edit | None = None) -> Tensor:
        parts = batch.inputs.split(ctx.max_rows)
        logits = torch.cat([record(model, part, attention=False, edit=edit).logits for part in parts])
        return logits.log_softmax(1).gather(1, batch.targets[:, None])

    def without(layer: int, head: int) -> Tensor:
        def edit(attention: Tensor, index: int) -> Tensor:
            if index != layer:
                return attention
            flat = attention.clone()
            flat[:, head] = 1 / attention.shape[-1]
            return flat

        return (log_p(edit) - clean).abs().mean()

    clean = log_p()
    blocks = list(model.module.blocks)  # type: ignore[arg-type]
    heads = range(int(blocks[0].attn.num_heads))
    return torch.stack([torch.stack([without(layer, h) for h in heads]) for layer in range(len(blocks))]).double().cpu()


INFORMATIVENESS = {"entropy": _negative_entropy, "information": _variation, "ablation": _ablation_effect}
"""Rules that measure heads: the higher, the more a head has to say, [L,H]."""
