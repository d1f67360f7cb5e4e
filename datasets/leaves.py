"""Built-in hyperspectral leaves: lesions of known place and chemistry (generator: ``_leaf_scene``)."""

from __future__ import annotations

from collections.abc import Sequence

from ..bench.contract import Dataset, DatasetInfo, Sample, Split, dataset
from ._leaf_scene import CLASSES, DEFAULT_SENSOR, VERSION, generate_leaf
from ._scene_ids import parse_scene_id, scene_ids
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
    """

    seed: int = 0
    size: int = 48

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
        return Sample(
            id=id,
            input=scene.cube,
            label=scene.label,
            mask=scene.lesion_mask,
            distractors=scene.sham_mask,
            leaf=scene.leaf_mask,
            bands=scene.band_truth,
            healed=scene.healed,
        )

    def content_hash(self) -> str:
        return f"leaves-{VERSION}-{self.seed}-{self.size}-{source_digest(__package__, SOURCES)}"
