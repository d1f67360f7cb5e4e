"""Any folder of pictures: one folder a class, with masks beside them if there are any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._file_splits import LEARNING, SPLIT_NAMES, Splits, fingerprint, mixed, split_by_hash, splits_of
from ._image_files import Fit, check_same_size, file_facts, folder_at, pictures_in, read_classes, read_rgb
from ._safe_paths import inside


@dataset("folder")
class Folder(Dataset):
    """``PATH/CLASS/*.jpg``, ``PATH/{train,val,test}/CLASS/*.jpg``, unlabelled pictures in ``PATH``, or one picture.

    Without split folders 60 : 20 : 20 by a hash of each file's name. With train but no val, validation is 20 % of
    train; with train and val but no test, val is the test data.

    Attributes:
        path: the folder, or a single picture, which is then the only test sample.
        classes: class folders joined by ``+``, in the model's logit order; else all, sorted by name.
        masks: folder of masks with the same inner paths (any suffix), non-zero = evidence; else ``PATH/masks``
            where that exists.
        no_mask: what a picture without a mask means where there are masks: an ``error``, or ``empty`` evidence.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        splits: ``folders`` where they exist, or ``test`` to make everything test data.
        strict: a sample whose files are missing or cannot be read is an error; else it is left out with a warning.

    Raises:
        BadInputError: a folder, file or name does not fit; the text names it.
    """

    path: Path
    classes: str = ""
    masks: Path | None = None
    no_mask: Literal["error", "empty"] = "error"
    size: Annotated[int, Field(ge=8)] = 224
    fit: Fit = "squash"
    splits: Literal["folders", "test"] = "folders"
    strict: bool = False

    def info(self) -> DatasetInfo:
        """Classes are the folders' names; licence and citation are the folder's own."""
        has = {"labels"} if self._class_names else set()
        if self._mask_root:
            has.add("mask")
        return DatasetInfo(
            self._class_names, 3, frozenset(has), "of the files at this path", f"pictures of {self.path}"
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """Paths below ``path`` without their suffix."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Picture, class and mask of one file."""
        if id not in self._files:
            raise BadInputError(f"{str(self._root)!r} has no sample {id!r}; take ids from ids(split).")
        picture, label = self._files[id]
        inside(picture, self._root)
        return Sample(id=id, input=read_rgb(picture, self.size, self.fit), label=label, mask=self._mask(id, picture))

    def content_hash(self) -> str:
        """Over names, sizes and times of all pictures and masks, and the class order."""
        pictures = file_facts((picture for picture, _ in self._files.values()), self._root)
        masks = file_facts(self._masks.values(), self._mask_root) if self._mask_root else []
        return fingerprint([*pictures, *masks, "+".join(self._class_names)])

    @cached_property
    def _root(self) -> Path:
        return self.path.expanduser().parent if self._single else folder_at(self.path, "folder")

    @property
    def _single(self) -> bool:
        return self.path.expanduser().is_file()

    @cached_property
    def _split_folders(self) -> dict[str, Split]:
        if self._single:
            return {}
        return splits_of((name for name in SPLIT_NAMES if (self._root / name).is_dir()), self._root)

    @cached_property
    def _mask_root(self) -> Path | None:
        if self.masks is not None:
            return folder_at(self.masks, "masks")
        beside = self._root / "masks"
        return beside if beside.is_dir() and not self._single else None

    @cached_property
    def _class_names(self) -> tuple[str, ...]:
        if self._single:
            return ()
        parents = [self._root / name for name in self._split_folders] or [self._root]
        found = sorted({folder.name for parent in parents for folder in parent.iterdir() if self._is_class(folder)})
        if not self.classes:
            return tuple(found)
        wanted = tuple(name for name in self.classes.split("+") if name)
        if absent := sorted(set(wanted) - set(found)):
            raise BadInputError(
                f"{str(self._root)!r} has no class folder {', '.join(absent)}; it has {', '.join(found)}."
            )
        return wanted

    def _is_class(self, folder: Path) -> bool:
        return folder.is_dir() and not folder.name.startswith(".") and folder != self._mask_root

    @cached_property
    def _files(self) -> dict[str, tuple[Path, int | None]]:
        if self._single:
            return {self.path.stem: (self.path.expanduser(), None)}
        files: dict[str, tuple[Path, int | None]] = {}
        for parent in self._split_folders or [""]:
            for label, name in enumerate(self._class_names) if self._class_names else [(None, "")]:
                folder = self._root / parent / name
                for picture in pictures_in(folder).values() if folder.is_dir() else ():
                    files[picture.relative_to(self._root).with_suffix("").as_posix()] = (picture, label)
        if not files:
            raise BadInputError(f"no pictures below {str(self._root)!r}; put them into one folder a class.")
        return files

    @cached_property
    def _masks(self) -> dict[str, Path]:
        if self._mask_root is None:
            return {}
        folders = sorted({Path(id).parent.as_posix() for id in self._files})
        found = {
            (Path(folder) / stem).as_posix(): mask
            for folder in folders
            if (self._mask_root / folder).is_dir()
            for stem, mask in pictures_in(self._mask_root / folder).items()
        }
        if not found.keys() & self._files.keys():
            raise BadInputError(
                f"no mask in {str(self._mask_root)!r} has the inner path of a picture; "
                f"expected for example {min(self._files)}.png."
            )
        return found

    def _mask(self, id: str, picture: Path) -> NDArray[np.bool_] | None:
        if self._mask_root is None:
            return None
        if id in self._masks:
            check_same_size(picture, inside(self._masks[id], self._mask_root))
            return read_classes(self._masks[id], self.size, self.fit) > 0
        if self.no_mask == "empty":
            return np.zeros((self.size, self.size), dtype=bool)
        raise BadInputError(f"{picture} has no mask at {self._mask_root / id}.png; add it, or pass no_mask=empty.")

    @cached_property
    def _splits(self) -> Splits:
        if self.splits == "test" or self._single:
            return {"fit": (), "validation": (), "test": mixed(self._files)}
        if not self._split_folders:
            return split_by_hash(self._files)
        found: Splits = {
            split: mixed(id for id in self._files if id.startswith(f"{name}/"))
            for name, split in self._split_folders.items()
        }
        if "test" not in found and "validation" in found:
            found["test"] = found.pop("validation")
        if "validation" not in found:
            found |= split_by_hash(found.get("fit", ()), LEARNING)
        return found
