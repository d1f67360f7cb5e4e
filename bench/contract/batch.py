"""Samples as data sets give them, and batches as models eat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Split = Literal["fit", "validation", "test"]
TargetPolicy = Literal["prediction", "label", "runner_up"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample as a data set gives it, before a model's preprocessing.

    Attributes:
        id: unique in its data set and stable for ever, e.g. ``test/00012``.
        input: [C,H,W] float32; RGB in [0,1], or reflectance.
        label: class index; None where unknown.
        mask: [H,W] bool, the evidence (lesion, object); None where the data set has none.
        ignore: [H,W] bool, pixels without truth (void borders); left out of every localisation figure.
        distractors: [H,W] bool, planted things that carry no class (sham spots, decoys).
        leaf: [H,W] bool, the plant or foreground.
        bands: [C] float32 >= 0, the continuous band truth; all zero where the sample has no evidence.
        healed: [C,H,W] float32, the exact counterfactual: the same sample without its evidence.
        traits: [T] float32, the continuous truths of a regression, in the order of ``DatasetInfo.traits``.
    """

    id: str
    input: NDArray[np.float32]
    label: int | None = None
    mask: NDArray[np.bool_] | None = None
    ignore: NDArray[np.bool_] | None = None
    distractors: NDArray[np.bool_] | None = None
    leaf: NDArray[np.bool_] | None = None
    bands: NDArray[np.float32] | None = None
    healed: NDArray[np.float32] | None = None
    traits: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """What explainers and metrics get; all tensors share the first axis B, an absent field is None for the whole batch.

    Attributes:
        ids: sample ids, keys of all randomness.
        inputs: [B,C,H,W] preprocessed (normalised) model inputs.
        targets: [B] int64 class explained, by the suite's target policy.
        labels: [B] int64, -1 where unknown.
        mask, ignore, distractors, leaf: [B,H,W] bool at the model's input size.
        bands: [B,C] float32, see :class:`Sample`.
        healed: [B,C,H,W] preprocessed counterfactual.
    """

    ids: tuple[str, ...]
    inputs: Tensor
    targets: Tensor
    labels: Tensor
    mask: Tensor | None = None
    ignore: Tensor | None = None
    distractors: Tensor | None = None
    leaf: Tensor | None = None
    bands: Tensor | None = None
    healed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows only, in this order."""
        picked = {
            field.name: value[list(rows)]
            for field in fields(self)
            if field.name != "ids" and (value := getattr(self, field.name)) is not None
        }
        return replace(self, ids=tuple(self.ids[row] for row in rows), **picked)
