"""MNIST and its relatives from their own idx files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._file_splits import LEARNING, Splits, fingerprint, split_by_hash
from ._image_files import file_facts, folder_at

UNSIGNED_BYTE = 0x08
PARTS = ("train", "t10k")


@dataset("mnist")
class Mnist(Dataset):
    """Grey images from ``{train,t10k}-{images-idx3,labels-idx1}-ubyte``, plain or ``.gz``.

    Test data is t10k in file order; fit : validation = 80 : 20 of train by a hash, both empty where train is absent.

    Attributes:
        path: folder of the idx files.
        splits: ``files`` as above, or ``hash`` for 60 : 20 : 20 of t10k by a hash of each row, where methods have to
            learn and train is absent.

    Raises:
        BadInputError: a file is missing, damaged, or its counts disagree.
    """

    path: Path
    splits: Literal["files", "hash"] = "files"

    def info(self) -> DatasetInfo:
        """Ten digits, one channel in [0,1]."""
        return DatasetInfo(
            classes=tuple(str(digit) for digit in range(10)),
            channels=1,
            has=frozenset({"labels"}),
            licence="CC BY-SA 3.0",
            citation="LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998",
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
    """The array of an idx file of unsigned bytes with this many axes.

    Raises:
        BadInputError: no idx file, another element type or number of axes, or a truncated body.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise BadInputError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    header = 4 + 4 * axes
    if len(data) < header or data[:4] != bytes((0, 0, UNSIGNED_BYTE, axes)):
        raise BadInputError(
            f"{path} is no idx file of unsigned bytes with {axes} axes; it begins with {data[:4].hex(' ')}."
        )
    shape = struct.unpack(f">{axes}I", data[4:header])
    if len(data) - header != int(np.prod(shape)):
        raise BadInputError(
            f"{path} announces shape {shape}, but holds {len(data) - header} bytes. Fetch the file again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _idx_file(root: Path, part: str, kind: str) -> Path | None:
    for name in (f"{part}-{kind}-ubyte", f"{part}-{kind}-ubyte.gz"):
        if (root / name).is_file():
            return root / name
    return None
