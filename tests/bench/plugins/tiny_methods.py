"""Small well-behaved explainers and metrics for tests of the engine."""

from __future__ import annotations

from dataclasses import replace

import torch

from vitxai.bench.contract import (
    Batch,
    Column,
    Context,
    Explainer,
    Explanation,
    Fitted,
    Metric,
    Model,
    Scores,
    Values,
    explainer,
    metric,
)


@explainer("tiny_gradient", needs={"gradient"})
class TinyGradient(Explainer):
    """Gradient times input, in the layout of pixels."""

    scale: float = 1.0

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        inputs = batch.inputs.detach().clone().requires_grad_()
        logits = model(inputs).gather(1, batch.targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(logits, inputs)
        assert model.geometry is not None
        return Explanation((gradient * batch.inputs).sum(1) * self.scale, "pixel", model.geometry)


@explainer("tiny_attention", needs={"attention"})
class TinyAttention(Explainer):
    """Attention of the last block that the decision reads."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        tape = ctx.tape(model, batch, attention=True)
        assert model.geometry is not None
        return Explanation.of_tokens(model.geometry.query(tape.attention[-1].mean(1)), model.geometry)


@explainer("tiny_noise", status="floor")
class TinyNoise(Explainer):
    """Keyed noise a patch."""

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        assert model.geometry is not None
        h, w = model.geometry.grid
        maps = [torch.randn(h, w, generator=ctx.generator(id, "tiny_noise")) for id in batch.ids]
        return Explanation(torch.stack(maps).to(batch.inputs.device), "token", model.geometry)


@explainer("tiny_fitted")
class TinyFitted(Explainer):
    """Learns a bias and explains a copy of the model whose head carries it."""

    def fit(self, model: Model, ctx: Context) -> Fitted | None:
        batch = ctx.data("validation", 8, labels=True)
        with torch.no_grad():
            share = torch.nn.functional.one_hot(batch.labels, model(batch.inputs).shape[1]).float().mean(0)
        return Fitted({"bias": share}, {"samples": len(batch)})

    def own_model(self, model: Model, fitted: Fitted | None) -> Model:
        assert fitted is not None
        return replace(model, module=_Biased(model.module, fitted.tensors["bias"]).eval().requires_grad_(False))

    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        with torch.no_grad():
            logit = model(batch.inputs).gather(1, batch.targets[:, None])
        assert model.geometry is not None
        h, w = model.geometry.grid
        ramp = torch.arange(h * w, dtype=logit.dtype, device=logit.device).view(1, h, w)
        return Explanation(ramp * logit[:, :, None].sigmoid() + 1, "token", model.geometry)


class _Biased(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, bias: torch.Tensor) -> None:
        super().__init__()
        self.inner, self.bias = inner, torch.nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.bias


@metric(
    "tiny_mass",
    columns=(Column("tiny_mass", "higher", (0, 1), "positive mass in the mask", truth=True),),
    version=1,
    needs={"mask"},
)
class TinyMass(Metric):
    """Share of the map's positive mass inside the mask."""

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        assert explanation is not None
        assert batch.mask is not None
        a = explanation.spatial().double()
        total = a.sum((1, 2))
        return {
            "tiny_mass": Values.of(
                (a * batch.mask).sum((1, 2)) / total.clamp(min=1e-12), {"no positive mass": total <= 0}
            )
        }


@metric(
    "tiny_drop",
    columns=(Column("tiny_drop", "higher", (None, None), "logit lost without the best patch"),),
    version=1,
    queries_model=True,
)
class TinyDrop(Metric):
    """Correlation-free stand-in for faithfulness: weighted drop under one common random mask, which is a probe."""

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        assert explanation is not None

        def compute() -> torch.Tensor:
            masks = torch.stack(
                [torch.rand(1, *batch.inputs.shape[2:], generator=ctx.generator(i, "drop")) for i in batch.ids]
            )
            with torch.inference_mode():
                return (model(batch.inputs) - model(batch.inputs * (masks > 0.5))).clone()

        drops = ctx.probe(model, batch, "tiny_drop", compute).gather(1, batch.targets[:, None])[:, 0]
        return {"tiny_drop": Values.of(drops.double() * explanation.grid().flatten(1).std(1).double())}


@metric(
    "tiny_accuracy",
    columns=(Column("tiny_accuracy", "higher", (0, 1), "label predicted"),),
    version=1,
    of="model",
    queries_model=True,
)
class TinyAccuracy(Metric):
    """Whether the model predicts the label."""

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        with torch.inference_mode():
            return {"tiny_accuracy": Values.of((model(batch.inputs).argmax(1) == batch.labels).double())}


@metric("tiny_bands", columns=(Column("tiny_bands", "higher", (0, 1), "needs a spectrum"),), version=1, needs={"bands"})
class TinyBands(Metric):
    """Is refused on pictures without band truth."""

    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        raise AssertionError("must be refused before it is called")
