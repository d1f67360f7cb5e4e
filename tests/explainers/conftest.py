"""Tiny ViTs in float64, and a ViT forward in plain matrices: the reference, which shares no code with the methods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, Explainer, Fitted, Model, TokenGeometry
from vitxai.models.handle import wrap
from vitxai.models.spectral import SpectralViT

CLASSES = 5
KINDS = {
    "class_token": {},
    "mean_pooled": {"global_pool": "avg", "class_token": False},
    "mean_pooled_with_class_token": {"global_pool": "avg"},
    "registers": {"reg_tokens": 3},
    "layer_scale": {"init_values": 0.5},
}


def build(kind: str, seed: int = 0) -> nn.Module:
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": CLASSES}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "spectral":
            module = SpectralViT(groups=[[0, 1, 2], [3, 4]], **size)
        elif kind == "distilled":
            module = VisionTransformerDistilled(**size)
        elif kind == "map_pooled":
            module = VisionTransformer(**size, global_pool="map", class_token=False)
        else:
            module = VisionTransformer(**size, **KINDS[kind])
        for name, parameter in module.named_parameters():
            # Trained nets have attention far from uniform; fresh timm weights do not.
            nn.init.normal_(parameter, std=0.25 if name.endswith("weight") else 0.2)
            if "norm" in name and name.endswith("weight"):
                parameter.data += 1.0
    return module.double().eval().requires_grad_(False)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small only wait for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny():
    """``tiny(kind)``: a model handle of a tiny ViT with random weights."""

    def make(kind: str = "class_token", seed: int = 0) -> Model:
        module = build(kind, seed)
        channels = 5 if kind == "spectral" else 3
        return wrap(module, name=f"tiny {kind}", mean=(0.5,) * channels, std=(0.25,) * channels)

    return make


@pytest.fixture(scope="session")
def batch_for():
    """``batch_for(model, size)``: random inputs, targets that differ, all truths."""

    def make(model: Model, size: int = 3, seed: int = 1) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(size, model.channels, *model.input_size, generator=generator, dtype=torch.float64)
        mask = torch.zeros(size, *model.input_size, dtype=torch.bool)
        mask[:, 4:14, 10:20] = True
        return Batch(
            ids=tuple(f"test/{row}" for row in range(size)),
            inputs=inputs,
            targets=torch.arange(size) % CLASSES,
            labels=torch.arange(size) % CLASSES,
            mask=mask,
            leaf=mask,
            healed=torch.where(mask[:, None], 0.0, inputs),
        )

    return make


@pytest.fixture(scope="session")
def toy():
    """``toy(model)``: a context whose samples hold one bright patch, of a channel that the label tells."""

    def context(model: Model) -> EngineContext:
        def samples(split: str, count: int, labels: bool) -> Batch:
            generator = torch.Generator().manual_seed({"fit": 1, "validation": 2}[split])
            count = min(count, 96 if split == "fit" else 32)
            classes = torch.arange(count) % 3
            inputs = 0.3 * torch.randn(count, model.channels, 32, 32, generator=generator, dtype=torch.float64)
            for row, label in enumerate(classes.tolist()):
                y, x = (8 * torch.randint(4, (2,), generator=generator)).tolist()
                inputs[row, label, y : y + 8, x : x + 8] += 4.0
            return Batch(tuple(f"{split}/{row}" for row in range(count)), inputs, classes.clone(), classes)

        return EngineContext(seed=3, max_rows=32, fit_data=samples)

    return context


@pytest.fixture(scope="module")
def learnt(tiny, toy):
    """``learnt(method, kind)``: model, what was fitted on ``toy``, own model; fitted once a file."""
    made: dict[tuple[str, str], tuple[Model, Fitted, Model]] = {}

    def make(method: Explainer, kind: str) -> tuple[Model, Fitted, Model]:
        key = (repr(method), kind)
        if key not in made:
            model = tiny(kind)
            fitted = method.fit(model, toy(model))
            made[key] = (model, fitted, method.own_model(model, fitted))
        return made[key]

    return make


@pytest.fixture
def ctx() -> EngineContext:
    return EngineContext(seed=0, max_rows=7)


@dataclass
class Explicit:
    """Everything of one image's pass: lists over blocks, then over heads."""

    logits: Tensor
    attention: list[list[Tensor]]
    scores: list[list[Tensor]]
    norm1: list[Tensor]

    def gradients(self, target: int) -> list[list[Tensor]]:
        flat = [head for block in self.attention for head in block]
        found = iter(torch.autograd.grad(self.logits[target], flat, retain_graph=True))
        return [[next(found) for _ in block] for block in self.attention]


