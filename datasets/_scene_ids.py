"""Ids of generated scenes: ``split/index``, without end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..bench.contract import BadInputError, Split, UnknownNameError

DEFAULT_COUNTS: dict[str, int] = {"fit": 2048, "validation": 512, "test": 1024}
"""Ids a split gives when no count is asked for."""

_ID = re.compile(r"(fit|validation|test)/(\d{5,})")


def scene_ids(split: Split, count: int | None) -> Sequence[str]:
    """The first ids of a split.

    Raises:
        UnknownNameError: no such split.
        BadInputError: a negative count.
    """
    if split not in DEFAULT_COUNTS:
        raise UnknownNameError("split", split, DEFAULT_COUNTS)
    count = DEFAULT_COUNTS[split] if count is None else count
    if count < 0:
        raise BadInputError(f"a count of samples is not negative, as {count} is.")
    return [f"{split}/{index:05d}" for index in range(count)]


def parse_scene_id(id: str) -> tuple[Split, int]:
    """Split and index of an id.

    Raises:
        BadInputError: the text is not the id of a scene.
    """
    match = _ID.fullmatch(id)
    if match is None:
        splits = ", ".join(DEFAULT_COUNTS)
        raise BadInputError(f"{id!r} is no scene; ids look like 'test/00012', in the splits {splits}.")
    split: Split = match[1]  # type: ignore[assignment]
    return split, int(match[2])
