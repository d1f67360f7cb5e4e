"""Loading is not the bottleneck: pictures and cubes, decoded and from the cache, beside a forward pass of ViT-B/16."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench import sample_cache
from vitxai.bench.contract import Dataset, Model, Spec, datasets
from vitxai.bench.sample_cache import SampleCache
from vitxai.models.handle import wrap
from vitxai.models.preprocess import collate

SAMPLES = 8


@pytest.fixture(scope="module")
def vit_b() -> Model:
    """ViT-B/16 at 224 pixels; what its weights are changes no time."""
    with torch.random.fork_rng():
        return wrap(VisionTransformer(weight_init="skip"), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module", params=["photographs", "cubes"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Dataset, list[str]]:
    """JPEG photographs of VOC's size, or ENVI-sized cubes in compressed files."""
    folder, generator = tmp_path_factory.mktemp(request.param), np.random.default_rng(0)
    for number in range(SAMPLES):
        if request.param == "photographs":
            coarse = Image.fromarray(generator.integers(0, 256, (47, 63, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        else:
            cube = generator.integers(0, 4096, (48, 48, 100), dtype=np.uint16)
            np.savez_compressed(folder / f"{number}.npz", cube=cube, wavelengths=np.linspace(400, 1000, 100))
    spec = {
        "photographs": Spec("folder", {"path": str(folder), "splits": "test"}),
        "cubes": Spec("cubes", {"path": str(folder), "splits": "test", "bands": "0-99:34", "scale": "4096"}),
    }[request.param]
    found: Dataset = datasets.create(spec)
    return spec, found, list(found.ids("test"))


def test_decoding(benchmark, data: tuple[Spec, Dataset, list[str]]) -> None:
    _, found, ids = data
    samples = benchmark(lambda: [found.sample(id) for id in ids])
    assert len(samples) == SAMPLES


def test_reading_what_was_decoded(benchmark, data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, found, ids = data
    cache = kept(found, spec, ids, tmp_path, monkeypatch)
    samples = benchmark(lambda: [cache.sample(id) for id in ids])
    assert all(np.array_equal(sample.input, found.sample(sample.id).input) for sample in samples)


def test_a_whole_batch_is_there_long_before_vit_b_is_through(data, vit_b, tmp_path, monkeypatch) -> None:
    spec, found, ids = data
    cache = kept(found, spec, ids, tmp_path, monkeypatch)

    def load() -> torch.Tensor:
        return collate([cache.sample(id) for id in ids], vit_b).inputs

    inputs = load()
    with torch.inference_mode():
        forward = best(lambda: vit_b(inputs[:2])) / 2
    assert 10 * best(load) / len(ids) < forward


def kept(found: Dataset, spec: Spec, ids: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> SampleCache:
    """The cache with all samples in it."""
    monkeypatch.setattr(sample_cache, "WORTH_SECONDS", -1.0)
    cache = SampleCache(found, spec, root)
    assert cache.readable(ids) == (tuple(ids), {})
    return cache


def best(work, rounds: int = 3) -> float:
    """Seconds of the fastest round: others are slowed by whatever else the machine does."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
