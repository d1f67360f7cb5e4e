"""What plug-ins return, held against what they promised."""

from __future__ import annotations

from typing import Any

import torch

from .contract import BadInputError, Batch, Explanation, Model, Values

Columns = dict[str, tuple[list[float | None], list[str]]]
"""Declared columns of a metric -> (values, None where undefined; reasons)."""


def checked(explanation: Any, batch: Batch, model: Model) -> Explanation:
    """The explanation, if it is one of this batch and model.

    Raises:
        BadInputError: no Explanation, wrong number of maps, another model's geometry, or values that are not finite.
    """
    if not isinstance(explanation, Explanation):
        raise BadInputError(f"explain returned {type(explanation).__name__}, not an Explanation.")
    if len(explanation) != len(batch):
        raise BadInputError(f"{len(explanation)} maps for {len(batch)} samples.")
    if model.geometry is not None and explanation.geometry != model.geometry:
        raise BadInputError("the Explanation has the geometry of another model.")
    if not explanation.native.is_floating_point():
        raise BadInputError(f"a map of {explanation.native.dtype}; maps are floating point.")
    bad = ~torch.isfinite(explanation.native.detach()).flatten(1).all(1)
    if bool(bad.any()):
        names = [id for id, is_bad in zip(batch.ids, bad.tolist(), strict=True) if is_bad]
        raise BadInputError(
            f"NaN or infinite values in the map of {', '.join(names[:3])} ({len(names)} of {len(batch)})."
        )
    return explanation


def add_scores(columns: Columns, scores: Any, count: int) -> None:
    """Appends a batch's scores to the declared columns.

    Raises:
        BadInputError: other columns than declared, a wrong number of values, or NaN without a reason.
    """
    if set(scores) != set(columns):
        raise BadInputError(f"score returned the columns {sorted(scores)}; declared are {sorted(columns)}.")
    for name, values in scores.items():
        if not isinstance(values, Values):
            raise BadInputError(f"column {name!r} is a {type(values).__name__}; return Values.of(...).")
        if len(values.values) != count or len(values.reasons) != count:
            raise BadInputError(f"column {name!r} has {len(values.values)} values for {count} samples.")
        known = [None if reason else float(value) for value, reason in zip(values.values, values.reasons, strict=True)]
        if any(value is not None and value - value != 0 for value in known):
            raise BadInputError(f"column {name!r} has values that are not finite and no reason; use Values.of.")
        columns[name][0].extend(known)
        columns[name][1].extend(values.reasons)
