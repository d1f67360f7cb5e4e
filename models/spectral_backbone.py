"""Spectral tokens over a plain timm ViT, frozen or not: adapters of band groups, full-band and aggregated tokens."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, TokenGeometry, UnknownNameError, UnsupportedError
from .spectral import Groups, SpectralPatchEmbed, groups_apart
from .spectral_embed import AdapterPatchEmbed, AggregatedPatchEmbed, ProjectionPatchEmbed

Embed = Literal["adapter", "projection"]
Tokens = Literal["group", "band", "aggregated"]
Mixing = Literal["full", "blocks"]


class SpectralBackbone(nn.Module):
    """A plain timm ViT that reads band groups: one token for each (patch, group), through the ViT's own blocks.

    The sequence is [class token and registers, group 0 at all positions (row by row), group 1 at all positions, ...].
    A token is its group's embedding plus the ViT's position embedding, shared by the groups, plus a learned group
    embedding, shared by the positions. Parts bear timm's names, so that whatever walks a timm ViT walks this one.
    ``num_classes`` outputs are logits, or the traits of a regression: only the objective differs.

    =================  ============================================================================================
    embed=adapter      1x1 convolution from a group's bands to three channels, then the ViT's own patch embedding
    embed=projection   a linear patch embedding a group
    tokens=group       one token a (patch, group)
    tokens=band        one token a (patch, band): the full-spectrum ViT that FOCUS compares with (figure 5)
    tokens=aggregated  one token a patch, as D-CHAG makes them: see :class:`AggregatedPatchEmbed` (a reconstruction)
    mixing=full        every token attends to every token
    mixing=blocks      patch tokens attend to their own group only; class token and registers attend to all. Groups
                       meet in the class token (or in the mean over patches) and nowhere below it. The mask is dense:
                       it saves no time.
    =================  ============================================================================================

    Adapters and projections begin as the ViT's patch embedding of the mean over a group's bands.

    Args:
        backbone: a timm model's name, built with random weights and ``arguments``; or a module, whose parts are taken
            over (not copied).
        groups: band indices of each group, every band in exactly one (see ``spectral_groups``).

    Raises:
        UnsupportedError: the ViT is none whose tokens are patch embedding plus learned positions (rotary or relative
            positions, windows, attention pool, two-token heads); the text says what.
        BadInputError, UnknownNameError: groups leave bands out or repeat them; an option or a model does not exist.
    """

    blocks: nn.Sequential
    norm_pre: nn.Module
    norm: nn.Module
    fc_norm: nn.Module
    cls_token: Tensor | None
    reg_token: Tensor | None
    pos_embed: Tensor
    mask: Tensor | None

    def __init__(
        self,
        backbone: str | nn.Module,
        *,
        groups: Sequence[Sequence[int]],
        num_classes: int,
        arguments: Mapping[str, Any] | None = None,
        embed: Embed = "adapter",
        tokens: Tokens = "group",
        mixing: Mixing = "full",
    ) -> None:
        super().__init__()
        for option, value, known in (("embed", embed, Embed), ("tokens", tokens, Tokens), ("mixing", mixing, Mixing)):
            if value not in get_args(known):
                raise UnknownNameError(option, value, get_args(known))
        if tokens == "aggregated" and mixing == "blocks":
            raise BadInputError("tokens=aggregated leaves no groups to keep apart; use mixing=full, or tokens=group.")
        vit: Any = _timm_vit(backbone, arguments or {}) if isinstance(backbone, str) else backbone
        require_plain(vit)
        self.num_classes = num_classes
        self.embed_dim = self.num_features = int(vit.embed_dim)
        self.num_prefix_tokens, self.global_pool = int(vit.num_prefix_tokens), str(vit.global_pool)
        self.no_embed_class = bool(vit.no_embed_class)
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.norm_pre, self.blocks, self.norm, self.fc_norm = vit.norm_pre, vit.blocks, vit.norm, vit.fc_norm
        self.in_chans = sum(map(len, groups))
        self.patch_embed = _patch_embed(vit, tuple(tuple(map(int, group)) for group in groups), embed, tokens)
        self.geometry = TokenGeometry(
            grid=self.patch_embed.grid_size,
            prefix=self.num_prefix_tokens,
            pooling="token" if self.global_pool == "token" else "avg",
            image_size=self.patch_embed.img_size,
            channels=self.in_chans,
            groups=self.patch_embed.groups,
        )
        count = len(self.geometry.groups or ("all",))
        self.group_embed = nn.Parameter(torch.zeros(1, count, 1, self.embed_dim))
        self.head = nn.Linear(self.embed_dim, num_classes)
        nn.init.trunc_normal_(self.group_embed, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mask", groups_apart(self.geometry) if mixing == "blocks" else None, persistent=False)

    def freeze_backbone(self) -> None:
        """Only what the ViT did not bring requires gradients: adapters or projections, group embedding, head."""
        self.requires_grad_(False)
        self.patch_embed.requires_grad_(True)
        self.head.requires_grad_(True)
        self.group_embed.requires_grad_(True)
        for part in self.patch_embed.modules():
            if isinstance(part, AdapterPatchEmbed):
                part.rgb.requires_grad_(False)

    def forward_features(self, inputs: Tensor) -> Tensor:
        """Normalised tokens after the last block: [B,C,H,W] -> [B, prefix + G*h*w, D]."""
        tokens: Tensor = self.norm_pre(self._positioned(self.patch_embed(inputs)))
        if self.mask is None:
            tokens = self.blocks(tokens)
        else:
            for block in self.blocks:
                tokens = block(tokens, attn_mask=self.mask)
        normed: Tensor = self.norm(tokens)
        return normed

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Outputs [B,K] from the class token or the mean patch token, or that token itself."""
        pooled = tokens[:, 0] if self.global_pool == "token" else tokens[:, self.num_prefix_tokens :].mean(1)
        pooled = self.fc_norm(pooled)
        outputs: Tensor = pooled if pre_logits else self.head(pooled)
        return outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(inputs))

    def _positioned(self, patches: Tensor) -> Tensor:
        own = 0 if self.no_embed_class else self.num_prefix_tokens
        positions = self.pos_embed[:, None, own:] + self.group_embed
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        patches = patches + positions.flatten(1, 2)
        if not prefix:
            return patches
        leading = torch.cat(prefix, dim=1)
        leading = leading + self.pos_embed[:, :own] if own else leading
        return torch.cat([leading.expand(len(patches), -1, -1), patches], dim=1)


