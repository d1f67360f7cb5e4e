"""Errors that plug-ins and the engine raise on purpose; every one says what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VitxaiError(Exception):
    """Base of all deliberate errors of this project."""


class BadInputError(VitxaiError, ValueError):
    """A value that the caller passed cannot be used: wrong shape, NaN, out of range, unreadable file."""


class UnsupportedError(VitxaiError):
    """A legitimate refusal: this method or metric is not defined for this model or data.

    The engine stores it as status ``unsupported`` with the text as reason; it is no failure.
    """


class UnknownNameError(VitxaiError, LookupError):
    """No plug-in, suite, split or column bears this name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}.")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> tuple:
        return type(self), (self.kind, self.name, self.known)
