"""The perturbation executor: model responses to many changed inputs, by row range, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..bench.contract import BadInputError, Model, TokenGeometry
from .lean_pass import FromTokens, as_far_as_read, patch_embedding

Output = Literal["logit", "probability", "logits"]


def target_responses(
    model: Model,
    build: Callable[[int, int], Tensor],
    rows: int,
    targets: Tensor | None,
    *,
    output: Output = "logit",
    max_rows: int,
) -> Tensor:
    """Responses of the model to ``rows`` perturbed inputs, in passes of at most ``max_rows``, in inference mode.

    A row is one (sample, perturbation); rows of several samples share a pass. ``build`` is called for one range after
    the other, so that no more than ``max_rows`` inputs exist at a time. What the head does not read of the last block
    is left out (:func:`~vitxai.models.lean_pass.as_far_as_read`).

    Args:
        build: the inputs [stop-start,C,H,W] of rows start..stop-1.
        targets: [rows] class of each row; not needed for ``logits``.
        output: target logit or target probability [rows], or all logits [rows,K].

    Returns:
        At least float32, on the model's device.

    Raises:
        BadInputError: ``build`` gives a wrong number of rows, targets do not match, or a response is not finite.
    """
    if rows < 1 or max_rows < 1:
        raise BadInputError(f"rows={rows} and max_rows={max_rows} must be at least 1.")
    if output != "logits" and (targets is None or tuple(targets.shape) != (rows,)):
        shape = None if targets is None else tuple(targets.shape)
        raise BadInputError(f"output {output!r} needs one target a row, shape ({rows},), not {shape}.")
    responses = []
    with torch.inference_mode(), as_far_as_read(model.module):
        for start in range(0, rows, max_rows):
            stop = min(start + max_rows, rows)
            inputs = build(start, stop)
            if len(inputs) != stop - start:
                raise BadInputError(f"build({start}, {stop}) gave {len(inputs)} inputs, not {stop - start}.")
            part = None if targets is None else targets[start:stop]
            responses.append(_response(model(inputs), part, output))
    # Joined outside inference mode: the result is an ordinary tensor that callers may put into a graph.
    result = torch.cat(responses)
    if not torch.isfinite(result).all():
        bad = (~torch.isfinite(result)).flatten(1).any(1) if result.ndim > 1 else ~torch.isfinite(result)
        raise BadInputError(f"the model's response to rows {bad.nonzero().flatten().tolist()[:5]} is not finite.")
    return result


def _response(logits: Tensor, targets: Tensor | None, output: Output) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if output == "logits" or targets is None:
        return logits
    values = logits.softmax(-1) if output == "probability" else logits
    return values.gather(1, targets.to(logits.device).long()[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class PatchSource:
    """Images that rows are put together of, patch by patch; see :func:`patch_source`.

    Attributes:
        images: [B,C,H,W], or one for all samples.
        tokens: of their patches, [B,T,D]; None where rows are put together of pixels.
    """

    images: Tensor
    tokens: Tensor | None


def patch_source(model: Model, images: Tensor, geometry: TokenGeometry, max_rows: int) -> PatchSource:
    """Images as :func:`mixed_responses` takes them.

    Where every token of the model is made of its own patch of the geometry alone
    (:func:`~vitxai.models.lean_pass.patch_embedding`), they are embedded here, once for all rows to come.
    """
    embed = patch_embedding(model.module)
    if embed is None or tuple(embed.grid_size) != geometry.grid:
        return PatchSource(images, None)
    with torch.inference_mode():
        return PatchSource(images, torch.cat([embed(part) for part in torch.split(images, max_rows)]))


def mixed_responses(
    model: Model,
    shown: PatchSource,
    hidden: Tensor,
    samples: Tensor,
    targets: Tensor | None,
    geometry: TokenGeometry,
    *,
    baseline: PatchSource | None = None,
    output: Output = "logit",
    max_rows: int,
) -> Tensor:
    """:func:`target_responses` to rows that show the baseline in hidden patches and their sample elsewhere.

    Args:
        shown: the samples.
        hidden: [R,h,w] bool, on the grid of the geometry.
        samples: [R] the sample of each row; rows of one sample next to each other.
        baseline: made by :func:`patch_source` from the same model; None for the mean colour, which is zero.
    """
    if baseline is None:
        baseline = patch_source(model, torch.zeros_like(shown.images[:1]), geometry, max_rows)
    own, other, entered = shown.images, baseline.images, model
    if shown.tokens is not None and baseline.tokens is not None:
        own, other = shown.tokens, baseline.tokens
        entered = replace(model, module=FromTokens(model.module, shown.images.shape[1:]))

    def build(start: int, stop: int) -> Tensor:
        if entered is model:
            where = patches_to_pixels(hidden[start:stop], geometry)[:, None]
        else:
            where = hidden[start:stop].flatten(1).repeat(1, own.shape[1] // hidden[0].numel())[..., None]
        return mixed_rows(own, samples[start:stop], where, other)

    return target_responses(entered, build, len(samples), targets, output=output, max_rows=max_rows)


def patches_to_pixels(patches: Tensor, geometry: TokenGeometry) -> Tensor:
    """Each pixel gets the value of its patch: [...,h,w] -> [...,H,W], same dtype (bool too)."""
    (h, w), (height, width) = geometry.grid, geometry.image_size
    if tuple(patches.shape[-2:]) != (h, w):
        raise BadInputError(f"patch values of this model end in shape {(h, w)}, not {tuple(patches.shape[-2:])}.")
    rows = torch.arange(height, device=patches.device) * h // height
    columns = torch.arange(width, device=patches.device) * w // width
    # Columns first: then whole lines are copied, many times faster than pixel by pixel.
    return patches.index_select(-1, columns).index_select(-2, rows)


def mixed_rows(inputs: Tensor, samples: Tensor, where: Tensor, baseline: Tensor | None = None) -> Tensor:
    """Rows of perturbed inputs: the baseline where a row's mask holds, its sample elsewhere: [R,...] like the inputs.

    One pass over memory a row and no copies of samples, since a small model's own pass costs little more.

    Args:
        inputs: [B,C,H,W] images or [B,T,D] tokens, finite.
        samples: [R] the sample that each row perturbs; rows of one sample next to each other.
        where: [R,C,H,W] or [R,T,D] bool, axes of length 1 for all alike.
        baseline: like the inputs, or one row for all samples; None for zero, which is the mean colour of images.
    """
    rows = inputs.new_empty(len(samples), *inputs.shape[1:])
    kept, start = ~where, 0
    owners, counts = torch.unique_consecutive(samples, return_counts=True)
    for sample, count in zip(owners.tolist(), counts.tolist(), strict=True):
        part = slice(start, start + count)
        if baseline is None:
            torch.mul(inputs[sample], kept[part], out=rows[part])
        else:
            of_sample = baseline[sample if len(baseline) > 1 else 0]
            torch.where(where[part], of_sample, inputs[sample], out=rows[part])
        start += count
    return rows


def replace_pixels(inputs: Tensor, where: Tensor, baseline: Tensor) -> Tensor:
    """``baseline`` where the mask holds, ``inputs`` elsewhere; :func:`mixed_rows` does many rows of few samples faster.

    Args:
        inputs, baseline: [B,C,H,W], or shapes that broadcast to it.
        where: [B,H,W] bool for all channels, or [B,C,H,W].
    """
    return torch.where(where[:, None] if where.ndim == 3 else where, baseline, inputs)


def mean_colour(inputs: Tensor) -> Tensor:
    """The data's mean in every pixel, which is zero in normalised space: [B,C,H,W]."""
    return torch.zeros_like(inputs)


