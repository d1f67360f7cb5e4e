"""A model with fresh weights, block by block: the stages of parameter randomisation tests."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..bench.contract import Context, Model, UnsupportedError

_BLOCK = re.compile(r"^(?:.*\.)?blocks\.\d+(?=\.)")


@dataclass(frozen=True, eq=False)
class RandomisedModels:
    """Copies of a model in which some stages have fresh weights; they share all parts and parameters that are equal.

    Attributes:
        stages: names, from the input to the output: ``embedding``, the blocks, ``head``.
        models: by the set of stages (indices) that are fresh.
        fresh: the fresh weights, by parameter.
    """

    stages: tuple[str, ...]
    models: Mapping[frozenset[int], Model]
    fresh: Mapping[str, Tensor]

    @property
    def full(self) -> frozenset[int]:
        """All stages."""
        return frozenset(range(len(self.stages)))

    @property
    def top_down(self) -> tuple[frozenset[int], ...]:
        """Cascade from the head to the embedding."""
        n = len(self.stages)
        return tuple(frozenset(range(first, n)) for first in range(n - 1, -1, -1))

    @property
    def bottom_up(self) -> tuple[frozenset[int], ...]:
        """Cascade from the embedding to the head."""
        return tuple(frozenset(range(last)) for last in range(1, len(self.stages) + 1))

    @property
    def independent(self) -> tuple[frozenset[int], ...]:
        """Each stage alone."""
        return tuple(frozenset({stage}) for stage in range(len(self.stages)))


def randomised_models(model: Model, ctx: Context) -> RandomisedModels:
    """The randomised models of every order, made once for all samples and explainers of a chunk.

    Raises:
        UnsupportedError: the model has no ``blocks``.
    """
    return ctx.probe(model, None, f"randomised_models,seed={ctx.seed}", lambda: _randomised(model, ctx))


def _randomised(model: Model, ctx: Context) -> RandomisedModels:
    module = model.module
    stage_of = _stages(module)
    stages = tuple(dict.fromkeys(stage_of.values()))
    seed = int(torch.randint(2**62, (), generator=ctx.generator(model.name, "fresh weights")))
    fresh = fresh_parameters(module, seed)
    mixes = _Mixes.of(module, [stages.index(stage) for stage in stage_of.values()], fresh)
    made = RandomisedModels(stages, {}, fresh)
    models: dict[frozenset[int], Model] = {}
    for chosen in (*made.top_down, *made.bottom_up, *made.independent):
        if chosen not in models:
            text = "+".join(stages[stage] for stage in sorted(chosen))
            models[chosen] = replace(
                model,
                module=mixes.module(chosen),
                weights_hash=f"{model.weights_hash} randomised {text}",
                provenance=(*model.provenance, ("randomised", text)),
            )
    return replace(made, models=models)


def fresh_parameters(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """New values of all parameters, as the model's own initialisation draws them, from one stream of random numbers.

    First every part's ``reset_parameters``, then the model's ``init_weights`` (timm), which also draws class tokens,
    registers and positions; without one its ``_init_weights`` for each part, or timm's rule for linear layers
    (truncated normal with deviation 0.02, bias 0). Parameters that none of these touches are no part of any layer:
    embeddings and tokens get the truncated normal, others a permutation of their own entries. Global random states are
    left alone.
    """
    blank = copy.deepcopy(module, _without_tensors(module)).cpu().requires_grad_(False)
    before = {name: parameter.clone() for name, parameter in blank.named_parameters()}
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(seed)
        for part in blank.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
        _initialise(blank)
        for name, parameter in blank.named_parameters():
            if torch.equal(parameter, before[name]):
                _draw(parameter, of_layer=_owner_resets(blank, name))
    device = next(module.parameters()).device
    return {name: parameter.detach().to(device) for name, parameter in blank.named_parameters()}


def _initialise(module: nn.Module) -> None:
    if callable(own := getattr(module, "init_weights", None)):
        own()
        return
    rule = getattr(module, "_init_weights", None)
    module.apply(rule if callable(rule) else _timm_rule)


def _timm_rule(part: nn.Module) -> None:
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def _draw(parameter: Tensor, of_layer: bool) -> None:
    """New values for a parameter that no initialisation changed; a layer's constants (norms, biases) stay."""
    if of_layer:
        return
    if parameter.ndim > 1:
        nn.init.trunc_normal_(parameter, std=0.02)
    else:
        parameter.copy_(parameter[torch.randperm(len(parameter))])


def _owner_resets(module: nn.Module, name: str) -> bool:
    return callable(getattr(module.get_submodule(name.rpartition(".")[0]), "reset_parameters", None))


def _stages(module: nn.Module) -> dict[str, str]:
    """Stage of each parameter, by order of definition: before the first block, in a block, after the last one.

    What lies between two blocks (the downsampling of a pyramid) belongs to the block before it.
    """
    names = [name for name, _ in module.named_parameters()]
    inside = [match.group() if (match := _BLOCK.match(name)) else None for name in names]
    places = [place for place, block in enumerate(inside) if block]
    if not places:
        raise UnsupportedError(
            f"{type(module).__name__} has no `blocks` with parameters, so there are no stages to randomise."
        )
    stages, current = {}, "embedding"
    for place, name in enumerate(names):
        current = inside[place] or ("head" if place > places[-1] else current)
        stages[name] = current
    return stages


def _without_tensors(module: nn.Module) -> dict[int, Any]:
    """A memo by which a deep copy shares the parts that hold no parameter and no buffer: half of a ViT's parts."""
    return {
        id(part): part
        for part in module.modules()
        if next(part.parameters(), None) is None and next(part.buffers(), None) is None
    }


@dataclass(frozen=True, eq=False)
class _Mixes:
    """A module and its fresh twin, of which modules with some fresh stages are put together.

    Attributes:
        whole: the module.
        pairs: each part with its twin, and the stages (indices) that its parameters belong to.
        parameters: each parameter with its twin, and its stage.
    """

    whole: nn.Module
    pairs: Sequence[tuple[nn.Module, nn.Module, frozenset[int]]]
    parameters: Sequence[tuple[nn.Parameter, nn.Parameter, int]]

    @classmethod
    def of(cls, module: nn.Module, stages: Sequence[int], fresh: Mapping[str, Tensor]) -> _Mixes:
        """From the stage of each parameter, in the module's order."""
        own = [parameter for _, parameter in module.named_parameters()]
        twins = [nn.Parameter(fresh[name], requires_grad=False) for name, _ in module.named_parameters()]
        memo = _without_tensors(module) | {id(one): twin for one, twin in zip(own, twins, strict=True)}
        twin = copy.deepcopy(module, memo)
        stage_of = {id(parameter): stage for parameter, stage in zip(own, stages, strict=True)}
        pairs = [
            (part, other, frozenset(stage_of[id(parameter)] for parameter in part.parameters()))
            for part, other in zip(module.modules(), twin.modules(), strict=True)
        ]
        return cls(module, pairs, tuple(zip(own, twins, stages, strict=True)))

    def module(self, fresh: frozenset[int]) -> nn.Module:
        """The module with these stages fresh: parts that hold stages of both kinds are copied, all others shared."""
        kept: dict[int, Any] = {id(one): twin if stage in fresh else one for one, twin, stage in self.parameters}
        for part, twin, stages in self.pairs:
            if not stages & fresh:
                kept[id(part)] = part
            elif stages <= fresh:
                kept[id(part)] = twin
        return copy.deepcopy(self.whole, kept)
