"""ProtoPNet: class evidence is the likeness of patch tokens to prototypes, which are patches of fit samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..bench.contract import Batch, Context, Explainer, Explanation, Fitted, Model, Paper, explainer
from ._cam import lay_out
from ._fitting import balanced_entropy, fit_module, learned, restore
from ._own_head import drawn, final_tokens, require_features, with_head
from ._prototypes import Embedding, MapOf, Prototypes, Similarity, connections, own_class, prototype_map

if TYPE_CHECKING:
    from ..models.optimise import CrossEntropy, LabelledInputs


@explainer(
    "protopnet",
    paper=Paper("This Looks Like That: Deep Learning for Interpretable Image Recognition", 2019, "arXiv:1806.10574"),
    needs=("labels",),
    cost="forward",
)
class ProtoPNet(Explainer):
    """Sum over the target class's prototypes j of w_cj log((d_jp + 1) / (d_jp + 1e-4)) at patch token p; signed.

    d_jp is the squared Euclidean distance of prototype and embedded token; logit_c = sum_j w_cj max_p of that
    similarity, over all prototypes. It explains this model of its own, on the frozen ViT's final patch tokens. The fit
    is one cycle of the paper's: embedding and prototypes by cross-entropy + ``cluster`` x mean over samples of the
    least d to prototypes of their class - ``separation`` x the same to other classes, with w = 1 and -0.5; each
    prototype then becomes the nearest embedded token of a fit sample of its class; then w alone. The paper repeats the
    cycle and trains the backbone too. What is fitted names each prototype's place as ``sources`` [J,2]: the sample, in
    the order of the fit split, and its patch token; -1 for classes without a sample, whose prototypes stay learned.

    Attributes:
        prototypes: of each class.
        width: of embedded tokens.
        map: sum over the target class's prototypes, the one that adds most to the logit, or all, with their weights.
        cluster, separation: see above.
        l1: penalty of each weight of a prototype in another class's logit.
        samples: of the fit split.
        epochs, batch_size, learning_rate: of embedding and prototypes.
        weight_epochs: of w; 0 leaves it at 1 and -0.5.
        artefact: file of an earlier fit.
    """

    prototypes: PositiveInt = 10
    width: PositiveInt = 64
    map: MapOf = "class"
    cluster: NonNegativeFloat = 0.8
    separation: NonNegativeFloat = 0.08
    l1: NonNegativeFloat = 1e-4
    samples: Annotated[int, Field(ge=2)] = 2048
    epochs: PositiveInt = 15
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-2
    weight_epochs: NonNegativeInt = 20
    artefact: Path | None = None

    READOUT: ClassVar = ("map",)

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import LabelledInputs, Schedule

        read, head = final_tokens(model), self._head(model, ctx.seed)
        parts: list[Tensor] = []  # tokens of the fit samples, then of the validation samples

        def features(inputs: Tensor) -> Tensor:
            parts.append(read(model.module, inputs).cpu())
            return parts[-1]

        fit, held_out = ctx.data("fit", self.samples, labels=True), ctx.data("validation", 256, labels=True)
        entropy = balanced_entropy(fit, len(head.own))
        costs = Costs(entropy, self.cluster, self.separation)
        schedule = Schedule(self.epochs, self.batch_size, self.learning_rate, weight_decay=1e-3)
        head.weights.requires_grad_(False)
        joint = fit_module(model, ctx, head, schedule, samples=self.samples, objective=costs, features=features)
        tokens = torch.cat(parts)
        known = LabelledInputs(tokens[: len(fit)], fit.labels.cpu())
        unseen = LabelledInputs(tokens[len(fit) :], held_out.labels.cpu())
        sources = project(head, known, self.batch_size)
        self._fit_weights(head, known, unseen, entropy, ctx.seed)
        facts = {
            **joint.facts,
            "validation_accuracy_before_projection": joint.facts["validation_accuracy"],
            **judged(head, unseen, entropy, self.batch_size),
            "parameters": sum(parameter.numel() for parameter in head.parameters()),
        }
        return Fitted({**learned(head), "sources": sources}, facts)

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        read, head = final_tokens(model), restore(self._head(model), fitted, self.name)
        fact = (self.name, f"{self.prototypes} prototypes a class, of width {self.width}")
        return replace(model, module=with_head(model, head, read), provenance=(*model.provenance, fact))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        name = "own_head.likeness.similarity"
        similarities = ctx.tape(model, batch, attention=False, activations=(name,)).activations[name]
        head: Any = model.module.own_head
        return lay_out(prototype_map(similarities, head.weights, head.own, batch.targets, self.map), model)

    def _fit_weights(
        self, head: LikenessHead, fit: LabelledInputs, held_out: LabelledInputs, entropy: CrossEntropy, seed: int
    ) -> None:
        """The last, convex step: w over the largest similarities."""
        from ..models.optimise import LabelledInputs, Schedule, optimise, predict

        head.weights.requires_grad_(True)
        if self.weight_epochs == 0:
            return

        def pooled(part: LabelledInputs) -> LabelledInputs:
            likeness = predict(head.likeness, part.inputs, self.batch_size).to(part.inputs)
            return LabelledInputs(likeness, part.labels)

        weights, costs = Weights(head.weights), WeightCosts(entropy, ~head.own, self.l1)
        schedule = Schedule(self.weight_epochs, self.batch_size, learning_rate=1e-3, weight_decay=0.0)
        with torch.inference_mode(False), torch.enable_grad():
            optimise(weights, pooled(fit), pooled(held_out), schedule, seed=seed, objective=costs)

    def _head(self, model: Model, seed: int = 0) -> LikenessHead:
        tokens, classes = require_features(model)
        return drawn(lambda: LikenessHead(tokens, classes, self.prototypes, self.width), model, seed)


class Likeness(nn.Module):
    """The largest similarity of any token to each prototype: [B,P,D] -> [B,J]."""

    def __init__(self, tokens: int, classes: int, count: int, width: int) -> None:
        super().__init__()
        self.embed, self.prototypes = Embedding(tokens, width), Prototypes(classes, count, width)
        self.similarity = Similarity()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.of_distances(self.distances(tokens))

    def distances(self, tokens: Tensor) -> Tensor:
        """Squared, [B,J,P]."""
        found: Tensor = self.prototypes(self.embed(tokens))
        return found

    def of_distances(self, distances: Tensor) -> Tensor:
        """[B,J,P] -> [B,J]."""
        similarities: Tensor = self.similarity(distances)
        return similarities.amax(-1)


class LikenessHead(nn.Module):
    """Scores of classes from tokens, [B,P,D] -> [B,K]; ``weights`` [K,J], ``own`` [K,J] whether of a class."""

    own: Tensor

    def __init__(self, tokens: int, classes: int, count: int, width: int) -> None:
        super().__init__()
        self.likeness = Likeness(tokens, classes, count, width)
        self.register_buffer("own", own_class(classes, count), persistent=False)
        self.weights = nn.Parameter(connections(self.own))

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.likeness(tokens) @ self.weights.T
        return scores


class Weights(nn.Module):
    """A head's weights on largest similarities [B,J]."""

    def __init__(self, weights: nn.Parameter) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled @ self.weights.T


