"""Jasper Ridge: trees, water, dirt and roads seen by AVIRIS, with the share of each in every pixel."""

from __future__ import annotations

from typing import ClassVar

from ..bench.contract import dataset
from ._catalogue import Recipe
from ._scene_layouts import MaterialScene


@dataset("jasper_ridge")
class JasperRidge(MaterialScene):
    """Windows of the Jasper Ridge scene, 100 x 100 pixels, 198 of 224 bands: four materials, abundances a pixel.

    Reflectance is the stored number divided by the file's ``maxValue``. Centres are nominal, evenly spaced from 380 to
    2500 nm, of which ``SlectBands`` are kept. Windows, blocks and labels: see ``SceneDataset``.
    """

    recipe: ClassVar[Recipe] = Recipe(
        title="Jasper Ridge (AVIRIS), with abundances",
        get="Fetch the .mat files from the unmixing collections, for example danaroth/jasper_ridge on Hugging Face.",
        layout="jasperRidge2_R198.mat   Y [198,10000] in column order, maxValue, SlectBands, nRow, nCol\n"
        "end4.mat                A [4,10000] abundances (may be in the same file)",
        size="3 MB; 10,000 pixels",
        licence="none stated",
        citation="Zhu, Wang, Xiang, Fan, Pan, Structured Sparse Method for Hyperspectral Unmixing, ISPRS Journal of "
        "Photogrammetry and Remote Sensing 88, 2014, 101-118 (abundances); NASA/JPL AVIRIS (scene)",
        lacks="band truth; exact centres of the bands (nominal ones are used). The abundances are estimates, not "
        "measurements on the ground",
        notes=("One small scene: test windows are few.",),
    )
    class_names: ClassVar = ("tree", "water", "dirt", "road")
    divisor: ClassVar = 5_000.0
    span: ClassVar = (380.0, 2500.0)
    sensor_bands: ClassVar = 224
