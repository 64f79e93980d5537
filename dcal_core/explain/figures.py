"""Maps drawn over faces.

Under a map a face is grey, so that colour means the map alone; the more a patch has, the less of the face it lets
through. Colours are perceptually even (viridis), two-sided only where a map has a sign: purple speaks for one person,
orange for two (PuOr, which colour-blind eyes tell apart). Each face has a scale of its own, to show where its map is
strongest however strong the other's is; how strong stands below it.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from dcal_core.explain.registry import MAPS
from dcal_core.explain.views import PairView

GREY = (0.299, 0.587, 0.114)  # luma, ITU-R BT.601
OPACITY = 0.85
MARKED = "Outlined in white: the marks that this face has and the other has not."


def wrapped(text: str, width: int) -> str:
    """A text in lines of at most `width` letters, which keeps its own line breaks."""
    return "\n".join(textwrap.fill(line, width) for line in text.split("\n"))


def overlay(
    axes: Axes, face: np.ndarray, weights: np.ndarray, signed: bool, opacity: float, peak: float
) -> ScalarMappable:
    """Lay a map [g, g] over a face uint8 [S, S, 3], and return what a colour bar is made from.

    peak: the size of the weights that get the full colour and `opacity` (0 to 1); others get less in proportion.
    """
    colours, scale = colormaps["PuOr" if signed else "viridis"], Normalize(-peak if signed else 0, peak)
    patches = colours(scale(weights))  # [g, g, 4]
    patches[..., 3] = opacity * np.clip(abs(weights) / peak, 0, 1)
    end = len(face) - 0.5
    axes.imshow(face @ np.array(GREY), cmap="gray", vmin=0, vmax=255)
    axes.imshow(patches, extent=(-0.5, end, end, -0.5), interpolation="nearest")
    axes.set_axis_off()
    return ScalarMappable(scale, colours)


def outline(axes: Axes, inside: np.ndarray) -> None:
    """Draw a line around pixels bool [S, S], white within black, to be seen on anything."""
    if inside.any():
        for colour, width in (("black", 2.4), ("white", 1.2)):
            axes.contour(inside, levels=[0.5], colors=colour, linewidths=width)


def peak_of(weights: np.ndarray) -> float:
    """The size of the largest weight, or 1 where all are zero."""
    return float(abs(weights).max()) or 1.0


def _say(axes: Axes, text: str, width: int) -> None:
    """Words in place of a picture."""
    axes.set_axis_off()
    words = axes.text(0.5, 1, wrapped(text, width), ha="center", va="top", fontsize=9, transform=axes.transAxes)
    words.set_in_layout(False)


def full_colour(name: str, peak: float, unit: str | None = None) -> str:
    """How much the full colour of a map of this name stands for, in words; unit: if not the map's own."""
    return f"full colour: {'±' if MAPS[name].signed else ''}{peak:.2g} ({unit or MAPS[name].unit})"


def colour_bar(figure: Figure, axes: Axes, scale: ScalarMappable, signed: bool) -> None:
    """A bar that says in words what both ends mean."""
    figure.colorbar(scale, cax=axes, orientation="horizontal").set_ticks([])
    words = ("two people", "one person") if signed else ("none", "most")
    for x, side, word in zip((0, 1), ("left", "right"), words, strict=True):
        axes.text(x, -0.4, word, ha=side, va="top", fontsize=9, transform=axes.transAxes)


def _draw_map(figure: Figure, view: PairView, name: str, faces: Sequence[Axes], bar: Axes, opacity: float) -> None:
    """One kind of map over both faces, and its colour bar."""
    weights, signed = view.map(name), MAPS[name].signed
    for side, axes in enumerate(faces):
        peak = peak_of(weights[side])
        scale = overlay(axes, view.faces[side], weights[side], signed, opacity, peak)
        if view.marks is not None:
            outline(axes, view.marks[side])
        axes.text(0.5, -0.02, full_colour(name, peak), ha="center", va="top", fontsize=8.5, transform=axes.transAxes)
    colour_bar(figure, bar, scale, signed)


