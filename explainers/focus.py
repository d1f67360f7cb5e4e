"""FOCUS: class-specific spectral prompts and a sink token on a frozen hyperspectral ViT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from ..bench.contract import (
    BadInputError,
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
from ..models.prompt_attention import PromptRows
from ..models.prompted import Prompted, PromptedViT, require_plain_blocks
from ._attention import on_grid
from ._bandwise import band_shares
from ._fitting import FEATURE_ROWS, class_count, fit_module, required, restore
from ._prompts import (
    AuxHeads,
    BandAdapter,
    FromKeysValues,
    GroupedHead,
    PromptTokens,
    Router,
    Sharing,
    SinkAttraction,
    allowed_tokens,
    auxiliary_heads,
    start_token,
)

AUXILIARY, BASELINE = "auxiliary_heads", "baseline"
FEATURE_BYTES = 2 << 30
"""Keys and values of a frozen backbone are kept for all epochs where they take no more than this."""


@explainer(
    "focus",
    paper=Paper("FOCUS: Fused Observation of Channels for Unveiling Spectra", 2025, "arXiv:2507.14787"),
    needs=("labels",),
    status="reconstruction",
    cost="forward",
)
class Focus(Explainer):
    """T[x,y,band] = mean over heads h of A[p(c,g(band)) -> token (x,y,g)] in the last block (eq. 4); >= 0.

    Explains its own model: prompts p(c,g) for each class c and spectral group g, and a [SINK], beside the tokens of a
    frozen ViT; the score of a class is a shared linear head on the mean of its prompts' outputs. One forward pass, no
    gradients. The defaults follow the paper's text, but for the adapter and ``isolate`` (the ViT's features stay its
    own) and a shorter fit (the paper: 100 epochs at 5e-4); the rest of this list are extensions. A reconstruction: no
    code is public, and equations 2 and 4 contradict each other on the tokens.

    Attributes:
        tokens: ``group``: each prompt reads the tokens of its group only (a spectral-token model); ``fused``: every
            prompt reads all tokens; ``auto``: what the model has.
        groups: number of prompt groups for fused tokens; spectral-token models bring their own.
        scheme: how bands are grouped for fused tokens, see ``vitxai.models.spectral_groups``; ``contiguous`` for models
            that know no wavelengths.
        depth: one set of prompts before the first block, or one more added before each further block.
        sink: whether there is a [SINK].
        sink_weight: lambda of eq. 3.
        aux_heads: which heads the sink attracts; the cube is the mean over the others, also without a sink.
        isolate: the ViT's own tokens do not see prompts and sink, so that its features and logits stay bit-equal.
        separate: prompts read the tokens as they are when no group attends to another, so that a group's prompt
            depends on its own bands alone; [SINK] then reads no tokens.
        readout: ``max``: eq. 4 as it stands; ``kept_mass``: each group's map sums to the attention that its prompt
            pays to tokens rather than to [SINK] or itself, mean over blocks and all heads; ``evidence``: to what its
            prompt says for the class beyond the mean of the others, less the mean over fit samples (signed; with
            ``separate`` the Shapley value of the group, times the number of groups).
        head: one linear head for all prompts, or one a group.
        group_dropout: share of groups that a step of the fit leaves out of the mean.
        band_share: splits a group's value among its bands by their share in the token's embedding.
        prompts: of each class and group; of each group, shared by the classes; or of class plus group (hierarchical).
        routing: ``adaptive`` adds to the score of [SINK] what a learned linear function of the group's tokens says.
        adapter: also learns an embedding of each band that is added to the tokens (the features are not frozen then).
        samples, epochs, learning_rate, batch_size, patience: of the fit.
        amp: whether its training passes are in bfloat16.
        artefact: a file of ``bench fit`` to use instead of fitting.
    """

    tokens: Literal["auto", "group", "fused"] = "auto"
    groups: PositiveInt = 10
    scheme: Literal["contiguous", "equal_width", "physiological", "random"] = "physiological"
    depth: Literal["shallow", "deep"] = "shallow"
    sink: bool = True
    sink_weight: NonNegativeFloat = 1e-3
    aux_heads: AuxHeads = "entropy"
    isolate: bool = True
    separate: bool = False
    readout: Literal["max", "kept_mass", "evidence"] = "max"
    head: Literal["shared", "group"] = "shared"
    group_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    band_share: bool = False
    prompts: Sharing = "class"
    routing: Literal["fixed", "adaptive"] = "fixed"
    adapter: bool = False
    samples: PositiveInt = 2048
    epochs: PositiveInt = 30
    learning_rate: PositiveFloat = 5e-3
    batch_size: PositiveInt = 32
    patience: PositiveInt = 10
    amp: bool = False
    artefact: Path | None = None

    READOUT: ClassVar = ("readout", "band_share")

    def __post_init__(self) -> None:
        if self.readout == "kept_mass" and not self.sink:
            raise BadInputError("readout=kept_mass is what prompts keep from [SINK]; it needs sink=true.")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        from ..models.optimise import Schedule

        batch = ctx.data("fit", self.samples, labels=True)
        net = self._net(model, class_count(model, batch), ctx.seed)
        heads = auxiliary_heads(self.aux_heads, model, batch.select(range(min(len(batch), 64))), ctx)
        features = net.keys_values if self._constant(net, batch) else None
        fitted = fit_module(
            model,
            ctx,
            FromKeysValues(net) if features else net,
            Schedule(
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                weight_decay=1e-2,
                betas=(0.9, 0.95),
                patience=self.patience,
                amp=self.amp,
            ),
            samples=self.samples,
            objective=SinkAttraction(self.sink_weight, heads),
            features=features,
        )
        tensors = {name.removeprefix("net."): tensor for name, tensor in fitted.tensors.items()}
        tensors[AUXILIARY] = heads
        net.eval()
        with torch.inference_mode():
            parts = batch.inputs.split(min(ctx.max_rows, FEATURE_ROWS))
            evidence = torch.cat([_head(net).evidence(net.read(part).outputs) for part in parts])
        tensors[BASELINE] = evidence.mean(0).cpu().clone()
        groups = [len(group) for group in self._groups(on_grid(model), model)]
        facts = {**fitted.facts, "bands_of_groups": groups, "auxiliary_heads": heads.int().tolist()}
        return Fitted(tensors, facts)

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        fitted = required(fitted, self.name)
        net = self._net(model, len(fitted.tensors[BASELINE]), seed=0)
        restore(net, fitted, self.name)
        for name in (AUXILIARY, BASELINE):
            net.register_buffer(name, fitted.tensors[name].to(model.device))
        return replace(
            model, module=net, geometry=net.geometry, provenance=(*model.provenance, ("focus_isolated", self.isolate))
        )

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        net = model.module
        if not isinstance(net, PromptedViT) or not hasattr(net, BASELINE):
            raise BadInputError("focus explains its own model; pass what own_model returned.")
        with torch.inference_mode():
            read = net.read(batch.inputs)
            cube = self._cube(net, read, batch.targets)
        geometry, groups = net.seen, self._groups(net.seen, model)
        cube = cube.clone().unflatten(-1, geometry.grid)
        if geometry.groups is not None and not self.band_share:
            return Explanation(cube, "group_token", geometry)
        of_bands = torch.empty(len(cube), geometry.channels, *geometry.grid, dtype=cube.dtype, device=cube.device)
        for index, group in enumerate(groups):
            of_bands[:, list(group)] = cube[:, index, None]
        if self.band_share:
            of_bands = of_bands * band_shares(net.backbone, batch.inputs, groups)
        size = geometry.image_size
        pixels = functional.interpolate(of_bands, size=size, mode="bilinear", align_corners=False)
        return Explanation(pixels, "cube", geometry)

    def _cube(self, net: PromptedViT, read: Prompted, targets: Tensor) -> Tensor:
        """[B,G,patches] of the targets' prompts."""
        auxiliary = net.get_buffer(AUXILIARY)
        maps = [_rows(net, attention, targets) for attention in read.attention]
        telling = ~auxiliary[-1] if not bool(auxiliary[-1].all()) else auxiliary[-1]
        last = maps[-1][:, telling].mean(1)
        if self.readout == "max":
            return last
        shape = last / last.sum(-1, keepdim=True).clamp(min=torch.finfo(last.dtype).tiny)
        if self.readout == "kept_mass":
            kept = torch.stack([rows.mean(1).sum(-1) for rows in maps]).mean(0)
            return shape * kept[..., None]
        evidence = _head(net).evidence(read.outputs) - net.get_buffer(BASELINE)
        rows = torch.arange(len(targets), device=targets.device)
        target, total = evidence[rows, targets], evidence.sum(1)
        contrast = target - (total - target) / max(evidence.shape[1] - 1, 1)
        return shape * contrast[..., None]

    def _net(self, model: Model, classes: int, seed: int) -> PromptedViT:
        geometry = on_grid(model)
        fused = geometry.groups is None
        if self.tokens != "auto" and fused != (self.tokens == "fused"):
            kind = "one token a patch" if fused else "one token a (patch, group)"
            raise UnsupportedError(f"tokens={self.tokens}, but this model has {kind}; use tokens=auto.")
        if geometry.channels <= 3:
            raise UnsupportedError(f"FOCUS needs spectral bands; this model eats {geometry.channels}. Use prompt_cam.")
        require_plain_blocks(model.module, geometry)
        backbone: Any = model.module
        count, dim = len(self._groups(geometry, model)), int(backbone.embed_dim)
        layers = len(backbone.blocks) if self.depth == "deep" else 1
        start = start_token(backbone)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokens = PromptTokens(layers, classes, count, start, self.prompts)
            sink = PromptTokens(layers, 1, 1, start).tokens if self.sink else None
            own, shared = self.head == "group", self.prompts == "shared"
            head = GroupedHead(dim, classes, count, shared=shared, own=own, dropout=self.group_dropout)
            # Of values, which heads of their own width make wider or narrower than tokens.
            router = Router(backbone.blocks[0].attn.proj.in_features) if self.routing == "adaptive" else None
        return PromptedViT(
            backbone,
            tokens,
            head,
            allowed_tokens(geometry, tokens().shape[1], count, self.sink, self.separate),
            sink=sink,
            isolate=self.isolate,
            router=router,
            adapter=BandAdapter(geometry, dim) if self.adapter else None,
            separate=self.separate,
        ).to(device=model.device, dtype=model.dtype)

    def _groups(self, geometry: TokenGeometry, model: Model) -> tuple[tuple[int, ...], ...]:
        """Bands of each prompt group."""
        if geometry.groups is not None:
            return geometry.groups
        from ..models.spectral_groups import spectral_groups

        if geometry.channels < self.groups:
            raise UnsupportedError(f"{geometry.channels} bands do not make groups={self.groups}; ask for fewer groups.")
        centres = model.wavelengths or tuple(float(band + 1) for band in range(geometry.channels))
        return spectral_groups(centres, self.groups, self.scheme if model.wavelengths else "contiguous")

    def _constant(self, net: PromptedViT, batch: Batch) -> bool:
        """Whether keys and values can be kept for all epochs: nothing trained changes them, and they are few."""
        one = len(net.backbone.blocks) * net.seen.tokens * 2 * net.backbone.embed_dim
        size = len(batch) * one * batch.inputs.element_size()
        return self.isolate and not self.adapter and size <= FEATURE_BYTES


def _rows(net: PromptedViT, attention: PromptRows, targets: Tensor) -> Tensor:
    """The target prompts' attention to the patch tokens of their group: [B,H,G,patches]."""
    of_class = attention.to_backbone().unflatten(2, (-1, _head(net).groups))
    rows = torch.arange(len(targets), device=targets.device)
    chosen: Tensor = of_class[rows, :, targets if of_class.shape[2] > 1 else 0]
    return chosen


def _head(net: PromptedViT) -> GroupedHead:
    head = net.head
    assert isinstance(head, GroupedHead)
    return head
