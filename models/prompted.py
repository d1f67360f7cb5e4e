"""A frozen ViT with learned prompt tokens: class scores are read from the prompts, and so is the attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, TokenGeometry, UnsupportedError
from .handle import geometry_of
from .interception import AttentionCalls, Edit, calls_exposed
from .lean_pass import as_far_as_read, split_heads
from .prompt_attention import PromptRows, Reach
from .spectral import groups_apart

Depth = Literal["shallow", "deep"]
EVERY = slice(None)


@dataclass(frozen=True, eq=False)
class Prompted:
    """What a pass says of the prompts.

    Attributes:
        outputs: of the prompts after the backbone's last norm, [B,P,D].
        attention: of the prompts' rows in each block.
        sink: attention to the sink in each block, mean over all rows that may attend to it, [B,H]; empty without one.
    """

    outputs: Tensor
    attention: tuple[PromptRows, ...]
    sink: tuple[Tensor, ...] = ()


class PromptedViT(nn.Module):
    """A ViT whose sequence begins with S added tokens: a sink (if any), then P prompts.

    With ``isolate`` the backbone's own tokens do not attend to the added ones, so that its features and logits stay
    bit-equal; added tokens then are a side stream over the backbone's keys and values, which
    :meth:`keys_values` gives once for all epochs of a fit. Without it all tokens see each other as ``allowed`` says.

    Attributes that it does not have are those of the backbone, so that it passes for a timm ViT. ``geometry`` is that
    of the sequence that the blocks see, ``seen`` that of the backbone alone.

    Args:
        backbone: a plain timm ViT (blocks with norm1, attn.qkv, norm2, mlp) or a spectral-token one; frozen here.
        prompts: gives the prompt tokens [L,P,D], L = 1 (before the first block) or one set a block.
        head: maps the prompts' outputs [B,P,D] to class scores [B,K].
        allowed: [S,S+N] bool, what each added token may attend to: added tokens, then the backbone's.
        sink: whether the first added token is a sink, which has no output.
        isolate: see above.
        renew: with one set a block, each set takes the place of what the block before made of the prompts (visual
            prompt tuning, deep) instead of being added to it.
        router: maps the mean value of the tokens that prompts may attend to, [B,C,D] over sets of prompts with the same
            tokens, to what is added to their score for the sink, [B,C]; for isolated prompts with a sink.
        adapter: maps inputs to what is added to the patch tokens before the first block, [B,patches,D]; the backbone's
            features are no longer its own then.
        separate: the prompts read the backbone's tokens as they are when no spectral group attends to another (the
            class token still sees all), so that a prompt that is allowed one group's tokens, and a sink that is allowed
            none, depends on the bands of that group alone. For isolated prompts on a spectral-token model.

    Raises:
        UnsupportedError: blocks or attention of another kind (rotary positions, windows, gates).
        BadInputError: ``router`` or ``separate`` on prompts that are not isolated, ``router`` without a sink, or
            ``separate`` without groups.
    """

    backbone: Any
    geometry: TokenGeometry
    seen: TokenGeometry

    def __init__(
        self,
        backbone: nn.Module,
        prompts: nn.Module,
        head: nn.Module,
        allowed: Tensor,
        *,
        sink: nn.Parameter | None = None,
        isolate: bool = True,
        renew: bool = False,
        router: nn.Module | None = None,
        adapter: nn.Module | None = None,
        separate: bool = False,
    ) -> None:
        super().__init__()
        geometry = geometry_of(backbone)
        require_plain_blocks(backbone, geometry)
        assert geometry is not None
        if not isolate and (separate or router is not None):
            raise BadInputError("separate groups and routed prompts need isolate=true: one sequence serves all tokens.")
        if router is not None and sink is None:
            raise BadInputError("routed prompts need a sink to be routed to; use sink=true.")
        if separate and geometry.groups is None:
            raise BadInputError("separate groups need a spectral-token model; here a patch is one token.")
        self.backbone = backbone.requires_grad_(False)
        self.seen = geometry
        self.prompts, self.head, self.sink, self.router, self.adapter = prompts, head, sink, router, adapter
        self.isolate, self.renew = isolate, renew
        self.reach = Reach(allowed, sink is not None)
        self.register_buffer("apart", groups_apart(geometry) if separate else None, persistent=False)
        self.added = allowed.shape[0]
        self.geometry = geometry if isolate else _with_prefix(geometry, self.added, sink is not None)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("backbone"), name)

    @property
    def allowed(self) -> Tensor:
        """[S,S+N] bool, what each added token may attend to."""
        return self.reach.allowed

    def train(self, mode: bool = True) -> PromptedViT:
        """The backbone stays in eval mode: it is frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores [B,K] of the prompts."""
        # Not by ``read``: whoever records the backbone's attention wants its last block whole.
        return self.scores(
            self.beside(self._of_backbone(inputs)) if self.isolate else self._together(inputs, keep=False)
        )

    def scores(self, read: Prompted) -> Tensor:
        """Class scores [B,K] from the prompts' outputs."""
        scores: Tensor = self.head(read.outputs)
        return scores

    def read(self, inputs: Tensor, edit: Edit | None = None) -> Prompted:
        """Outputs and attention of the prompts for normalised inputs [B,C,H,W], in one pass.

        Args:
            edit: changes the probabilities [B,H,S+N,S+N] of each block before they are used; for prompts that are not
                isolated.
        """
        if not self.isolate:
            return self._together(inputs, edit)
        if edit is not None:
            raise BadInputError("attention of isolated prompts is not edited.")
        with as_far_as_read(self):
            return self.beside(self._of_backbone(inputs))

    def keys_values(self, inputs: Tensor) -> Tensor:
        """Keys and values of the backbone's tokens in each block, before any norm of keys: [B,L,N,2D]."""
        with as_far_as_read(self):
            return torch.stack(self._of_backbone(inputs), dim=1)

    def _of_backbone(self, inputs: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []
        blocks = list(self.backbone.blocks)

        def keep(_: nn.Module, __: Any, qkv: Tensor) -> None:
            kept.append(qkv[..., qkv.shape[-1] // 3 :])

        def masked(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attn_mask": self.apart}

        hooks = self._adapting(inputs)
        hooks += [block.attn.qkv.register_forward_hook(keep) for block in blocks]
        if self.apart is not None:
            hooks += [block.register_forward_pre_hook(masked, with_kwargs=True) for block in blocks]
        with _hooked(hooks):
            self.backbone(inputs)
        return kept

    def beside(self, keys_values: Tensor | Sequence[Tensor]) -> Prompted:
        """The side stream of isolated prompts over :meth:`keys_values`, or over a list of one [B,N,2D] a block."""
        of_blocks = keys_values.unbind(1) if isinstance(keys_values, Tensor) else keys_values
        order = self.reach.order
        tokens = self._added_tokens(0)[:, order].expand(len(of_blocks[0]), -1, -1)
        rows = []
        for layer, block in enumerate(self.backbone.blocks):
            tokens = self._entered(tokens, layer, order)
            attn = block.attn
            query, own_key, own_value = split_heads(attn.qkv(block.norm1(tokens)), attn, 3)
            key, value = split_heads(of_blocks[layer], attn, 2)
            query, own_key, key = attn.q_norm(query) * attn.scale, attn.k_norm(own_key), attn.k_norm(key)
            mixed, of_prompts = self.reach.attend(query, own_key, own_value, key, value, self.router)
            tokens = tokens + _part(block, "ls1")(attn.proj(mixed.transpose(1, 2).flatten(2)))
            tokens = tokens + _part(block, "ls2")(block.mlp(block.norm2(tokens)))
            rows.append(of_prompts)
        has_sink = self.sink is not None
        outputs: Tensor = self._last_norm(tokens[:, int(has_sink) :][:, self.reach.place])
        return Prompted(outputs, tuple(rows), tuple(row.to_sink() for row in rows) if has_sink else ())

    def _together(self, inputs: Tensor, edit: Edit | None = None, keep: bool = True) -> Prompted:
        """One sequence of added and own tokens through the backbone's blocks; its head reads what it always reads.

        Without ``keep`` no attention is kept, and the blocks attend by whatever kernel they choose.
        """
        blocks = list(self.backbone.blocks)
        final: list[Tensor] = []

        def enter(layer: int) -> Callable[..., Any]:
            def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
                tokens = args[0]
                if layer == 0:
                    tokens = torch.cat([self._added_tokens(0).expand(len(tokens), -1, -1), tokens], dim=1)
                added, own = tokens[:, : self.added], tokens[:, self.added :]
                mask = self._joint_mask(kwargs.get("attn_mask"))
                return (torch.cat([self._entered(added, layer), own], dim=1),), {**kwargs, "attn_mask": mask}

            return hook

        def leave(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
            final.append(tokens[:, : self.added])
            return tokens[:, self.added :]

        hooks = self._adapting(inputs)
        hooks += [b.register_forward_pre_hook(enter(layer), with_kwargs=True) for layer, b in enumerate(blocks)]
        hooks.append(blocks[-1].register_forward_hook(leave))
        calls = AttentionCalls(keep=keep, edit=edit)
        with _hooked(hooks), ExitStack() as stack:
            if keep:
                stack.enter_context(calls_exposed(self.backbone))
                stack.enter_context(calls)
            self.backbone(inputs)
        first = int(self.sink is not None)
        outputs: Tensor = self._last_norm(final[0][:, first:])
        rows = tuple(self.reach.rows(attention[:, :, first : self.added]) for attention in calls.attention)
        sinks = tuple(attention[:, :, 1:, 0].mean(-1) for attention in calls.attention) if first else ()
        return Prompted(outputs, rows, sinks)

    @property
    def _last_norm(self) -> nn.Module:
        """The norm between the last block and the head; timm's mean-pooled ViTs have theirs after the pooling."""
        norm: nn.Module = self.backbone.norm
        return self.backbone.fc_norm if isinstance(norm, nn.Identity) and hasattr(self.backbone, "fc_norm") else norm

    def _adapting(self, inputs: Tensor) -> list[Any]:
        """The hook that adds the adapter's share to the patch tokens; none without an adapter."""
        if self.adapter is None:
            return []
        share = self.adapter(inputs)

        def add(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            own = args[0].shape[1] - share.shape[1]
            return (torch.cat([args[0][:, :own], args[0][:, own:] + share], dim=1), *args[1:])

        return [self.backbone.blocks[0].register_forward_pre_hook(add)]

    def _added_tokens(self, layer: int) -> Tensor:
        prompts = self.prompts()
        layer = layer if len(prompts) > 1 else 0
        tokens: Tensor = prompts[layer][None]
        return tokens if self.sink is None else torch.cat([self.sink[layer][None], tokens], dim=1)

    def _entered(self, tokens: Tensor, layer: int, order: Tensor | slice = EVERY) -> Tensor:
        """What goes into a block: with one set a block, the next set joins or replaces the tokens."""
        if layer == 0 or len(self.prompts()) == 1:
            return tokens
        new = self._added_tokens(layer)[:, order]
        return new.expand(len(tokens), -1, -1) if self.renew else tokens + new

    def _joint_mask(self, own: Tensor | None) -> Tensor:
        """[S+N,S+N] bool; ``own`` [N,N] is what the backbone lets its tokens attend to, if it says so."""
        below = self.allowed.new_ones(self.allowed.shape[1] - self.added, self.allowed.shape[1])
        if own is not None:
            below[:, self.added :] = own
        return torch.cat([self.allowed, below])


def require_plain_blocks(module: nn.Module, geometry: TokenGeometry | None) -> None:
    """Refuses ViTs whose blocks added tokens cannot walk through.

    Raises:
        UnsupportedError: no token grid, no plain attention blocks, rotary positions, gates or norms between.
    """
    from timm.models.vision_transformer import Attention, Block  # takes seconds

    blocks = list(getattr(module, "blocks", ()))
    if geometry is None or geometry.pooling == "none" or not blocks:
        raise UnsupportedError(f"{type(module).__name__} has no plain blocks over one token grid to put prompts into.")
    for index, block in enumerate(blocks):
        attn = getattr(block, "attn", None)
        # Not by name: BEiT's are called the same, and hold relative positions.
        if type(block) is not Block or getattr(type(attn), "forward", None) is not Attention.forward:
            raise UnsupportedError(
                f"block {index} of {type(module).__name__} is a {type(block).__name__} with {type(attn).__name__}; "
                "prompts need timm's plain pre-norm Block and Attention (ViT, DeiT, DINOv2), without rotary positions."
            )
        if getattr(attn, "gate", None) is not None or not isinstance(getattr(attn, "norm", nn.Identity()), nn.Identity):
            raise UnsupportedError(f"block {index} of {type(module).__name__} gates or norms its attention's output.")


def _with_prefix(geometry: TokenGeometry, added: int, sink: bool) -> TokenGeometry:
    heads = tuple(range(int(sink), added))
    return replace(geometry, prefix=geometry.prefix + added, pooling="token", head_tokens=heads)


def _part(block: nn.Module, name: str) -> nn.Module:
    part: nn.Module = getattr(block, name, None) or nn.Identity()
    return part


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
