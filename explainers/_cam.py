"""Channel-weighted token activations (the Grad-CAM family) on a ViT."""

from __future__ import annotations

from torch import Tensor

from ..bench.contract import Batch, Context, Model, UnsupportedError
from ..models.tape import EditedAttention
from ._attention import on_grid


def grad_cam(model: Model, batch: Batch, ctx: Context, layer: str) -> Tensor:
    """Signed sum over channels of (gradient averaged over the patch tokens) x activation: [B,N], prefix included.

    The ReLU that the paper puts behind the sum is left to the reductions.

    Raises:
        UnsupportedError: the model has no such module, its output is not one vector a token, or no patch token of it
            reaches the target logit (the last block's output of a model that reads its class token).
    """
    geometry = on_grid(model)
    name = module_name(model, layer)
    tape = ctx.tape(model, batch, attention=False, activations=(name,), gradients=True)
    activation, gradient = tape.activations[name], tape.activation_gradients[name]
    if activation.ndim != 3 or activation.shape[1] != geometry.tokens:
        raise UnsupportedError(
            f"{name} gives {tuple(activation.shape)}, not one vector for each of {geometry.tokens} tokens."
        )
    patch_gradient = gradient[:, geometry.prefix :]
    if not patch_gradient.any():
        raise UnsupportedError(
            f"the target logit does not depend on the patch tokens at {name}, so that the map would be 0 everywhere; "
            "take an earlier module, such as blocks.-1.norm1."
        )
    weights = patch_gradient.mean(1, keepdim=True)
    values: Tensor = (weights * activation).sum(-1)
    return values


def module_name(model: Model, layer: str) -> str:
    """The module path of ``layer``, in which a negative number counts from the end: ``blocks.-1.norm1``.

    Raises:
        UnsupportedError: there is no such module; the text names what is there.
    """
    node = model.module
    path: list[str] = []
    while isinstance(node, EditedAttention):
        node = node.wrapped
    for part in layer.split("."):
        children = [name for name, _ in node.named_children()]
        from_end = part.startswith("-") and part[1:].isdigit() and 0 < int(part[1:]) <= len(children)
        name = children[int(part)] if from_end else part
        if name not in children:
            where = f"{'.'.join(path)} of {model.name}" if path else model.name
            raise UnsupportedError(f"{where} has no module {part!r}; it has: {', '.join(children) or 'none'}.")
        node = node.get_submodule(name)
        path.append(name)
    return ".".join(path)
