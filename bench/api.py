"""The Python API: explain with any registered method, score maps made elsewhere, register a method of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..models.fit_files import obtain_fit
from ..models.handle import borrowed
from ..models.load import load_model
from .context import EngineContext
from .contract import BadInputError, Batch, Explanation, Layout, Model, Spec, UnsupportedError
from .contract import explainer as register_explainer
from .contract import explainers as explainer_registry
from .contract import metrics as metric_registry
from .contract.geometry import TokenGeometry
from .guard import LeftAsFound, ModuleState
from .scoring import Columns, add_scores, checked

if TYPE_CHECKING:
    import numpy as np

__all__ = ["evaluate", "explain", "register_explainer"]


def explain(
    model: nn.Module | Model | Spec | str,
    inputs: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    explainer: str | Spec = "rollout",
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    **params: Any,
) -> Explanation:
    """Explains a batch with one method; the model is left as it was found.

    Args:
        model: a timm ViT, a handle, or a spec such as ``builtin,id=glyphs``.
        inputs: [B,C,H,W] as the model eats them (normalised).
        targets: [B] classes to explain; the model's predictions when None.
        explainer: name or spec; ``params`` are its parameters.
        ids: of the samples, which key what random draws a method makes; ``input/0`` ... when None.
        seed: of those draws.

    Returns:
        The explanation: ``.native`` is the signed map before any normalisation, in ``.layout``, detached.

    Raises:
        UnknownNameError: no explainer bears the name.
        BadInputError: a parameter, shape or target is wrong, or the method learns from data and there are none here.
        UnsupportedError: the method is not defined for this model.

    Example:
        >>> import timm, torch
        >>> from vitxai.bench import explain
        >>> vit = timm.create_model("test_vit", num_classes=5)
        >>> images = torch.zeros(2, 3, 160, 160)
        >>> explanation = explain(vit, images, [0, 3], explainer="rollout")
        >>> explanation.layout, tuple(explanation.native.shape), tuple(explanation.spatial().shape)
        ('token', (2, 10, 10), (2, 160, 160))
    """
    spec = Spec.parse(explainer)
    method = explainer_registry.create(Spec(spec.name, {**spec.params, **params}))
    with _handle(model) as handle, LeftAsFound([(handle.module, ModuleState.of(handle.module))], inputs, may_draw=True):
        batch = _batch(handle, inputs, targets, ids)
        ctx = EngineContext(seed=seed)
        fitted = obtain_fit(method, handle, ctx)
        own = method.own_model(handle, fitted)
        explanation = checked(method.explain(own, batch, EngineContext(seed=seed, fitted=fitted)), batch, handle)
    return Explanation(explanation.native.detach(), explanation.layout, explanation.geometry)


def evaluate(
    maps: Explanation | Tensor | np.ndarray,
    batch: Batch,
    model: nn.Module | Model | Spec | str,
    metrics: Sequence[str | Spec] = ("insertion_deletion", "sparseness"),
    *,
    layout: Layout | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores maps made by any means.

    Args:
        maps: an Explanation, or signed maps [B,h,w], [B,G,h,w], [B,H,W] or [B,C,H,W].
        batch: what was explained: ids, inputs, targets, labels, and the truths (mask, bands) that the metrics need.
        model: as in :func:`explain`.
        metrics: names or specs.
        layout: of the maps; by default told by their shape.
        seed: of the metrics' random draws.

    Returns:
        One row a sample (index ``sample``), one column a figure; NaN where undefined, with the texts in
        ``.attrs["reasons"][column][sample]``.

    Raises:
        UnknownNameError: no metric bears a name.
        BadInputError: maps and batch do not fit each other or the model.
        UnsupportedError: a metric needs a truth that the batch lacks, or an axis that the maps lack.

    Example:
        >>> import timm, torch
        >>> from vitxai.bench import evaluate, explain
        >>> from vitxai.bench.contract import Batch
        >>> vit = timm.create_model("test_vit", num_classes=5)
        >>> images, targets = torch.rand(2, 3, 160, 160), torch.tensor([0, 3])
        >>> batch = Batch(("a", "b"), images, targets, labels=targets)
        >>> evaluate(torch.rand(2, 160, 160), batch, vit, metrics=["sparseness"]).index.tolist()
        ['a', 'b']
    """
    with _handle(model) as handle:
        if handle.geometry is None:
            raise UnsupportedError("this model's tokens do not lie on one grid; its maps cannot be scored.")
        explanation = maps if isinstance(maps, Explanation) else _explanation(maps, handle.geometry, layout)
        checked(explanation, batch, handle)
        ctx = EngineContext(seed=seed)
        values: dict[str, list[float]] = {}
        reasons: dict[str, dict[str, str]] = {}
        for name in metrics:
            for column, (figures, texts) in _scores(handle, batch, explanation, name, ctx).items():
                values[column] = [float("nan") if figure is None else figure for figure in figures]
                reasons[column] = {id: text for id, text in zip(batch.ids, texts, strict=True) if text}
    frame = pd.DataFrame(values, index=pd.Index(batch.ids, name="sample"))
    frame.attrs["reasons"] = reasons
    return frame


