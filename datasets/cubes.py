"""Any folder of hyperspectral cubes: one folder a class, with masks beside them if there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from ..bench.contract import BadInputError, Split, dataset
from ._catalogue import Recipe
from ._cube_dataset import CubeDataset
from ._cube_files import BARE_SUFFIXES, KINDS, is_cube, stem_of
from ._cube_listing import Entry, Listing, is_one_of, without_twins
from ._file_splits import LEARNING, Splits, mixed, split_by_hash, splits_of
from ._image_files import SUFFIXES, folder_at
from ._safe_paths import files_in, folders_in

MASK_SUFFIXES = (*SUFFIXES, ".npy")


@dataset("cubes")
class Cubes(CubeDataset):
    """``PATH/CLASS/*``, ``PATH/{train,val,test}/CLASS/*``, unlabelled cubes in ``PATH``, or one cube: ENVI (the header
    is the file), .mat (5 and 7.3), HDF5, .npz, .npy or multi-page TIFF.

    Without split folders 60 : 20 : 20 by a hash of each file's name. With train but no val, validation is 20 % of
    train; with train and val but no test, val is the test data. Bands, reflectance, leaf masks, size and what happens
    to bad files: see the parameters of ``CubeDataset``.

    Attributes:
        classes: class folders joined by ``+``, in the model's logit order; else all, sorted by name.
        masks: folder of masks (pictures or .npy, non-zero = evidence) with the same inner paths; else ``PATH/masks``
            where that exists, else an array ``mask`` in the files themselves.
        splits: ``folders`` where they exist, or ``test`` to make everything test data.

    Raises:
        BadInputError: no file is usable, or a parameter does not fit; the text names the file.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="your own hyperspectral cubes",
        get="Put your files into one folder a class; nothing has to be fetched.",
        layout=(
            "CLASS/x.hdr + x.raw|.img|.dat|.bil|.bsq|.bip (ENVI), or x.mat, x.h5, x.npz, x.npy, x.tiff\n"
            "train|val|test/CLASS/...   instead, where the split is given\n"
            "masks/CLASS/x.png|.npy     optional: non-zero = evidence\n"
            "wavelengths.txt|.csv       optional: band centres in nm or micrometres, where the files do not have them"
        ),
        size="yours",
        licence="of the files at this path",
        citation="the files' own",
        notes=("HDF5, .mat 7.3 and TIFF need pip install 'vitxai[hsi]'.",),
    )
    classes: str = ""
    masks: Path | None = None
    splits: Literal["folders", "test"] = "folders"

    @property
    def _terms(self) -> tuple[str, str]:
        return "of the files at this path", f"cubes of {self.path}"

    @property
    def _single(self) -> bool:
        return self.path.expanduser().is_file()

    @cached_property
    def _root(self) -> Path:
        return self.path.expanduser().parent if self._single else folder_at(self.path, "cubes")

    @cached_property
    def _split_folders(self) -> dict[str, Split]:
        if self._single:
            return {}
        return splits_of(folders_in(self._root, self._root), self._root)

    @cached_property
    def _mask_root(self) -> Path | None:
        if self.masks is not None:
            return folder_at(self.masks, "masks")
        beside = self._root / "masks"
        return beside if beside.is_dir() and not self._single else None

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        if self._single:
            return ()
        parents = [self._root / name for name in self._split_folders] or [self._root]
        found = sorted(
            {
                name
                for parent in parents
                for name, folder in folders_in(parent, self._root).items()
                if folder != self._mask_root and not self._holds_references_alone(folder)
            }
        )
        wanted = tuple(name for name in self.classes.split("+") if name)
        if absent := sorted(set(wanted) - set(found)):
            raise BadInputError(
                f"{str(self._root)!r} has no class folder {', '.join(absent)}; it has {', '.join(found) or 'none'}."
            )
        return wanted or tuple(found)

    def _holds_references_alone(self, folder: Path) -> bool:
        """Whether the cubes of a folder are ``white`` and ``dark``; such a folder is no class."""
        found = files_in(folder, is_cube) if self._reference_files else []
        return bool(found) and all(is_one_of(path, self._reference_files) for path in found)

    def _listing(self) -> Listing:
        if self._single:
            path = self.path.expanduser()
            return Listing({stem_of(path): Entry(path)}, {})
        labels = {path: label for path, label in self._files() if is_cube(path)}
        found, faults = without_twins((self._id(path), path) for path in labels)
        faults |= {
            str(path): f"{path} has no ENVI header; expected {path.stem}.hdr or {path.name}.hdr beside it."
            for path, _ in self._files()
            if path.suffix.lower() in BARE_SUFFIXES and not _has_header(path)
        }
        masks = self._masks(found)
        return Listing(
            {id: Entry(path, labels[path], masks.get(id), self._mask_root) for id, path in found.items()}, faults
        )

    def _files(self) -> Iterator[tuple[Path, int | None]]:
        for parent in self._split_folders or [""]:
            for label, name in enumerate(self._classes) if self._classes else [(None, "")]:
                folder = self._root / parent / name
                for path in files_in(folder, _is_listed) if folder.is_dir() else ():
                    yield path, label

    def _id(self, path: Path) -> str:
        return (path.parent.relative_to(self._root) / stem_of(path)).as_posix()

    def _masks(self, ids: Mapping[str, Path]) -> dict[str, Path]:
        if self._mask_root is None:
            return {}
        found: dict[str, Path] = {}
        for id in ids:
            folder, name = self._mask_root / Path(id).parent, Path(id).name
            for suffix in MASK_SUFFIXES:
                if (folder / f"{name}{suffix}").is_file():
                    found[id] = folder / f"{name}{suffix}"
                    break
        if ids and not found:
            raise BadInputError(
                f"no mask in {str(self._mask_root)!r} has the inner path of a cube; expected for example "
                f"{min(ids)}.png."
            )
        return found

    def _split(self, ids: Sequence[str]) -> Splits:
        if self.splits == "test" or self._single:
            return {"fit": (), "validation": (), "test": mixed(ids)}
        if not self._split_folders:
            return split_by_hash(ids)
        found: Splits = {
            split: mixed(id for id in ids if id.startswith(f"{name}/")) for name, split in self._split_folders.items()
        }
        if "test" not in found and "validation" in found:
            found["test"] = found.pop("validation")
        if "validation" not in found:
            found |= split_by_hash(found.get("fit", ()), LEARNING)
        return found


def _is_listed(path: Path) -> bool:
    return path.suffix.lower() in (*KINDS, *BARE_SUFFIXES) and path.name not in ("wavelengths.txt", "wavelengths.csv")


def _has_header(data: Path) -> bool:
    beside = (data.with_name(stem + suffix) for stem in (data.name, data.stem) for suffix in (".hdr", ".HDR"))
    return any(path.exists() for path in beside)
