"""Labelled hyperspectral scenes as windows: one image, blocks that belong to one split each, truth by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split
from ._catalogue import Recipe
from ._file_splits import Splits, fingerprint, mixed
from ._image_files import file_facts
from ._scene_arrays import SceneArrays
from ._wavelengths import Nanometres

SPLITS: tuple[Split, ...] = ("fit", "validation", "test")
SHARE = 0.2
"""Of the blocks, for validation and for test each."""
Block = tuple[int, int, int, int]
"""Its first row, the row after its last, and the same of its columns."""
DEALS = 100
"""Ways to give the blocks to the splits that are tried."""
PRESENT = 0.5
"""Abundance from which a pixel counts as the material's."""


@dataclass(frozen=True)
class Truth:
    """What is known of a scene's pixels.

    Attributes:
        labels: [rows, columns] class index, -1 where unlabelled.
        abundances: [rows, columns, classes] shares of the materials; None where each pixel has one class.
        classes: in label order.
    """

    labels: NDArray[np.int64]
    abundances: NDArray[np.float64] | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class SceneDataset(Dataset):
    """Base of the labelled scenes: a sample is a window, its id the row and column of the centre.

    The scene is cut into blocks; a hash deals 60 : 20 : 20 of them to fit, validation and test (of 100 deals the first
    that puts most classes into each), and a window lies in blocks of one split only: no pixel is in two splits.
    Neighbouring blocks still see the same fields: accuracy on them is that of one scene, not of others. Windows of
    validation and test share no pixel with one another; those of fit overlap.

    Attributes:
        path: folder of the .mat files, or the file where one holds all.
        window: side of a sample in pixels.
        stride: step between windows of the fit split.
        test_stride: step between windows of validation and test; 0 is the window itself, and below it intervals over
            samples become too narrow, because windows then share pixels.
        block: side of a block in pixels, about; 0 is twice the window.
        label: class of the ``centre`` pixel, or the ``main`` one, which covers most of the window.

    Raises:
        BadInputError: a file or array is missing, no MATLAB file, or of another shape; the text names it.
    """

    recipe: ClassVar[Recipe]
    path: Path
    window: Annotated[int, Field(ge=2)] = 8
    stride: Annotated[int, Field(ge=1)] = 4
    test_stride: Annotated[int, Field(ge=0)] = 0
    block: Annotated[int, Field(ge=0)] = 0
    label: Literal["centre", "main"] = "centre"

    # --- what subclasses say

    def _cube(self) -> NDArray[np.float32]:
        """[rows, columns, bands]."""
        raise NotImplementedError

    def _read_truth(self) -> Truth:
        raise NotImplementedError

    def _centres(self, count: int) -> Nanometres:
        raise NotImplementedError

    # --- the contract

    def info(self) -> DatasetInfo:
        """Classes, bands and truths; wavelengths are those of the sensor."""
        bands = self._pixels.shape[2]
        return DatasetInfo(
            classes=self._truth.classes,
            channels=bands,
            has=frozenset({"labels", "mask"} | (set() if self._truth.abundances is not None else {"ignore"})),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
            wavelengths=self._centres(bands),
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """``0012-0120``: row and column of the window's centre."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """The window around a pixel, its class and where in the window that class is."""
        if id not in self._windows:
            raise BadInputError(f"{self.name} has no window {id!r}; take ids from ids(split).")
        row, column, label = self._windows[id]
        where = np.s_[row : row + self.window, column : column + self.window]
        truth = self._truth
        if truth.abundances is not None:
            mask, ignore = truth.abundances[where][..., label] >= PRESENT, None
        else:
            mask, ignore = truth.labels[where] == label, truth.labels[where] < 0
        cube = np.ascontiguousarray(self._pixels[where].transpose(2, 0, 1), dtype=np.float32)
        return Sample(id=id, input=cube, label=label, mask=mask, ignore=ignore)

    def content_hash(self) -> str:
        """Over names, sizes and times of the .mat files."""
        return fingerprint(
            [self.name, *(fact for file in self._arrays.files for fact in file_facts([file], file.parent))]
        )

    # --- windows

    @cached_property
    def _arrays(self) -> SceneArrays:
        return SceneArrays(self.name, self.path)

    @cached_property
    def _pixels(self) -> NDArray[np.float32]:
        cube = self._cube()
        if not np.isfinite(cube).all():
            raise BadInputError(
                f"the scene of {self.name} in {str(self._arrays.folder)!r} holds NaN or infinite values."
            )
        return cube

    @cached_property
    def _truth(self) -> Truth:
        truth = self._read_truth()
        if truth.labels.shape != self._pixels.shape[:2]:
            raise BadInputError(
                f"the truth of {self.name} has shape {truth.labels.shape}, its scene {self._pixels.shape[:2]}."
            )
        return truth

    @cached_property
    def _blocks(self) -> list[tuple[Block, Split]]:
        """The blocks with their splits: of some deals by hash the first in which the splits hold most classes."""
        rows, columns = self._pixels.shape[:2]
        side = max(self.block or 2 * self.window, self.window)
        if min(rows, columns) < self.window:
            raise BadInputError(f"a window of {self.window} pixels does not fit into {rows} x {columns}.")
        edges = [np.linspace(0, n, max(1, n // side) + 1).astype(int) for n in (rows, columns)]
        blocks = [
            (int(top), int(bottom), int(left), int(right))
            for top, bottom in zip(edges[0][:-1], edges[0][1:], strict=True)
            for left, right in zip(edges[1][:-1], edges[1][1:], strict=True)
        ]
        held = max(1, round(SHARE * len(blocks)))
        if len(blocks) < 2 * held + 1:
            raise BadInputError(
                f"{rows} x {columns} pixels make {len(blocks)} blocks of about {side}; three splits need three: pass a "
                "smaller block= or window=."
            )
        counts: dict[Split, int] = {"test": held, "validation": held, "fit": len(blocks) - 2 * held}
        owners = [split for split, count in counts.items() for _ in range(count)]
        classes = {block: self._classes_of(*block) for block in blocks}
        deals = (self._deal(blocks, owners, deal) for deal in range(DEALS))
        return max(deals, key=lambda dealt: _covered(dealt, classes))

    def _deal(self, blocks: Sequence[Block], owners: Sequence[Split], deal: int) -> list[tuple[Block, Split]]:
        named = {f"{self.name}/{deal}/{block[0]}-{block[2]}": block for block in blocks}
        return [(named[name], owner) for name, owner in zip(mixed(named), owners, strict=True)]

    def _classes_of(self, top: int, bottom: int, left: int, right: int) -> frozenset[int]:
        """Classes of the windows that lie in a block."""
        step = self.test_stride or self.window
        corners = [
            (row, column)
            for row in range(top, bottom - self.window + 1, step)
            for column in range(left, right - self.window + 1, step)
        ]
        return frozenset(label for corner in corners if (label := self._label_at(*corner)) is not None)

    @cached_property
    def _windows(self) -> dict[str, tuple[int, int, int]]:
        """Top row, left column and class by id."""
        found = {}
        for split in SPLITS:
            for row, column in self._corners(split):
                if (label := self._label_at(row, column)) is not None:
                    found[self._name(row, column)] = (row, column, label)
        if not found:
            raise BadInputError(f"no window of {self.window} pixels in {self.name} has a class.")
        return found

    @cached_property
    def _splits(self) -> Splits:
        found: Splits = {}
        for split in SPLITS:
            named = (self._name(row, column) for row, column in self._corners(split))
            found[split] = mixed(id for id in named if id in self._windows)
        return found

    def _name(self, row: int, column: int) -> str:
        return f"{row + self.window // 2:04d}-{column + self.window // 2:04d}"

    def _corners(self, split: Split) -> Iterator[tuple[int, int]]:
        if split == "fit":
            yield from self._fit_corners()
            return
        step = self.test_stride or self.window
        for (top, bottom, left, right), owner in self._blocks:
            if owner == split:
                for row in range(top, bottom - self.window + 1, step):
                    for column in range(left, right - self.window + 1, step):
                        yield row, column

    def _fit_corners(self) -> Iterator[tuple[int, int]]:
        rows, columns = self._pixels.shape[:2]
        own: NDArray[np.int64] = np.zeros((rows, columns), dtype=np.int64)
        for (top, bottom, left, right), owner in self._blocks:
            own[top:bottom, left:right] = owner == "fit"
        sums = np.pad(own.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        for row in range(0, rows - self.window + 1, self.stride):
            for column in range(0, columns - self.window + 1, self.stride):
                below, right = row + self.window, column + self.window
                inner = sums[below, right] - sums[row, right] - sums[below, column] + sums[row, column]
                if inner == self.window**2:
                    yield row, column

    def _label_at(self, row: int, column: int) -> int | None:
        truth, half = self._truth, self.window // 2
        if self.label == "centre":
            label = int(truth.labels[row + half, column + half])
            return None if label < 0 else label
        where = np.s_[row : row + self.window, column : column + self.window]
        if truth.abundances is not None:
            return int(truth.abundances[where].sum((0, 1)).argmax())
        labelled = truth.labels[where][truth.labels[where] >= 0]
        return int(np.bincount(labelled).argmax()) if labelled.size else None


def _covered(dealt: Sequence[tuple[Block, Split]], classes: Mapping[Block, frozenset[int]]) -> int:
    return sum(len(frozenset().union(*(classes[block] for block, own in dealt if own == split))) for split in SPLITS)
