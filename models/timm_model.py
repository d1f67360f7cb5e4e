"""timm models with pretrained weights: from a file, a folder, the Hugging Face cache or, when asked, the hub."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg
from torch import nn

from ..bench.contract import BadInputError, Model, UnknownNameError
from .checkpoint import is_checkpoint
from .file_model import file_hash, read_tensors
from .handle import wrap
from .hub import find_weights, hub_snapshot

LOCAL_FOLDER, HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class TimmModel:
    """``timm,id=vit_base_patch16_224.augreg_in21k_ft_in1k``: weights from ``weights``, a folder, or the local cache.

    Attributes:
        id: timm's model id; ``local-dir:FOLDER`` (written by timm's ``save_for_hf``); or ``hf-hub:USER/REPO``.
        weights: a .safetensors, .pth, .bin or JAX .npz file to load instead of the cached weights.
        random: freshly initialised weights, drawn with ``seed``; only when typed, and named in every result.
        online: allow a download from the Hugging Face hub.
        in_chans, img_size, num_classes: other than the pretrained ones; timm adapts patch embedding and positions.
        head: ``random`` allows a head drawn with ``seed`` where ``num_classes`` is not that of the weights.
    """

    id: str
    weights: Path | None = None
    random: bool = False
    online: bool = False
    in_chans: int | None = None
    img_size: int | str | None = None
    num_classes: int | None = None
    head: Literal["pretrained", "random"] = "pretrained"
    seed: int = 0

    def load(self) -> Model:
        if self.random and self.weights:
            raise BadInputError("random=true and weights=FILE contradict each other; leave one out.")
        name = self.id
        if name.startswith(HUB):
            name = f"{LOCAL_FOLDER}{hub_snapshot(name.removeprefix(HUB), self.online)}"
        if name.startswith(LOCAL_FOLDER):
            return self._from_folder(name)
        cfg = _pretrained_cfg(self.id)
        if self.random:
            return self._wrapped(self._create(), ("weights", f"random, seed {self.seed}"))
        path = self.weights or find_weights(self.id, cfg, self.online)
        return self._from_file(path, cfg)

    def _from_folder(self, name: str) -> Model:
        folder = Path(name.removeprefix(LOCAL_FOLDER))
        if not (folder / "config.json").is_file():
            raise BadInputError(f"{folder} has no config.json; give a folder written by timm.models.save_for_hf.")
        if self.random or self.weights:
            raise BadInputError(f"{name} brings its own weights; leave random and weights out.")
        module: Any = self._create(name, pretrained=True)
        self._check_head(module.pretrained_cfg["num_classes"], module.num_classes, str(folder))
        return self._wrapped(module, ("folder", folder.name))

    def _from_file(self, path: Path, cfg: PretrainedCfg) -> Model:
        if not path.is_file():
            raise BadInputError(f"no weights at {path} for timm model {self.id!r}.")
        if is_checkpoint(path):
            raise BadInputError(f"{path} was written by `bench train`; load it with file,path={path}.")
        classes = _head_rows(path, cfg.classifier)
        classes = cfg.num_classes if classes is None else classes
        wanted = classes if self.num_classes is None else self.num_classes
        self._check_head(classes, wanted, str(path))
        # timm drops the head silently where its own num_classes differs from this overlay.
        overlay = {"file": str(path), "num_classes": classes, "custom_load": path.suffix == ".npz"}
        module = self._create(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=wanted)
        return self._wrapped(module, ("weights", path.name), ("weights_sha256", file_hash(path)), *_revision(path))

    def _check_head(self, pretrained: int, wanted: int, source: str) -> None:
        if wanted not in (0, pretrained) and self.head != "random":
            raise BadInputError(
                f"the head in {source} has {pretrained} classes, so num_classes={wanted} would be a random head: leave "
                "num_classes out, fine-tune with `bench train`, or type head=random."
            )

    def _create(self, name: str | None = None, **more: Any) -> nn.Module:
        arguments = {"in_chans": self.in_chans, "img_size": _size(self.img_size), "num_classes": self.num_classes}
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                module: nn.Module = timm.create_model(name or self.id, **{**arguments, **more})
        except TypeError as error:
            raise BadInputError(f"timm model {self.id!r} does not take these parameters: {error}.") from error
        except (RuntimeError, AssertionError, KeyError) as error:
            raise BadInputError(f"the weights do not fit timm model {self.id!r}: {error}") from error
        return module

    def _wrapped(self, module: nn.Module, *provenance: tuple[str, Any]) -> Model:
        facts = [("timm_id", self.id), ("timm", timm.__version__), *provenance]
        facts += [("head", f"random, seed {self.seed}")] if self.head == "random" else []
        return wrap(module, input_size=_pair(_size(self.img_size)), provenance=facts)


def _pretrained_cfg(id: str) -> PretrainedCfg:
    architecture, _, tag = id.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", id, difflib.get_close_matches(id, timm.list_models(), n=8, cutoff=0.4))
    known = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and id not in known:
        raise UnknownNameError("timm model", id, known)
    cfg = timm.get_pretrained_cfg(id)
    return cfg or PretrainedCfg()


def _head_rows(path: Path, classifier: str | tuple[str, ...] | None) -> int | None:
    """Classes of the head in a file; None where the file has none by the name that timm gives it."""
    name = classifier if isinstance(classifier, str) else (classifier or ("head",))[0]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return int(arrays["head/bias"].shape[0]) if "head/bias" in arrays else None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                bias = f"{name}.bias"
                return int(file.get_slice(bias).get_shape()[0]) if bias in file.keys() else None  # noqa: SIM118
        except SafetensorError as error:
            raise BadInputError(f"{path} is not a readable safetensors file: {error}.") from error
    content = read_tensors(path)
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    for key in (f"{name}.bias", f"module.{name}.bias"):
        if key in content:
            return int(content[key].shape[0])
    return None


def _revision(path: Path) -> tuple[tuple[str, Any], ...]:
    """The hub commit, which names the snapshot folder of the cache."""
    return (("hub_revision", path.parent.name),) if path.parent.parent.name == "snapshots" else ()


def _size(text: int | str | None) -> int | tuple[int, int] | None:
    """``224`` or ``224x160`` (height x width)."""
    if text is None or isinstance(text, int):
        return text
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise BadInputError(f"img_size={text!r} is neither PIXELS nor HEIGHTxWIDTH.")
    sides = tuple(map(int, parts))
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
