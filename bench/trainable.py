"""What is trained: an untrained model with its preprocessing, and a split as normalised tensors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ..models.builtin import BUILTIN_MODELS
from ..models.checkpoint import Checkpoint, round_to_storage
from ..models.handle import wrap
from ..models.load import load_model
from ..models.optimise import LabelledInputs
from ..models.preprocess import collate
from ..models.spectral_backbone import Embed, Mixing, SpectralBackbone, Tokens
from ..models.spectral_groups import Scheme, spectral_groups
from .contract import BadInputError, Dataset, DatasetInfo, Model, Sample, Spec, Split
from .contract.registry import instantiate
from .initialise import initialise

log = logging.getLogger(__name__)

_STATISTICS_SAMPLES = 256
_CHUNK = 64

Size = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class SpectralModel:
    """``spectral,backbone=vit_base_patch14_dinov2,img_size=224,weights=FILE``: band groups over a timm ViT.

    Attributes:
        backbone: timm's model id.
        weights, online, img_size: as for ``timm``: a file in place of the cached weights, leave to download, pixels.
        random: freshly initialised weights, drawn with the training seed; only when typed.
        groups, scheme, group_seed: see :func:`~vitxai.models.spectral_groups.spectral_groups`.
        embed, tokens, mixing: see :class:`~vitxai.models.spectral_backbone.SpectralBackbone`.
        frozen: whether the backbone's weights stay; by default they do unless they are random.
        patch_size, embed_dim, depth, num_heads: other than the timm model's, for small backbones with random weights.
    """

    backbone: str
    weights: Path | None = None
    random: bool = False
    online: bool = False
    img_size: Size | None = None
    groups: Size = 10
    scheme: Scheme = "physiological"
    group_seed: int = 0
    embed: Embed = "adapter"
    tokens: Tokens = "group"
    mixing: Mixing = "full"
    frozen: bool | None = None
    patch_size: Size | None = None
    embed_dim: Size | None = None
    depth: Size | None = None
    num_heads: Size | None = None

    def __post_init__(self) -> None:
        if self.random and (self.weights or self.online):
            raise BadInputError("random=true and weights=FILE or online=true contradict each other; leave one out.")
        if self.shape and not self.random:
            raise BadInputError(f"{', '.join(self.shape)} change the shape of the weights; type random=true as well.")

    @property
    def shape(self) -> dict[str, int]:
        """Arguments that give the backbone another shape than timm's."""
        asked = {name: getattr(self, name) for name in ("patch_size", "embed_dim", "depth", "num_heads")}
        return {name: size for name, size in asked.items() if size is not None}

    @property
    def trains_head_only(self) -> bool:
        """Whether the backbone's own weights stay as they are."""
        return not self.random if self.frozen is None else self.frozen


