"""Rules that all metrics share for maps and columns: float64, non-finite rows, the constant map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..bench.contract import BadInputError, Explanation, Values

CONSTANT_TOLERANCE = 1e-6
NO_EVIDENCE = "no evidence in this sample"
NOT_FINITE = "the map is not finite"
CONSTANT_MAP = "the map is constant"


def in_float64(explanation: Explanation | None) -> Explanation:
    """The same explanation with a float64 native map, so that reductions and upsampling lose nothing.

    Raises:
        BadInputError: there is no explanation.
    """
    if explanation is None:
        raise BadInputError("this metric scores explanations and was given None; only of='model' metrics do without.")
    return replace(explanation, native=explanation.native.detach().double())


def is_constant(maps: Tensor) -> Tensor:
    """Rows [B] of maps [B,...] whose range is at most 1e-6 of their largest magnitude; the zero map is one of them."""
    flat = maps.flatten(1)
    return flat.amax(1) - flat.amin(1) <= CONSTANT_TOLERANCE * flat.abs().amax(1)


def finite_rows(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps [B,...] with every row that holds a NaN or an infinity set to zero, and which rows [B] those were."""
    broken = ~maps.flatten(1).isfinite().all(1)
    return maps.masked_fill(broken.view(-1, *[1] * (maps.ndim - 1)), 0.0), broken


def column(values: Tensor, undefined: Mapping[str, Tensor] | None = None) -> Values:
    """One column from a tensor [B] and the rows [B] that each reason makes undefined; the first that applies wins."""
    reasons = {reason: rows.cpu().numpy() for reason, rows in (undefined or {}).items()}
    return Values.of(values.detach().double().cpu().numpy(), reasons)