@pytest.fixture(scope="session")
def explicit():
    return explicit_forward


def explicit_forward(model: Model, image: Tensor, detach_attention_input: bool = False) -> Explicit:
    """One image [C,H,W] through the model, one head and one matrix product at a time."""
    net, geometry = model.module, model.geometry
    tokens = embed(net, image, geometry).requires_grad_()
    out = Explicit(tokens, [], [], [])
    for block in net.blocks:
        width = block.attn.num_heads
        depth = tokens.shape[1] // width
        normed = layer_norm(tokens, block.norm1)
        out.norm1.append(normed)
        source = normed.detach() if detach_attention_input else normed
        q, k, v = (source @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(tokens.shape[1], dim=1)
        mixed, maps, scores = [], [], []
        for head in range(width):
            columns = slice(head * depth, (head + 1) * depth)
            score = q[:, columns] @ k[:, columns].T / math.sqrt(depth)
            weights = score.exp()
            weights = weights / weights.sum(1, keepdim=True)
            weights = weights if weights.requires_grad else weights.requires_grad_()
            mixed.append(weights @ v[:, columns])
            maps.append(weights)
            scores.append(score)
        out.attention.append(maps)
        out.scores.append(scores)
        tokens = tokens + scale(block, "ls1") * (torch.cat(mixed, 1) @ block.attn.proj.weight.T + block.attn.proj.bias)
        hidden = layer_norm(tokens, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + scale(block, "ls2") * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    out.logits = classify(net, tokens, geometry)
    return out


def embed(net: nn.Module, image: Tensor, geometry: TokenGeometry) -> Tensor:
    side = geometry.image_size[0] // geometry.grid[0]
    groups = geometry.groups or (tuple(range(geometry.channels)),)
    projections = net.patch_embed.proj if geometry.groups else [net.patch_embed.proj]
    rows = []
    for g, (group, projection) in enumerate(zip(groups, projections, strict=True)):
        for y in range(geometry.grid[0]):
            for x in range(geometry.grid[1]):
                patch = image[list(group), y * side : (y + 1) * side, x * side : (x + 1) * side]
                token = projection.weight.flatten(1) @ patch.flatten() + projection.bias
                if geometry.groups:
                    token = token + net.pos_embed[0, 0, y * geometry.grid[1] + x] + net.group_embed[0, g, 0]
                rows.append(token)
    prefix = [net.cls_token[0, 0]] if getattr(net, "cls_token", None) is not None else []
    prefix += [net.dist_token[0, 0]] if hasattr(net, "dist_token") else []
    prefix += list(net.reg_token[0]) if getattr(net, "reg_token", None) is not None else []
    tokens = torch.stack([*prefix, *rows])
    return tokens if geometry.groups else tokens + net.pos_embed[0]


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def scale(block: nn.Module, name: str) -> Tensor | float:
    return getattr(getattr(block, name), "gamma", 1.0)


def classify(net: nn.Module, tokens: Tensor, geometry: TokenGeometry) -> Tensor:
    normed = layer_norm(tokens, net.norm) if hasattr(net.norm, "weight") else tokens
    if hasattr(net, "head_dist"):
        return (net.head.weight @ normed[0] + net.head.bias + net.head_dist.weight @ normed[1] + net.head_dist.bias) / 2
    pooled = normed[0] if geometry.pooling == "token" else normed[geometry.prefix :].mean(0)
    if getattr(net, "fc_norm", None) is not None and hasattr(net.fc_norm, "weight"):
        pooled = layer_norm(pooled, net.fc_norm)
    return net.head.weight @ pooled + net.head.bias
