"""Passes for logits alone: from tokens of patches that are embedded already, and without what no head reads.

Both give the logits of the plain pass but for the last bits, and both step aside where a model is of another make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .edited import EditedAttention


class FromTokens(nn.Module):
    """A model entered behind its patch embedding: patch tokens [R,T,D] -> logits [R,K].

    Args:
        module: a model that has a :func:`patch_embedding`.
        image: [C,H,W], the shape of its inputs.
    """

    def __init__(self, module: nn.Module, image: Sequence[int]) -> None:
        super().__init__()
        self.module, self.image = module, tuple(image)

    def forward(self, tokens: Tensor) -> Tensor:
        blank = tokens.new_zeros(1).expand(len(tokens), *self.image)  # no memory, and nobody reads it
        with _forward_replaced(patch_embedding(self.module), lambda _: tokens):
            logits: Tensor = self.module(blank)
        return logits


def patch_embedding(module: nn.Module) -> Any:
    """The part that makes tokens [B,T,D] of inputs, each of the pixels of its own patch, if nothing else sees inputs.

    Patches are row by row, on the ``grid_size`` of the part; with several tokens a patch, all patches of the first come
    first. None where the model is not known to be made so.
    """
    from timm.layers import PatchEmbed  # takes seconds

    from .spectral import SpectralPatchEmbed
    from .spectral_embed import AggregatedPatchEmbed

    vit = _plain_vit(module)
    embed = getattr(vit, "patch_embed", None)
    if embed is None or "forward" in vars(embed) or _listened_to(embed):
        return None
    if isinstance(embed, SpectralPatchEmbed | AggregatedPatchEmbed):
        return embed
    plain = type(embed) is PatchEmbed and embed.flatten and not embed.dynamic_img_pad
    tiles = plain and embed.proj.kernel_size == embed.proj.stride and embed.proj.padding == (0, 0)
    return embed if tiles and not getattr(vit, "dynamic_img_size", False) else None


@contextmanager
def as_far_as_read(module: nn.Module) -> Iterator[None]:
    """Until the ``with`` block ends, the last transformer block computes only what is read of it.

    That is the class token's row, or those of prompts; where prompts are isolated, keys and values. Nobody may look at
    the last block's other tokens meanwhile: this is for passes whose logits count. Other models run as they are, and so
    do those with hooks that are not the engine's.
    """
    block, forward = _last_block_as_read(module.module if isinstance(module, FromTokens) else module)
    if forward is None:
        yield
        return
    with _forward_replaced(block, forward):
        yield


def _last_block_as_read(module: nn.Module) -> tuple[Any, Callable[..., Tensor] | None]:
    """The last block and what it computes instead; None where it runs as it is."""
    from .prompted import PromptedViT

    if isinstance(module, PromptedViT):
        block = _plain_block(module.backbone)
        # The backbone's head then still has a token of its own to read.
        return block, block and (_keys_and_values(block) if module.isolate else _first_rows(block, module.added + 1))
    vit = None if isinstance(module, EditedAttention) else _plain_vit(module)
    if vit is None or vit.global_pool != "token" or getattr(vit, "attn_pool", None) is not None:
        return None, None
    block = _plain_block(vit)
    return block, block and _first_rows(block, 1)


def _plain_vit(module: nn.Module) -> Any:
    """The ViT within wrappers that hand their inputs on; None where it is of a family that is not known."""
    from timm.models.vision_transformer import VisionTransformer

    from .prompted import PromptedViT
    from .spectral import SpectralViT
    from .spectral_backbone import SpectralBackbone

    while isinstance(module, EditedAttention | PromptedViT):
        if _listened_to(module) or (isinstance(module, PromptedViT) and module.adapter is not None):
            return None
        module = module.wrapped if isinstance(module, EditedAttention) else module.backbone
    # Not subclasses of timm's: they may read what they like.
    known = type(module) in (VisionTransformer, SpectralViT, SpectralBackbone)
    return module if known and not _listened_to(module) else None


def _listened_to(part: nn.Module) -> bool:
    """Whether a part has hooks, which may change what passes or want all of it; the engine's own only count rows."""
    hooks = (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
    return any(not getattr(hook, "__module__", "").startswith("vitxai.bench.") for hook in hooks)


def _plain_block(vit: Any) -> Any:
    """The last block where it is timm's plain one, as it was made and with nobody listening; else None."""
    from timm.models.vision_transformer import Attention, Block

    block: Any = vit.blocks[-1] if len(vit.blocks) else None
    if type(block) is not Block or type(block.attn) is not Attention or type(block.attn.qkv) is not nn.Linear:
        return None
    gated = block.attn.gate is not None or not isinstance(block.attn.norm, nn.Identity)
    return None if gated or "forward" in vars(block) or any(map(_listened_to, block.modules())) else block


def _keys_and_values(block: Any) -> Callable[..., Tensor]:
    """Runs the block's queries, keys and values, for those who hook them, and nothing behind them."""

    def forward(tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        block.attn.qkv(block.norm1(tokens))
        return tokens

    return forward


def _first_rows(block: Any, count: int) -> Callable[..., Tensor]:
    """The block's output for its first tokens alone: [R,N,D] -> [R,count,D]."""
    whole, attn = block.forward, block.attn
    weight, bias = attn.qkv.weight, attn.qkv.bias
    width = len(weight) // 3
    of_query = weight[:width], None if bias is None else bias[:width]
    of_rest = weight[width:], None if bias is None else bias[width:]

    def forward(tokens: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if is_causal:
            output: Tensor = whole(tokens, attn_mask=attn_mask, is_causal=is_causal)
            return output
        normed, first = block.norm1(tokens), tokens[:, :count]
        query = split_heads(F.linear(normed[:, :count], *of_query), attn, 1)[0]
        key, value = split_heads(F.linear(normed, *of_rest), attn, 2)
        square = tokens.shape[1], tokens.shape[1]
        mask = None if attn_mask is None else attn_mask.expand(*attn_mask.shape[:-2], *square)[..., :count, :]
        mixed = F.scaled_dot_product_attention(attn.q_norm(query), attn.k_norm(key), value, attn_mask=mask)
        first = first + block.ls1(attn.proj(mixed.transpose(1, 2).flatten(2)))
        rows: Tensor = first + block.ls2(block.mlp(block.norm2(first)))
        return rows

    return forward


def split_heads(joined: Tensor, attn: Any, parts: int) -> tuple[Tensor, ...]:
    """[R,N,parts*D] -> parts of [R,H,N,d]."""
    split = joined.view(*joined.shape[:2], parts, attn.num_heads, -1)
    return split.permute(2, 0, 3, 1, 4).unbind(0)


@contextmanager
def _forward_replaced(part: Any, forward: Callable[..., Tensor]) -> Iterator[None]:
    part.forward = forward
    try:
        yield
    finally:
        del part.forward
