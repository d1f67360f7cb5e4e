"""Indian Pines: farmland and forest seen by AVIRIS in 1992, 16 classes of land use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..bench.contract import dataset
from ._catalogue import Recipe
from ._scene_bands import aviris_1992, kept_bands
from ._scene_layouts import MapScene
from ._wavelengths import Nanometres

REMOVED = "104-108 150-163 220"


@dataset("indian_pines")
class IndianPines(MapScene):
    """Windows of the Indian Pines scene, 145 x 145 pixels, 200 bands (or all 220): 16 classes, pixels labelled in part.

    Values are divided by 10,000; they are scaled radiance, no reflectance. Centres are those of the sensor's
    calibration file. Windows, blocks and labels: see ``SceneDataset``.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Indian Pines (AVIRIS 92AV3C)",
        get="Fetch the .mat files from ehu.eus/ccwintco (Hyperspectral Remote Sensing Scenes), or from the mirror "
        "danaroth/indian_pines on Hugging Face. The first address is reported to answer with web pages; such files are "
        "recognised and named.",
        layout="Indian_pines_corrected.mat   indian_pines_corrected [145,145,200]\n"
        "Indian_pines_gt.mat          indian_pines_gt [145,145], 0 = unlabelled",
        size="6 MB; 10,249 labelled pixels",
        licence="none stated by the hosts; the 220-band original at Purdue (doi 10.4231/R7RX991C) states its own",
        citation="Baumgardner, Biehl, Landgrebe, 220 Band AVIRIS Hyperspectral Image Data Set: June 12, 1992 Indian "
        "Pine Test Site 3, Purdue University Research Repository, doi 10.4231/R7RX991C",
        lacks="band truth",
        notes=(
            "Random pixel splits leak neighbours; windows here lie in blocks of one split.",
            "Rare classes (oats, 20 pixels) may be absent from a split.",
        ),
    )
    cube_keys: ClassVar = ("indian_pines_corrected", "indian_pines")
    map_keys: ClassVar = ("indian_pines_gt",)
    divisor: ClassVar = 10_000.0
    class_names: ClassVar = (
        "alfalfa", "corn_notill", "corn_mintill", "corn", "grass_pasture", "grass_trees", "grass_pasture_mowed",
        "hay_windrowed", "oats", "soybean_notill", "soybean_mintill", "soybean_clean", "wheat", "woods",
        "buildings_grass_trees_drives", "stone_steel_towers",
    )  # fmt: skip

    def _sensor(self) -> Mapping[int, Nanometres]:
        every = aviris_1992()
        return {200: tuple(every[band] for band in kept_bands(220, REMOVED)), 220: every}