def blurred(inputs: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation of ``sigma`` pixels, cut at 3 sigma, reflected at borders: [B,C,H,W].

    Raises:
        BadInputError: sigma is not positive, or the blur reaches further than the image is large.
    """
    reach = max(1, round(3 * sigma))
    if sigma <= 0 or reach >= min(inputs.shape[-2:]):
        raise BadInputError(
            f"sigma={sigma} must be positive and below a third of the sides {tuple(inputs.shape[-2:])}."
        )
    down, across = (_blur_matrix(side, sigma, reach, inputs) for side in inputs.shape[-2:])
    return down @ inputs @ across.T


def _blur_matrix(side: int, sigma: float, reach: int, like: Tensor) -> Tensor:
    """[side,side] weights of each pixel of a line, those beyond a border folded back: products are faster than a
    convolution of many channels.
    """
    offsets = torch.arange(-reach, reach + 1, device=like.device)
    kernel = torch.exp(-0.5 * (offsets.to(like.dtype) / sigma) ** 2)
    source = (torch.arange(side, device=like.device)[:, None] + offsets).abs()
    source = torch.where(source < side, source, 2 * (side - 1) - source)
    weights = (kernel / kernel.sum()).expand(side, -1)
    return like.new_zeros(side, side).scatter_add_(1, source, weights)


def rows_within(memory_bytes: int, model: Model, *, gradients: bool = False) -> int:
    """How many inputs may go through the model in one pass within a memory budget; at least 1.

    Estimated from one row of zeros. A pass without gradients holds about three times the largest input and output of
    any one module (a residual stream, a module's input and its output); a pass with gradients holds every tensor that
    autograd saves, and attention probabilities recorded beside it.
    """
    row = torch.zeros(1, model.channels, *model.input_size, device=model.device, dtype=model.dtype)
    used = _saved_bytes(model, row) if gradients else 3 * _largest_step_bytes(model, row)
    return max(1, int(memory_bytes // (used + _bytes(row))))


def _largest_step_bytes(model: Model, row: Tensor) -> int:
    largest = 0

    def measure(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(_bytes(t) for t in (*inputs, output) if isinstance(t, Tensor)))

    hooks = [part.register_forward_hook(measure) for part in model.module.modules()]
    try:
        with torch.inference_mode():
            model(row)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _saved_bytes(model: Model, row: Tensor) -> int:
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.inference_mode(False), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(row.clone().requires_grad_())
        maps = 0
        if model.geometry is not None:
            blocks = len(getattr(model.module, "blocks", ())) or 1
            heads = max((getattr(part, "num_heads", 1) for part in model.module.modules()), default=1)
            maps = 2 * blocks * heads * model.geometry.tokens**2 * row.element_size()
    return sum(saved.values()) + maps + _bytes(logits)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
