"""INTR: one query a class reads the frozen ViT's patch tokens by cross-attention."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..bench.contract import BadInputError, Batch, Context, Explainer, Explanation, Fitted, Model, Paper, explainer
from ._cam import lay_out
from ._fitting import fit_module, restore
from ._own_head import drawn, final_tokens, require_features, with_head


@explainer(
    "intr",
    paper=Paper(
        "A Simple Interpretable Transformer for Fine-Grained Image Classification and Analysis",
        2024,
        "arXiv:2311.04157",
    ),
    needs=("labels",),
    cost="forward",
)
class INTR(Explainer):
    """Mean over heads of softmax(q_c k_p / sqrt(d)) over the patch tokens p, q_c the target class's query; sums to 1.

    The attention is that of a DETR decoder (self-attention among the class queries, cross-attention to the tokens, MLP;
    norms behind the sums) on the frozen ViT's final patch tokens, in which logit_c = w . out_c with one vector w for
    all classes. It explains this model of its own. The paper trains backbone and encoder too; here the frozen ViT
    takes the place of both.

    Attributes:
        decoder_layers: of the decoder (the paper has 6).
        width: of queries and tokens in the decoder; a multiple of ``heads``.
        heads: of each attention.
        dropout: of each sublayer, during the fit.
        layer: cross-attention of the last decoder layer (the paper), or the mean over layers.
        samples: of the fit split.
        epochs, batch_size, learning_rate: of the fit.
        artefact: file of an earlier fit.
    """

    decoder_layers: PositiveInt = 2
    width: PositiveInt = 64
    heads: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    layer: Literal["last", "mean"] = "last"
    samples: Annotated[int, Field(ge=2)] = 2048
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    artefact: Path | None = None

    READOUT: ClassVar = ("layer",)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInputError(f"width={self.width} is no multiple of heads={self.heads}.")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import Schedule

        read, head = final_tokens(model), self._head(model, ctx.seed)
        schedule = Schedule(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        return fit_module(model, ctx, head, schedule, samples=self.samples, features=lambda x: read(model.module, x))

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        read, head = final_tokens(model), restore(self._head(model), fitted, self.name)
        fact = (self.name, f"{self.decoder_layers} decoder layers of width {self.width}")
        return replace(model, module=with_head(model, head, read), provenance=(*model.provenance, fact))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        first = self.decoder_layers - 1 if self.layer == "last" else 0
        names = tuple(f"own_head.layers.{layer}.cross.weights" for layer in range(first, self.decoder_layers))
        tape = ctx.tape(model, batch, attention=False, activations=names)
        rows = torch.arange(len(batch), device=batch.targets.device)
        maps = torch.stack([tape.activations[name][rows, :, batch.targets] for name in names])  # [L,B,heads,P]
        return lay_out(maps.mean((0, 2)), model)

    def _head(self, model: Model, seed: int = 0) -> nn.Module:
        tokens, classes = require_features(model)
        return drawn(lambda: Decoder(tokens, classes, self), model, seed)


class Decoder(nn.Module):
    """Scores of classes from tokens: [B,P,D] -> [B,K].

    Tokens are normalised before they are projected, since some frozen ViTs give them without a norm.
    """

    def __init__(self, tokens: int, classes: int, size: INTR) -> None:
        super().__init__()
        width = size.width
        self.tokens = nn.Sequential(nn.LayerNorm(tokens), nn.Linear(tokens, width))
        self.queries = nn.Parameter(torch.randn(classes, width))
        self.layers = nn.ModuleList(DecoderLayer(width, size.heads, size.dropout) for _ in range(size.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.presence = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        memory = self.tokens(tokens)
        found = torch.zeros_like(self.queries).expand(len(tokens), -1, -1)
        for layer in self.layers:
            found = layer(found, self.queries, memory)
        scores: Tensor = self.presence(self.norm(found))[..., 0]
        return scores


class DecoderLayer(nn.Module):
    """Self-attention among what the queries found, cross-attention to the tokens, MLP; each with sum, then norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.cross = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, found: Tensor, queries: Tensor, memory: Tensor) -> Tensor:
        asked = found + queries
        found = self.norm1(found + self.drop(self.self_attention(asked, asked, found)))
        found = self.norm2(found + self.drop(self.cross(found + queries, memory, memory)))
        out: Tensor = self.norm3(found + self.drop(self.mlp(found)))
        return out


class Attention(nn.Module):
    """Multi-head attention in plain steps, so that recordings count the frozen ViT's own attention only.

    ``weights`` gives the probabilities [B,heads,Q,K].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.weights = nn.Softmax(dim=-1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mixed = self.weights(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
