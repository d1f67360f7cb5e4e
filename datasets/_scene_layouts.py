"""How labelled scenes are stored: with a map of classes, or with the shares of materials in each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..bench.contract import BadInputError
from ._scenes import SceneDataset, Truth
from ._wavelengths import Nanometres


@dataclass(frozen=True)
class MapScene(SceneDataset):
    """Base of scenes with one class a labelled pixel: a cube [rows, columns, bands] and a map, 0 = unlabelled."""

    cube_keys: ClassVar[tuple[str, ...]]
    map_keys: ClassVar[tuple[str, ...]]
    class_names: ClassVar[tuple[str, ...]]
    divisor: ClassVar[float]

    def _cube(self) -> NDArray[np.float32]:
        cube = self._arrays.get(*self.cube_keys)
        if cube.ndim != 3:
            raise BadInputError(f"the scene of {self.name} has shape {cube.shape}; it needs rows, columns and bands.")
        return (cube / self.divisor).astype(np.float32)

    def _read_truth(self) -> Truth:
        stored = self._arrays.get(*self.map_keys)
        if stored.min() < 0 or stored.max() > len(self.class_names):
            raise BadInputError(
                f"the map of {self.name} holds {stored.min():g} to {stored.max():g}; classes are 1 to "
                f"{len(self.class_names)}, and 0 is unlabelled."
            )
        return Truth(stored.astype(np.int64) - 1, None, self.class_names)

    def _centres(self, count: int) -> Nanometres:
        if count not in (known := self._sensor()):
            raise BadInputError(f"{self.name} has {count} bands; known are {' and '.join(map(str, known))}.")
        return known[count]

    def _sensor(self) -> Mapping[int, Nanometres]:
        """Centres by the number of bands that a file may have."""
        raise NotImplementedError


@dataclass(frozen=True)
class MaterialScene(SceneDataset):
    """Base of scenes with abundances: ``Y`` or ``V`` [bands, pixels] in column order and shares of materials a pixel.

    A pixel's class is the material with the largest share; the mask is where the sample's material has half or more.
    """

    class_names: ClassVar[tuple[str, ...]]
    divisor: ClassVar[float]
    span: ClassVar[tuple[float, float]]
    sensor_bands: ClassVar[int]

    def _cube(self) -> NDArray[np.float32]:
        stored = self._arrays.get("Y", "V")
        if stored.ndim == 3:
            return (stored / self._divisor).astype(np.float32)
        rows, columns = self._size
        if stored.ndim != 2 or stored.shape[1] != rows * columns:
            raise BadInputError(
                f"the scene of {self.name} has shape {stored.shape}, not [bands, {rows} x {columns} pixels]."
            )
        return (stored.reshape(-1, columns, rows).transpose(2, 1, 0) / self._divisor).astype(np.float32)

    def _read_truth(self) -> Truth:
        shares = self._abundances()
        names = self._names(shares.shape[2])
        return Truth(shares.argmax(2).astype(np.int64), shares, names)

    def _abundances(self) -> NDArray[np.float64]:
        rows, columns = self._size
        shares = self._arrays.find("A", "S_GT")
        if shares is None:
            return self._arrays.get("A", "S_GT")  # the error that says what is missing
        if shares.ndim == 2 and shares.shape[1] == rows * columns:
            return shares.reshape(-1, columns, rows).transpose(2, 1, 0)
        if shares.ndim == 3 and shares.shape[:2] == (rows, columns):
            return self._upright(shares)
        raise BadInputError(
            f"the abundances of {self.name} have shape {shares.shape}; expected [materials, {rows * columns}] or "
            f"[{rows}, {columns}, materials]."
        )

    def _upright(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """A square map of abundances turned as the scene is: whichever way the endmembers explain the scene better."""
        endmembers = self._arrays.find("M")
        if endmembers is None or shares.shape[0] != shares.shape[1] or endmembers.shape[0] != self._pixels.shape[2]:
            return shares
        scene = self._pixels / max(float(self._pixels.max()), 1e-12)
        members = endmembers / max(float(endmembers.max()), 1e-12)
        ways = (shares, shares.transpose(1, 0, 2))
        return min(ways, key=lambda way: float(np.square(scene - way @ members.T).mean()))

    @cached_property
    def _size(self) -> tuple[int, int]:
        rows, columns = (self._arrays.find(*names) for names in (("nRow", "rows"), ("nCol", "cols")))
        if rows is not None and columns is not None:
            return int(rows.ravel()[0]), int(columns.ravel()[0])
        pixels: tuple[int, ...] = self._arrays.get("Y", "V").shape
        if len(pixels) == 3:
            return pixels[0], pixels[1]
        side = round(float(pixels[-1]) ** 0.5)
        if side * side == pixels[-1]:
            return side, side
        raise BadInputError(f"the scene of {self.name} has {pixels[-1]} pixels and no nRow and nCol.")

    @property
    def _divisor(self) -> float:
        stated = self._arrays.find("maxValue")
        return self.divisor if stated is None or stated.ravel()[0] <= 1 else float(stated.ravel()[0])

    def _names(self, count: int) -> tuple[str, ...]:
        if count != len(self.class_names):
            raise BadInputError(
                f"the abundances of {self.name} name {count} materials; known are {', '.join(self.class_names)}."
            )
        return self.class_names

    def _centres(self, count: int) -> Nanometres:
        """Evenly spaced over the sensor's span, of which a file may keep a part (``SlectBands``, from 1): nominal."""
        every = np.linspace(*self.span, self.sensor_bands)
        kept = self._arrays.find("SlectBands")
        if kept is not None and kept.size == count and kept.min() >= 1 and kept.max() <= self.sensor_bands:
            every = every[kept.ravel().astype(int) - 1]
        if len(every) != count:
            raise BadInputError(f"{self.name} has {count} bands; known are {self.sensor_bands}.")
        return tuple(round(float(nm), 2) for nm in every)
