"""FocusViT: the formula written out, and the skip point that fit chooses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from vitxai.bench.context import EngineContext
from vitxai.bench.contract import BadInputError, Batch, Model, TokenGeometry, UnsupportedError, explainers
from vitxai.explainers._curves import curve_area
from vitxai.models.tape import Tape

FocusViT = explainers.get("focusvit")


@pytest.mark.parametrize("kind", ["class_token", "mean_pooled", "distilled", "registers", "spectral"])
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("row", ["query", "mean"])
@pytest.mark.parametrize("normalise", ["none", "max", "sum"])
def test_the_map_is_the_formula(kind, skip, row, normalise, tiny, batch_for, explicit, ctx):
    model = tiny(kind)
    batch = batch_for(model, 2)
    found = FocusViT(skip=skip, row=row, normalise=normalise).explain(model, batch, ctx).native
    for sample, target in enumerate(batch.targets.tolist()):
        trace = explicit(model, batch.inputs[sample])
        total = 0.0
        for heads, gradients in list(zip(trace.attention, trace.gradients(target), strict=True))[skip:]:
            mass = sum(gradient.abs().sum() for gradient in gradients)
            layer = sum(
                g.abs().sum() / mass * torch.where(a * g > 0, a * g, 0.0) for a, g in zip(heads, gradients, strict=True)
            )
            rows = list(model.geometry.query_rows) if row == "query" else range(len(layer))
            values = torch.stack([layer[r] for r in rows]).mean(0)[model.geometry.prefix :]
            total = total + values / {"none": 1.0, "max": values.max(), "sum": values.sum()}[normalise]
        wanted = total.view_as(found[sample])
        torch.testing.assert_close(found[sample], wanted, rtol=1e-9, atol=1e-12 * wanted.abs().max().item())


def test_uniform_head_weights_are_the_mean_over_heads(tiny, batch_for, ctx):
    model = tiny()
    batch = batch_for(model)
    tape = ctx.tape(model, batch, gradients=True)
    wanted = (tape.attention[2] * tape.attention_gradients[2]).clamp(min=0).mean(1)[:, 0, 1:].view(3, 4, 4)
    torch.testing.assert_close(FocusViT(skip=2, head_weights="uniform").explain(model, batch, ctx).native, wanted)


def test_an_attention_pool_is_the_last_layer(tiny, batch_for, ctx):
    model = tiny("map_pooled")
    batch = batch_for(model)
    tape = ctx.tape(model, batch, gradients=True)
    gradient = tape.pool_attention_gradient
    weights = gradient.abs().sum((2, 3), keepdim=True)
    wanted = (weights / weights.sum(1, keepdim=True) * (tape.pool_attention * gradient).clamp(min=0)).sum(1)[:, 0]
    torch.testing.assert_close(FocusViT(skip=3).explain(model, batch, ctx).native.flatten(1), wanted)


class OneBrightPatch(nn.Module):
    """Logit of class 1 is the mean of the first patch of four; class 0 has logit 0."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0, dtype=torch.float64), requires_grad=False)

    def forward(self, inputs):
        logit = self.gain * inputs[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(logit), logit], 1)


class GivenLayers(EngineContext):
    """A context whose tape holds layers that point at given patches, each with gradient one."""

    def tape(self, model, batch, **request):
        def layer(patch):
            attention = torch.full((len(batch), 1, 4, 4), 0.1, dtype=torch.float64)
            attention[..., patch] = 0.7 if patch else 0.6
            return attention

        attention = [layer(patch) for patch in self.patches]
        return Tape(torch.zeros(len(batch), 2), attention, attention_gradients=[torch.ones_like(a) for a in attention])


def given(patches, fitted=None):
    model = Model(
        OneBrightPatch(), "bright", TokenGeometry((2, 2), 0, "avg", (16, 16), 1), (16, 16), (0.0,), (1.0,), ""
    )
    count = 5
    inputs = torch.ones(count, 1, 16, 16, dtype=torch.float64)
    batch = Batch(tuple(map(str, range(count))), inputs, torch.ones(count).long(), torch.ones(count).long())
    ctx = GivenLayers(max_rows=3, fitted=fitted, fit_data=lambda split, size, labels: batch.select(range(size)))
    object.__setattr__(ctx, "patches", patches)
    return model, batch, ctx


@pytest.mark.parametrize("criterion", ["insertion", "deletion"])
@pytest.mark.parametrize(
    # The model sees patch 0 only: the best sum of later layers is the one that ranks it first.
    ("patches", "best"),
    [((3, 3, 0), 2), ((3, 3, 3, 0, 0), 2), ((0, 0, 0), 0), ((0, 0, 3), 0), ((0, 3), 0)],
)
def test_fit_chooses_the_skip_point_whose_map_finds_the_evidence(patches, best, criterion):
    model, batch, ctx = given(patches)
    method = FocusViT(criterion=criterion, samples=5, steps=4)
    fitted = method.fit(model, ctx)
    assert fitted.facts["skip"] == best
    assert int(fitted.tensors["skip"]) == best
    assert fitted.facts["samples"] == 5
    assert len(fitted.facts["scores"]) == len(patches)
    _, _, ctx = given(patches, fitted)
    found = method.explain(model, batch, ctx).native
    assert torch.equal(found, replace(method, skip=best).explain(model, batch, ctx).native)


def test_curve_area_by_hand():
    # The probability is s = sigmoid(4) with patch 0 shown, else 1/2.
    # Shown first: trapezoids of .5 s s s s; hidden first: s .5 .5 .5 .5; shown last: .5 .5 .5 .5 s.
    model, batch, _ = given((0,))
    s = torch.sigmoid(torch.tensor(4.0)).item()
    first = torch.tensor([[4.0, 3.0], [2.0, 1.0]], dtype=torch.float64).expand(1, 5, 2, 2)
    for maps, criterion, wanted in [
        (first, "insertion", (0.25 + 3.5 * s) / 4),
        (first, "deletion", (s / 2 + 1.75) / 4),
        (-first, "insertion", (1.75 + s / 2) / 4),
    ]:
        assert curve_area(model, batch, maps, criterion, 4, 7)[0].tolist() == pytest.approx([wanted] * 5)


def test_a_fixed_skip_point_needs_no_fit_and_a_free_one_does(tiny, batch_for, ctx):
    model = tiny()
    assert FocusViT(skip=1).fit(model, ctx) is None
    with pytest.raises(BadInputError, match="fit it on validation data first"):
        FocusViT().explain(model, batch_for(model), ctx)
    with pytest.raises(UnsupportedError, match="skip=3 leaves none of the 3 layers"):
        FocusViT(skip=3).explain(model, batch_for(model), ctx)
