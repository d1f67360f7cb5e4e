"""ImageNet-Segmentation: photographs with object masks from one MATLAB v7.3 file, read one at a time."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, VitxaiError, dataset
from ._catalogue import Recipe
from ._file_splits import Splits, fingerprint, mixed, split_by_hash
from ._image_files import Fit, file_facts, fit_mask, fit_pixels
from ._imagenet_names import class_names, label_of
from ._safe_paths import inside

FILE = "gtsegs_ijcv.mat"
HDF5_AT = 512  # bytes that MATLAB writes before the HDF5 part
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_PIXELS = 100_000_000


@dataset("imagenet_segmentation")
class ImagenetSegmentation(Dataset):
    """4,276 photographs of 445 ImageNet classes with a mask of the object, in one file.

    Read from ``gtsegs_ijcv.mat`` lazily. Everything is test data. The label is the class of ImageNet-1k that the
    file's WordNet id names, and unknown where the file has none or another; the usual protocol explains the model's own
    prediction and needs none.

    Attributes:
        path: the file, or the folder that holds it.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture (the usual protocol), ``crop`` the aspect ratio of its central square.
        splits: ``test``, or ``hash`` for 60 : 20 : 20 by a hash of the number, where methods have to learn.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: the file is missing, damaged, or no file of this data set; the text names it and the picture.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="ImageNet-Segmentation (Guillaumin et al.)",
        get=(
            "Fetch http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat (the site is often down), "
            'and: pip install "vitxai[hsi]".'
        ),
        layout="gtsegs_ijcv.mat   MATLAB v7.3: value/img, value/gt, value/id",
        size="4,276 pictures of 445 classes in one file",
        licence="ImageNet's terms: non-commercial research and education",
        citation=(
            "Guillaumin, Küttel, Ferrari, ImageNet Auto-Annotation with Segmentation Propagation, IJCV 110, 2014, "
            "328-348"
        ),
        lacks="labels of pictures whose class is not among the thousand of ImageNet-1k; a split: all is test data",
        notes=("The usual protocol explains the prediction, squashes to 224 x 224 and cuts maps at their mean.",),
    )
    path: Path
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    splits: Literal["test", "hash"] = "test"
    strict: bool = False

    def info(self) -> DatasetInfo:
        """The thousand classes of ImageNet-1k, in the order of its checkpoints."""
        return DatasetInfo(
            classes=class_names(),
            channels=3,
            has=frozenset({"labels", "mask"} if any(label is not None for label in self._labels) else {"mask"}),
            licence=self.recipe.licence,
            citation=self.recipe.citation,
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """``00012``, by row of the file from 0."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Photograph, mask, and class where it is known."""
        if id not in self._rows:
            raise BadInputError(f"{self._file} has no sample {id!r}; ids are like 00012.")
        row = self._rows[id]
        with self._opened() as file:
            pixels = self._array(file, "img", row)
            mask = self._array(file, "gt", row)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[None], 3, axis=0)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise BadInputError(f"picture {id} of {self._file} is {pixels.dtype} {pixels.shape}, not uint8 (3, W, H).")
        if mask.shape != pixels.shape[1:]:
            raise BadInputError(
                f"the mask of {id} in {self._file} is {mask.shape}, but its picture is {pixels.shape[1:]} (W, H)."
            )
        if not np.isin(mask, (0, 1)).all():
            raise BadInputError(f"the mask of {id} in {self._file} holds other values than 0 and 1.")
        picture = np.ascontiguousarray(pixels.transpose(2, 1, 0))  # MATLAB stores columns first
        return Sample(
            id=id,
            input=fit_pixels(picture, self.size, self.fit),
            label=self._labels[row],
            mask=fit_mask(mask.T > 0, self.size, self.fit),
        )

    def content_hash(self) -> str:
        """Over name, size and time of the file."""
        return fingerprint([*file_facts([self._file], self._file.parent), *map(str, self._labels)])

    @cached_property
    def _file(self) -> Path:
        path = self.path.expanduser()
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise BadInputError(f"imagenet_segmentation needs {FILE}, and there is no file at {str(file)!r}.")
        return inside(file, path) if path.is_dir() else file

    @cached_property
    def _rows(self) -> dict[str, int]:
        with self._opened() as file:
            count, masks = (self._column(file, name).size for name in ("img", "gt"))
        if count != masks:
            raise BadInputError(f"{self._file} holds {count} pictures and {masks} masks. Fetch the file again.")
        return {f"{row:05d}": row for row in range(count)}

    @cached_property
    def _splits(self) -> Splits:
        if self.splits == "hash":
            return split_by_hash(self._rows)
        return {"fit": (), "validation": (), "test": mixed(self._rows)}

    @cached_property
    def _labels(self) -> tuple[int | None, ...]:
        """By the WordNet id at the beginning of ``value/id`` (``n01440764_10026``), where the file has it."""
        with self._opened() as file:
            if "id" not in file["value"]:
                return (None,) * len(self._rows)
            texts = ["".join(map(chr, self._array(file, "id", row).ravel().tolist())) for row in range(len(self._rows))]
        found = [re.match(r"n\d{8}", text) for text in texts]
        return tuple(label_of().get(match[0]) if match else None for match in found)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file, opened for one look: nothing is held between samples, so that workers share nothing."""
        h5py = _h5py()
        with self._file.open("rb") as stream:
            start = stream.read(HDF5_AT + len(HDF5_MAGIC))
        if HDF5_MAGIC not in (start[: len(HDF5_MAGIC)], start[HDF5_AT:]):
            raise BadInputError(f"{self._file} is no MATLAB v7.3 file; it begins with {start[:10]!r}. Fetch it again.")
        try:
            with h5py.File(self._file, "r") as file:
                _check_links(file, self._file)
                yield file
        except BadInputError:
            raise
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BadInputError(f"{self._file} cannot be read: {error}. Fetch the file again.") from error

    def _column(self, file: Any, name: str) -> Any:
        column = file["value"][name]
        if not hasattr(column, "dtype") or column.dtype.kind != "O" or column.ndim != 2 or 1 not in column.shape:
            raise BadInputError(f"value/{name} of {self._file} is no column of references.")
        return column

    def _array(self, file: Any, name: str, row: int) -> NDArray[Any]:
        """The array that a row refers to, through any cells of one element around it."""
        h5py, references = _h5py(), self._column(file, name)
        if row >= references.size:
            raise BadInputError(f"value/{name} of {self._file} has no row {row}.")
        found = file[references[row, 0] if references.shape[1] == 1 else references[0, row]]
        for _ in range(3):
            if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual or found.size > MAX_PIXELS:
                raise BadInputError(
                    f"value/{name} of {self._file} refers to something else than an array in row {row}."
                )
            if found.dtype.kind != "O":
                break
            if found.size != 1:
                raise BadInputError(f"value/{name} of {self._file} holds {found.size} arrays in row {row}; expected 1.")
            found = file[found[:].ravel()[0]]
        return np.asarray(found[()])


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise VitxaiError("imagenet_segmentation needs h5py: pip install 'vitxai[hsi]'.") from error


def _check_links(file: Any, path: Path) -> None:
    """Refuses links to other files, which HDF5 follows silently."""
    h5py = _h5py()
    if not isinstance(file.get("value", getlink=True), h5py.HardLink) or not isinstance(file["value"], h5py.Group):
        raise BadInputError(f"{path} has no group 'value', so it is not {FILE}.")
    for name in ("img", "gt"):
        if not isinstance(file["value"].get(name, getlink=True), h5py.HardLink):
            raise BadInputError(f"{path} has no value/{name}, so it is not {FILE}.")
    if not isinstance(file["value"].get("id", default=None, getlink=True), h5py.HardLink | None):
        raise BadInputError(f"value/id of {path} leads to another file.")
