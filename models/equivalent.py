"""Weights of other libraries' ViTs as the timm model that computes the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from ..bench.contract import BadInputError

Rules = Sequence[tuple[str, str | None]]
"""Patterns of names and timm's names for them; None for what takes no part in the answer."""


def renamed(weights: Mapping[str, Tensor], rules: Rules, source: str) -> dict[str, Tensor]:
    """The tensors by timm's names, query, key and value as one.

    Raises:
        BadInputError: no rule speaks of a name, or two names mean one tensor.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        rule = next(((pattern, new) for pattern, new in rules if re.fullmatch(pattern, name)), None)
        if rule is None:
            raise BadInputError(f"{source} holds {name!r}, which no known architecture of this kind has.")
        pattern, new = rule
        if new is not None and found.setdefault(own := re.sub(pattern, new, name), tensor) is not tensor:
            raise BadInputError(f"{source} holds {own!r} twice, once as {name!r}.")
    return _joined(found)


def equivalent_vit(
    weights: Mapping[str, Tensor],
    source: str,
    *,
    heads: int,
    image_size: tuple[int, int],
    img_size: tuple[int, int] | None = None,
    pooling: str = "token",
    eps: float = 1e-6,
    act_layer: str | None = None,
    gated_mlp: bool = False,
) -> nn.Module:
    """The timm ViT with these weights, by timm's names; all widths are read from the tensors.

    Args:
        source: what errors call the weights.
        image_size: (H, W) that the positions were learned for.
        img_size: (H, W) to build for; positions are resampled as timm does it. By default ``image_size``.
        pooling: ``token``, ``avg`` (of patch tokens that were normalised before, if at all) or ``map``.
        eps, act_layer: of layer norm, and of the MLPs by timm's name (None is the exact GELU).
        gated_mlp: whether the MLPs are SwiGLU, both parts in one tensor.

    Raises:
        BadInputError: a tensor is missing, left over, or of another shape than the others imply.
    """
    beit, distilled = "blocks.0.gamma_1" in weights or "fc_norm.weight" in weights, "dist_token" in weights
    try:
        width, channels, *patch = weights["patch_embed.proj.weight"].shape
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise BadInputError(f"{source} has no {error.args[0]!r}, so it holds no ViT.") from error
    arguments: dict[str, Any] = {
        "img_size": image_size,
        "patch_size": tuple(patch),
        "in_chans": channels,
        "num_classes": len(weights["head.weight"]) if "head.weight" in weights else 0,
        "global_pool": pooling,
        "embed_dim": width,
        "depth": 1 + max(int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))),
        "num_heads": heads,
        "mlp_ratio": (hidden + 0.5) / width,  # timm rounds width * ratio down
        "norm_layer": partial(LayerNorm, eps=eps),
    }
    if beit and (act_layer is not None or gated_mlp):
        raise BadInputError(f"{source} has other MLPs than timm's BEiT, whose activation is the exact GELU.")
    if beit:
        arguments |= _beit(weights)
    else:
        arguments |= _plain(weights, act_layer, (image_size[0] // patch[0]) * (image_size[1] // patch[1]))
        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": "silu"} if gated_mlp else {}
    family: Any = Beit if beit else VisionTransformerDistilled if distilled else VisionTransformer
    try:
        with torch.random.fork_rng(devices=[]):
            module: nn.Module = family(**arguments)
        module.load_state_dict(dict(weights))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BadInputError(f"{source} does not fit the timm ViT that its shapes describe: {error}") from error
    if img_size is None or img_size == image_size:
        return module
    if beit:
        raise BadInputError(f"{source} has position biases for {image_size}; leave img_size out.")
    with torch.random.fork_rng(devices=[]):
        resized: nn.Module = family(**{**arguments, "img_size": img_size})
    resized.load_state_dict(checkpoint_filter_fn(dict(weights), resized, interpolation="bicubic", antialias=True))
    return resized


def _plain(weights: Mapping[str, Tensor], act_layer: str | None, patches: int) -> dict[str, Any]:
    registers, positions = weights.get("reg_token"), weights.get("pos_embed")
    return {
        "class_token": "cls_token" in weights,
        "reg_tokens": 0 if registers is None else registers.shape[1],
        "no_embed_class": positions is not None and positions.shape[1] == patches,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in weights else None,
        "pre_norm": "norm_pre.weight" in weights,
        "final_norm": "norm.weight" in weights,
        "fc_norm": False,
        "act_layer": act_layer,
        "weight_init": "skip",  # all are loaded, and drawing 86 million takes seconds
    }


def _beit(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "init_values": 1.0 if "blocks.0.gamma_1" in weights else None,
        "use_abs_pos_emb": "pos_embed" in weights,
        "use_rel_pos_bias": "blocks.0.attn.relative_position_bias_table" in weights,
        "qkv_bias": "blocks.0.attn.q_bias" in weights,
        "use_fc_norm": "fc_norm.weight" in weights,
    }


def _joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value in one tensor; biases of query and value alone stay apart, as BEiT has them."""
    joined = {name: tensor for name, tensor in weights.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name in weights:
        if not name.endswith((".attn.q.weight", ".attn.q.bias")):
            continue
        stem, _, kind = name.rpartition("q.")
        parts = [weights.get(f"{stem}{part}.{kind}") for part in "qkv"]
        if all(part is not None for part in parts):
            joined[f"{stem}qkv.{kind}"] = torch.cat([part for part in parts if part is not None])
        else:
            joined |= {f"{stem}{part}_{kind}": t for part, t in zip("qkv", parts, strict=True) if t is not None}
    return joined
