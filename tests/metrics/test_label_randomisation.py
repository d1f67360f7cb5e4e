"""Maps on a model trained on shuffled labels: correlation by hand, what is refused, and the file in the keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract import Batch, Explanation, Model, Spec, UnsupportedError, explainers, metrics
from vitxai.bench.keys import plugin_identity
from vitxai.metrics.label_randomisation import LabelRandomisation
from vitxai.models.load import load_model

CFG = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}


def written(path: Path, seed: int, **changes: int) -> Path:
    cfg = CFG | changes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = VisionTransformer(**cfg)
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save({"cfg": cfg, "state_dict": module.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    wider = {"embed_dim": 48}
    return written(folder / "a.pt", 0), written(folder / "b.pt", 1), written(folder / "c.pt", 1, **wider)


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path, Path]) -> Model:
    return load_model(f"file,path={files[0]}")


@pytest.fixture
def batch(batch_of) -> Batch:
    inputs = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return batch_of(3, inputs=inputs, targets=torch.tensor([0, 1, 2]))


def explained(model: Model, batch: Batch, ctx, name: str) -> tuple[Explanation, object]:
    method = explainers.create(name)
    return method.explain(model, batch, ctx), replace(ctx, method=method)


def test_rank_correlation_with_the_other_models_map(ctx, model, batch, files) -> None:
    from scipy.stats import spearmanr

    explanation, given = explained(model, batch, ctx, "input_x_gradient")
    scores = LabelRandomisation(files[1]).score(model, batch, explanation, given)["label_randomisation"]
    other = explainers.create("input_x_gradient").explain(load_model(f"file,path={files[1]}"), batch, ctx)
    grids = [e.grid("signed").abs().flatten(1).double().numpy() for e in (explanation, other)]
    expected = [spearmanr(a, b).statistic for a, b in zip(*grids, strict=True)]
    assert scores.values.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_method_that_looks_at_no_model_keeps_its_map(ctx, model, batch, files) -> None:
    explanation, given = explained(model, batch, ctx, "center_prior")
    scores = LabelRandomisation(files[1]).score(model, batch, explanation, given)["label_randomisation"]
    assert scores.values.tolist() == pytest.approx([1.0] * 3)


@pytest.mark.parametrize(("place", "text"), [(0, "is the explained model itself"), (2, "differ in shape")])
def test_what_is_no_other_copy_is_refused(ctx, model, batch, files, place: int, text: str) -> None:
    explanation, given = explained(model, batch, ctx, "center_prior")
    with pytest.raises(UnsupportedError, match=text):
        LabelRandomisation(files[place]).score(model, batch, explanation, given)


@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_copy_that_expects_other_inputs_is_refused(ctx, model, batch, files, field: str) -> None:
    normalised_otherwise = replace(model, **{field: (0.4, 0.4, 0.4)})
    explanation, given = explained(normalised_otherwise, batch, ctx, "center_prior")
    with pytest.raises(UnsupportedError, match="expects other inputs"):
        LabelRandomisation(files[1]).score(normalised_otherwise, batch, explanation, given)


def test_the_file_is_part_of_the_key(files, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(files[1].read_bytes())
    spec = Spec("label_randomisation", {"checkpoint": str(path)})
    before = plugin_identity(metrics, spec)
    assert plugin_identity(metrics, spec) == before
    path.write_bytes(files[2].read_bytes())
    assert plugin_identity(metrics, spec) != before
