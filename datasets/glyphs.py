"""Built-in RGB scenes: a handwritten digit on a texture, beside a scrambled one (generator: ``_glyph_scene``)."""

from __future__ import annotations

from collections.abc import Sequence

from ..bench.contract import Dataset, DatasetInfo, Sample, Split, dataset
from ._glyph_scene import CLASSES, VERSION, generate_glyph
from ._scene_ids import parse_scene_id, scene_ids
from ._source_digest import source_digest

SOURCES = ("_glyph_scene.py", "_digits.py", "_textures.py", "_scene_key.py", "data/digits.npz")
"""Files that decide every pixel."""


@dataset("glyphs")
class Glyphs(Dataset):
    """Digits on photographed textures, with a distractor of the same ink; the healed scene lacks the digit.

    Scenes are pure functions of (split, index, seed, size), their labels index modulo 10; the splits show disjoint sets
    of handwritten digits. The supply has no end: without a count a split gives 2048 (fit), 512 (validation) or 1024
    (test) ids.

    Attributes:
        seed: of the scenes; another seed gives other scenes.
        size: side of the image in pixels, 32 to 300.
    """

    seed: int = 0
    size: int = 64

    def info(self) -> DatasetInfo:
        return DatasetInfo(
            classes=CLASSES,
            channels=3,
            has=frozenset({"labels", "mask", "distractors", "healed"}),
            licence="Apache-2.0 (this project); digits: CC BY 4.0; textures: CC0, public domain, no known restrictions",
            citation="Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49",
        )

    def ids(self, split: Split, count: int | None = None) -> Sequence[str]:
        return scene_ids(split, count)

    def sample(self, id: str) -> Sample:
        split, index = parse_scene_id(id)
        scene = generate_glyph(split, index, self.seed, size=self.size)
        return Sample(
            id=id,
            input=scene.image,
            label=scene.label,
            mask=scene.mask,
            distractors=scene.distractor_mask,
            healed=scene.healed,
        )

    def content_hash(self) -> str:
        return f"glyphs-{VERSION}-{self.seed}-{self.size}-{source_digest(__package__, SOURCES)}"
