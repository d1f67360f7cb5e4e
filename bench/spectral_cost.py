"""What band groups cost on a ViT: ``python -m vitxai.bench.spectral_cost`` prints the table of performance.md.

Tokens, FLOPs, parameters and memory are exact and need no memory of their own, because the modules are built on torch's
``meta`` device, whose tensors have shapes and no content. What fits on the machine is measured besides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.spectral_backbone import SpectralBackbone, Tokens
from ..models.spectral_groups import spectral_groups
from .contract import BadInputError
from .profile import count_flops, peak_bytes, time_pairs
from .report.figures_text import grid
from .speed import cpu_seconds

VNIR = (397.0, 1004.0)
"""Ends in nm of the evenly spaced bands, those of HyperLeaf2024."""


@dataclass(frozen=True)
class Setting:
    """One input's shape and the ViT that reads it.

    Attributes:
        backbone: timm's model id.
        pixels: side of the input.
        shape: other arguments of ``timm.create_model``.
    """

    backbone: str = "vit_base_patch14_dinov2"
    pixels: int = 224
    bands: int = 204
    groups: int = 10
    classes: int = 4
    shape: tuple[tuple[str, int], ...] = ()

    def module(self, groups: int, tokens: Tokens = "group") -> SpectralBackbone:
        """An untrained model, on torch's default device; its new parts alone require gradients."""
        first, last = VNIR
        step = (last - first) / max(self.bands - 1, 1)
        module = SpectralBackbone(
            self.backbone,
            groups=spectral_groups([first + band * step for band in range(self.bands)], groups, "contiguous"),
            num_classes=self.classes,
            arguments={"img_size": self.pixels, **dict(self.shape)},
            tokens=tokens,
        )
        module.freeze_backbone()
        return module.eval()


VARIANTS: dict[str, Callable[[Setting], nn.Module]] = {
    "all bands fused to three channels": lambda setting: setting.module(groups=1),
    "aggregated tokens (after D-CHAG, reconstruction)": lambda setting: setting.module(setting.groups, "aggregated"),
    "group tokens": lambda setting: setting.module(setting.groups),
    "full-band tokens": lambda setting: setting.module(setting.groups, "band"),
}
"""What is compared, the reference first: each builds an untrained module with a ``geometry`` on torch's default device;
what requires gradients counts as trained. Another method joins by another entry."""


@dataclass(frozen=True)
class Cost:
    """One variant at batch 1, in float32, in inference.

    Attributes:
        tokens: of a sequence.
        gflops: 1e9 floating point operations (two a multiply-add): matrix products, convolutions, attention.
        parameters, trained: all, and those that require gradients.
        peak: largest sum of bytes of live tensors in the pass, weights and input left out, with a fused attention
            kernel that holds nothing but its output.
        explicit_peak: the same where attention is computed in plain steps.
        maps: bytes of the attention probabilities of all blocks, which a recording keeps.
        measured: time and peak bytes, each over those of the reference; None where it was not measured.
    """

    name: str
    tokens: int
    gflops: float
    parameters: int
    trained: int
    peak: int
    explicit_peak: int
    maps: int
    measured: tuple[float, float] | None = None


def cost(name: str, setting: Setting) -> Cost:
    """Everything that can be known without running the variant."""
    with torch.device("meta"):
        module: Any = VARIANTS[name](setting)
        inputs = torch.empty(1, setting.bands, setting.pixels, setting.pixels)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    module.requires_grad_(False)

    def run() -> None:
        with torch.no_grad():
            module(inputs)

    with LiveBytes() as explicit:
        run()
    with LiveBytes() as fused, _FusedAttention():
        run()
    tokens, blocks = module.geometry.tokens, list(module.blocks)
    return Cost(
        name=name,
        tokens=tokens,
        gflops=count_flops(run) / 1e9,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        trained=trained,
        peak=fused.peak,
        explicit_peak=explicit.peak,
        maps=sum(4 * block.attn.num_heads * tokens**2 for block in blocks),
    )


