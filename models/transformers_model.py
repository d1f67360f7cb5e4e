"""Hugging Face transformers' ViTs, as the timm model that computes the same; transformers itself is not needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..bench.contract import BadInputError, Model, UnsupportedError
from .equivalent import Rules, equivalent_vit, renamed
from .file_model import file_hash, read_tensors
from .handle import wrap
from .hub import hub_snapshot

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

SNAPSHOT = (CONFIG, PREPROCESSOR, "model*.safetensors*")

_BODY = r"(?:(?:vit|deit|dinov2|dinov2_with_registers|ijepa|beit|data2vec_vision|vision_model)\.)*"
_LAYER = rf"{_BODY}encoder\.layers?\.(\d+)\."
RULES: Rules = (
    (rf"{_BODY}embeddings\.(?:cls_token|class_embedding)", "cls_token"),
    (rf"{_BODY}embeddings\.distillation_token", "dist_token"),
    (rf"{_BODY}embeddings\.register_tokens", "reg_token"),
    (rf"{_BODY}embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.(.+)", r"patch_embed.proj.\1"),
    (rf"{_BODY}embeddings\.(?:position_embeddings|position_embedding\.weight)", "pos_embed"),
    (rf"{_BODY}(?:pre_layrnorm)\.(.+)", r"norm_pre.\1"),
    (rf"{_LAYER}(?:layernorm_before|layer_norm1|norm1)\.(.+)", r"blocks.\1.norm1.\2"),
    (rf"{_LAYER}(?:layernorm_after|layer_norm2|norm2)\.(.+)", r"blocks.\1.norm2.\2"),
    (rf"{_LAYER}(?:attention\.attention\.|self_attn\.)([qkv])(?:uery|ey|alue|_proj)\.(.+)", r"blocks.\1.attn.\2.\3"),
    (rf"{_LAYER}(?:attention\.output\.dense|self_attn\.out_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (
        rf"{_LAYER}attention\.attention\.relative_position_bias\.relative_position_bias_table",
        r"blocks.\1.attn.relative_position_bias_table",
    ),
    (rf"{_LAYER}(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (rf"{_LAYER}(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (rf"{_LAYER}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (rf"{_LAYER}lambda_([12])", r"blocks.\1.gamma_\2"),
    (rf"{_BODY}(?:layernorm|post_layernorm)\.(.+)", r"norm.\1"),
    (rf"{_BODY}pooler\.layernorm\.(.+)", r"fc_norm.\1"),
    (rf"{_BODY}head\.probe", "attn_pool.latent"),
    (rf"{_BODY}head\.attention\.in_proj_(weight|bias)", r"attn_pool.in_proj.\1"),
    (rf"{_BODY}head\.attention\.out_proj\.(.+)", r"attn_pool.proj.\1"),
    (rf"{_BODY}head\.layernorm\.(.+)", r"attn_pool.norm.\1"),
    (rf"{_BODY}head\.mlp\.(.+)", r"attn_pool.mlp.\1"),
    (r"(?:classifier|cls_classifier)\.(.+)", r"head.\1"),
    (r"distillation_classifier\.(.+)", r"head_dist.\1"),
    (r"visual_projection\.weight", "head.weight"),
    # What takes no part in the answer to a picture.
    (rf"{_BODY}(?:embeddings\.(?:mask_token|position_ids)|pooler\.dense\..+|.+\.relative_position_index)", None),
    (r"(?:text_model\..+|text_projection\..+|logit_scale|logit_bias)", None),
)


@dataclass(frozen=True)
class Architecture:
    """How an architecture of transformers reads its tokens.

    Attributes:
        pooling: what feeds the head.
        head: names of its tensors by timm's names; empty where it has none.
        defaults: of what config.json leaves out when it is as usual.
        norm: whether the last tokens are normalised before they are pooled.
    """

    pooling: Literal["token", "avg", "map"]
    head: tuple[str, ...] = ("head.",)
    defaults: Mapping[str, Any] | None = None
    norm: bool = True


_CLIP = {"num_attention_heads": 12, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "image_size": 224}
_SIGLIP = {"num_attention_heads": 12, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh", "image_size": 224}
ARCHITECTURES: Mapping[str, Architecture] = {
    "ViTModel": Architecture("token", ()),
    "ViTForImageClassification": Architecture("token"),
    "ViTMSNModel": Architecture("token", ()),
    "ViTMSNForImageClassification": Architecture("token"),
    "DeiTModel": Architecture("token", ()),
    "DeiTForImageClassification": Architecture("token"),
    "DeiTForImageClassificationWithTeacher": Architecture("token", ("head.", "head_dist.")),
    "Dinov2Model": Architecture("token", ()),
    "Dinov2WithRegistersModel": Architecture("token", ()),
    "IJepaModel": Architecture("avg", ()),
    "IJepaForImageClassification": Architecture("avg"),
    "BeitForImageClassification": Architecture("avg"),
    "Data2VecVisionForImageClassification": Architecture("avg"),
    "CLIPVisionModel": Architecture("token", (), _CLIP),
    "CLIPVisionModelWithProjection": Architecture("token", ("head.",), _CLIP),
    "CLIPModel": Architecture("token", ("head.",), _CLIP),
    "CLIPForImageClassification": Architecture("avg", ("head.",), _CLIP, norm=False),
    "SiglipVisionModel": Architecture("map", (), _SIGLIP),
    "SiglipModel": Architecture("map", (), _SIGLIP),
    "SiglipForImageClassification": Architecture("avg", ("head.",), _SIGLIP),
}
_TWO_READINGS = "its head reads the class token and the mean of the patch tokens side by side; head=none drops the head"
_OWN_TIMM = "use timm's own model of it"
REFUSED: Mapping[str, str] = {
    "Dinov2ForImageClassification": _TWO_READINGS,
    "Dinov2WithRegistersForImageClassification": _TWO_READINGS,
    "DINOv3ViTModel": f"its positions rotate by rules of its own; {_OWN_TIMM}: timm,id=vit_*_dinov3.*",
    "Swinv2ForImageClassification": f"its attention stays in windows; {_OWN_TIMM}: timm,id=swinv2_*",
    "SwinForImageClassification": f"its attention stays in windows; {_OWN_TIMM}: timm,id=swin_*",
}
ACTIVATIONS: Mapping[str, str | None] = {
    "gelu": None,
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}


@dataclass(frozen=True)
class TransformersModel:
    """``transformers,path=DIR`` (what ``save_pretrained`` wrote), or ``transformers,id=USER/REPO`` from the cache.

    The tensors go into the timm ViT with the same logits, so that all methods work. Models without a head answer with
    their embedding (class token, attention pool or projection): fit a head or prototypes on it.

    Attributes:
        path: folder with config.json and weights (safetensors, also in parts, or .bin; tensors only).
        id: repository of the Hugging Face hub, ``USER/REPO`` or ``USER/REPO@REVISION``.
        online: allow a download.
        head: ``none`` drops a head; needed where timm has none like it.
        img_size: other than that of config.json; positions are resampled.
        mean, std: of the normalisation, one number or three joined by ``+``; else preprocessor_config.json's.
    """

    path: Path | None = None
    id: str = ""
    online: bool = False
    head: Literal["own", "none"] = "own"
    img_size: int | None = None
    mean: str = ""
    std: str = ""

    def load(self) -> Model:
        if (self.path is None) == (not self.id):
            raise BadInputError("transformers needs path=FOLDER or id=USER/REPO, one of the two.")
        folder = self.path.expanduser() if self.path else hub_snapshot(self.id, self.online, SNAPSHOT)
        config = _json(folder / CONFIG)
        name = next(iter(config.get("architectures") or ()), "none")
        kind = self._architecture(name)
        vision = {**(kind.defaults or {}), **config, **config.get("vision_config", {})}
        if not vision.get("use_mean_pooling", True):  # BEiT's choice
            kind = replace(kind, pooling="token")
        weights, files = _weights(folder)
        module: Any = equivalent_vit(
            self._kept(_shaped(renamed(weights, RULES, str(folder))), kind),
            f"{name} in {folder}",
            heads=_needed(vision, "num_attention_heads", folder),
            image_size=_pair(_needed(vision, "image_size", folder)),
            img_size=(self.img_size, self.img_size) if self.img_size else None,
            pooling=kind.pooling,
            eps=_needed(vision, "layer_norm_eps", folder),
            act_layer=_activation(vision, folder),
            gated_mlp=bool(vision.get("use_swiglu_ffn")),
        )
        mean, std = self._normalisation(folder, module.in_chans)
        labels = config.get("id2label") or {}
        classes = tuple(str(labels[key]) for key in sorted(labels, key=int))
        known = len(classes) == module.num_classes and not all(c.startswith("LABEL_") for c in classes)
        facts = (("transformers", name), ("folder", folder.name), ("weights_sha256", _hash(files)))
        return wrap(module, mean=mean, std=std, classes=classes if known else (), provenance=facts)

    def _architecture(self, name: str) -> Architecture:
        if name in REFUSED and not (self.head == "none" and "head=none" in REFUSED[name]):
            raise UnsupportedError(f"{name} has no timm equivalent: {REFUSED[name]}.")
        if name in REFUSED:
            return Architecture("token", ())
        if name not in ARCHITECTURES:
            raise UnsupportedError(
                f"{name} is not known to have a timm equivalent; known are {', '.join(ARCHITECTURES)}."
            )
        return ARCHITECTURES[name]

    def _kept(self, tensors: dict[str, Tensor], kind: Architecture) -> dict[str, Tensor]:
        """Without what this architecture does not run."""
        heads = kind.head if self.head == "own" else ()
        gone = [stem for stem in ("head.", "head_dist.") if stem not in heads]
        gone += [] if kind.norm else ["norm."]
        gone += [] if kind.pooling == "map" else ["attn_pool."]
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(gone))}
        if "head_dist." not in heads and "dist_token" in kept:
            kept["reg_token"] = kept.pop("dist_token")  # a token that nothing reads
        return kept

    def _normalisation(self, folder: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given = [_numbers(text, channels) for text in (self.mean, self.std)]
        if given[0] and given[1]:
            return given[0], given[1]
        if given[0] or given[1]:
            raise BadInputError("pass mean and std together, or neither.")
        if not (folder / PREPROCESSOR).is_file():
            raise BadInputError(
                f"{folder} has no {PREPROCESSOR}, so the normalisation is unknown; pass mean=0.5,std=0.5 or what the "
                "model was trained with."
            )
        facts = _json(folder / PREPROCESSOR)
        if facts.get("do_rescale", True) and abs(facts.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
            raise UnsupportedError(f"{folder / PREPROCESSOR} rescales by {facts['rescale_factor']}, not by 1/255.")
        if not facts.get("do_normalize", True):
            return (0.0,) * channels, (1.0,) * channels
        try:
            return tuple(map(float, facts["image_mean"])), tuple(map(float, facts["image_std"]))
        except (KeyError, TypeError) as error:
            raise BadInputError(f"{folder / PREPROCESSOR} has no image_mean and image_std; pass mean=,std=.") from error


def _weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """All tensors of a folder, and the files that they lie in."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise BadInputError(f"{folder} has none of {', '.join(WEIGHTS)}; give a folder that save_pretrained wrote.")
    files = [found]
    if found.suffix == ".json":
        names = sorted(set(_json(found).get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise BadInputError(f"{found} names no files, or files outside of its folder.")
        files = [folder / name for name in names]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise BadInputError(f"{file} is missing, which {found.name} names.")
        try:
            tensors |= load_file(file) if file.suffix == ".safetensors" else read_tensors(file)
        except SafetensorError as error:
            raise BadInputError(f"{file} is not a readable safetensors file: {error}.") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, files


def _shaped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tokens and positions with the axes that timm gives them, an attention pool's projection in two."""
    shaped = dict(tensors)
    if "cls_token" in shaped:
        shaped["cls_token"] = shaped["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in shaped:
        shaped["pos_embed"] = shaped["pos_embed"].reshape(1, -1, shaped["pos_embed"].shape[-1])
    if "reg_token" in shaped and {"cls_token", "pos_embed"} <= set(shaped):  # registers have no position
        shaped["cls_token"] = shaped["cls_token"] + shaped["pos_embed"][:, :1]
        shaped["pos_embed"] = shaped["pos_embed"][:, 1:]
    if "head.weight" in shaped:  # CLIP's projection has no bias
        shaped.setdefault("head.bias", torch.zeros(len(shaped["head.weight"])))
    for kind in ("weight", "bias"):
        if f"attn_pool.in_proj.{kind}" in shaped:
            joined = shaped.pop(f"attn_pool.in_proj.{kind}")
            width = len(joined) // 3
            shaped[f"attn_pool.q.{kind}"], shaped[f"attn_pool.kv.{kind}"] = joined[:width], joined[width:]
    return shaped


def _activation(vision: Mapping[str, Any], folder: Path) -> str | None:
    name = _needed(vision, "hidden_act", folder)
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"{folder / CONFIG} asks for hidden_act={name!r}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def _needed(vision: Mapping[str, Any], key: str, folder: Path) -> Any:
    if key not in vision:
        raise BadInputError(f"{folder / CONFIG} has no {key!r}; save the model again with save_pretrained.")
    return vision[key]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInputError(f"{path.parent} has no {path.name}; give a folder that save_pretrained wrote.") from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BadInputError(f"{path} holds {type(content).__name__}, not the settings of a model.")
    return content


def _numbers(text: str, channels: int) -> tuple[float, ...]:
    """``0.5`` for all channels, or ``0.485+0.456+0.406``; empty for an empty text."""
    try:
        values = tuple(float(part) for part in text.split("+")) if text else ()
    except ValueError as error:
        raise BadInputError(f"{text!r} is neither a number nor numbers joined by '+'.") from error
    return values * channels if len(values) == 1 else values


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _hash(files: list[Path]) -> str:
    """SHA-256 of the file, or of the hashes of several."""
    hashes = [file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
