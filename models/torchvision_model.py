"""torchvision's ViTs, as the timm model that computes the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bench.contract import BadInputError, Model, UnknownNameError, UnsupportedError
from .equivalent import Rules, equivalent_vit, renamed
from .file_model import file_hash, read_tensors
from .handle import wrap

KINDS: Mapping[str, tuple[int, int, int]] = {
    "vit_b_16": (12, 768, 16),
    "vit_b_32": (12, 768, 32),
    "vit_l_16": (16, 1024, 16),
    "vit_l_32": (16, 1024, 32),
    "vit_h_14": (16, 1280, 14),
}
"""Attention heads, which the tensors do not tell; width and patch size, which tell whose tensors they are."""

_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
RULES: Rules = (
    (r"conv_proj\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (rf"{_LAYER}ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (rf"{_LAYER}self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (rf"{_LAYER}self_attention\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (rf"{_LAYER}mlp\.(?:0|linear_1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (rf"{_LAYER}mlp\.(?:3|linear_2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"heads\.head\.(.+)", r"head.\1"),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of all weights that torchvision publishes."""


@dataclass(frozen=True)
class TorchvisionModel:
    """``torchvision,id=vit_b_16``: from ``weights``, torch's cache or, when asked, the network.

    The tensors go into the timm ViT with the same logits, so that all methods work; inputs are normalised with
    ImageNet's mean and standard deviation, as all published weights ask for.

    Attributes:
        id: vit_b_16, vit_b_32, vit_l_16, vit_l_32 or vit_h_14; with the name of published weights behind a dot,
            ``vit_b_16.IMAGENET1K_SWAG_LINEAR_V1``, else torchvision's default ones.
        weights: a state dict that ``torch.save`` wrote, to load instead; a fine-tuned one keeps its own head.
        random: freshly initialised weights, drawn with ``seed``; only when typed, and named in every result.
        online: allow a download from download.pytorch.org.
        num_classes, img_size: of random weights; else the weights' own (``img_size`` resamples the positions).
    """

    id: str
    weights: Path | None = None
    random: bool = False
    online: bool = False
    num_classes: int | None = None
    img_size: int | None = None
    seed: int = 0

    def load(self) -> Model:
        name, _, tag = self.id.partition(".")
        if name not in KINDS:
            raise UnknownNameError("torchvision ViT", name, KINDS)
        if self.random and (self.weights or tag):
            raise BadInputError("random=true contradicts weights; leave one out.")
        facts: tuple[tuple[str, str], ...] = (("weights", f"random, seed {self.seed}"),)
        if self.random:
            weights = self._drawn(name)
        else:
            path = self.weights or self._published(name, tag)
            weights, facts = self._read(path), (("weights", path.name), ("weights_sha256", file_hash(path)))
            self._check_head(weights, path)
        module = equivalent_vit(
            renamed(weights, RULES, str(self.weights or self.id)),
            f"torchvision model {self.id!r}",
            heads=KINDS[name][0],
            image_size=_learned_size(weights, name),
            img_size=(self.img_size, self.img_size) if self.img_size else None,
        )
        return wrap(module, mean=MEAN, std=STD, provenance=(("torchvision_id", self.id), *facts))

    def _drawn(self, name: str) -> Mapping[str, Tensor]:
        import torchvision

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = torchvision.models.get_model(
                name, num_classes=self.num_classes or 1000, image_size=self.img_size or 224
            )
            # torchvision begins with a head of zeros, whose answer is the same for every input.
            torch.nn.init.trunc_normal_(module.heads.head.weight, std=0.02)
        weights: Mapping[str, Tensor] = module.state_dict()
        return weights

    def _read(self, path: Path) -> Mapping[str, Tensor]:
        if not path.is_file():
            raise BadInputError(f"no weights at {path} for torchvision model {self.id!r}.")
        content = read_tensors(path)
        while isinstance(content, dict) and (inner := content.get("state_dict", content.get("model"))) is not None:
            content = inner
        if not isinstance(content, dict) or "class_token" not in content:
            raise BadInputError(f"{path} is no state dict of a torchvision ViT: it has no 'class_token'.")
        if "conv_proj.weight" not in content:
            raise UnsupportedError(f"{path} has a stem of several convolutions, which timm's ViT does not.")
        if "heads.pre_logits.weight" in content:
            raise UnsupportedError(f"{path} has a head of two layers (pre_logits), which timm's ViT does not.")
        return content

    def _check_head(self, weights: Mapping[str, Tensor], path: Path) -> None:
        classes = len(weights["heads.head.bias"]) if "heads.head.bias" in weights else None
        if classes is None or self.num_classes not in (None, classes):
            raise BadInputError(
                f"the head in {path} has {classes or 'no'} classes, so num_classes={self.num_classes} would be a "
                "random head: leave num_classes out, or fine-tune with `bench train`."
            )

    def _published(self, name: str, tag: str) -> Path:
        """The published file in torch's cache or, with ``online``, from the network."""
        import torchvision

        published: Any = torchvision.models.get_model_weights(name)
        if tag and tag not in published.__members__:
            raise UnknownNameError(f"weights of torchvision's {name}", tag, published.__members__)
        url = published[tag or "DEFAULT"].url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        path: Path = folder / url.rpartition("/")[2]
        if path.is_file():
            return path
        ways = (
            "On a machine with a network add online=true; on one without, copy the file into that folder, or add "
            "weights=FILE. Random weights must be typed: random=true."
        )
        if not self.online:
            raise BadInputError(f"{path.name} of torchvision model {self.id!r} ({url}) is not in {folder}. {ways}")
        folder.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
        except (OSError, RuntimeError) as error:
            raise BadInputError(
                f"the weights of torchvision model {self.id!r} could not be fetched ({url}, cache {folder}): {error} "
                f"{ways}"
            ) from error
        return path


def _learned_size(weights: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """(H, W) that the positions were learned for; torchvision's pictures are square."""
    width, _, patch, _ = weights["conv_proj.weight"].shape
    if (width, patch) != KINDS[name][1:]:
        raise BadInputError(f"the weights are {width} wide with patches of {patch} pixels, so they are none of {name}.")
    side = round((weights["encoder.pos_embedding"].shape[1] - 1) ** 0.5) * patch
    return side, side
