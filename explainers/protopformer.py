"""ProtoPFormer: prototypes of the class token beside prototypes of the foreground's patch tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from ..bench.contract import (
    Batch,
    Context,
    Explainer,
    Explanation,
    Fitted,
    Model,
    Paper,
    TokenGeometry,
    UnsupportedError,
    explainer,
)
from ..models.interception import AttentionCalls, calls_exposed, no_attention
from ._attention import flow, identity_like, pool_row, row_normalise, with_rows
from ._cam import lay_out, patch_tokens
from ._fitting import balanced_entropy, fit_module, restore
from ._own_head import Read, drawn, head_dtype, positions, require_features, with_head
from ._prototypes import Embedding, MapOf, Prototypes, Similarity, connections, own_class, prototype_map

if TYPE_CHECKING:
    from ..models.optimise import CrossEntropy


@explainer(
    "protopformer",
    paper=Paper(
        "ProtoPFormer: Concentrating on Prototypical Parts in Vision Transformers for Interpretable Image Recognition",
        2022,
        "arXiv:2208.10431",
    ),
    needs=("attention", "labels"),
    cost="forward",
)
class ProtoPFormer(Explainer):
    """Sum over the target class's local prototypes j of log((d_jp + 1) / (d_jp + 1e-4)) at kept tokens p; >= 0.

    d_jp is the squared Euclidean distance of prototype and embedded patch token; tokens with less attention rollout
    than the ``keep`` share of most are 0. It explains this model of its own, on a frozen ViT: logits = ``global_share``
    x global branch + the rest x local branch; each is the largest similarity to each prototype, with weight 1 in the
    logit of its class and -0.5 in others; global prototypes read what the frozen head reads (the class token, or the
    pooled patches). Trained by cross-entropy and the concentration of parts: over the tokens' places, weighted by
    similarity, a prototype's variance is at most ``spread``, and two of a class are ``apart``.

    The paper trains the backbone too and hides dropped tokens from its last block; its code's rollout leaves that block
    out, drops 90 % of the entries and weighs the identity 0.2, and its concentration begins after a tenth of the
    epochs. Here rollout is the plain one over all blocks.

    Attributes:
        prototypes: of each class, in either branch.
        width: of embedded tokens.
        keep: share of the patch tokens (of all spectral groups together) kept as foreground.
        global_share: see above.
        map: sum over the target class's prototypes, the one that adds most, or all (-0.5 for other classes).
        spread, spread_weight: largest variance in squared patches that costs nothing, and the weight of the rest.
        apart, apart_weight: distance in patches from which two prototypes cost nothing, and the weight of the lack.
        samples: of the fit split.
        epochs, batch_size, learning_rate: of the fit.
        artefact: file of an earlier fit.
    """

    prototypes: PositiveInt = 10
    width: PositiveInt = 64
    keep: Annotated[float, Field(gt=0, le=1)] = 0.4
    global_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    map: MapOf = "class"
    spread: NonNegativeFloat = 1.0
    spread_weight: NonNegativeFloat = 0.1
    apart: NonNegativeFloat = 2.0
    apart_weight: NonNegativeFloat = 0.5
    samples: Annotated[int, Field(ge=2)] = 2048
    epochs: PositiveInt = 15
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-3
    artefact: Path | None = None

    READOUT: ClassVar = ("map",)

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import Schedule

        read, head = foreground(model, self.keep), self._head(model, ctx.seed)
        fit = ctx.data("fit", self.samples, labels=True)
        return fit_module(
            model,
            ctx,
            head,
            Schedule(self.epochs, self.batch_size, self.learning_rate),
            samples=self.samples,
            objective=Concentration(balanced_entropy(fit, len(head.own)), self),
            features=lambda inputs: read(model.module, inputs),
        )

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        read, head = foreground(model, self.keep), restore(self._head(model), fitted, self.name)
        fact = (self.name, f"{self.prototypes} local and global prototypes a class, of width {self.width}")
        return replace(model, module=with_head(model, head, read), provenance=(*model.provenance, fact))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        name = "own_head.kept"
        similarities = ctx.tape(model, batch, attention=False, activations=(name,)).activations[name]
        head: Any = model.module.own_head
        weights = connections(head.own).to(similarities)
        return lay_out(prototype_map(similarities, weights, head.own, batch.targets, self.map), model)

    def _head(self, model: Model, seed: int = 0) -> TwoBranches:
        geometry, (tokens, classes) = with_rows(model), require_features(model)
        return drawn(lambda: TwoBranches(tokens, classes, self, positions(geometry)), model, seed)


def foreground(model: Model, keep: float) -> Read:
    """What the head reads, [B,1+P,D+1]: the frozen head's input, then patch tokens; last whether kept (1 or 0).

    Raises:
        UnsupportedError: no row of attention carries the model's decision, or it tells no final tokens.
    """
    geometry, dtype = with_rows(model), head_dtype(model)
    require_features(model)
    count = max(round(keep * geometry.patches), 1)

    def read(vit: Any, inputs: Tensor) -> Tensor:
        with calls_exposed(vit), Rollout(geometry) as rollout:
            tokens = vit.forward_features(inputs)
            pooled = vit.forward_head(tokens, pre_logits=True)
        patches = patch_tokens(tokens, geometry, "forward_features")
        most = rollout.row(vit)[:, geometry.prefix :].topk(count, dim=1).indices
        kept = torch.zeros_like(patches[..., 0]).scatter(1, most, 1.0)
        whole = torch.cat([pooled[:, None], patches], dim=1)
        return torch.cat([whole, functional.pad(kept, (1, 0), value=1.0)[..., None]], dim=2).to(dtype)

    return read


class Rollout(AttentionCalls):
    """Listens to a pass: attention rollout, while the calls are made as they would be without it.

    So that another recording of the same pass still sees them.
    """

    def __init__(self, geometry: TokenGeometry) -> None:
        super().__init__(keep=True)
        self.geometry = geometry
        self.transitions: list[Tensor] = []

    def _attend(self, *args: Any, **kwargs: Any) -> Tensor:
        with torch.no_grad():
            super()._attend(*args, **kwargs)
            # One map [B,N,N] a block instead of one a head.
            self.transitions += [row_normalise(a.mean(1) + identity_like(a)) for a in self.attention]
            self.attention.clear()
        return functional.scaled_dot_product_attention(*args, **kwargs)

    def row(self, vit: nn.Module) -> Tensor:
        """The decision's row, [B,N]."""
        if not self.transitions:
            raise UnsupportedError(no_attention(vit))
        if self.transitions[0].shape[-1] != self.geometry.tokens:
            raise UnsupportedError(
                f"attention of {type(vit).__name__} has {self.transitions[0].shape[-1]} keys, not one for each of "
                f"{self.geometry.tokens} tokens."
            )
        pool = pool_row(self.pools[0].mean(1), self.geometry) if self.pools else None
        return flow(self.transitions, pool, self.geometry)


