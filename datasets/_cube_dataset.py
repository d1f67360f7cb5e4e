"""What all data sets of hyperspectral cubes share: parameters, a listing that leaves out bad files, samples at size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Split
from ._catalogue import Recipe
from ._cube_files import Axis, inspect_cube
from ._cube_header import CubeHeader
from ._cube_listing import (
    Listing,
    Usable,
    check_mask,
    is_one_of,
    of_one_spectrum,
    read_mask,
    refuse_broken,
    tell_faults,
    with_masks,
)
from ._cube_steps import Cut, Reflectance, Spectrum, check_leaf, plan_spectrum, read_reference, read_sample
from ._file_splits import Splits, fingerprint
from ._image_files import Fit, file_facts, folder_at
from ._safe_paths import inside
from ._wavelengths import Nanometres, parse_wavelengths, read_wavelengths

SIDE_FILES = ("wavelengths.txt", "wavelengths.csv")


@dataclass(frozen=True)
class CubeDataset(Dataset):
    """Base of data sets of cubes: subclasses say which files there are (``_listing``) and how they are split.

    Attributes:
        path: where the data are.
        wavelengths: band centres: a text or csv file, ``400+410+420`` or ``400-1000`` (evenly spaced); else each
            file's own, else ``wavelengths.txt`` or ``.csv`` in the folder. Nanometres and micrometres are told apart.
        bands: stored bands to keep, from 0: ``0-49+60`` or ``0-199:4``.
        range: nm to keep: ``400-1000``.
        resample: centres to interpolate to, linearly: a file, ``400-1000:20``, or a model's ``.safetensors``.
        white, dark: reference cubes; samples are then (raw - dark) / (white - dark). They are no samples themselves.
        scale: numbers are divided by it; 0 takes what the file says, else 1.
        key: name of the cube in .mat, HDF5 and .npz files; else the usual names, else the largest.
        axis: where the bands lie; ``auto`` is the axis as long as the wavelengths, else the format's habit.
        size: side in pixels of the square samples; 0 keeps them as stored.
        fit: ``squash`` keeps the whole cube, ``crop`` the aspect ratio of its central square.
        leaf: plant pixels: ``ndvi``, ``nir`` (reflectance at 900 nm) or ``nonzero`` above the threshold.
        threshold: of ``leaf``.
        no_mask: what a cube without a mask means where others have one: an ``error`` of it, or ``empty`` evidence.
        nan: what pixels that are not finite mean: ``refuse`` the file, or ``zero``, which also makes them ``ignore``.
        check: ``pixels`` reads numbers that may be broken (floating point, compressed) once, to find out before a run;
            ``headers`` is for sets too large for that.
        strict: a bad file is an error; else it is left out with a warning that names it and the reason.
        max_gb: size up to which a compressed cube is unpacked.

    Raises:
        BadInputError: no file is usable, or a parameter does not fit; the text names the file.
    """

    recipe: ClassVar[Recipe]
    path: Path
    wavelengths: str = ""
    bands: str = ""
    range: str = ""
    resample: str = ""
    white: Path | None = None
    dark: Path | None = None
    scale: Annotated[float, Field(ge=0)] = 0.0
    key: str = ""
    axis: Axis = "auto"
    size: Annotated[int, Field(ge=0)] = 0
    fit: Fit = "squash"
    leaf: Literal["none", "ndvi", "nir", "nonzero"] = "none"
    threshold: float = 0.3
    no_mask: Literal["error", "empty"] = "error"
    nan: Literal["refuse", "zero"] = "refuse"
    check: Literal["pixels", "headers"] = "pixels"
    strict: bool = False
    max_gb: Annotated[float, Field(gt=0)] = 4.0

    # --- what subclasses say

    def _listing(self) -> Listing:
        raise NotImplementedError

    def _split(self, ids: Sequence[str]) -> Splits:
        raise NotImplementedError

    @property
    def _classes(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def _traits(self) -> tuple[str, ...]:
        """Names of the continuous truths."""
        return ()

    @property
    def _terms(self) -> tuple[str, str]:
        """Licence and citation."""
        return self.recipe.licence, self.recipe.citation

    @property
    def _known_wavelengths(self) -> Nanometres:
        """Centres that files of this data set have though they do not say so."""
        return ()

    @property
    def _known_scale(self) -> float:
        return 1.0

    # --- the contract

    def info(self) -> DatasetInfo:
        """Classes, bands and truths of the usable files."""
        first = next(iter(self._usable.values()))
        has = {
            "labels": first.entry.label is not None, "mask": self._has_masks, "leaf": self.leaf != "none",
            "ignore": self.nan == "zero",
        }  # fmt: skip
        licence, citation = self._terms
        return DatasetInfo(
            classes=self._classes,
            channels=len(first.spectrum.low),
            has=frozenset(truth for truth, there in has.items() if there),
            licence=licence,
            citation=citation,
            wavelengths=first.spectrum.centres,
            traits=self._traits,
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        """Paths below the folder without their suffixes."""
        return self._splits.get(split, ())[:count]

    def sample(self, id: str) -> Sample:
        """Cube, class and masks of one file."""
        usable = self._usable.get(id)
        if usable is None:
            left = next((f" It was left out: {why}" for file, why in self.left_out().items() if id in file), "")
            raise BadInputError(f"{str(self.path)!r} has no sample {id!r}; take ids from ids(split).{left}")
        header, cut = usable.header, Cut(self.size, self.fit)
        cube, leaf, broken = read_sample(
            header, usable.spectrum, cut, self._scale_of(header), self._reference, self.leaf, self.threshold
        )
        if self.nan == "refuse" and broken.any():
            raise BadInputError(
                f"{header.path} holds NaN or infinite values in {int(broken.sum())} pixels; pass check=pixels to leave "
                "such files out, or nan=zero to ignore such pixels."
            )
        mask = read_mask(usable) if self._has_masks else None
        return Sample(
            id=id,
            input=cube,
            label=usable.entry.label,
            mask=None if mask is None else cut.mask(mask),
            ignore=broken if self.nan == "zero" else None,
            leaf=leaf,
            traits=None if usable.entry.traits is None else np.array(usable.entry.traits, dtype=np.float32),
        )

    def content_hash(self) -> str:
        """Over names, sizes and times of all files used, classes, and wavelengths from elsewhere."""
        facts = []
        for id, usable in self._usable.items():
            files = [usable.header.path, *usable.header.companions, *([usable.entry.mask] if usable.entry.mask else [])]
            facts += [
                f"{id}\0{usable.entry.label if usable.entry.traits is None else usable.entry.traits}",
                *(fact for file in files for fact in file_facts([file], file.parent)),
            ]
        facts += [fact for file in self._reference_files for fact in file_facts([file], file.parent)]
        first = next(iter(self._usable.values()))
        return fingerprint([*facts, *self._classes, repr(first.spectrum)])

    def left_out(self) -> Mapping[str, str]:
        """Files that are no samples, with the reason."""
        return self._looked_at[1]

    # --- looking at files

    @cached_property
    def _root(self) -> Path:
        return folder_at(self.path, self.name)

    @cached_property
    def _splits(self) -> Splits:
        return self._split(tuple(self._usable))

    @property
    def _usable(self) -> Mapping[str, Usable]:
        return self._looked_at[0]

    @cached_property
    def _has_masks(self) -> bool:
        return any(one.has_mask for one in self._usable.values())

    @cached_property
    def _looked_at(self) -> tuple[Mapping[str, Usable], Mapping[str, str]]:
        listing = self._listing()
        usable, faults = dict[str, Usable](), dict(listing.faults)
        for id, entry in listing.entries.items():
            if is_one_of(entry.path, self._reference_files):
                continue
            try:
                header = self._header(entry.path)
                usable[id] = Usable(entry, header, self._spectrum(header))
                check_leaf(header, usable[id].spectrum.source, self.leaf)
                check_mask(usable[id], self._root)
                if self.check == "pixels" and not header.certain:
                    refuse_broken(header, header.path.stat().st_mtime_ns, self.nan == "refuse")
            except BadInputError as error:
                usable.pop(id, None)
                faults[str(entry.path)] = str(error)
        usable = of_one_spectrum(usable if self.no_mask == "empty" else with_masks(usable, faults), faults)
        if self._reference and usable:
            self._reference.check(next(iter(usable.values())).spectrum.used)
        tell_faults(self.name, self.path, faults, len(usable), self.strict)
        return usable, faults

    def _header(self, path: Path) -> CubeHeader:
        header = inspect_cube(
            path,
            self._root,
            key=self.key,
            axis=self.axis,
            bands=len(self._given),
            expected=len(self._known_wavelengths or self._beside),
            max_bytes=int(self.max_gb * 1e9),
        )
        if self._reference and len(self._reference.white) != header.shape[2]:
            raise BadInputError(
                f"{path} has {header.shape[2]} bands, white reference {self.white} {len(self._reference.white)}."
            )
        return header

    def _spectrum(self, header: CubeHeader) -> Spectrum:
        count = header.shape[2]
        source = self._given or header.wavelengths or self._known_wavelengths or self._beside
        if self.wavelengths and not self._given:
            source = parse_wavelengths(self.wavelengths, count)
        return plan_spectrum(count, source, str(header.path), bands=self.bands, span=self.range, targets=self._targets)

    @cached_property
    def _given(self) -> Nanometres:
        """Wavelengths of the parameter; empty where they depend on the number of bands, as 400-1000 does."""
        if not self.wavelengths:
            return ()
        try:
            return parse_wavelengths(self.wavelengths)
        except BadInputError:
            parse_wavelengths(self.wavelengths, 2)
            return ()

    @cached_property
    def _beside(self) -> Nanometres:
        for name in SIDE_FILES:
            if (self._root / name).is_file():
                return read_wavelengths(inside(self._root / name, self._root))
        return ()

    @cached_property
    def _targets(self) -> Nanometres:
        return parse_wavelengths(self.resample) if self.resample else ()

    # --- reflectance

    def _scale_of(self, header: CubeHeader) -> float:
        return self.scale or (header.scale if header.scale != 1 else self._known_scale)

    @property
    def _reference_files(self) -> tuple[Path, ...]:
        return tuple(file.expanduser() for file in (self.white, self.dark) if file is not None)

    @cached_property
    def _reference(self) -> Reflectance | None:
        if self.white is None:
            if self.dark is not None:
                raise BadInputError("dark= needs white= too: reflectance is (raw - dark) / (white - dark).")
            return None
        white = self._mean_reference(self.white)
        dark = self._mean_reference(self.dark) if self.dark else np.zeros_like(white)
        if len(white) != len(dark):
            raise BadInputError(f"white reference {self.white} has {len(white)} bands, dark {self.dark} {len(dark)}.")
        if dark.shape[1] != white.shape[1]:
            white, dark = white.mean(1, keepdims=True), dark.mean(1, keepdims=True)
        return Reflectance(white, dark, self.white)

    def _mean_reference(self, path: Path) -> NDArray[np.float32]:
        file = path.expanduser()
        if not file.is_file():
            raise BadInputError(f"no reference cube at {path}; for ENVI pass its header.")
        return read_reference(
            inspect_cube(file, file.parent, key=self.key, axis=self.axis, max_bytes=int(self.max_gb * 1e9))
        )
