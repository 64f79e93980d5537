"""One pair of faces as figures, and as files: its pictures and the numbers behind them.

Under a map a face is grey, so that colour means the map alone. Each face has a scale of its own, to show where its map
is strongest however strong the other's is; how strong stands below it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.paint import full_colour, peak_of, show_colours, show_map, wrapped
from dcal_core.explain.regions import draw_regions, view_statistics
from dcal_core.lettering import as_written
from dcal_core.storage import disk_errors, whole_file, write_text

MARKED = "Outlined in white: the marks that this face has and the other has not."
PICTURES = {"attention_rollout": ("rollout",), "glca_attention": ("selection", "glca_attention")}  # if the model can
LONGEST = 100  # bytes of a file name that each image's name may take


# ---- figures


def _write_below(axes: Axes, text: str) -> None:
    """Text in place of a picture."""
    axes.set_axis_off()
    words = axes.text(0.5, 1, wrapped(text, 30), ha="center", va="top", fontsize=9, transform=axes.transAxes)
    words.set_in_layout(False)


def _draw_map(view: PairView, name: str, faces: Sequence[Axes], bar: Axes) -> None:
    """One kind of map over both faces, and its colours."""
    signed = MAPS[name].signed
    for side, (axes, weights) in enumerate(zip(faces, view.map(name), strict=True)):
        show_map(axes, view.faces[side], weights, signed, marks=None if view.marks is None else view.marks[side])
        words = full_colour(name, peak_of(weights))
        axes.text(0.5, -0.02, words, ha="center", va="top", fontsize=8.5, transform=axes.transAxes)
    show_colours(bar, signed)


def _draw_faces(view: PairView, faces: Sequence[Axes]) -> None:
    """Both faces as they are, named."""
    for side, axes in enumerate(faces):
        axes.imshow(view.faces[side])
        axes.set_axis_off()
        axes.set_title(wrapped(view.names[side], 26), fontsize=9)


def draw_view(view: PairView, names: Sequence[str], title: str) -> Figure:
    """A pair, one face above the other, and beside them its maps of these names, with what they mean below."""
    columns = 1 + len(names)
    figure = Figure(figsize=(max(2.6 * columns, 6), 8), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)
    figure.suptitle(wrapped(title, 30 * columns), fontsize=12)
    grid = figure.subplots(4, columns, squeeze=False, height_ratios=(1, 1, 0.05, 0.36))
    _draw_faces(view, grid[:2, 0])
    grid[2, 0].set_axis_off()
    _write_below(grid[3, 0], "The two faces." if view.marks is None else MARKED)
    for name, column in zip(names, grid[:, 1:].T, strict=True):
        column[0].set_title(wrapped(MAPS[name].title, 26), fontsize=10, fontweight="bold")
        _draw_map(view, name, column[:2], column[2])
        _write_below(column[3], MAPS[name].meaning)
    return as_written(figure)


def draw_contact_sheet(views: Sequence[PairView], name: str, titles: Sequence[str], columns: int = 3) -> Figure:
    """Many pairs with one kind of map: for each pair the two faces side by side, and below them their maps."""
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    figure = Figure(figsize=(4.4 * columns, 5.4 * rows + 0.9), layout="constrained")
    kind = MAPS[name]
    marked = any(view.marks is not None for view in views)
    figure.suptitle(wrapped(f"{kind.title}. {kind.meaning} {MARKED if marked else ''}", 46 * columns), fontsize=11)
    for place, view, title in zip(figure.subfigures(rows, columns, squeeze=False).flat, views, titles, strict=False):
        place.suptitle(wrapped(title, 46), fontsize=10, fontweight="bold")
        cells = place.add_gridspec(3, 2, height_ratios=(1, 1, 0.05))
        faces = [place.add_subplot(cells[0, side]) for side in range(2)]
        maps = [place.add_subplot(cells[1, side]) for side in range(2)]
        _draw_faces(view, faces)
        _draw_map(view, name, maps, place.add_subplot(cells[2, :]))
    return as_written(figure)


def draw_layers(view: PairView, side: int, title: str) -> Figure:
    """Attention in one face: a row for rollout up to each layer, one for the CLS attention of each layer, mean of the
    heads, and one for the heads of the last layer."""
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
    grid[0, 0].set_title(wrapped(view.names[side], 20), fontsize=9)
    for line, (row, maps) in zip(grid, rows.items(), strict=True):
        for number, (axes, weights) in enumerate(zip(line[1:], maps, strict=False), start=1):
            show_map(axes, view.faces[side], weights[side])
            axes.set_title(f"{row} {number}", fontsize=9)
    return as_written(figure)


# ---- files


def stem_of(names: tuple[str, str]) -> str:
    """The start of a pair's file names: folder and file of each image, in characters that every file system takes."""
    parts = ["_".join(Path(name).with_suffix("").parts[-2:]) for name in names]
    safe = [re.sub(r"[^\w-]+", "_", part).strip("_").encode()[:LONGEST].decode(errors="ignore") for part in parts]
    return "_".join(part or "image" for part in safe)


def write_figure(file: Path, figure: Figure) -> Path:
    """Write a figure as PNG, whole or not at all, and return the file."""
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as new:
        figure.savefig(new, format="png", dpi=110)
    return file


def write_pair(
    folder: Path, view: PairView, title: str, label: str, regions: dict[str, np.ndarray], answer: str | None = None
) -> list[Path]:
    """Write a pair's pictures and statistics, and return the files; the statistics come last: with them, all are there.

    label: what the data is called; regions: as `face_regions`; answer: what the score means, in words.
    """
    stem = stem_of(view.names)
    title = f"{title} ({label}): {answer or f'score {view.score:.2f}'}"
    figures = {"pair_attention": draw_contact_sheet([view], "distinctive", [title])}
    for ending, names in PICTURES.items():
        if set(names) <= set(view.kinds):
            figures[ending] = draw_view(view, names, title)
    figures["discriminative_regions"] = draw_regions(view, "distinctive", regions, title)
    files = [write_figure(folder / f"{stem}_{ending}.png", figure) for ending, figure in figures.items()]
    found = {"data": label, "images": list(view.names), "score": view.score, "answer": answer}
    found["maps"] = view_statistics(view, regions)
    files.append(folder / f"{stem}_attention_stats.json")
    write_text(files[-1], json.dumps(found, indent=1, allow_nan=False))
    return files
