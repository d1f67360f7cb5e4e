"""A sheet of heat maps: picture, map and, where there is one, spectral curve of each sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .contract import BadInputError
from .display import pictures
from .report.heatmaps import heat_map, picture
from .showcase import Showcase

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = 224
INCHES = 2.4
FORMATS = (".png", ".jpg", ".pdf", ".svg")


def draw_sheet(shown: Showcase, path: Path) -> None:
    """Writes one row a sample: the picture with its mask's outline, the heat map, the curve over wavelengths.

    Raises:
        BadInputError: the file's suffix names no picture format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix not in FORMATS:
        raise BadInputError(f"{path} is no picture; end its name in one of {', '.join(FORMATS)}.")
    rows, columns = len(shown.batch), 3 if shown.explanation.has_spectrum else 2
    figure = Figure(figsize=(INCHES * columns, INCHES * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(f"{shown.explainer} on {shown.model.name}", fontsize=8)
    _draw_maps(shown, panels)
    if shown.explanation.has_spectrum:
        _draw_curves(shown, panels[:, 2])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_maps(shown: Showcase, panels: NDArray[Any]) -> None:
    images = {name: tensor.numpy() for name, tensor in pictures(shown.model, shown.batch, shown.wavelengths).items()}
    maps = shown.explanation.spatial("signed").double().cpu().numpy()
    for row, id in enumerate(shown.batch.ids):
        image, mask = images["image"][row], images["mask"][row] if "mask" in images else None
        target = int(shown.batch.targets[row])
        label = int(shown.batch.labels[row])
        truth = f", is {shown.classes[label]}" if 0 <= label < len(shown.classes) else ""
        titles = (f"{id}{truth}", f"{shown.classes[target]}, p = {float(shown.probabilities[row, target]):.3f}")
        drawn = (picture(image, mask, PIXELS), heat_map(maps[row], image, mask, PIXELS))
        for axes, title, pixels in zip(panels[row], titles, drawn, strict=False):
            axes.imshow(pixels)
            axes.set_title(title, fontsize=7)
            axes.set_axis_off()


def _draw_curves(shown: Showcase, column: NDArray[Any]) -> None:
    curves = shown.explanation.spectral("signed").double().cpu().numpy()
    bands = np.array(shown.wavelengths) if shown.wavelengths else np.arange(curves.shape[1])
    truth = shown.batch.bands.double().cpu().numpy() if shown.batch.bands is not None else None
    for row, axes in enumerate(column):
        largest = np.abs(curves[row]).max() or 1.0
        axes.plot(bands, curves[row] / largest, linewidth=1)
        if truth is not None and truth[row].max() > 0:
            axes.fill_between(bands, truth[row] / truth[row].max(), alpha=0.25, linewidth=0)
        axes.set_title("mean over positions; shaded: truth" if truth is not None else "mean over positions", fontsize=7)
        axes.set_xlabel("wavelength in nm" if shown.wavelengths else "band", fontsize=7)
        axes.tick_params(labelsize=6)
