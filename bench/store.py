"""The content-addressed store: one file an artefact, written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from .contract import BadInputError

if TYPE_CHECKING:
    from torch import Tensor

ArtefactKind = Literal["sample", "facts", "fit", "explanation", "score", "probe", "cost"]
Status = Literal["ok", "unsupported", "error", "timeout", "memory"]
_TENSORS, _RECORD = ".safetensors", ".json"
_START, _JOINT, _END = b'{"sha256": "', b'", "artefact": ', b"}\n"
_RECORD_FORM = _START + b"%s" + _JOINT + b"%s" + _END
_DIGEST = slice(len(_START), len(_START) + 64)


@dataclass(frozen=True)
class Artefact:
    """A stored result or failure.

    Attributes:
        status: ``ok``, or why there is no result.
        record: JSON values (a score's columns, a fit's facts, an explanation's layout).
        tensors: by name; only of results.
        reason: of a failure, one line.
        traceback: of a failure.
        fatal: the failure cost the worker its life, so that more of the same is not tried.
    """

    status: Status = "ok"
    record: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    reason: str = ""
    traceback: str = ""
    fatal: bool = False


def default_store() -> Path:
    """``$VITXAI_STORE``, or ``vitxai/store`` in the user's cache folder."""
    if chosen := os.environ.get("VITXAI_STORE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vitxai" / "store"


class Store:
    """Artefacts by kind and key below ``root``.

    A damaged file counts as absent and is removed when met. Writers do not disturb each other: equal keys hold equal
    content.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, kind: ArtefactKind, key: str, artefact: Artefact) -> None:
        """Stores under the key; what was there (an old failure) is replaced."""
        record, tensors = self._path(kind, key, _RECORD), self._path(kind, key, _TENSORS)
        path, stale = (tensors, record) if artefact.tensors else (record, tensors)
        _write_atomically(path, _encode_tensors(artefact) if artefact.tensors else _encode_record(artefact))
        stale.unlink(missing_ok=True)

    def read(self, kind: ArtefactKind, key: str) -> Artefact | None:
        """The artefact; None when it is absent or damaged."""
        for suffix, decode in ((_RECORD, _decode_record), (_TENSORS, _decode_tensors)):
            path = self._path(kind, key, suffix)
            try:
                return decode(path.read_bytes())
            except FileNotFoundError:
                continue
            except _DamagedError:
                path.unlink(missing_ok=True)
        return None

    def scratch(self, kind: ArtefactKind, key: str) -> Path:
        """A file beside the artefact's own for the state of work that may be stopped."""
        return self._path(kind, key, ".state")

    def peek(self, kind: ArtefactKind, key: str) -> Artefact | None:
        """As :meth:`read`, but of a file with tensors only the header is read and its length checked."""
        for suffix, look in ((_RECORD, _peek_record), (_TENSORS, _peek_tensors)):
            path = self._path(kind, key, suffix)
            try:
                return look(path)
            except FileNotFoundError:
                continue
            except _DamagedError:
                path.unlink(missing_ok=True)
        return None

    def holds(self, kind: ArtefactKind) -> bool:
        """Whether there is any artefact of the kind."""
        return next(self._files(kind), None) is not None

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Files and bytes of each kind."""
        found = {}
        for kind in get_args(ArtefactKind):
            lengths = [path.stat().st_size for path in self._files(kind)]
            found[kind] = (len(lengths), sum(lengths))
        return found

    def clear(self, kind: str | None = None) -> int:
        """Removes all artefacts (of one kind); returns the bytes freed.

        Raises:
            BadInputError: no such kind.
        """
        kinds = get_args(ArtefactKind)
        if kind is not None and kind not in kinds:
            raise BadInputError(f"no artefacts of kind {kind!r}; kinds are {', '.join(kinds)}.")
        return self._remove([path for k in kinds if kind in (None, k) for path in self._files(k)])

    def prune(self, max_bytes: int) -> int:
        """Removes the oldest artefacts until the store holds at most ``max_bytes``; returns the bytes freed."""
        files = [(path.stat(), path) for kind in get_args(ArtefactKind) for path in self._files(kind)]
        excess = sum(stat.st_size for stat, _ in files) - max_bytes
        doomed = []
        for stat, path in sorted(files, key=lambda item: item[0].st_mtime):
            if excess <= 0:
                break
            doomed.append(path)
            excess -= stat.st_size
        return self._remove(doomed)

    def _path(self, kind: ArtefactKind, key: str, suffix: str) -> Path:
        return Path(f"{self.root}/{kind}/{key[:2]}/{key}{suffix}")  # joined as text: a warm run asks for thousands

    def _files(self, kind: str) -> Iterator[Path]:
        return (path for path in (self.root / kind).glob("*/*") if path.is_file())

    @staticmethod
    def _remove(paths: list[Path]) -> int:
        freed = 0
        for path in paths:
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
        return freed


class _DamagedError(Exception):
    """A file that was cut short or altered."""


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.stem[:8]}_", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _header(artefact: Artefact) -> str:
    facts = {
        "status": artefact.status,
        "record": dict(artefact.record),
        "reason": artefact.reason,
        "traceback": artefact.traceback,
        "fatal": artefact.fatal,
    }
    return json.dumps(facts, allow_nan=False)  # in the plug-in's own order, which tables follow


def _encode_record(artefact: Artefact) -> bytes:
    body = _header(artefact).encode()
    return _RECORD_FORM % (hashlib.sha256(body).hexdigest().encode(), body)


def _decode_record(content: bytes) -> Artefact:
    digest, body = content[_DIGEST], content[_DIGEST.stop + len(_JOINT) : -len(_END)]
    if content != _RECORD_FORM % (digest, body) or hashlib.sha256(body).hexdigest().encode() != digest:
        raise _DamagedError
    return Artefact(**json.loads(body))


def _encode_tensors(artefact: Artefact) -> bytes:
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in artefact.tensors.items()}
    header = _header(artefact)
    # One entry only: safetensors writes several in any order, and equal content should be equal bytes.
    return bytes(save(tensors, {"artefact": f"{_tensor_digest(header, tensors)} {header}"}))


def _decode_tensors(content: bytes) -> Artefact:
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, _ = _tensor_header(content)
    try:
        tensors = load(content)
    except SafetensorError:
        raise _DamagedError from None
    digest, _, facts = header.get("__metadata__", {}).get("artefact", "").partition(" ")
    if _tensor_digest(facts, tensors) != digest:
        raise _DamagedError
    return Artefact(**json.loads(facts), tensors=tensors)


def _peek_record(path: Path) -> Artefact:
    return _decode_record(path.read_bytes())


def _peek_tensors(path: Path) -> Artefact:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        length = os.fstat(file.fileno()).st_size
        if size > length:
            raise _DamagedError
        header, start = _tensor_header(size.to_bytes(8, "little") + file.read(size))
    _, _, facts = header.pop("__metadata__", {}).get("artefact", "").partition(" ")
    end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if not facts or end != length:
        raise _DamagedError
    return Artefact(**json.loads(facts))


def _tensor_header(content: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and where its data begin."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        raise _DamagedError from None
    if len(content) < 8 or not isinstance(header, dict):
        raise _DamagedError
    return header, 8 + size


def _tensor_digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
