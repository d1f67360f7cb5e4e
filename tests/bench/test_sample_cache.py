"""Samples read once: equal bit for bit with and without the cache, bad ones left out by name, damaged ones remade."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitxai.bench import sample_cache
from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample, Spec, UnsupportedError, dataset, datasets
from vitxai.bench.sample_cache import SampleCache
from vitxai.bench.samples import CellSamples
from vitxai.bench.store import Store
from vitxai.bench.tasks import Cell
from vitxai.models import load_model

MADE: list[str] = []
BROKEN = {"test/3": "three.png is truncated"}


@dataset("counted_samples")
class Counted(Dataset):
    """Samples that say when they are made; all kinds of values.

    Attributes:
        strict: refuse broken ones.
        mark: any number.
    """

    strict: bool = False
    mark: int = 0

    def info(self):
        return DatasetInfo(("a", "b"), 3, frozenset({"labels", "mask", "bands"}), "mine", "nobody")

    def ids(self, split, count=None):
        return [f"{split}/{n}" for n in range(8)][:count]

    def sample(self, id):
        MADE.append(id)
        if id in BROKEN:
            raise BadInputError(BROKEN[id])
        draw = np.random.default_rng(int(id[-1]))
        pixels = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8).transpose(2, 0, 1)  # not contiguous
        return Sample(
            id, pixels.astype(np.float32) / np.float32(255), label=int(id[-1]) % 2 if id[0] != "v" else None,
            mask=draw.random((6, 6)) > 0.5, bands=draw.random(3, dtype=np.float32),
            healed=draw.standard_normal((3, 6, 6), dtype=np.float32),
        )  # fmt: skip

    def content_hash(self):
        return "always"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    MADE.clear()
    monkeypatch.setattr(sample_cache, "WORTH_SECONDS", -1.0)


def cache(root: Path | None, **params) -> SampleCache:
    spec = Spec("counted_samples", params)
    return SampleCache(datasets.create(spec), spec, root)


def same(one: Sample, other: Sample) -> bool:
    def bits(value):
        return (value.dtype, value.shape, np.ascontiguousarray(value).tobytes()) if hasattr(value, "dtype") else value

    return all(bits(getattr(one, f.name)) == bits(getattr(other, f.name)) for f in dataclasses.fields(Sample))


def test_samples_come_back_bit_for_bit_and_are_made_once(tmp_path):
    ids = ("test/0", "validation/2", "fit/1")
    wanted = [Counted().sample(id) for id in ids]
    MADE.clear()
    for _ in range(3):  # another process, another model
        for id, truth in zip(ids, wanted, strict=True):
            assert same(cache(tmp_path).sample(id), truth)
    assert sorted(MADE) == sorted(ids)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[[0.0, 1.0, 1 / 3]]], np.float32), np.array([[[-0.0, 0.2, 1.0]]], np.float32),
        np.array([[[np.nan, 0.2, 1.0]]], np.float32), np.zeros((1, 0, 3), np.float32),
        np.array([[[0.5, 2.0, 1.0]]], np.float32), np.array([[[0.5, 0.25, 1.0]]], np.float64),
        (np.arange(256, dtype=np.float32) / np.float32(255))[None, None],
    ],
    ids=["thirds", "minus_zero", "nan", "empty", "above_one", "double", "bytes"],
)  # fmt: skip
def test_numbers_that_are_no_bytes_lose_nothing(tmp_path, values):
    sample_cache._write(tmp_path / "s.safetensors", Sample("x", values))
    assert same(sample_cache._read(tmp_path / "s.safetensors"), Sample("x", values))


def test_labels_of_numpy_become_plain_numbers(tmp_path):
    sample_cache._write(tmp_path / "s", Sample("x", np.zeros((1, 1, 1), np.float32), label=np.int64(3)))
    assert sample_cache._read(tmp_path / "s").label == 3


def test_pictures_of_eight_bits_take_a_quarter_of_the_room(tmp_path):
    sample_cache._write(tmp_path / "a", Sample("x", np.zeros((3, 64, 64), np.float32)))
    sample_cache._write(tmp_path / "b", Sample("x", np.full((3, 64, 64), 0.001, np.float32)))
    assert (tmp_path / "b").stat().st_size - (tmp_path / "a").stat().st_size == 3 * 64 * 64 * 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_damaged_files_are_made_anew(tmp_path, damage):
    wanted = cache(tmp_path).sample("test/0")
    (path,) = (tmp_path / "sample").glob("*/*")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-5]
    elif damage == "flip":
        content[-5] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        from safetensors.numpy import save

        content = save({"input": np.zeros(3)})
    path.write_bytes(content)
    MADE.clear()
    assert same(cache(tmp_path).sample("test/0"), wanted)
    assert MADE == ["test/0"]
    assert same(cache(tmp_path).sample("test/0"), wanted)
    assert MADE == ["test/0"]


def test_other_parameters_or_content_are_other_samples(tmp_path, monkeypatch):
    cache(tmp_path).sample("test/0")
    cache(tmp_path, mark=1).sample("test/0")
    monkeypatch.setattr(Counted, "content_hash", lambda self: "changed")
    cache(tmp_path).sample("test/0")
    assert MADE == ["test/0"] * 3


def test_what_is_made_faster_than_read_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_cache, "WORTH_SECONDS", 1e9)
    cache(tmp_path).sample("test/0")
    cache(tmp_path).sample("test/0")
    assert MADE == ["test/0"] * 2
    assert not list(tmp_path.rglob("*.safetensors"))
    assert same(cache(None).sample("test/0"), Counted().sample("test/0"))


def test_a_full_disk_only_costs_time(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample_cache, "_write", full)
    samples = cache(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert samples.sample("test/0").id == samples.sample("test/1").id.replace("1", "0")
    assert [record.message for record in caplog.records] == [
        "samples are not kept from now on: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize("workers", [1, 4])
def test_bad_samples_are_left_out_by_name(tmp_path, caplog, workers):
    with caplog.at_level(logging.WARNING):
        ids, left_out = cache(tmp_path).readable([f"test/{n}" for n in range(6)], workers)
    assert ids == ("test/0", "test/1", "test/2", "test/4", "test/5")
    assert left_out == BROKEN
    assert "a sample is left out: three.png is truncated" in caplog.text
    MADE.clear()
    assert cache(tmp_path).readable([f"test/{n}" for n in range(6)])[0] == ids
    assert MADE == ["test/3"]  # the others are known to be sound


def test_strict_data_sets_and_sets_without_a_good_sample_are_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"1 of 6 samples cannot be read, the first: three\.png is truncated"):
        cache(tmp_path, strict="true").readable([f"test/{n}" for n in range(6)])
    with pytest.raises(BadInputError, match="1 of 1 samples"):
        cache(tmp_path).readable(["test/3"])
    assert cache(tmp_path).readable([]) == ((), {})


def cell(store: Path, spec: Spec) -> Cell:
    return Cell("b", "k", spec, Spec.parse("timm,id=x"), 8, 4, 4, "label", 0, 4.0, 1, 8, "cpu", store)


def test_batches_are_equal_with_a_cold_a_warm_and_no_cache(tmp_path):
    model = load_model("timm,id=test_vit,random=true,img_size=32")
    spec = Spec("counted_samples")
    ids = ["test/0", "test/1", "test/2"]
    plain = CellSamples(cell(tmp_path / "a", spec), Counted(), model)
    plain._cache._folder = None
    cold, warm = (CellSamples(cell(tmp_path / "b", spec), Counted(), model) for _ in range(2))
    for field in ("inputs", "labels", "mask", "bands", "healed"):
        values = [getattr(samples.collate(ids), field).numpy().tobytes() for samples in (plain, cold, warm)]
        assert values[0] == values[1] == values[2], field
    assert len(plain.fit_data("fit", 5, labels=False)) == 5


def test_fits_learn_from_what_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setitem(BROKEN, "fit/2", "two.png is empty")
    model = load_model("timm,id=test_vit,random=true,img_size=32")
    samples = CellSamples(cell(tmp_path, Spec("counted_samples")), Counted(), model)
    assert samples.fit_data("fit", 4, labels=True).ids == ("fit/0", "fit/1", "fit/3")


def test_methods_that_learn_are_refused_where_nothing_is_to_learn_from(tmp_path, monkeypatch):
    monkeypatch.setattr(Counted, "ids", lambda self, split, count=None: [])
    model = load_model("timm,id=test_vit,random=true,img_size=32")
    samples = CellSamples(cell(tmp_path, Spec("counted_samples")), Counted(), model)
    with pytest.raises(UnsupportedError, match="learns from the fit split, which counted_samples has no samples in"):
        samples.fit_data("fit", 4, labels=True)


def test_the_store_counts_and_clears_them(tmp_path):
    cache(tmp_path).sample("test/0")
    store = Store(tmp_path)
    assert store.sizes()["sample"][0] == 1
    assert store.clear("sample") > 0
    assert store.sizes()["sample"] == (0, 0)


def test_a_run_reads_pictures_once_for_all_models_and_leaves_a_truncated_one_out(tmp_path):
    from vitxai.bench.cell import load_cell

    for number in range(12):
        folder = tmp_path / "data" / f"{'ab'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 50).convert("RGB").save(folder / f"{number}.png")
    broken = tmp_path / "data" / "a" / "4.png"
    broken.write_bytes(broken.read_bytes()[:200])
    spec = Spec("folder", {"path": str(tmp_path / "data"), "size": "32", "splits": "test"})
    made = dataclasses.replace(
        cell(tmp_path / "store", spec), n=12, model=Spec.parse("timm,id=test_vit,random=true,img_size=32")
    )
    _, facts = load_cell(made)
    assert len(facts.ids) == 11
    assert list(facts.left_out) == ["a/4"]
    assert str(broken) in facts.left_out["a/4"]
    strict = dataclasses.replace(made, dataset=Spec("folder", {**spec.params, "strict": "true"}))
    with pytest.raises(BadInputError, match=r"1 of 12 samples cannot be read, the first: .*4\.png"):
        load_cell(strict)
