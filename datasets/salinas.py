"""Salinas: vegetables, bare soil and vineyards seen by AVIRIS, 16 classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..bench.contract import dataset
from ._catalogue import Recipe
from ._scene_bands import evenly
from ._scene_layouts import MapScene
from ._wavelengths import Nanometres

REMOVED = "108-112 154-167 224"


@dataset("salinas")
class Salinas(MapScene):
    """Windows of the Salinas scene, 512 x 217 pixels, 204 bands (or all 224): 16 classes, pixels labelled in part.

    Values are divided by 10,000. Centres are nominal, evenly spaced from 400 to 2500 nm. Windows, blocks and labels:
    see ``SceneDataset``.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Salinas (AVIRIS)",
        get="Fetch the .mat files from ehu.eus/ccwintco (Hyperspectral Remote Sensing Scenes). The address is reported "
        "to answer with web pages; such files are recognised and named.",
        layout="Salinas_corrected.mat   salinas_corrected [512,217,204]\n"
        "Salinas_gt.mat          salinas_gt [512,217], 0 = unlabelled",
        size="27 MB; 54,129 labelled pixels",
        licence="none stated",
        citation="Salinas scene, AVIRIS, Salinas Valley, California; distributed by the Grupo de Inteligencia "
        "Computacional, Universidad del Pais Vasco",
        lacks="band truth; exact centres of the bands (nominal ones are used)",
        notes=("Random pixel splits leak neighbours; windows here lie in blocks of one split.",),
    )
    cube_keys: ClassVar = ("salinas_corrected", "salinas")
    map_keys: ClassVar = ("salinas_gt",)
    divisor: ClassVar = 10_000.0
    class_names: ClassVar = (
        "brocoli_green_weeds_1", "brocoli_green_weeds_2", "fallow", "fallow_rough_plow", "fallow_smooth", "stubble",
        "celery", "grapes_untrained", "soil_vinyard_develop", "corn_senesced_green_weeds", "lettuce_romaine_4wk",
        "lettuce_romaine_5wk", "lettuce_romaine_6wk", "lettuce_romaine_7wk", "vinyard_untrained",
        "vinyard_vertical_trellis",
    )  # fmt: skip

    def _sensor(self) -> Mapping[int, Nanometres]:
        return {204: evenly(400, 2500, 224, REMOVED), 224: evenly(400, 2500, 224)}
