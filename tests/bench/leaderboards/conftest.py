"""A run's files, made up: known means, known ranks, every kind of failure; no model is involved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

COLUMNS = [
    {"metric": "model_response", "column": "accuracy", "better": "higher", "range": [0, 1], "truth": False,
     "description": "Share of correct predictions."},
    {"metric": "model_response", "column": "truth_used", "better": "none", "range": [0, 1], "truth": False,
     "description": "Whether healing the evidence halves the probability."},
    {"metric": "localisation", "column": "auprc", "better": "higher", "range": [0, 1], "truth": True,
     "description": "Average precision against the mask."},
    {"metric": "localisation", "column": "spatial_iou", "better": "higher", "range": [0, 1], "truth": True,
     "description": "Intersection over union."},
    {"metric": "insertion_deletion", "column": "deletion_auc", "better": "lower", "range": [0, 1], "truth": False,
     "description": "Area under the deletion curve."},
    {"metric": "sparseness", "column": "sparseness", "better": "higher", "range": [0, 1], "truth": False,
     "description": "Gini index."},
]  # fmt: skip


@dataclass
class Made:
    """What a made-up run holds; ``quality`` orders the explainers in every column but sparseness."""

    samples: int = 40
    models: tuple[str, ...] = ("builtin,id=toy,seed=0", "builtin,id=toy,seed=1", "builtin,id=toy,seed=2")
    boards: tuple[str, ...] = ("leaves_spectral",)
    seed: int = 0
    noise: float = 0.05
    explainers: dict[str, tuple[str, float]] = field(
        default_factory=lambda: {
            "healed_difference,steps=20": ("oracle", 0.9),
            "chefer_lrp": ("exact", 0.7),
            "rollout": ("exact", 0.5),
            "raw_attention": ("exact", 0.5),
            "focusvit": ("reconstruction", 0.45),
            "random": ("floor", 0.1),
            "center_prior": ("floor", 0.2),
        }
    )
    unused_truth: tuple[int, ...] = (0, 1)
    misclassified: tuple[int, ...] = (2,)
    declared: list[dict] = field(default_factory=lambda: [dict(c) for c in COLUMNS])
    facts: dict[str, object] = field(default_factory=dict)

    def scores(self) -> pd.DataFrame:
        """One row a (board, model, explainer, sample, metric, column)."""
        rng = np.random.default_rng(self.seed)
        rows = []
        for board in self.boards:
            difficulty = rng.normal(0, 0.05, self.samples)
            for m, model in enumerate(self.models):
                for s in range(self.samples):
                    label = s % 3
                    prediction = (label + 1) % 3 if s in self.misclassified else label
                    base = {
                        "board": board, "dataset": "leaves", "model": model, "kind": "spectral-token ViT",
                        "sample": f"test/{s:05d}", "target": prediction, "label": label, "prediction": prediction,
                        "status": "ok", "reason": "", "own_model": False,
                    }  # fmt: skip
                    alone = base | {"explainer": "", "status_label": "", "metric": "model_response"}
                    rows.append(alone | {"column": "accuracy", "value": float(prediction == label)})
                    rows.append(alone | {"column": "truth_used", "value": float(s not in self.unused_truth)})
                    for name, (label_of, quality) in self.explainers.items():
                        who = base | {"explainer": name, "status_label": label_of}
                        good = quality + difficulty[s] + 0.02 * m + rng.normal(0, self.noise)
                        local = who | {"metric": "localisation"}
                        if s % 10 == 9:
                            healthy = {"value": np.nan, "status": "undefined", "reason": "the sample has no lesion"}
                            rows += [local | healthy | {"column": c} for c in ("auprc", "spatial_iou")]
                        else:
                            rows.append(local | {"column": "auprc", "value": good})
                            rows.append(local | {"column": "spatial_iou", "value": 0.6 * good})
                        rows.append(who | {"metric": "insertion_deletion", "column": "deletion_auc", "value": 1 - good})
                        rows.append(
                            who | {"metric": "sparseness", "column": "sparseness", "value": rng.uniform(0.3, 0.5)}
                        )
        return pd.DataFrame(rows)

    def costs(self) -> pd.DataFrame:
        """Forwards and latency of every explainer and of the plain forward."""
        rows = []
        for board in self.boards:
            for model in self.models:
                for place, name in enumerate(["", *self.explainers]):
                    for column, value in (
                        ("forwards", 1 + place),
                        ("gflops", 0.5 * (1 + place)),
                        ("latency_ms", 2.5 * place + 1),
                    ):
                        rows.append(
                            {"board": board, "dataset": "leaves", "model": model, "kind": "spectral-token ViT",
                             "explainer": name, "column": column, "value": float(value), "machine": "abc"}
                        )  # fmt: skip
        return pd.DataFrame(rows)

    def write(self, out: Path, change: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> Path:
        """Writes the run's files; ``change`` edits the scores first."""
        out.mkdir(parents=True, exist_ok=True)
        scores = self.scores()
        (scores if change is None else change(scores)).to_parquet(out / "scores.parquet")
        self.costs().to_parquet(out / "costs.parquet")
        facts = {
            "suite": {"name": "toy", "target": "prediction", "seed": 0, "n": self.samples},
            "columns": self.declared,
            "machine": {
                "cpu": "Toy CPU", "capability": "AVX2", "platform": "Linux-x86_64", "python": "3.11",
                "versions": {"torch": "2.6.0"}, "device": "cpu",
            },
            "cells": [
                {"board": board, "model": model, "weights_hash": f"hash of {model}", "dataset_hash": "d0"}
                for board in self.boards
                for model in self.models
            ],
            **self.facts,
        }  # fmt: skip
        (out / "run.json").write_text(json.dumps(facts))
        self._write_gallery(out / "gallery")
        return out

    def _write_gallery(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[:64, :64] / 64
        samples = [f"test/{s:05d}" for s in (8, 3, 5)]
        images = np.stack([_leaf(x, y, rng) for _ in samples])
        masks = np.stack(
            [((x - cx) ** 2 + (y - cy) ** 2) < 0.02 for cx, cy in rng.uniform(0.3, 0.7, (len(samples), 2))]
        )
        maps = np.stack([
            [m[::8, ::8] * q + rng.normal(0, 0.2 if "random" in name else 0.08, (8, 8)) for m in masks]
            for name, (_, q) in self.explainers.items()
        ])  # fmt: skip
        for board in self.boards:
            np.savez_compressed(
                folder / f"{board}.npz", model=self.models[0], samples=np.array(samples), images=images, masks=masks,
                explainers=np.array(list(self.explainers)), maps=maps.astype(np.float32),
            )  # fmt: skip


def _leaf(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shade = 0.55 + 0.2 * np.sin(9 * x + rng.uniform(0, 6)) + rng.normal(0, 0.03, x.shape)
    inside = ((x - 0.5) / 0.42) ** 2 + ((y - 0.5) / 0.3) ** 2 < 1
    colour = np.where(inside[..., None], shade[..., None] * np.array([90, 190, 80]), np.array([38, 34, 30]))
    return np.clip(colour, 0, 255).astype(np.uint8)


@pytest.fixture
def made() -> Made:
    """A made-up run of one board with three models and forty samples."""
    return Made()


@pytest.fixture(scope="session")
def made_once() -> Made:
    """The same for tests that only read."""
    return Made()