def _draw_faces(view: PairView, faces: Sequence[Axes]) -> None:
    """Both faces as they are, named."""
    for side, axes in enumerate(faces):
        axes.imshow(view.faces[side])
        axes.set_axis_off()
        axes.set_title(textwrap.fill(view.names[side], 26), fontsize=9)


def draw_view(view: PairView, names: Sequence[str], title: str, opacity: float = OPACITY) -> Figure:
    """A pair, one face above the other, and beside them its maps of these names, with what they mean below."""
    columns = 1 + len(names)
    figure = Figure(figsize=(max(2.6 * columns, 6), 8), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)
    figure.suptitle(wrapped(title, 30 * columns), fontsize=12)
    grid = figure.subplots(4, columns, squeeze=False, height_ratios=(1, 1, 0.05, 0.36))
    _draw_faces(view, grid[:2, 0])
    grid[2, 0].set_axis_off()
    _say(grid[3, 0], "The two faces." if view.marks is None else MARKED, 30)
    for name, column in zip(names, grid[:, 1:].T, strict=True):
        column[0].set_title(textwrap.fill(MAPS[name].title, 26), fontsize=10, fontweight="bold")
        _draw_map(figure, view, name, column[:2], column[2], opacity)
        _say(column[3], MAPS[name].meaning, 30)
    return figure


def draw_contact_sheet(
    views: Sequence[PairView], name: str, titles: Sequence[str], columns: int = 3, opacity: float = OPACITY
) -> Figure:
    """Many pairs with one kind of map: of each the two faces side by side, and below them their maps."""
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    figure = Figure(figsize=(4.4 * columns, 5.4 * rows + 0.9), layout="constrained")
    kind, marked = MAPS[name], any(view.marks is not None for view in views)
    text = f"{kind.title}. {kind.meaning} {MARKED if marked else ''}"
    figure.suptitle(wrapped(text, 46 * columns), fontsize=11)
    for place, view, title in zip(figure.subfigures(rows, columns, squeeze=False).flat, views, titles, strict=False):
        place.suptitle(wrapped(title, 46), fontsize=10, fontweight="bold")
        cells = place.add_gridspec(3, 2, height_ratios=(1, 1, 0.05))
        faces, maps = ([place.add_subplot(cells[row, side]) for side in range(2)] for row in range(2))
        _draw_faces(view, faces)
        _draw_map(place, view, name, maps, place.add_subplot(cells[2, :]), opacity)
    return figure


def draw_layers(view: PairView, side: int, title: str) -> Figure:
    """Where attention goes in one face of a view: a row for rollout up to each layer, one for the CLS attention of each
    layer, mean of the heads, and one for the heads of the last layer."""
    depth, heads = view.depth
    rows = {
        "rollout up to layer": [view.map("rollout", layer=layer) for layer in range(depth)],
        "CLS attention, layer": [view.map("cls_attention", layer=layer) for layer in range(depth)],
        "last layer, head": [view.map("cls_attention", layer=depth - 1, head=head) for head in range(heads)],
    }
    columns = 1 + max(depth, heads)
    figure = Figure(figsize=(max(1.75 * columns, 7), 6), layout="constrained")
    figure.suptitle(wrapped(title, 100), fontsize=12)
    grid = figure.subplots(3, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(view.faces[side])
    grid[0, 0].set_title(textwrap.fill(view.names[side], 20), fontsize=9)
    for line, (what, maps) in zip(grid, rows.items(), strict=True):
        for number, (axes, weights) in enumerate(zip(line[1:], maps, strict=False), start=1):
            overlay(axes, view.faces[side], weights[side], False, OPACITY, peak_of(weights[side]))
            axes.set_title(f"{what} {number}", fontsize=9)
    return figure