class TwoBranches(nn.Module):
    """Scores of classes, [B,K], from what :func:`foreground` reads.

    ``kept`` gives the local similarities [B,J,P], 0 at dropped tokens; ``own`` [K,J] tells whether a prototype is of a
    class, ``places`` [P,2] where tokens lie.
    """

    own: Tensor
    places: Tensor

    def __init__(self, tokens: int, classes: int, size: ProtoPFormer, places: Tensor) -> None:
        super().__init__()
        self.global_share = size.global_share
        self.embed = Embedding(tokens, size.width)
        self.local = Prototypes(classes, size.prototypes, size.width)
        self.whole = Prototypes(classes, size.prototypes, size.width)
        self.similarity, self.kept = Similarity(), nn.Identity()
        self.register_buffer("own", own_class(classes, size.prototypes), persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, read: Tensor) -> Tensor:
        return self.scores(read)[0]

    def scores(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B,K] and local similarities [B,J,P]."""
        embedded, kept = self.embed(read[..., :-1]), read[:, None, 1:, -1]
        local = self.kept(self.similarity(self.local(embedded[:, 1:])) * kept)
        whole = self.similarity(self.whole(embedded[:, :1]))[..., 0]
        evidence = self.global_share * whole + (1 - self.global_share) * local.amax(-1)
        return evidence @ connections(self.own).to(evidence).T, local


@dataclass(frozen=True, eq=False)
class Concentration:
    """Cross-entropy + the concentration of parts, of :class:`TwoBranches`."""

    entropy: CrossEntropy
    size: ProtoPFormer

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(module, TwoBranches)
        scores, local = module.scores(inputs)
        spread, apart = self.costs(local[module.own[labels]].view(len(labels), -1, local.shape[-1]), module.places)
        total = self.entropy.of(scores, labels)
        total = total + self.size.spread_weight * spread + self.size.apart_weight * apart
        return total, {"spread": spread.detach(), "apart": apart.detach()}

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        return self.entropy.judged(outputs, labels)

    def costs(self, similarities: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Means of relu(variance - spread) and relu(apart - distance) of a class's prototypes, [B,M,P] at [P,2].

        The variance is the mean of that of rows and of columns; a prototype's distance to itself costs nothing, but
        counts in the mean.
        """
        shares = similarities / similarities.sum(-1, keepdim=True)
        centres = shares @ places  # [B,M,2]
        variances = (shares @ places.square() - centres.square()).mean(-1)
        # The root of 0 has no gradient.
        distances = (centres[:, :, None] - centres[:, None]).square().sum(-1).clamp(min=1e-12).sqrt()
        lack = (self.size.apart - distances).clamp(min=0)
        others = 1 - torch.eye(lack.shape[-1]).to(lack)
        return (variances - self.size.spread).clamp(min=0).mean(), (lack * others).mean()
