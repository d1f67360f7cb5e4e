"""Speed of the parts that a run spends its time in; `tox run -e bench` measures, everywhere else they only run once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Explanation, Model, TokenGeometry, datasets, explainers, metrics
from vitxai.bench.store import Artefact, Store
from vitxai.models.handle import wrap
from vitxai.models.tape import record

SAMPLES = 16


@pytest.fixture(scope="module")
def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap(VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=10))


@pytest.fixture(scope="module")
def batch(model: Model) -> Batch:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SAMPLES) % 10
    mask = torch.zeros(SAMPLES, 64, 64, dtype=torch.bool)
    mask[:, 16:32, 16:32] = True
    inputs = torch.rand(SAMPLES, 3, 64, 64, generator=generator)
    return Batch(tuple(map(str, range(SAMPLES))), inputs, targets, targets, mask=mask)


def test_forward(benchmark, model: Model, batch: Batch) -> None:
    with torch.inference_mode():
        logits: Tensor = benchmark(model, batch.inputs)
    assert logits.shape == (SAMPLES, 10)


def test_tape_with_gradients(benchmark, model: Model, batch: Batch) -> None:
    tape = benchmark(record, model, batch.inputs, batch.targets, gradients=True)
    assert len(tape.attention) == 4


@pytest.mark.parametrize("name", ["rollout", "chefer_lrp", "grad_cam"])
def test_explainer(benchmark, model: Model, batch: Batch, name: str) -> None:
    method = explainers.create(name)
    explanation = benchmark(lambda: method.explain(model, batch, EngineContext(seed=0)))
    assert len(explanation) == SAMPLES


@pytest.mark.parametrize("name", ["localisation", "sparseness", "insertion_deletion"])
def test_metric(benchmark, model: Model, batch: Batch, name: str) -> None:
    assert model.geometry is not None
    maps = torch.rand(SAMPLES, *model.geometry.grid, generator=torch.Generator().manual_seed(1))
    explanation, scorer = Explanation(maps, "token", model.geometry), metrics.create(name)
    scores = benchmark(lambda: scorer.score(model, batch, explanation, EngineContext(seed=0)))
    assert set(scores) == {column.name for column in scorer.columns}


@pytest.mark.parametrize("name", ["leaves", "glyphs"])
def test_sample(benchmark, name: str) -> None:
    data = datasets.create(name)
    (id,) = data.ids("test", 1)
    assert benchmark(data.sample, id).id == id


def test_cube_of_a_group_token_map(benchmark) -> None:
    groups = tuple(tuple(range(8 * g, 8 * g + 8)) for g in range(7))
    geometry = TokenGeometry((6, 6), 1, "token", (48, 48), 56, groups=groups)
    maps = torch.rand(SAMPLES, 7, 6, 6, generator=torch.Generator().manual_seed(2))
    cube = benchmark(Explanation(maps, "group_token", geometry).cube)
    assert cube.shape == (SAMPLES, 56, 48, 48)


def test_store_round_trip(benchmark, tmp_path: Path) -> None:
    store = Store(tmp_path)
    artefact = Artefact(tensors={"native": torch.rand(SAMPLES, 64, 64, generator=torch.Generator().manual_seed(3))})

    def round_trip() -> Artefact | None:
        store.write("explanation", "a" * 64, artefact)
        return store.read("explanation", "a" * 64)

    read = benchmark(round_trip)
    assert torch.equal(read.tensors["native"], artefact.tensors["native"])
