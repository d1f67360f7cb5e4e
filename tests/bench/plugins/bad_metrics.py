"""Metrics that break the contract, each in one way."""

from __future__ import annotations

from vitxai.bench.contract import Batch, Column, Context, Explanation, Metric, Model, Scores, metric


@metric("bad_metric", columns=(Column("bad_metric", "higher", (0, 1), "raises"),), version=1)
class BadMetric(Metric):
    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        raise KeyError("no such thing")


@metric("bad_columns", columns=(Column("bad_columns", "higher", (0, 1), "returns another column"),), version=1)
class BadColumns(Metric):
    def score(self, model: Model, batch: Batch, explanation: Explanation | None, ctx: Context) -> Scores:
        return {}
