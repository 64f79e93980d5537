"""Maps drawn over faces."""

import numpy as np
from matplotlib.figure import Figure

SIDES = ("first image", "second image")


def draw_pair(images: np.ndarray, maps: dict[str, np.ndarray], title: str, masks: np.ndarray | None = None) -> Figure:
    """Two faces, one above the other, and beside each its maps, each scaled to its own range.

    images: uint8 [2, S, S, 3]. maps: name -> [2, g, g]. masks: where the two truly differ, bool [2, S, S], outlined.
    """
    S = images.shape[1]
    figure = Figure(figsize=(2.3 * (1 + len(maps)), 5.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(2, 1 + len(maps), squeeze=False)
    for side in range(2):
        for axes, (name, weights) in zip(grid[side], {SIDES[side]: None, **maps}.items(), strict=True):
            axes.imshow(images[side])
            if weights is not None:
                peak = max(weights[side].max(), 1e-12)
                alpha = 0.2 + 0.6 * weights[side] / peak  # where there is little, the face stays visible
                extent = (-0.5, S - 0.5, S - 0.5, -0.5)
                look = {"cmap": "viridis", "alpha": alpha, "extent": extent, "interpolation": "nearest"}
                axes.imshow(weights[side], vmin=0, vmax=peak, **look)
            if masks is not None and masks[side].any():
                axes.contour(masks[side], levels=[0.5], colors="white" if weights is not None else "red", linewidths=1)
            axes.set_title(name, fontsize=10)
            axes.set_axis_off()
    return figure