def blank_model(spec: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    """A model for a data set's classes (or traits) and channels, before training, with its description.

    A built-in model has fresh weights, drawn from ``seed``, and is normalised by the mean and standard deviation of its
    ``fit`` first samples, 256 at most. A timm model has the weights and normalisation that its spec asks for, and a
    fresh head; a spectral one has the weights that it asks for and normalisation by fit samples. Parameters that are to
    be trained require gradients.

    Raises:
        BadInputError, UnknownNameError: the spec is wrong, or its weights are missing.
    """
    kind = "builtin" if spec in BUILTIN_MODELS else Spec.parse(spec).name
    model, description = {"builtin": _builtin, "timm": _timm, "spectral": _spectral}[kind](spec, dataset, fit, seed)
    module = model.module.train().requires_grad_(True)
    if isinstance(module, SpectralBackbone) and _spectral_model(spec).trains_head_only:
        module.freeze_backbone()
    return replace(model, module=module), description


def channel_statistics(dataset: Dataset, fit: int | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation [C] over the pixels of the first fit samples, whatever their sizes."""
    count = min(fit or _STATISTICS_SAMPLES, _STATISTICS_SAMPLES)
    inputs = [sample.input for sample in plain_samples(dataset, "fit", count)]
    if not inputs:
        raise BadInputError("the fit split has no sample that can be read, so there is nothing to learn.")
    pixels = np.concatenate([array.reshape(len(array), -1) for array in inputs], axis=1)
    mean, variance = pixels.mean(1, dtype=np.float64), pixels.var(1, dtype=np.float64)
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def output_names(info: DatasetInfo) -> tuple[str, ...]:
    """What a model of the data set gives: a logit a class, or a number a trait where there are no classes.

    Raises:
        BadInputError: the data set has neither.
    """
    if not (info.classes or info.traits):
        raise BadInputError("the data set names neither classes nor traits, so there is nothing to learn.")
    return info.classes or info.traits


def plain_samples(dataset: Dataset, split: Split, count: int | None) -> Iterator[Sample]:
    """The first samples of a split (all when None), one by one; those that cannot be read are left out, with a warning.

    Raises:
        BadInputError: one cannot be read, and the data set is strict.
    """
    for id in dataset.ids(split, count):
        try:
            sample = dataset.sample(id)
        except BadInputError as error:
            if getattr(dataset, "strict", False):
                raise
            log.warning("a sample is left out: %s", error)
        else:
            yield sample


def labelled_inputs(samples: Iterable[Sample], model: Model, traits: int = 0) -> LabelledInputs:
    """Samples preprocessed for a model, on the CPU, with class indices [N] or this many traits [N,T] in float32.

    Raises:
        BadInputError: a sample has no label, or not these traits as finite numbers.
    """
    inputs: list[torch.Tensor] = []
    truths: list[torch.Tensor] = []
    remaining = iter(samples)
    while chunk := list(islice(remaining, _CHUNK)):
        truths += [_truth(sample, traits) for sample in chunk]
        bare = [Sample(id=sample.id, input=sample.input) for sample in chunk]
        inputs.append(collate(bare, model).inputs.cpu())
    if not inputs:
        none = torch.empty(0, traits) if traits else torch.empty(0, dtype=torch.long)
        return LabelledInputs(torch.empty(0, model.channels, *model.input_size), none)
    return LabelledInputs(torch.cat(inputs), torch.stack(truths))


def pooled_features(module: nn.Module, part: LabelledInputs) -> LabelledInputs:
    """What the head of a ViT reads, [N,D], in place of the inputs."""
    device = next(module.parameters()).device
    vit: Any = module.eval()
    with torch.no_grad():
        rows = [
            vit.forward_head(vit.forward_features(inputs.to(device)), pre_logits=True).float().cpu()
            for inputs in torch.split(part.inputs, _CHUNK)  # type: ignore[no-untyped-call]
        ]
    return LabelledInputs(torch.cat(rows), part.labels)


def linear_head(module: nn.Module) -> nn.Linear:
    """The head of a timm ViT.

    Raises:
        BadInputError: it is no single linear layer.
    """
    found = module.get_classifier() if hasattr(module, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(found, nn.Linear) or not hasattr(module, "forward_head"):
        raise BadInputError(
            f"the head of {type(module).__name__} is no single linear layer, so --freeze cannot fit it."
        )
    return found


def _truth(sample: Sample, traits: int) -> torch.Tensor:
    if not traits:
        if sample.label is None:
            raise BadInputError(f"sample {sample.id!r} has no label; training needs one for each sample.")
        return torch.tensor(sample.label)
    values = np.asarray([] if sample.traits is None else sample.traits, dtype=np.float32)
    if values.shape != (traits,) or not np.isfinite(values).all():
        raise BadInputError(f"sample {sample.id!r} has traits {values.tolist()}; training needs {traits} finite ones.")
    return torch.from_numpy(values)


def _builtin(id: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    definition, info = BUILTIN_MODELS[id], dataset.info()
    mean, std = channel_statistics(dataset, fit)
    description = Checkpoint(
        architecture=definition.architecture,
        arguments=definition.arguments_for(info),
        input_size=definition.input_size,
        mean=mean,
        std=std,
        classes=info.classes,
        wavelengths=info.wavelengths,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = description.build()
    initialise(module, torch.Generator().manual_seed(seed))
    return wrap(module, name=id, mean=mean, std=std), description


def _timm(spec: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    asked, info = Spec.parse(spec), dataset.info()
    shape = {"num_classes": len(output_names(info)), "in_chans": info.channels}
    model = load_model(Spec(asked.name, {**asked.params, **shape, "head": "random", "seed": seed}))
    module: Any = model.module
    known = len(module.pretrained_cfg["mean"]) == info.channels
    mean, std = (model.mean, model.std) if known else channel_statistics(dataset, fit)
    description = Checkpoint(
        architecture="timm",
        arguments={"model_name": module.pretrained_cfg["architecture"], "img_size": model.input_size, **shape},
        input_size=model.input_size,
        mean=mean,
        std=std,
        classes=output_names(info),
        wavelengths=info.wavelengths,
    )
    return replace(model, mean=mean, std=std), description


def _spectral_model(spec: str) -> SpectralModel:
    return instantiate(SpectralModel, Spec.parse(spec), "model")


def _spectral(spec: str, dataset: Dataset, fit: int | None, seed: int) -> tuple[Model, Checkpoint]:
    asked, info = _spectral_model(spec), dataset.info()
    if not info.wavelengths:
        raise BadInputError(f"{dataset.name!r} does not say its bands' wavelengths, which {spec!r} groups them by.")
    mean, std = channel_statistics(dataset, fit)
    options: dict[str, Any] = {
        "groups": spectral_groups(info.wavelengths, asked.groups, asked.scheme, asked.group_seed),
        "num_classes": len(output_names(info)),
        "embed": asked.embed,
        "tokens": asked.tokens,
        "mixing": asked.mixing,
    }
    pretrained = None if asked.random else _pretrained_backbone(asked)
    pixels = asked.img_size if pretrained is None else pretrained.input_size
    arguments = {**({} if pixels is None else {"img_size": pixels}), **asked.shape}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SpectralBackbone(
            asked.backbone if pretrained is None else pretrained.module, arguments=arguments, **options
        )
    if pretrained is None:
        initialise(module, torch.Generator().manual_seed(seed))
    # What stays frozen must be what the checkpoint will hold.
    round_to_storage(module)
    model = wrap(module, name=spec, mean=mean, std=std, provenance=() if pretrained is None else pretrained.provenance)
    description = Checkpoint(
        architecture="spectral_backbone",
        arguments={"backbone": asked.backbone.partition(".")[0], "arguments": arguments, **options},
        input_size=model.input_size,
        mean=mean,
        std=std,
        classes=output_names(info),
        wavelengths=info.wavelengths,
    )
    return model, description


def _pretrained_backbone(asked: SpectralModel) -> Model:
    given = {"weights": asked.weights, "img_size": asked.img_size}
    known = {name: value for name, value in given.items() if value is not None}
    return load_model(Spec("timm", {"id": asked.backbone, "online": asked.online, "num_classes": 0, **known}))