def _patch_embed(vit: Any, groups: Groups, embed: Embed, tokens: Tokens) -> AggregatedPatchEmbed | SpectralPatchEmbed:
    embedding = AdapterPatchEmbed if embed == "adapter" else ProjectionPatchEmbed
    bands: Groups = tuple((band,) for group in groups for band in group)
    if tokens == "aggregated":
        heads = vit.blocks[0].attn.num_heads
        return AggregatedPatchEmbed(embedding(vit.patch_embed, bands), tuple(map(len, groups)), heads)
    return embedding(vit.patch_embed, bands if tokens == "band" else groups)


def require_plain(module: nn.Module) -> None:
    """Refuses ViTs whose tokens are more than patch embedding plus learned positions.

    Raises:
        UnsupportedError: the module is one; the text says why.
    """
    why = _peculiarity(module)
    if why:
        raise UnsupportedError(
            f"this {type(module).__name__} {why}; spectral tokens need a plain timm ViT with learned positions (ViT, "
            "DeiT, DINOv2, with or without registers)."
        )


def _peculiarity(vit: Any) -> str:
    from timm.layers import PatchEmbed  # timm takes seconds
    from timm.models.vision_transformer import VisionTransformer

    if type(vit) is not VisionTransformer:
        return "is of another family (rotary or relative positions, windows, two class tokens)"
    if vit.pos_embed is None:
        return "has no learned position embedding"
    if vit.global_pool not in ("token", "avg") or vit.pool_include_prefix:
        return f"pools by {vit.global_pool!r}, and a head must read the class token or the mean patch token"
    if type(vit.patch_embed) is not PatchEmbed or not isinstance(vit.patch_embed.norm, nn.Identity):
        return f"has a {type(vit.patch_embed).__name__} in place of one plain convolution without a norm"
    if not isinstance(vit.patch_drop, nn.Identity):
        return "drops patches"
    return ""


def _timm_vit(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm  # takes seconds

    if not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=8, cutoff=0.4)
        raise UnknownNameError("timm model", name, close)
    try:
        vit: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except TypeError as error:
        raise BadInputError(f"timm model {name!r} does not take {dict(arguments)}: {error}.") from error
    return vit
