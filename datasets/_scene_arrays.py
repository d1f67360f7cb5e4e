"""Arrays of a scene by name, from whichever .mat file of a folder holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._cube_matlab import array_shapes, read_arrays
from ._safe_paths import files_in, folders_in, inside

MAX_BYTES = 4 << 30


@dataclass(frozen=True)
class SceneArrays:
    """The .mat files of a scene.

    Attributes:
        name: of the data set, for errors.
        path: folder of the files, or the file where one holds all.
    """

    name: str
    path: Path

    @cached_property
    def folder(self) -> Path:
        """That of the files."""
        path = self.path.expanduser()
        if not path.exists():
            raise BadInputError(
                f"{self.name} needs a folder of .mat files, and there is none at {str(self.path)!r}; `bench data "
                f"{self.name}` says how to get them."
            )
        return path.parent if path.is_file() else path

    @cached_property
    def files(self) -> list[Path]:
        """The .mat files in the folder and two levels below it."""
        path = self.path.expanduser()
        if path.is_file():
            return [path]
        folders = [self.folder]
        for _ in range(2):
            folders += [f for known in folders for f in folders_in(known, self.folder).values() if f not in folders]
        return [file for folder in folders for file in files_in(folder, lambda file: file.suffix.lower() == ".mat")]

    @cached_property
    def _looked_into(self) -> tuple[Mapping[str, Path], list[str]]:
        """The file of every array (of two with one name the first), and why files could not be read."""
        found, faults = dict[str, Path](), list[str]()
        for file in self.files:
            try:
                inside(file, self.folder)
                names = array_shapes(file)
            except BadInputError as error:
                faults.append(str(error))
                continue
            for name in names:
                found.setdefault(name, file)
        return found, faults

    def get(self, *names: str) -> NDArray[np.float64]:
        """As :meth:`find`, of arrays that must be there.

        Raises:
            BadInputError: none does; the text says which files were looked into, and which could not be read.
        """
        found = self.find(*names)
        if found is not None:
            return found
        looked = ", ".join(file.name for file in self.files) or "no .mat file"
        reasons = " ".join(self._looked_into[1])
        wanted = " or ".join(names)
        raise BadInputError(
            f"{self.name} needs an array {wanted} below {str(self.folder)!r}; looked into {looked}. {reasons}"
        )

    def find(self, *names: str) -> NDArray[np.float64] | None:
        """The first of these arrays that a file holds; None where none does."""
        there, _ = self._looked_into
        name = next((name for name in names if name in there), None)
        return None if name is None else read_arrays(there[name], [name], MAX_BYTES)[name]