@dataclass(frozen=True, eq=False)
class Costs:
    """Cross-entropy + ``cluster`` x cluster cost - ``separation`` x separation cost, of a :class:`LikenessHead`."""

    entropy: CrossEntropy
    cluster: float
    separation: float

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(module, LikenessHead)
        distances = module.likeness.distances(inputs)
        scores = module.likeness.of_distances(distances) @ module.weights.T
        own, nearest = module.own[labels], distances.amin(-1)
        cluster = nearest.masked_fill(~own, torch.inf).amin(1).mean()
        separation = nearest.masked_fill(own, torch.inf).amin(1).mean()
        total = self.entropy.of(scores, labels) + self.cluster * cluster - self.separation * separation
        return total, {"cluster": cluster.detach(), "separation": separation.detach()}

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        return self.entropy.judged(outputs, labels)


@dataclass(frozen=True, eq=False)
class WeightCosts:
    """Cross-entropy + ``l1`` x sum of the weights' magnitudes where ``others`` [K,J] holds."""

    entropy: CrossEntropy
    others: Tensor
    l1: float

    def loss(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(module, Weights)
        loss, figures = self.entropy.loss(module, inputs, labels)
        return loss + self.l1 * module.weights[self.others].abs().sum(), figures

    def judged(self, outputs: Tensor, labels: Tensor) -> tuple[float, float]:
        return self.entropy.judged(outputs, labels)


@torch.no_grad()
def project(head: LikenessHead, fit: LabelledInputs, rows: int) -> Tensor:
    """Each prototype becomes the nearest embedded token of a sample of its class: (sample, token) of each, [J,2].

    A prototype of a class without samples stays as it is: (-1, -1).
    """
    vectors = head.likeness.prototypes.vectors
    found, nearest = vectors.clone(), torch.full_like(vectors[:, 0], torch.inf)
    places = torch.full((len(vectors), 2), -1)
    for start in range(0, len(fit), rows):
        labels = fit.labels[start : start + rows].to(vectors.device)
        embedded = head.likeness.embed(fit.inputs[start : start + rows].to(vectors.device))
        distances = head.likeness.prototypes(embedded).masked_fill(~head.own[labels][:, :, None], torch.inf)
        by_sample, tokens = distances.min(-1)
        least, samples = by_sample.min(0)
        for j in (least < nearest).nonzero()[:, 0].tolist():
            row, token = int(samples[j]), int(tokens[samples[j], j])
            nearest[j], found[j], places[j] = least[j], embedded[row, token], torch.tensor([start + row, token])
    vectors.copy_(found)
    return places


def judged(head: nn.Module, held_out: LabelledInputs, entropy: CrossEntropy, rows: int) -> Mapping[str, float]:
    """Validation loss and accuracy of the head as it is."""
    from ..models.optimise import predict

    loss, accuracy = entropy.judged(predict(head, held_out.inputs, rows), held_out.labels)
    return {"validation_loss": loss, "validation_accuracy": accuracy}
