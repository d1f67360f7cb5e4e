"""What the gate saw: one finding for one figure of one explainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["not_comparable", "failed", "missing", "worse", "changed", "better", "new", "note"]
BLOCKING: tuple[Kind, ...] = ("worse", "changed", "missing")
FAILED = ("error", "timeout", "memory")


@dataclass(frozen=True)
class Finding:
    """One thing that the gate saw.

    Attributes:
        kind: what follows from it; ``worse``, ``changed`` and ``missing`` are regressions, ``better``, ``new`` and
            ``note`` are not.
        board, explainer: whom it concerns; empty for the run as a whole.
        column: figure, cost, or ``map``.
        text: what was, what is.
    """

    kind: Kind
    board: str
    explainer: str
    column: str
    text: str
