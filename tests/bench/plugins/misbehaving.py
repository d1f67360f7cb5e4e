"""Explainers that break the contract, each in one way."""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from vitxai.bench.contract import (
    Batch,
    Context,
    Explainer,
    Explanation,
    Model,
    UnsupportedError,
    explainer,
)


def blank(model: Model, batch: Batch) -> Explanation:
    """Zeros on the patch grid."""
    assert model.geometry is not None
    return Explanation(torch.zeros(len(batch), *model.geometry.grid), "token", model.geometry)


@explainer("bad_raises", status="test")
class Raises(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        raise ZeroDivisionError("seven over nothing")


@explainer("bad_nan", status="test")
class Nan(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        explanation = blank(model, batch)
        explanation.native[0, 0, 0] = float("nan")
        return explanation


@explainer("bad_shape", status="test")
class Shape(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        assert model.geometry is not None
        return Explanation(torch.zeros(len(batch), 7, 5), "token", model.geometry)


@explainer("bad_hangs", status="test")
class Hangs(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        time.sleep(600)
        return blank(model, batch)


@explainer("bad_exits", status="test")
class Exits(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        os._exit(3)


@explainer("bad_eats", status="test")
class Eats(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        hoard = [torch.ones(64 << 20) for _ in range(64)]
        return Explanation(blank(model, batch).native + len(hoard), "token", model.geometry)  # type: ignore[arg-type]


@explainer("bad_eats_numpy", status="test")
class EatsNumpy(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        hoard = [np.ones(32 << 20) for _ in range(64)]
        return Explanation(blank(model, batch).native + len(hoard), "token", model.geometry)  # type: ignore[arg-type]


@explainer("bad_parameters", status="test")
class Parameters(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        next(model.module.parameters()).data.add_(1e-6)
        return blank(model, batch)


@explainer("bad_hooks", status="test")
class Hooks(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        model.module.register_forward_hook(lambda module, args, output: output * 0)
        return blank(model, batch)


@explainer("bad_mode", status="test")
class Mode(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        model.module.train()
        return blank(model, batch)


@explainer("bad_inputs", status="test")
class Inputs(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        batch.inputs.zero_()
        return blank(model, batch)


@explainer("bad_tape", status="test")
class TapeWriter(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        ctx.tape(model, batch, attention=True).attention[-1].zero_()
        return blank(model, batch)


@explainer("bad_random", status="test")
class Random(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        torch.manual_seed(1)
        return blank(model, batch)


@explainer("bad_raises_and_hooks", status="test")
class RaisesAndHooks(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        model.module.register_forward_hook(lambda module, args, output: output * 0)
        raise RuntimeError("after leaving a hook")


@explainer("refuses", status="test")
class Refuses(Explainer):
    def explain(self, model: Model, batch: Batch, ctx: Context) -> Explanation:
        raise UnsupportedError("not for models like this")
