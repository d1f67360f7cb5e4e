"""What `bench train` is told, and how the shipped checkpoints are made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..models.builtin import BUILTIN_MODELS
from ..models.optimise import Schedule
from ..models.shipped import checkpoint_name
from .contract import BadInputError, Spec, UnknownNameError

Scenes = Literal["plain", "counterfactual"]


@dataclass(frozen=True)
class Phase:
    """One run of the optimiser.

    Attributes:
        schedule: how to optimise.
        scenes: ``plain`` samples, or those of :func:`counterfactual_samples`, which teach the truth bands.
    """

    schedule: Schedule
    scenes: Scenes = "plain"


@dataclass(frozen=True)
class TrainConfig:
    """What to train on what.

    Attributes:
        model: id of a built-in model; ``timm,id=NAME`` with ``random=true`` or ``weights=FILE``, and further arguments
            of ``timm.create_model`` such as ``img_size=96``; or ``spectral,backbone=NAME`` with the parameters of
            :class:`~vitxai.bench.trainable.SpectralModel`.
        data: data set spec.
        seed: of initial weights, order and augmentation.
        fit, validation, test: samples of each split; None for all. The test split is looked at once, after training.
        schedule: how to optimise in the first phase, on plain samples.
        refinement: a second phase, which begins with the first one's weights as they would be stored.
        preset: key of ``PRESETS`` that the schedule began with; None for the model's own.
        freeze: train the head of a timm ViT alone, on features that are computed once (linear probe).
        shuffle_labels: give the fit samples each other's labels, to be memorised; the best epoch is that of the lowest
            loss on these. Such a model is what the metric ``label_randomisation`` compares with.
        resume: keep the state after each epoch beside the checkpoint, and go on from it where it is found.
        threads: of torch; None to leave them as they are.
        device: where to train.
        out: the checkpoint; None for ``ID_sSEED.safetensors`` (``ID_shuffled_sSEED``) in the working folder. Its log is
            beside it (``.json``).
    """

    model: str
    data: str
    seed: int = 0
    fit: int | None = None
    validation: int | None = None
    test: int | None = None
    schedule: Schedule = field(default_factory=Schedule)
    refinement: Phase | None = None
    preset: str | None = None
    freeze: bool = False
    shuffle_labels: bool = False
    resume: bool = False
    threads: int | None = None
    device: str = "cpu"
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise BadInputError(f"a training seed is a non-negative integer below 2^63, not {self.seed}.")
        if self.freeze and Spec.parse(self.model).name != "timm":
            raise BadInputError(f"--freeze trains the head of a timm ViT alone, and {self.model!r} is none.")
        if self.freeze and self.schedule.augmentation != "none":
            raise BadInputError(
                f"--freeze computes features once, so that images cannot change from epoch to epoch: "
                f"augmentation={self.schedule.augmentation} must be none."
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """All phases, in order; of shuffled labels the first, whose samples keep their labels."""
        return (Phase(self.schedule), *([self.refinement] if self.refinement and not self.shuffle_labels else []))

    @property
    def path(self) -> Path:
        """Where the checkpoint is written."""
        spec = Spec.parse(self.model)
        id = str(spec.params.get("id", spec.name)) + ("_shuffled" if self.shuffle_labels else "")
        return self.out or Path(checkpoint_name(id, self.seed))


_LEAVES = Schedule(epochs=12, batch_size=32, learning_rate=2e-3, augmentation="dihedral")
_TRUTH_BANDS = Phase(replace(_LEAVES, epochs=10), "counterfactual")
_GLYPHS = Schedule(epochs=20, batch_size=32, learning_rate=1.5e-3, augmentation="shift")

RECIPES: Mapping[str, TrainConfig] = {
    **{
        id: TrainConfig(id, "leaves", fit=2048, validation=512, test=1000, schedule=_LEAVES, refinement=_TRUTH_BANDS)
        for id in ("leaves_spectral", "leaves_fused")
    },
    "glyphs": TrainConfig(
        "glyphs",
        "glyphs",
        fit=8000,
        validation=500,
        test=1000,
        schedule=_GLYPHS,
        refinement=Phase(replace(_GLYPHS, epochs=10, learning_rate=1e-3, augmentation="affine")),
    ),
}
"""How the shipped checkpoints are made; the configurations were chosen on the validation split."""

FINE_TUNING = Schedule(epochs=20, batch_size=32, learning_rate=5e-4, augmentation="mirror", patience=5)
"""The schedule for a timm ViT, or a spectral one over it, where nothing else is asked for."""

PROBING = Schedule(epochs=100, batch_size=64, learning_rate=3e-3, weight_decay=1e-4, label_smoothing=0.0, patience=10)
"""The schedule of a linear probe (``freeze``) where nothing else is asked for."""

_PAPERS = Schedule(weight_decay=1e-2, label_smoothing=0.0, betas=(0.9, 0.999))
"""What the papers leave open, as torch's AdamW has it."""

