"""The store: what is written is read back, and damage never passes for content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vitxai.bench.contract import BadInputError
from vitxai.bench.store import Artefact, Store, default_store

KEY = "ab" + "0" * 62
MAPS = Artefact(tensors={"native": torch.arange(12.0).reshape(2, 2, 3)}, record={"layout": "token"})
FIGURES = Artefact(record={"columns": {"a": {"values": [0.1, None], "reasons": ["", "constant map"]}}})
FAILURE = Artefact(status="timeout", reason="no answer", traceback="...", fatal=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def only_file(store: Store) -> Path:
    (path,) = (p for p in store.root.rglob("*") if p.is_file())
    return path


def test_absent(store: Store) -> None:
    assert store.read("score", KEY) is None
    assert store.peek("explanation", KEY) is None


@pytest.mark.parametrize("artefact", [FIGURES, FAILURE], ids=["figures", "failure"])
def test_records_round_trip(store: Store, artefact: Artefact) -> None:
    store.write("score", KEY, artefact)
    assert store.read("score", KEY) == artefact
    assert store.peek("score", KEY) == artefact


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_tensors_round_trip_bit_by_bit(store: Store, dtype: torch.dtype) -> None:
    tensor = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    store.write("explanation", KEY, Artefact(tensors={"x": tensor.T, "none": torch.zeros(0, 4)}))
    back = store.read("explanation", KEY)
    assert back is not None
    assert back.tensors["x"].dtype == dtype
    assert torch.equal(back.tensors["x"], tensor.T)
    assert back.tensors["none"].shape == (0, 4)


def test_peek_reads_no_tensors(store: Store) -> None:
    store.write("explanation", KEY, MAPS)
    peeked = store.peek("explanation", KEY)
    assert peeked is not None
    assert peeked.record == {"layout": "token"}
    assert peeked.tensors == {}


@pytest.mark.parametrize("artefact", [FIGURES, MAPS], ids=["record", "tensors"])
@pytest.mark.parametrize("keep", [0, 5, 20, 0.5, -1])
def test_a_truncated_file_counts_as_absent_and_goes(store: Store, artefact: Artefact, keep: float) -> None:
    store.write("explanation", KEY, artefact)
    path = only_file(store)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    assert store.peek("explanation", KEY) is None
    assert not path.exists()


@pytest.mark.parametrize("artefact", [FIGURES, MAPS], ids=["record", "tensors"])
def test_every_single_altered_byte_is_noticed(store: Store, artefact: Artefact) -> None:
    store.write("explanation", KEY, artefact)
    path = only_file(store)
    content = path.read_bytes()
    for place, byte in enumerate(content):
        path.write_bytes(content[:place] + bytes([byte ^ 0x01]) + content[place + 1 :])
        assert store.read("explanation", KEY) is None, place


def test_a_result_replaces_the_failure_before_it(store: Store) -> None:
    store.write("explanation", KEY, FAILURE)
    store.write("explanation", KEY, MAPS)
    back = store.read("explanation", KEY)
    assert back is not None
    assert back.status == "ok"
    assert only_file(store).suffix == ".safetensors"


def test_a_write_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        store.write("score", KEY, FIGURES)
    assert [p for p in store.root.rglob("*") if p.is_file()] == []


def test_sizes_and_clear_by_kind(store: Store) -> None:
    store.write("score", KEY, FIGURES)
    store.write("explanation", KEY, MAPS)
    sizes = store.sizes()
    assert sizes["score"][0] == sizes["explanation"][0] == 1
    assert sizes["fit"] == (0, 0)
    assert store.clear("score") == sizes["score"][1]
    assert store.sizes()["score"] == (0, 0)
    assert store.read("explanation", KEY) is not None
    assert store.clear() == sizes["explanation"][1]
    with pytest.raises(BadInputError, match=r"'scores'.*score"):
        store.clear("scores")


def test_prune_removes_the_oldest_first(store: Store) -> None:
    import os

    for age, key in enumerate(("a" * 64, "b" * 64, "c" * 64)):
        store.write("score", key, FIGURES)
        path = next(store.root.rglob(f"{key}.json"))
        os.utime(path, (1000 - age, 1000 - age))
    size = store.sizes()["score"][1] // 3
    assert store.prune(2 * size) == size
    assert store.read("score", "c" * 64) is None
    assert store.read("score", "a" * 64) is not None
    assert store.prune(2 * size) == 0


def test_the_default_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITXAI_STORE", str(tmp_path))
    assert default_store() == tmp_path
    monkeypatch.delenv("VITXAI_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store() == tmp_path / "vitxai" / "store"