def measured(found: Cost, setting: Setting, pairs: int, device: str) -> tuple[float, float]:
    """Time and peak bytes of a variant over those of the reference, in interleaved pairs after a warm-up.

    Time is that of the process on a CPU, which a busy machine does not change, and by the clock elsewhere.
    """
    first = next(iter(VARIANTS.values()))
    variant, reference = (_runs(build, setting, device) for build in (VARIANTS[found.name], first))
    variant()
    reference()
    place = torch.device(device)
    if place.type == "cpu":
        times = [(cpu_seconds(reference), cpu_seconds(variant)) for _ in range(pairs)]
    else:
        times = list(zip(*time_pairs(reference, variant, pairs, place), strict=True))
    ratio = statistics.median(own / plain for plain, own in times)
    return ratio, peak_bytes(variant, place) / peak_bytes(reference, place)


def _runs(build: Callable[[Setting], nn.Module], setting: Setting, device: str) -> Callable[[], object]:
    with torch.device(device):
        module = build(setting).requires_grad_(False)
        inputs = torch.zeros(1, setting.bands, setting.pixels, setting.pixels)

    def run() -> object:
        with torch.inference_mode():
            return module(inputs)

    return run


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that a block makes and still holds, at the end (``live``) and at most (``peak``)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = {tensor.untyped_storage()._cdata for tensor in given}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in before | self._known:
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Attention that makes its output and nothing else: shapes of a fused kernel, on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def table(costs: Sequence[Cost]) -> str:
    """Markdown; FLOPs and memory beside those of the first line."""
    head = (
        "tokens from", "tokens", "GFLOPs", "×", "parameters", "trained", "peak, fused kernel", "peak, plain attention",
        "all attention maps", "time, measured", "memory, measured",
    )  # fmt: skip
    lines = []
    for one in costs:
        time, memory = ("", "") if one.measured is None else (f"{ratio:.2f} ×" for ratio in one.measured)
        lines.append([
            one.name, f"{one.tokens:,}", f"{one.gflops:,.1f}", f"{one.gflops / costs[0].gflops:.2f}",
            f"{one.parameters / 1e6:.2f} M", f"{one.trained:,}", _bytes(one.peak), _bytes(one.explicit_peak),
            _bytes(one.maps), time, memory,
        ])  # fmt: skip
    return grid(head, lines)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m vitxai.bench.spectral_cost", description=__doc__)
    parser.add_argument("--backbone", default=Setting.backbone, metavar="ID", help="timm's")
    parser.add_argument("--pixels", type=int, default=Setting.pixels)
    parser.add_argument("--bands", type=int, default=Setting.bands)
    parser.add_argument("--groups", type=int, default=Setting.groups)
    parser.add_argument("--device", default="cpu", help="where to measure: cpu, cuda, ...")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="to time; 0 (the default) measures nothing")
    parser.add_argument("--memory-gb", type=float, default=4.0, help="measure what takes less")
    parser.add_argument("--most-gflops", type=float, default=2000.0, help="measure what takes less")
    given = parser.parse_args(arguments)
    if min(given.pixels, given.bands, given.groups) < 1 or given.pairs < 0:
        raise BadInputError("--pixels, --bands and --groups must be at least 1, --pairs at least 0.")
    setting = Setting(given.backbone, given.pixels, given.bands, given.groups)
    costs = []
    for name in VARIANTS:
        found = cost(name, setting)
        held = found.peak + 4 * found.parameters
        if given.pairs and held < 1e9 * given.memory_gb and found.gflops < given.most_gflops:
            found = replace(found, measured=measured(found, setting, given.pairs, given.device))
        costs.append(found)
    sys.stdout.write(f"{setting}\n\n{table(costs)}\n")


if __name__ == "__main__":
    main()
