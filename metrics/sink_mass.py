"""Attention that a learned [SINK] token absorbs, and what is left on the model's own first token, layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bench.contract import (
    Batch,
    Column,
    Context,
    Explanation,
    Metric,
    Model,
    Paper,
    Scores,
    UnsupportedError,
    Values,
    metric,
)
from ._maps import column

LAYERS = 12
"""Layers with columns of their own: those of a ViT-B; deeper layers count in the means only."""

NO_SINK = "the model has no [SINK] token"
NO_PREFIX = "the model has no prefix token of its own"


@metric(
    "sink_mass",
    columns=(
        Column("sink_mass", "none", (0, 1), "attention to [SINK], mean over layers, heads and the rows that may"),
        Column("sink_mass_last", "none", (0, 1), "the same in the last layer"),
        Column("first_token_mass", "none", (0, 1), "attention of patch queries to the model's own first token"),
        *(Column(f"sink_mass_{i + 1}", "none", (0, 1), f"sink_mass in layer {i + 1}") for i in range(LAYERS)),
        *(
            Column(f"first_token_mass_{i + 1}", "none", (0, 1), f"first_token_mass in layer {i + 1}")
            for i in range(LAYERS)
        ),
    ),
    version=1,
    needs=("attention",),
    paper=Paper("FOCUS: Fused Observation of Channels for Unveiling Spectra", 2025, "section 4.5, without a formula"),
    of="model",
)
class SinkMass(Metric):
    """The two readings of FOCUS's sink rate: what [SINK] absorbs, and what is left on the unwanted sink.

    [SINK] is that of a prompted ViT: ``sink_mass`` is the mean over the rows that may attend to it, [SINK]'s own left
    out (prompts; with ``isolate=false`` the backbone's tokens too). The first token is the backbone's own: class token,
    or first register; ``first_token_mass`` is the mean over patch queries. In a model whose tokens attend to [SINK],
    rows sum to 1 over it as well, so that what it absorbs is missing elsewhere.
    """

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        """All columns [B]; NaN without a [SINK], without a prefix token, and for layers that the model has not.

        Raises:
            UnsupportedError: the model's tokens do not lie on one grid, or it has no attention to record.
        """
        geometry = model.geometry
        if geometry is None:
            raise UnsupportedError("sink masses need one grid of tokens; the attention of this model lies in windows.")
        tape = ctx.tape(model, batch, attention=True).attention
        first = geometry.prefix - _own_prefix(model)
        left = [a[:, :, geometry.prefix :, first].double().mean((1, 2)) for a in tape if a.shape[-1] == geometry.tokens]
        sinks = [layer.double().mean(1) for layer in _sinks(model, batch.inputs)]
        no_prefix = "" if first < geometry.prefix else NO_PREFIX
        absorbed = _columns("sink_mass", sinks, "" if sinks else NO_SINK, len(batch))
        last = column(sinks[-1]) if sinks else _nowhere(len(batch), NO_SINK)
        return {**absorbed, "sink_mass_last": last, **_columns("first_token_mass", left, no_prefix, len(batch))}


def _columns(name: str, layers: list[Tensor], missing: str, count: int) -> Scores:
    """The mean over all layers, and each of the first twelve, from [B] a layer."""
    if missing or not layers:
        reason = missing or "the model recorded no attention between all its tokens"
        return {key: _nowhere(count, reason) for key in (name, *(f"{name}_{i + 1}" for i in range(LAYERS)))}
    beyond = _nowhere(count, f"the model has {len(layers)} layers")
    single = {f"{name}_{i + 1}": column(layers[i]) if i < len(layers) else beyond for i in range(LAYERS)}
    return {name: column(torch.stack(layers).mean(0)), **single}


def _nowhere(count: int, reason: str) -> Values:
    return column(torch.full((count,), torch.nan), {reason: torch.ones(count, dtype=torch.bool)})


def _sinks(model: Model, inputs: Tensor) -> tuple[Tensor, ...]:
    """Attention to [SINK] in each layer, [B,H]; empty without one."""
    from ..models.prompted import PromptedViT

    with torch.no_grad():
        return model.module.read(inputs).sink if isinstance(model.module, PromptedViT) else ()


def _own_prefix(model: Model) -> int:
    """Prefix tokens of the backbone itself: those behind sink and prompts, where these join its sequence."""
    from ..models.prompted import PromptedViT

    assert model.geometry is not None
    module = model.module
    joined = module.added if isinstance(module, PromptedViT) and not module.isolate else 0
    return model.geometry.prefix - int(joined)