def _scores(model: Model, batch: Batch, explanation: Explanation, name: str | Spec, ctx: EngineContext) -> Columns:
    metric = metric_registry.create(name)
    truths = ("mask", "distractors", "leaf", "bands", "healed")
    missing = sorted(need for need in metric.needs if need in truths and getattr(batch, need) is None)
    if missing:
        raise UnsupportedError(
            f"metric {metric.name!r} needs {', '.join(missing)}, which the batch lacks; set them on the Batch."
        )
    columns: Columns = {column.name: ([], []) for column in metric.columns}
    given = None if metric.of == "model" else explanation
    with LeftAsFound([(model.module, ModuleState.of(model.module))], (batch, given)):
        add_scores(columns, metric.score(model, batch, given, ctx), len(batch))
    return columns


@contextmanager
def _handle(model: nn.Module | Model | Spec | str) -> Iterator[Model]:
    if isinstance(model, Spec | str):
        yield load_model(model)
        return
    if not isinstance(model, nn.Module | Model):
        raise BadInputError(
            f"model is a {type(model).__name__}; pass a timm module, a Model or a spec such as 'builtin,id=glyphs'."
        )
    with borrowed(model) as handle:
        yield handle


def _batch(model: Model, inputs: Tensor, targets: Tensor | Sequence[int] | None, ids: Sequence[str] | None) -> Batch:
    expected = (model.channels, *model.input_size)
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or tuple(inputs.shape[1:]) != expected or len(inputs) == 0:
        got = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise BadInputError(f"inputs must be a tensor [B, {', '.join(map(str, expected))}] with B >= 1, not {got}.")
    if not bool(torch.isfinite(inputs).all()):
        raise BadInputError("inputs hold NaN or infinite values.")
    inputs = inputs.detach().to(model.device, model.dtype)
    with torch.no_grad():
        logits = model(inputs)
    chosen = logits.argmax(1) if targets is None else torch.as_tensor(targets, device=model.device).long()
    if chosen.shape != (len(inputs),) or bool(((chosen < 0) | (chosen >= logits.shape[1])).any()):
        raise BadInputError(
            f"targets must be {len(inputs)} classes in 0..{logits.shape[1] - 1}, not {chosen.tolist()}."
        )
    names = tuple(f"input/{i}" for i in range(len(inputs))) if ids is None else tuple(ids)
    if len(names) != len(inputs):
        raise BadInputError(f"{len(names)} ids for {len(inputs)} inputs.")
    return Batch(names, inputs, chosen, torch.full_like(chosen, -1))


def _explanation(maps: Tensor | np.ndarray, geometry: TokenGeometry, layout: Layout | None) -> Explanation:
    native = torch.as_tensor(maps)
    if not native.is_floating_point():
        native = native.float()
    if layout is None:
        shapes: dict[Layout, tuple[int, ...]] = {
            "token": geometry.grid,
            "pixel": geometry.image_size,
            "cube": (geometry.channels, *geometry.image_size),
        }
        if geometry.groups:
            del shapes["token"]
            shapes["group_token"] = (len(geometry.groups), *geometry.grid)
        fitting = [name for name, shape in shapes.items() if tuple(native.shape[1:]) == shape]
        if not fitting:
            allowed = ", ".join(f"{name} [B, {', '.join(map(str, shape))}]" for name, shape in shapes.items())
            raise BadInputError(f"maps of shape {list(native.shape)} fit none of this model's layouts: {allowed}.")
        layout = fitting[0]
    return Explanation(native, layout, geometry)
