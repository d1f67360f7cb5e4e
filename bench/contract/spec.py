"""The spelling of anything with parameters: ``NAME`` or ``NAME,key=value,key=value``."""

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
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{key}={value}" for key, value in self.params.items())])

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple:
        return type(self), (self.name, dict(self.params))

    @classmethod
    def parse(cls, text: str | Mapping[str, Any] | Spec) -> Spec:
        """Reads ``name,key=value`` or a TOML table ``{name = ..., key = ...}``.

        Raises:
            BadInputError: the text has no name, or a part after the name is not ``key=value``.
        """
        if isinstance(text, Spec):
            return text
        if isinstance(text, Mapping):
            params = dict(text)
            name = params.pop("name", None)
            if not isinstance(name, str) or not name:
                raise BadInputError(f'the table {dict(text)!r} has no `name`; write {{name = "rollout", key = value}}.')
            return cls(name, params)
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
        return cls(name, params)
