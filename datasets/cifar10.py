"""CIFAR-10, from its Python pickles or from class folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._catalogue import Recipe
from ._file_splits import LEARNING, Splits, fingerprint, mixed, split_by_hash
from ._image_files import Fit, file_facts, fit_pixels, folder_at, pictures_in, read_rgb
from ._safe_paths import inside
from ._safe_pickle import read_pickle

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PICKLES = "cifar-10-batches-py"
LEARN, TEST = tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",)
PLANE = 32 * 32
Rows = dict[str, tuple[NDArray[np.uint8], int]]


@dataset("cifar10")
class Cifar10(Dataset):
    """Small photographs of ten classes, from their Python pickles or from class folders.

    ``cifar-10-batches-py/{data_batch_1..5,test_batch}``, or ``{train,test}/CLASS/*.jpg``.

    Test data are the test batch, in file order, or the test folder. fit : validation = 80 : 20 of the training data by
    a hash, both empty where these are absent. Pickles are read without running what they ask for.

    Attributes:
        path: folder that holds cifar-10-batches-py or train and test, or cifar-10-batches-py itself.
        size: side in pixels of the square samples.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a file is missing, damaged, hostile, or holds other classes.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="CIFAR-10",
        get=(
            "Fetch https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and unpack it; or export the pictures "
            "into class folders."
        ),
        layout=(
            "cifar-10-batches-py/data_batch_1 ... data_batch_5, test_batch, batches.meta   pickles\n"
            "{train,test}/CLASS/*.png|jpg   instead"
        ),
        size="170 MB; 50,000 training and 10,000 test pictures of 32 x 32",
        licence="none stated; for research, with citation",
        citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009",
        lacks="masks, so that nothing about localisation can be scored",
        notes=(
            "Pickles can run code: they are read without doing so, and a file that asks for more than arrays is "
            "refused.",
            "Class folders of JPEG are another data set than the pickles: compression changes the pixels.",
        ),
    )
    path: Path
    size: Annotated[int, Field(ge=8)] = 32
    strict: bool = False

    def info(self) -> DatasetInfo:
        """Ten classes."""
        return DatasetInfo(
            classes=CLASSES,
            channels=3,
            has=frozenset({"labels"}),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """``test_batch/00012`` by row of the pickle, or ``test/bird/0012`` by file."""
        return self._ids(split)[:count]

    def sample(self, id: str) -> Sample:
        """Picture and class."""
        part, rest = id.partition("/")[::2]
        if part in (*LEARN, *TEST) and self._pickles:
            rows = self._test_rows if part in TEST else self._learn_rows
            if id in rows:
                pixels, label = rows[id]
                picture = fit_pixels(np.ascontiguousarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)), self.size, FIT)
                return Sample(id=id, input=picture, label=label)
        elif rest and not self._pickles and id in self._files:
            file = inside(self._files[id], self._root)
            return Sample(id=id, input=read_rgb(file, self.size, FIT), label=CLASSES.index(id.split("/")[1]))
        raise BadInputError(f"{str(self.path)!r} has no sample {id!r}; take ids from ids(split).")

    def content_hash(self) -> str:
        """Over names, sizes and times of the pickles or pictures."""
        return fingerprint(file_facts(self._pickles.values() or self._files.values(), self._root))

    @cached_property
    def _root(self) -> Path:
        return folder_at(self.path, "cifar10")

    @cached_property
    def _pickles(self) -> dict[str, Path]:
        folder = self._root / PICKLES if (self._root / PICKLES).is_dir() else self._root
        found = {name: folder / name for name in (*LEARN, *TEST) if (folder / name).is_file()}
        if not found:
            return {}
        learn = [name for name in LEARN if name in found]
        if TEST[0] not in found or len(learn) not in (0, len(LEARN)):
            missing = ", ".join(name for name in (*LEARN, *TEST) if name not in found)
            raise BadInputError(f"{folder} lacks {missing}; unpack cifar-10-python.tar.gz again.")
        meta = folder / "batches.meta"
        if meta.is_file():
            names = tuple(_text(name) for name in _entry(read_pickle(inside(meta, self._root)), "label_names", meta))
            if names != CLASSES:
                raise BadInputError(f"{meta} names the classes {', '.join(names)}; CIFAR-10 has {', '.join(CLASSES)}.")
        return found

    @cached_property
    def _test_rows(self) -> Rows:
        return _rows({name: self._pickles[name] for name in TEST}, self._root)

    @cached_property
    def _learn_rows(self) -> Rows:
        return _rows({name: self._pickles[name] for name in LEARN if name in self._pickles}, self._root)

    @cached_property
    def _files(self) -> dict[str, Path]:
        if not (self._root / "test").is_dir():
            raise BadInputError(f"{str(self._root)!r} has neither {PICKLES} nor test/CLASS/*.jpg. Pass path=FOLDER.")
        files = {}
        for part in ("train", "test"):
            if not (self._root / part).is_dir():
                continue
            found = {child.name for child in (self._root / part).iterdir() if child.is_dir() and child.name[0] != "."}
            if wrong := sorted(found ^ set(CLASSES)):
                raise BadInputError(
                    f"{self._root / part} has missing or unknown class folders: {', '.join(wrong)}. "
                    f"CIFAR-10 has {', '.join(CLASSES)}."
                )
            for name in CLASSES:
                for stem, picture in pictures_in(self._root / part / name).items():
                    files[f"{part}/{name}/{stem}"] = picture
        return files

    def _ids(self, split: Split) -> tuple[str, ...]:
        if split == "test":
            return self._test_ids
        return self._learn_ids.get(split, ())

    @cached_property
    def _test_ids(self) -> tuple[str, ...]:
        return tuple(self._test_rows) if self._pickles else mixed(id for id in self._files if id.startswith("test/"))

    @cached_property
    def _learn_ids(self) -> Splits:
        if self._pickles:
            return split_by_hash(self._learn_rows, LEARNING)
        return split_by_hash((id for id in self._files if id.startswith("train/")), LEARNING)


FIT: Fit = "squash"  # the pictures are square


def _rows(batches: dict[str, Path], root: Path) -> Rows:
    rows: Rows = {}
    for name, path in batches.items():
        batch = read_pickle(inside(path, root))
        pixels, labels = _entry(batch, "data", path), _entry(batch, "labels", path)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3 * PLANE:
            raise BadInputError(f"{path} has no data of N x {3 * PLANE} bytes. Fetch CIFAR-10 again.")
        if not isinstance(labels, list) or len(labels) != len(pixels):
            raise BadInputError(f"{path} holds {len(pixels)} pictures and not as many labels. Fetch CIFAR-10 again.")
        for row, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < len(CLASSES):
                raise BadInputError(f"{path} has label {label!r} in row {row}; labels are 0 to {len(CLASSES) - 1}.")
            rows[f"{name}/{row:05d}"] = (pixels[row], label)
    return rows


def _entry(content: Any, key: str, path: Path) -> Any:
    """Of a dictionary whose keys Python 2 wrote as bytes."""
    entries = {_text(name): value for name, value in content.items()} if isinstance(content, dict) else {}
    if key not in entries:
        raise BadInputError(f"{path} is no file of CIFAR-10: it has no {key!r}.")
    return entries[key]


def _text(name: Any) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)
