"""Pavia University: a campus seen by ROSIS, 9 classes of urban cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..bench.contract import dataset
from ._catalogue import Recipe
from ._scene_bands import evenly
from ._scene_layouts import MapScene
from ._wavelengths import Nanometres


@dataset("pavia_university")
class PaviaUniversity(MapScene):
    """Windows of the Pavia University scene, 610 x 340 pixels, 103 bands: 9 classes, pixels labelled in part.

    Values are divided by 10,000. Centres are nominal, evenly spaced from 430 to 860 nm. Windows, blocks and labels: see
    ``SceneDataset``.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Pavia University (ROSIS)",
        get="Fetch the .mat files from ehu.eus/ccwintco (Hyperspectral Remote Sensing Scenes). The address is reported "
        "to answer with web pages; such files are recognised and named.",
        layout="PaviaU.mat      paviaU [610,340,103]\nPaviaU_gt.mat   paviaU_gt [610,340], 0 = unlabelled",
        size="34 MB; 42,776 labelled pixels",
        licence="none stated",
        citation="Gamba, University of Pavia, ROSIS scene of 2001, provided by the Telecommunications and Remote "
        "Sensing Laboratory, Pavia University",
        lacks="band truth; exact centres of the bands (nominal ones are used)",
        notes=("Random pixel splits leak neighbours; windows here lie in blocks of one split.",),
    )
    cube_keys: ClassVar = ("paviaU",)
    map_keys: ClassVar = ("paviaU_gt",)
    divisor: ClassVar = 10_000.0
    class_names: ClassVar = (
        "asphalt", "meadows", "gravel", "trees", "painted_metal_sheets", "bare_soil", "bitumen",
        "self_blocking_bricks", "shadows",
    )  # fmt: skip

    def _sensor(self) -> Mapping[int, Nanometres]:
        return {103: evenly(430, 860, 103)}
