"""A tiny world for tests of the engine: a two-block ViT in a file, and plug-in files for its data set and methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from vitxai.bench.contract.registry import import_file
from vitxai.bench.run import RunResult, run_suite
from vitxai.bench.suite import Suite, parse_suite

PLUGINS = Path(__file__).parent / "plugins"
TINY = (PLUGINS / "tiny_squares.py", PLUGINS / "tiny_methods.py")
METHODS = ("tiny_gradient", "tiny_attention", "tiny_noise", "tiny_fitted")
METRICS = ("tiny_mass", "tiny_drop", "tiny_accuracy", "tiny_bands")
MakeSuite = Callable[..., Suite]
RunTiny = Callable[..., RunResult]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Specs of two untrained ViTs of 16 pixels, 4x4 patches, four classes."""
    folder = tmp_path_factory.mktemp("models")
    specs = []
    for seed in (0, 1):
        cfg = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = VisionTransformer(**cfg)
            for parameter in module.parameters():
                parameter.data += 0.05 * torch.randn_like(parameter)
        path = folder / f"tiny_{seed}.pt"
        torch.save({"cfg": cfg, "state_dict": module.state_dict()}, path)
        specs.append(f"file,path={path}")
    return specs[0], specs[1]


@pytest.fixture(scope="session")
def tiny_plugins() -> tuple[Path, ...]:
    """The plug-in files, imported here too."""
    for path in TINY:
        import_file(path.resolve())
    return TINY


@pytest.fixture(scope="session")
def make_suite(tiny_models: tuple[str, str]) -> MakeSuite:
    """A suite over the tiny world; keyword arguments replace its settings."""

    def make(models: int = 1, **settings: Any) -> Suite:
        board = {"name": "squares", "dataset": "tiny_squares", "kind": "tiny ViT", "models": tiny_models[:models]}
        table: Mapping[str, Any] = {
            "name": "tiny",
            "n": 8,
            "chunk": 4,
            "batch_size": 4,
            "timeout_s": 120,
            "memory_gb": 2,
            "validation_n": 8,
            "costs": False,
            "explainers": METHODS,
            "metrics": METRICS,
            "boards": [board],
        }
        return parse_suite({**table, **settings})

    return make


@pytest.fixture(scope="session")
def run_tiny(tiny_plugins: tuple[Path, ...]) -> RunTiny:
    """Runs a suite of the tiny world on the CPU: (suite, folder) -> result; files and store lie in the folder."""

    def run(suite: Suite, folder: Path, **options: Any) -> RunResult:
        plugins = (*tiny_plugins, *options.pop("plugins", ()))
        store = options.pop("store", folder / "store")
        return run_suite(suite, folder / "out", store, plugins=plugins, device="cpu", **options)

    return run
