"""The spelling of anything with parameters: ``NAME`` or ``NAME,key=value,key=value``, of draws ``NAME@1,key=value``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .errors import BadInputError


@dataclass(frozen=True)
class Spec:
    """A plug-in's name with its parameters, as typed on the command line or in a suite.

    Values given on the command line stay strings until the plug-in's own typed parameters convert them.

    Attributes:
        draw: of an explainer in a suite: its fit and its maps draw with the suite's seed plus this number.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    draw: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    def __str__(self) -> str:
        name = f"{self.name}@{self.draw}" if self.draw else self.name
        return ",".join([name, *(f"{key}={value}" for key, value in self.params.items())])

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple:
        return type(self), (self.name, dict(self.params), self.draw)

    @property
    def method(self) -> Spec:
        """The same without the draw."""
        return Spec(self.name, self.params)

    @classmethod
    def parse(cls, text: str | Mapping[str, Any] | Spec) -> Spec:
        """Reads ``name,key=value`` or a TOML table ``{name = ..., key = ...}``.

        Raises:
            BadInputError: the text has no name, its draw is no whole number above 0, or a part after the name is not
                ``key=value``.
        """
        if isinstance(text, Spec):
            return text
        if isinstance(text, Mapping):
            params = dict(text)
            name = params.pop("name", None)
            if not isinstance(name, str) or not name:
                raise BadInputError(f'the table {dict(text)!r} has no `name`; write {{name = "rollout", key = value}}.')
            return cls._of(name, params, text)
        name, *parts = (part.strip() for part in text.split(","))
        if not name or "=" in name:
            raise BadInputError(f"{text!r} does not begin with a name; write NAME or NAME,key=value,key=value.")
        params = {}
        for part in parts:
            key, equals, value = part.partition("=")
            if not equals or not key.strip():
                raise BadInputError(f"{part!r} in {text!r} is not key=value; write NAME,key=value,key=value.")
            if key.strip() in params:
                raise BadInputError(f"{key.strip()!r} is given twice in {text!r}.")
            params[key.strip()] = value.strip()
        return cls._of(name, params, text)

    @classmethod
    def _of(cls, text: str, params: Mapping[str, Any], whole: object) -> Spec:
        """From ``NAME`` or ``NAME@DRAW``."""
        name, at, draw = text.partition("@")
        if at and not (name and draw.isascii() and draw.isdigit() and draw[0] != "0"):
            raise BadInputError(f"{text!r} in {whole!r}: write NAME@1, NAME@2 ... for other draws of an explainer.")
        return cls(name, params, int(draw) if at else 0)
