"""Samples made once: read and decoded ahead of a run, then mapped from the store by every model and plug-in."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import BadInputError, Dataset, Sample, Spec
from .contract import datasets as dataset_registry
from .keys import LIBRARIES, canonical_json, plugin_identity

log = logging.getLogger(__name__)

DECODERS = (*LIBRARIES, "numpy", "pillow")
WORTH_SECONDS = 1e-3
"""Of processor time; samples that take less are made again: reading them would take about as long."""
FORMAT = 1
_WHOLE = "/255"
Arrays = Mapping[str, NDArray[Any]]


class SampleCache:
    """The samples of a data set, bit for bit as it gives them, each read and decoded once for all models.

    A damaged or missing file counts as absent. A disk that is full makes it slower, never wrong.

    Args:
        dataset: of the spec.
        spec: part of every key, with the data set's parameters, source, content hash and the decoders' versions.
        root: of the store; None keeps nothing.
    """

    def __init__(self, dataset: Dataset, spec: Spec, root: Path | None) -> None:
        self._dataset = dataset
        self._folder = None if root is None else root / "sample"
        identity = {
            "dataset": plugin_identity(dataset_registry, spec),
            "content": dataset.content_hash(),
            "versions": {name: version(name) for name in DECODERS},
            "format": FORMAT,
        }
        self._identity = hashlib.sha256(canonical_json(identity).encode()).hexdigest()

    def sample(self, id: str) -> Sample:
        """The sample of an id.

        Raises:
            BadInputError: as the data set raises it.
        """
        path = self._path(id)
        stored = None if path is None else _read(path)
        if stored is not None:
            return stored
        start = time.thread_time()
        made = self._dataset.sample(id)
        if path is not None and time.thread_time() - start > WORTH_SECONDS:
            self._keep(path, made)
        return made

    def readable(self, ids: Sequence[str], workers: int = 1) -> tuple[tuple[str, ...], dict[str, str]]:
        """The ids whose samples can be read, which then lie in the store, and the reasons why the others cannot.

        One bad file does not stop a run: it is left out, with a warning that names it. A data set that was made with
        ``strict=true`` refuses it.

        Args:
            workers: threads that decode side by side.

        Raises:
            BadInputError: the data set is strict, or none of the samples can be read.
        """
        with ThreadPoolExecutor(workers) if workers > 1 else _InTurn() as pool:
            reasons = dict(zip(ids, pool.map(self._fault, ids), strict=True))
        faults = {id: reason for id, reason in reasons.items() if reason is not None}
        if faults and (len(faults) == len(ids) or getattr(self._dataset, "strict", False)):
            raise BadInputError(
                f"{len(faults)} of {len(ids)} samples cannot be read, the first: {next(iter(faults.values()))}"
            )
        for reason in faults.values():
            log.warning("a sample is left out: %s", reason)
        return tuple(id for id in ids if id not in faults), faults

    def _fault(self, id: str) -> str | None:
        path = self._path(id)
        if path is not None and path.is_file():
            return None
        try:
            self.sample(id)
        except BadInputError as error:
            return str(error)
        return None

    def _path(self, id: str) -> Path | None:
        if self._folder is None:
            return None
        key = hashlib.sha256(f"{self._identity}\0{id}".encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.safetensors"

    def _keep(self, path: Path, sample: Sample) -> None:
        try:
            _write(path, sample)
        except OSError as error:
            log.warning("samples are not kept from now on: %s", error)
            self._folder = None


class _InTurn:
    """A pool without threads."""

    def __enter__(self) -> _InTurn:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @staticmethod
    def map(function: Any, items: Iterable[Any]) -> Iterable[Any]:
        return map(function, items)


def _write(path: Path, sample: Sample) -> None:
    """Atomically, but unlike results not flushed to the disk: what a crash destroys is made again."""
    from safetensors.numpy import save

    values = {f.name: getattr(sample, f.name) for f in fields(sample)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    facts = {name: value for name, value in values.items() if name not in arrays and value is not None}
    packed = dict(_packed(name, np.ascontiguousarray(array)) for name, array in arrays.items())
    content = save(packed, {"sample": json.dumps({"facts": facts, "sum": _checksum(packed)}, default=int)})
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem[:8]}_", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Sample | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["sample"])
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError):
        packed, header = {}, {"sum": None}
    if _checksum(packed) != header["sum"]:
        path.unlink(missing_ok=True)
        return None
    values: dict[str, Any] = {**header["facts"], **dict(_unpacked(name, array) for name, array in packed.items())}
    return Sample(**values)


def _packed(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """Pictures of eight bits as bytes, a quarter of the size, where that loses nothing."""
    if array.dtype != np.float32 or array.size == 0 or not (array.min() >= 0 and array.max() <= 1):
        return name, array
    whole = np.rint(array * np.float32(255)).astype(np.uint8)
    same = np.array_equal(_fractions(whole).view(np.uint32), array.view(np.uint32))  # bits: there are two zeros
    return (name + _WHOLE, whole) if same else (name, array)


def _unpacked(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    return (name.removesuffix(_WHOLE), _fractions(array)) if name.endswith(_WHOLE) else (name, array)


def _fractions(whole: NDArray[np.uint8]) -> NDArray[np.float32]:
    fractions: NDArray[np.float32] = whole.astype(np.float32) / np.float32(255)
    return fractions


def _checksum(arrays: Arrays) -> int:
    total = 0
    for name, array in sorted(arrays.items()):
        total = zlib.crc32(
            array.data if array.size else b"", zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        )
    return total
