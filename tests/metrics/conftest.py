"""Small models, batches and explanations, whose metrics can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Explanation, Layout, Model, TokenGeometry
from vitxai.models.handle import wrap

GRID, PATCH = 4, 8


class PatchLinear(nn.Module):
    """Logit 0 is a weighted sum of patch means, logit 1 is zero: what each patch contributes is known exactly."""

    def __init__(self, weights: Tensor, patch: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.patch = patch

    def forward(self, inputs: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), self.patch)[:, 0]
        logit = (means * self.weights).sum((1, 2))
        return torch.stack([logit, torch.zeros_like(logit)], dim=1)


@pytest.fixture
def ctx() -> EngineContext:
    return EngineContext(seed=0, max_rows=32)


@pytest.fixture(scope="session")
def vit() -> Model:
    """A ViT of 32 pixels, 4x4 patches and two blocks, with weights large enough that its logits move."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = VisionTransformer(
            img_size=GRID * PATCH, patch_size=PATCH, embed_dim=32, depth=2, num_heads=2, num_classes=4
        )
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return wrap(module, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def linear() -> Callable[[Tensor], Model]:
    """A model whose logit 0 is the sum of weight times mean over 1-pixel patches."""

    def build(weights: Tensor, patch: int = 1) -> Model:
        h, w = weights.shape
        geometry = TokenGeometry((h, w), prefix=0, pooling="avg", image_size=(h * patch, w * patch), channels=3)
        return wrap(PatchLinear(weights, patch), mean=(0.0,) * 3, std=(1.0,) * 3, geometry=geometry)

    return build


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """A batch of any fields; inputs, targets and labels are zeros unless given."""

    def build(count: int, size: tuple[int, int] = (2, 2), channels: int = 3, **fields: Any) -> Batch:
        given = {
            "ids": tuple(f"test/{i:05d}" for i in range(count)),
            "inputs": torch.zeros(count, channels, *size),
            "targets": torch.zeros(count, dtype=torch.long),
            "labels": torch.zeros(count, dtype=torch.long),
        }
        return Batch(**(given | fields))

    return build


@pytest.fixture
def vit_batch(vit: Model) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(8, 3, *vit.input_size, generator=generator)
    with torch.inference_mode():
        targets = vit(inputs).argmax(1).clone()
    return Batch(
        ids=tuple(f"test/{i:05d}" for i in range(8)), inputs=inputs, targets=targets, labels=torch.arange(8) % 4
    )


@pytest.fixture
def explained() -> Callable[..., Explanation]:
    """An explanation whose patches are single pixels, so that nothing is interpolated."""

    def build(native: Any, layout: Layout = "token", groups: tuple[tuple[int, ...], ...] | None = None) -> Explanation:
        native = torch.as_tensor(native, dtype=torch.float32)
        h, w = native.shape[-2:]
        channels = native.shape[1] if layout == "cube" else sum(map(len, groups)) if groups else 3
        geometry = TokenGeometry(
            grid=(h, w), prefix=1, pooling="token", image_size=(h, w), channels=channels, groups=groups
        )
        return Explanation(native, layout, geometry)

    return build