PRESETS: Mapping[str, Schedule] = {
    "focusvit": replace(
        _PAPERS, epochs=50, learning_rate=1e-4, policy="step", step_epochs=10, step_factor=0.7, patience=5,
        augmentation="photo",
    ),
    "selectivevit": replace(
        _PAPERS, epochs=10, batch_size=16, learning_rate=3e-4, policy="cosine", amp=True, patience=3
    ),
    "focus": replace(_PAPERS, epochs=100, learning_rate=5e-4, betas=(0.9, 0.95), policy="constant"),
}  # fmt: skip
"""The papers' recipes. Theirs: optimiser, learning rates and policies, FocusViT's batch, patience and augmentations,
SelectiveViT's epochs, batch and mixed precision, FOCUS's epochs, betas and weight decay. Not said there, and ours: at
most 50 epochs of FocusViT and how strong its colour jitter is, SelectiveViT's patience, FOCUS's batch and policy, the
gradient's largest norm, and that every class has the same say in the loss."""


def recipe(model: str, data: str | None = None, **changes: Any) -> TrainConfig:
    """The configuration of a built-in id, or of a timm or spectral spec on the data of a spec, with changed fields.

    Fields of the schedule are changed by their own names: ``recipe("glyphs", seed=1, epochs=5)``. Values that are None
    change nothing.

    Raises:
        BadInputError: a timm or spectral spec without data, or a field that does not exist.
        UnknownNameError: no such preset.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    of_schedule = {f.name for f in fields(Schedule)} & set(given)
    of_config = {f.name for f in fields(TrainConfig)} & set(given)
    if unknown := sorted(set(given) - of_schedule - of_config):
        raise BadInputError(f"training has no option {', '.join(unknown)}.")
    base = _base(model, data, given.get("preset"), given.get("freeze", False))
    schedule = replace(given.pop("schedule", base.schedule), **{name: given[name] for name in of_schedule})
    changed = {name: given[name] for name in of_config - {"schedule"}}
    return replace(base, schedule=schedule, **changed)


def _base(model: str, data: str | None, preset: str | None, freeze: bool) -> TrainConfig:
    if model in RECIPES:
        if preset:
            raise BadInputError(f"{model!r} has a recipe of its own; leave --preset {preset} out.")
        return replace(RECIPES[model], data=data or RECIPES[model].data)
    if Spec.parse(model).name not in ("timm", "spectral"):
        raise BadInputError(
            f"{model!r} cannot be trained; name a built-in model ({', '.join(BUILTIN_MODELS)}), a timm one "
            "(timm,id=vit_tiny_patch16_224,random=true) or a spectral one over it "
            "(spectral,backbone=vit_tiny_patch16_224,groups=10,random=true)."
        )
    if not data:
        raise BadInputError(f"{model!r} needs data to be trained on; pass --data, e.g. folder,path=DIR.")
    return TrainConfig(model, data, schedule=_beginning(preset, freeze))


def _beginning(preset: str | None, freeze: bool) -> Schedule:
    if preset is None:
        return PROBING if freeze else FINE_TUNING
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    return PRESETS[preset]


def command(config: TrainConfig) -> str:
    """The command line that makes a configuration; what a recipe or preset says already is left out."""
    built_in = config.model in RECIPES
    base = RECIPES[config.model] if built_in else _base(config.model, "-", config.preset, config.freeze)
    words = ["bench", "train", config.model, "--seed", str(config.seed)]
    for name in ("data", "fit", "validation", "test"):
        words += _option(name, getattr(config, name), getattr(base, name))
    words += _option("preset", config.preset, None) + _option("freeze", config.freeze, False)
    words += _option("shuffle_labels", config.shuffle_labels, False)
    for f in fields(Schedule):
        words += _option(f.name, getattr(config.schedule, f.name), getattr(base.schedule, f.name))
    return shlex.join(words)


def _option(name: str, value: Any, default: Any) -> list[str]:
    if value == default:
        return []
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
