"""Any folder of pictures: one folder a class, with masks beside them if there are any."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split, dataset
from ._catalogue import Recipe
from ._file_splits import LEARNING, SPLIT_NAMES, Splits, fingerprint, mixed, split_by_hash, splits_of
from ._image_files import (
    Fit,
    check_same_size,
    file_facts,
    folder_at,
    holds_pictures,
    pictures_by_stem,
    read_classes,
    read_rgb,
)
from ._safe_paths import folders_in, inside

log = logging.getLogger(__name__)


@dataset("folder")
class Folder(Dataset):
    """``PATH/CLASS/*.jpg``, ``PATH/{train,val,test}/CLASS/*.jpg``, unlabelled pictures in ``PATH``, or one picture.

    Without split folders 60 : 20 : 20 by a hash of each file's name. With train but no val, validation is 20 % of
    train; with train and val but no test, val is the test data. Pictures of one name (``1.jpg`` and ``1.png`` of a
    class) and folders that are symlinks to elsewhere are left out with a warning.

    Attributes:
        path: the folder, or a single picture, which is then the only test sample.
        classes: class folders joined by ``+``, in the model's logit order; else all that hold a picture, sorted as text
            as torchvision's ImageFolder does: ``0, 1, 10, 2``.
        masks: folder of masks with the same inner paths (any suffix), non-zero = evidence; else ``PATH/masks``
            where that exists.
        no_mask: what a picture without a mask means where there are masks: an ``error``, or ``empty`` evidence.
        size: side in pixels of the square samples.
        fit: ``squash`` keeps the whole picture, ``crop`` the aspect ratio of its central square.
        splits: ``folders`` where they exist, or ``test`` to make everything test data.
        strict: whatever would be left out (no readable file, a shared name, a symlink to elsewhere) is an error.

    Raises:
        BadInputError: a folder, file or name does not fit; the text names it.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="your own pictures, one folder a class",
        get="Put your pictures into one folder a class; nothing has to be fetched.",
        layout=(
            "CLASS/x.jpg|.png|.bmp|.webp|.tif|.ppm ...\n"
            "train|val|test/CLASS/...   instead, where the split is given\n"
            "x.jpg ...                  instead, for pictures without labels; or a single picture as path\n"
            "masks/CLASS/x.png          optional: non-zero = evidence"
        ),
        size="yours",
        licence="of the files at this path",
        citation="the files' own",
        lacks="band truth; without masks localisation cannot be scored",
        notes=(
            "Classes are sorted as text, as torchvision's ImageFolder does (0, 1, 10, 2); where a model's logits have "
            "another order, pass classes=NAME+NAME+...",
        ),
    )
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
        return DatasetInfo(self._class_names, 3, frozenset(has), self.recipe.licence, f"pictures of {self.path}")

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
        twins = self._masks.values()
        masks = file_facts((mask for same in twins for mask in same), self._mask_root) if self._mask_root else []
        return fingerprint([*pictures, *masks, "+".join(self._class_names)])

    def left_out(self) -> Mapping[str, str]:
        """Pictures of one name and folders that are symlinks to elsewhere, with the reason."""
        return self._found[1]

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
        found = sorted({name for folders in self._class_folders.values() for name in folders})
        if not self.classes:
            filled = {
                name for folders in self._class_folders.values() for name in folders if holds_pictures(folders[name])
            }
            if empty := [name for name in found if name not in filled]:
                log.warning("folder %s: no class, for want of pictures: %s", self._root, ", ".join(empty))
            return tuple(name for name in found if name in filled)
        wanted = tuple(name for name in self.classes.split("+") if name)
        if absent := sorted(set(wanted) - set(found)):
            raise BadInputError(
                f"{str(self._root)!r} has no class folder {', '.join(absent)}; it has {', '.join(found)}. "
                f"{next(iter(self._refused.values()), '')}".rstrip()
            )
        return wanted

    @cached_property
    def _class_folders(self) -> Mapping[Path, Mapping[str, Path]]:
        """Folders by name, within each split's folder or the root."""
        parents = [self._root / name for name in self._split_folders] or [self._root]
        return {
            parent: {name: at for name, at in folders_in(parent, self._root).items() if at != self._mask_root}
            for parent in parents
        }

    @cached_property
    def _refused(self) -> dict[str, str]:
        """Folders that would be classes, were they not symlinks to elsewhere, with the reason."""
        return {
            str(child): f"{child} leads out of {self._root}, or back to a folder above; copy its pictures there."
            for parent, folders in self._class_folders.items()
            for child in sorted(parent.iterdir())
            if child.is_dir()
            and child.name not in folders
            and not child.name.startswith(".")
            and child != self._mask_root
            and (not self.classes or child.name in self.classes.split("+"))
        }

    @property
    def _files(self) -> dict[str, tuple[Path, int | None]]:
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[dict[str, tuple[Path, int | None]], dict[str, str]]:
        """Picture and label by id, and what is left out."""
        if self._single:
            return {self.path.stem: (self.path.expanduser(), None)}, {}
        files: dict[str, tuple[Path, int | None]] = {}
        faults = dict(self._refused)
        for label, folder in self._labelled_folders():
            for same in pictures_by_stem(folder).values():
                if len(same) > 1:
                    faults |= {str(path): _shared(path, same) for path in same}
                else:
                    files[same[0].relative_to(self._root).with_suffix("").as_posix()] = (same[0], label)
        first = next(iter(faults.values()), "")
        if not files:
            text = f"no pictures below {str(self._root)!r}; put them into one folder a class."
            raise BadInputError(f"{text} {first}".rstrip())
        if faults and self.strict:
            raise BadInputError(f"{first} {len(faults)} such in all; without strict=true they are left out.")
        if faults:
            log.warning("folder %s leaves out %d files or folders: %s", self._root, len(faults), first)
        return files, faults

    def _labelled_folders(self) -> Iterator[tuple[int | None, Path]]:
        for parent, folders in self._class_folders.items():
            if not self._class_names:
                yield None, parent
            yield from ((label, folders[name]) for label, name in enumerate(self._class_names) if name in folders)

    @cached_property
    def _masks(self) -> dict[str, list[Path]]:
        """Files of masks by the id of their picture; a picture of several cannot be read."""
        if self._mask_root is None:
            return {}
        folders = sorted({Path(id).parent.as_posix() for id in self._files})
        found = {
            (Path(folder) / stem).as_posix(): masks
            for folder in folders
            if (self._mask_root / folder).is_dir()
            for stem, masks in pictures_by_stem(self._mask_root / folder).items()
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
            mask, *others = self._masks[id]
            if others:
                raise BadInputError(_shared(mask, self._masks[id]))
            check_same_size(picture, inside(mask, self._mask_root))
            return read_classes(mask, self.size, self.fit) > 0
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


def _shared(path: Path, same: Sequence[Path]) -> str:
    others = ", ".join(other.name for other in same if other != path)
    return f"{path} shares its id with {others}; rename or remove one of them."
