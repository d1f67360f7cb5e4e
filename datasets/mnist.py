"""MNIST and its relatives from their own idx files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._catalogue import Recipe
from ._file_splits import LEARNING, Splits, fingerprint, split_by_hash
from ._image_files import file_facts, folder_at
from ._safe_paths import inside

UNSIGNED_BYTE = 0x08
MAX_BYTES = 1 << 30
"""Of an unpacked array; MNIST's largest has 47 MB."""
PARTS = ("train", "t10k")
DIGITS = tuple(str(digit) for digit in range(10))


@dataset("mnist")
class Mnist(Dataset):
    """Grey images from ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, plain or ``.gz``.

    Test data is t10k in file order; fit : validation = 80 : 20 of train by a hash, both empty where train is absent.

    Attributes:
        path: folder of the idx files.
        splits: ``files`` as above, or ``hash`` for 60 : 20 : 20 of t10k by a hash of each row, where methods have to
            learn and train is absent.

    Raises:
        BadInputError: a file is missing, damaged or a symlink to elsewhere, its counts disagree, or a label is above 9.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="MNIST, or a relative of ten classes in its files",
        get=(
            "Fetch the four files {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz from "
            "https://ossci-datasets.s3.amazonaws.com/mnist/, torchvision's mirror; the t10k ones suffice for a run."
        ),
        layout=(
            "t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]     test\n"
            "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz]   optional: fit and validation"
        ),
        size="12 MB; 60,000 learning and 10,000 test digits of 28 x 28",
        licence="CC BY-SA 3.0",
        citation="LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998",
        lacks="masks, band truth",
        notes=("Without the train files methods have nothing to learn from; splits=hash divides t10k 60 : 20 : 20.",),
    )
    path: Path
    splits: Literal["files", "hash"] = "files"

    def info(self) -> DatasetInfo:
        """Ten digits, one channel in [0,1]."""
        return DatasetInfo(
            classes=DIGITS,
            channels=1,
            has=frozenset({"labels"}),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """``t10k/00012`` and ``train/00012``, by row of the file."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Image [1,H,W] and digit."""
        part, _, row = id.partition("/")
        if part not in self._parts or not row.isdigit() or int(row) >= len(self._parts[part][0]):
            raise BadInputError(f"{str(self.path)!r} has no sample {id!r}; ids look like t10k/00012.")
        images, labels = self._parts[part]
        return Sample(
            id=id, input=images[int(row)][None].astype(np.float32) / np.float32(255), label=int(labels[int(row)])
        )

    def content_hash(self) -> str:
        """Over names, sizes and times of the idx files."""
        files = [_idx_file(self._root, part, kind) for part in self._parts for kind in ("images-idx3", "labels-idx1")]
        return fingerprint(file_facts((file for file in files if file), self._root))

    @cached_property
    def _root(self) -> Path:
        return folder_at(self.path, "mnist")

    @cached_property
    def _parts(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        return {
            part: self._read_part(part) for part in PARTS if _idx_file(self._root, part, "images-idx3")
        } or self._none()

    def _none(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        raise BadInputError(
            f"{str(self._root)!r} has neither t10k-images-idx3-ubyte nor train-images-idx3-ubyte (.gz)."
        )

    def _read_part(self, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        pictures, digits = (_idx_file(self._root, part, kind) for kind in ("images-idx3", "labels-idx1"))
        if pictures is None or digits is None:
            raise BadInputError(f"{str(self._root)!r} has {part} images but no {part}-labels-idx1-ubyte (.gz).")
        images, labels = read_idx(pictures, axes=3), read_idx(digits, axes=1)
        if len(images) != len(labels):
            raise BadInputError(f"{pictures} holds {len(images)} images, but {digits} holds {len(labels)} labels.")
        if len(wrong := np.flatnonzero(labels >= len(DIGITS))):
            raise BadInputError(f"{digits} has label {labels[wrong[0]]} in row {wrong[0]}; labels are 0 to 9.")
        return images, labels

    @cached_property
    def _splits(self) -> Splits:
        rows = {
            part: tuple(f"{part}/{row:05d}" for row in range(len(images))) for part, (images, _) in self._parts.items()
        }
        if self.splits == "hash":
            return split_by_hash(rows.get("t10k", ()))
        return {**split_by_hash(rows.get("train", ()), LEARNING), "test": rows.get("t10k", ())}


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes with this many axes; no more is unpacked than its header announces.

    Raises:
        BadInputError: no idx file, another element type or number of axes, more than ``MAX_BYTES``, or a body of
            another length.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, path, axes)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {error}. Fetch the file again.") from error


def _array(file: BufferedIOBase, path: Path, axes: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * axes)
    if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, UNSIGNED_BYTE, axes)):
        raise BadInputError(
            f"{path} is no idx file of unsigned bytes with {axes} axes; it begins with {header[:4].hex(' ')}."
        )
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise BadInputError(f"{path} announces shape {shape}, {size / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.1f} GB.")
    body = file.read(size + 1)
    if len(body) != size:
        held = f"{len(body)} bytes" if len(body) < size else "more"
        raise BadInputError(f"{path} announces shape {shape}, but holds {held}. Fetch the file again.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _idx_file(root: Path, part: str, kind: str) -> Path | None:
    for name in (f"{part}-{kind}-ubyte", f"{part}-{kind}-ubyte.gz"):
        if (root / name).is_file():
            return inside(root / name, root)
    return None
