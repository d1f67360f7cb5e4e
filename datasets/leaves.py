"""Built-in hyperspectral leaves: lesions of known place and chemistry (generator: ``_leaf_scene``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat

from ..bench.contract import Dataset, DatasetInfo, Sample, Split, dataset
from ._leaf_scene import CLASSES, DEFAULT_SENSOR, VERSION, generate_leaf, noise_sigma
from ._scene_ids import parse_scene_id, scene_ids
from ._scene_key import scene_seed
from ._source_digest import source_digest

SOURCES = ("_leaf_scene.py", "_leaf_geometry.py", "_prospect.py", "_scene_key.py", "data/prospect_d.json")
"""Files that decide every pixel."""


@dataset("leaves")
class Leaves(Dataset):
    """Leaves of 56 bands (400 to 2475 nm): healthy, or with lesions that change one part of leaf chemistry each.

    Scenes are pure functions of (split, index, seed, size), their labels index modulo 4. The supply has no end: without
    a count a split gives 2048 (fit), 512 (validation) or 1024 (test) ids.

    Attributes:
        seed: of the scenes; another seed gives other leaves.
        size: side of the frame in pixels, at least 24.
        noise: standard deviation of further noise, in units of the sensor's own (``noise_sigma``; largest beyond 2200
            nm), drawn independently of it; the same lies on a cube and on its healed counterfactual.
    """

    seed: int = 0
    size: int = 48
    noise: NonNegativeFloat = 0.0

    def info(self) -> DatasetInfo:
        return DatasetInfo(
            classes=CLASSES,
            channels=len(DEFAULT_SENSOR.wavelengths),
            has=frozenset({"labels", "mask", "distractors", "leaf", "bands", "healed"}),
            licence="Apache-2.0 (this project); optical constants of PROSPECT: MIT",
            citation="Feret et al. 2017, PROSPECT-D, Remote Sensing of Environment 193, 204-215",
            wavelengths=tuple(float(nm) for nm in DEFAULT_SENSOR.wavelengths),
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        return scene_ids(split, count)

    def sample(self, id: str) -> Sample:
        split, index = parse_scene_id(id)
        scene = generate_leaf(split, index, self.seed, size=self.size)
        further = self._further_noise(split, index, scene.healed)
        return Sample(
            id=id,
            input=scene.cube + further,
            label=scene.label,
            mask=scene.lesion_mask,
            distractors=scene.sham_mask,
            leaf=scene.leaf_mask,
            bands=scene.band_truth,
            healed=scene.healed + further,
        )

    def _further_noise(self, split: Split, index: int, radiance: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.noise:
            return np.zeros_like(radiance)
        key = scene_seed("leaves, further noise", VERSION, split, self.seed, index)
        level = self.noise * noise_sigma(np.asarray(DEFAULT_SENSOR.wavelengths, dtype=np.float64))
        drawn = np.random.default_rng(key).standard_normal(radiance.shape, dtype=np.float32)
        noise: NDArray[np.float32] = level.astype(np.float32)[:, None, None] * np.sqrt(
            np.float32(0.3) + np.clip(radiance, 0, 1)
        )
        return noise * drawn

    def content_hash(self) -> str:
        noise = f"-noise{self.noise:g}-{source_digest(__package__, ('leaves.py',))}" if self.noise else ""
        return f"leaves-{VERSION}-{self.seed}-{self.size}{noise}-{source_digest(__package__, SOURCES)}"
