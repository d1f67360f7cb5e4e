"""Samson: soil, trees and water, with the share of each in every pixel."""

from __future__ import annotations

from typing import ClassVar

from ..bench.contract import dataset
from ._catalogue import Recipe
from ._scene_layouts import MaterialScene


@dataset("samson")
class Samson(MaterialScene):
    """Windows of the Samson scene, 95 x 95 pixels, 156 bands: three materials, abundances a pixel.

    Centres are nominal, evenly spaced from 401 to 889 nm. Windows, blocks and labels: see ``SceneDataset``.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Samson, with abundances",
        get="Fetch the .mat files from the unmixing collections (samson_1.mat with end3.mat, or one Samson.mat).",
        layout="samson_1.mat   Y or V [156,9025] in column order\n"
        "end3.mat       A [3,9025] in column order, or S_GT [95,95,3] (may be in the same file); M [156,3] optional",
        size="1.5 MB; 9,025 pixels",
        licence="none stated",
        citation="Zhu, Wang, Fan, Xiang, Meng, Pan, Spectral Unmixing via Data-Guided Sparsity, IEEE Transactions on "
        "Image Processing 23, 2014, 5412-5427 (abundances)",
        lacks="band truth; exact centres of the bands (nominal ones are used). The abundances are estimates, not "
        "measurements on the ground",
        notes=("A square S_GT is turned whichever way its endmembers M explain the scene better.",),
    )
    class_names: ClassVar = ("soil", "tree", "water")
    divisor: ClassVar = 1.0
    span: ClassVar = (401.0, 889.0)
    sensor_bands: ClassVar = 156
