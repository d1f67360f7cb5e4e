"""A data set of 16-pixel pictures with one bright square each, for tests of the engine: its mask is the square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitxai.bench.contract import Dataset, DatasetInfo, Sample, Split, dataset

OFFSET = {"fit": 1000, "validation": 2000, "test": 3000}


@dataset("tiny_squares")
class TinySquares(Dataset):
    """Label: the quadrant of the square."""

    seed: int = 0

    def info(self) -> DatasetInfo:
        return DatasetInfo(("a", "b", "c", "d"), 3, frozenset({"labels", "mask"}), "CC0", "none")

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        return [f"{split}/{i:03d}" for i in range(32 if count is None else min(count, 32))]

    def sample(self, id: str) -> Sample:
        split, _, number = id.partition("/")
        generator = np.random.default_rng([self.seed, OFFSET[split], int(number)])
        label = int(number) % 4
        mask = np.zeros((16, 16), dtype=bool)
        y, x = 2 + 8 * (label // 2), 2 + 8 * (label % 2)
        mask[y : y + 4, x : x + 4] = True
        image = generator.random((3, 16, 16)).astype(np.float32) * 0.3 + 0.7 * mask
        return Sample(id, image.astype(np.float32), label, mask)

    def content_hash(self) -> str:
        return f"tiny_squares-1-{self.seed}"
