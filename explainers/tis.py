"""TIS: the model on samples of its own input tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..bench.contract import Batch, Context, Explainer, Explanation, Model, Paper, UnsupportedError, explainer
from ..models.edited import without_edits
from ..models.handle import require_eager
from ..models.perturb import target_responses
from ._attention import on_grid
from ._tokens import block_names, blocks_of, token_vectors

# Distances held at a time for each sample.
CELLS = 1 << 21


@explainer(
    "tis",
    paper=Paper("Explaining through Transformer Input Sampling", 2023, "ICCV Workshops 2023"),
    cost="budget",
)
class TIS(Explainer):
    """For each patch token the mean target probability of the model on the samples that hold the token; in [0, 1].

    A channel of a block's output is a map over the patches. The channels of all blocks are clustered (k-means, random
    channels as first centroids), and each centroid keeps its highest patch tokens; the model then runs on these and
    the prefix tokens alone, their positions embedded, without a filling for the rest. A token of no sample gets the
    mean over all samples.

    Attributes:
        budget: forward passes an image: one that records, each other one a sample (the paper has 1024 of them). Never
            more samples than there are channels.
        keep: share of the patch tokens in a sample.
        iterations: of k-means at most.
    """

    budget: Annotated[int, Field(ge=2)] = 256
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    iterations: PositiveInt = 25

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        from timm.models.vision_transformer import VisionTransformer

        from ..models.spectral import SpectralViT
        from ..models.spectral_backbone import SpectralBackbone

        geometry = on_grid(model)
        require_eager(model.module)
        module, _ = without_edits(model.module, None)
        masked = isinstance(module, SpectralBackbone) and module.mask is not None
        if masked or not isinstance(module, VisionTransformer | SpectralViT | SpectralBackbone):
            raise UnsupportedError(
                f"{type(module).__name__} cannot run on some of its tokens: only a timm VisionTransformer, a "
                "SpectralViT or a SpectralBackbone with mixing=full can, whose positions are added before the first "
                "block and nowhere else."
            )
        size = int(self.keep * geometry.patches)
        if size < 1:
            raise UnsupportedError(f"keep={self.keep} leaves none of {geometry.patches} patch tokens.")
        names = block_names(model)
        tape = ctx.tape(model, batch, attention=False, activations=names)
        streams = torch.cat([token_vectors(tape, name, geometry) for name in names], -1)
        channels = streams[:, geometry.prefix :].mT.to(torch.promote_types(streams.dtype, torch.float32))
        count = min(self.budget - 1, channels.shape[1])
        centroids = k_means(channels, count, self.iterations, [ctx.generator(id, "tis") for id in batch.ids])
        tokens = centroids.topk(size, dim=-1).indices
        scores = sampled_probabilities(model, batch, tokens, ctx.max_rows).to(centroids)
        chosen = torch.zeros_like(centroids).scatter_(-1, tokens, 1.0)
        coverage = chosen.sum(1)
        total = (scores[..., None] * chosen).sum(1)
        values = torch.where(coverage > 0, total / coverage.clamp(min=1), scores.mean(1, keepdim=True))
        return Explanation.of_tokens(nn.functional.pad(values, (geometry.prefix, 0)).to(batch.inputs), geometry)


def sampled_probabilities(model: Model, batch: Batch, tokens: Tensor, max_rows: int) -> Tensor:
    """Target probability of the model on the prefix and the given patch tokens [B,K,T] alone: [B,K]."""
    samples, count, _ = tokens.shape
    prefix = on_grid(model).prefix
    own = torch.arange(prefix, device=tokens.device).expand(samples, count, -1)
    kept = torch.cat([own, tokens + prefix], -1).flatten(0, 1)
    now = kept[:0]

    def build(start: int, stop: int) -> Tensor:
        nonlocal now
        now = kept[start:stop]
        return batch.inputs[torch.arange(start, stop, device=kept.device) // count]

    def sample(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args[0].gather(1, now[..., None].expand(-1, -1, args[0].shape[-1])), *args[1:]

    hook = blocks_of(model)[0].register_forward_pre_hook(sample)
    try:
        targets = batch.targets.repeat_interleave(count)
        found = target_responses(model, build, len(kept), targets, output="probability", max_rows=max_rows)
    finally:
        hook.remove()
    return found.view(samples, count)


def k_means(points: Tensor, count: int, iterations: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Lloyd's algorithm on each sample for itself: points [B,M,P] -> centroids [B,count,P].

    Starts from ``count`` points drawn by each sample's generator; a centroid that loses all points stays where it is.
    """
    drawn = torch.stack([torch.randperm(points.shape[1], generator=g)[:count] for g in generators]).to(points.device)
    centroids = points.gather(1, drawn[..., None].expand(-1, -1, points.shape[-1]))
    owners: Tensor | None = None
    for _ in range(iterations):
        previous, nearest = owners, []
        sums, sizes = torch.zeros_like(centroids), torch.zeros_like(centroids[..., :1])
        offset = centroids.square().sum(-1)[:, None] / 2
        # In parts, because all distances together do not fit into memory; of a size that no batch changes.
        for part in points.chunk(math.ceil(points.shape[1] * count / CELLS), dim=1):
            nearest.append((offset - part @ centroids.mT).argmin(-1))
            members = nn.functional.one_hot(nearest[-1], count).to(points).mT
            sums, sizes = sums + members @ part, sizes + members.sum(-1, keepdim=True)
        owners = torch.cat(nearest, 1)
        if previous is not None and torch.equal(owners, previous):
            break
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
    return centroids
