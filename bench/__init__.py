"""The engine, the command line and the public API: explain, evaluate, register_explainer, Explainer.

Nothing is imported before it is asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, explain, register_explainer
    from .contract import Explainer

__all__ = ["Explainer", "evaluate", "explain", "register_explainer"]


def __getattr__(name: str) -> Any:
    if name == "Explainer":
        from .contract import Explainer

        return Explainer
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
