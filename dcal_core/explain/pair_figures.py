"""One pair of faces as figures, and as files: its pictures and the numbers behind them.

Both faces of a pair are on one scale: a colour means the same in both, here and in the browser.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.explain.catalogue import MAPS, MARKED, PairView
from dcal_core.explain.paint import (
    ENDS,
    GAP,
    SCALES,
    SIDE,
    enlarged,
    greyed,
    painted_pair,
    peak_of,
    scale_ends,
    show_colours,
    show_map,
    show_picture,
    wrapped,
)
from dcal_core.explain.pair_page import pair_page
from dcal_core.explain.regions import draw_regions, view_statistics
from dcal_core.lettering import as_written
from dcal_core.storage import disk_errors, whole_file, write_text

PICTURES = {"attention_rollout": ("rollout",), "glca_attention": ("selection", "glca_attention")}  # if the model can
ABOUT_LAYERS = (
    "Top: what has reached the summary token (CLS) up to a layer. Middle: what CLS attends to in that layer alone, "
    "mean of its heads. Below: each head of the last layer."
)
LONGEST = 100  # bytes of a file name that each image's name may take


# ---- figures


def _write_in(axes: Axes, text: str, width: int = 30) -> None:
    """Text in place of a picture."""
    axes.set_axis_off()
    axes.text(0.5, 1, wrapped(text, width), ha="center", va="top", fontsize=9, transform=axes.transAxes)


def _draw_map(view: PairView, name: str, faces: Sequence[Axes]) -> float:
    """One kind of map over both faces; returns the value that has the last colour in both."""
    pictures, peak = painted_pair(view, view.map(name), MAPS[name].signed)
    for axes, picture in zip(faces, pictures, strict=True):
        show_picture(axes, picture)
    return peak


def _draw_faces(view: PairView, faces: Sequence[Axes]) -> None:
    """Both faces as they are, named."""
    for side, axes in enumerate(faces):
        show_picture(axes, view.faces[side])
        axes.set_title(wrapped(view.names[side], 26), fontsize=9)


def draw_view(view: PairView, names: Sequence[str], title: str) -> Figure:
    """A pair, one face above the other, and beside them its maps of these names, with what they mean below."""
    columns = 1 + len(names)
    below = ["The two faces." if view.marks is None else MARKED, *(MAPS[name].meaning for name in names)]
    lines = max(wrapped(text, 30).count("\n") + 1 for text in below)
    figure = Figure(figsize=(max(2.6 * columns, 6), 7.2 + 0.15 * lines), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06)
    figure.suptitle(wrapped(title, 30 * columns), fontsize=12)
    grid = figure.subplots(4, columns, squeeze=False, height_ratios=(1, 1, 0.05, 0.055 * lines))
    _draw_faces(view, grid[:2, 0])
    grid[2, 0].set_axis_off()
    for axes, text in zip(grid[3], below, strict=True):
        _write_in(axes, text)
    for name, column in zip(names, grid[:, 1:].T, strict=True):
        column[0].set_title(wrapped(MAPS[name].title, 26), fontsize=10, fontweight="bold")
        peak = _draw_map(view, name, column[:2])
        show_colours(column[2], MAPS[name].signed, scale_ends(name, peak), width=15)
    return as_written(figure)


def draw_contact_sheet(
    views: Sequence[PairView], name: str, titles: Sequence[str], label: str, columns: int = 2
) -> Figure:
    """Many pairs with one kind of map: for each pair both faces, their maps, and what the last colour stands for.

    label: what the data is called.
    """
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    kind = MAPS[name]
    figure = Figure(figsize=(7.6 * columns, 2.9 * rows + 1), layout="constrained")
    marked = any(view.marks is not None for view in views)
    head = f"{label}: {kind.title}. {kind.meaning} {MARKED if marked else ''}"
    figure.suptitle(wrapped(head, 90 * columns), fontsize=11)
    pairs, foot = figure.subfigures(2, 1, height_ratios=(2.9 * rows, 0.4))
    for place, view, title in zip(pairs.subfigures(rows, columns, squeeze=False).flat, views, titles, strict=False):
        cells = place.subplots(1, 4)
        _draw_faces(view, cells[:2])
        peak = _draw_map(view, name, cells[2:])
        cells[2].set_title(f"Strongest: {peak:.2g} {kind.unit}", fontsize=9, loc="left")
        place.suptitle(wrapped(title, 88), fontsize=10, fontweight="bold")
    show_colours(foot.add_axes((0.2, 0.6, 0.6, 0.25)), kind.signed, _ends_of_each(kind.signed, "pair"))
    return as_written(figure)


def _ends_of_each(signed: bool, each: str) -> tuple[str, str]:
    """What the ends of the colours mean where each pair or map has a scale of its own."""
    low, high = ENDS[signed]
    return low, f"{high} (each {each} has its own scale)"


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
    figure = Figure(figsize=(max(1.75 * columns, 7), 6.4), layout="constrained")
    figure.suptitle(wrapped(title, 100), fontsize=12)
    grid = figure.subplots(4, columns, squeeze=False, height_ratios=(1, 1, 1, 0.06))
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(view.faces[side])
    grid[0, 0].set_title(wrapped(view.names[side], 20), fontsize=9)
    _write_in(grid[1, 0], ABOUT_LAYERS, 24)
    for line, (row, maps) in zip(grid, rows.items(), strict=False):
        for number, (axes, weights) in enumerate(zip(line[1:], maps, strict=False), start=1):
            show_map(axes, view.faces[side], weights[side])
            axes.set_title(f"{row} {number}", fontsize=9)
    bar = figure.add_subplot(grid[3, 0].get_gridspec()[3, 1:])
    show_colours(bar, False, _ends_of_each(False, "map"))
    return as_written(figure)


def draw_matches(view: PairView, title: str, most: int = 12) -> Figure:
    """Which place of the other face answers a place: above for the first face, below for the second, a line for each of
    the places whose matches say most, for one person or for two."""
    found = view.map("local").reshape(2, -1)  # [2, P]
    peak = peak_of(found)
    grid = view.pairs.grid
    figure = Figure(figsize=(7.6, 8.4), layout="constrained")
    figure.suptitle(wrapped(title, 80), fontsize=12)
    *rows, bar = figure.subplots(3, 1, height_ratios=(1, 1, 0.05))
    for side, axes in enumerate(rows):
        faces = [greyed(enlarged(view.faces[one])) for one in (side, 1 - side)]
        show_picture(axes, np.hstack([faces[0], np.full_like(faces[0][:, :GAP], 255), faces[1]]))
        axes.set_title(
            wrapped(f"{view.names[side]}: its {most} places that say most, and their matches", 76), fontsize=9
        )
        for place in np.argsort(-abs(found[side]), kind="stable")[:most]:
            ends = np.array([divmod(place, grid), divmod(view.matches[side, place], grid)])
            y, x = ((ends + 0.5) * SIDE / grid).T + [[0, 0], [0, SIDE + GAP]]
            weight = found[side, place] / peak
            axes.plot(
                x, y, color=SCALES[True]((weight + 1) / 2), linewidth=1 + 2 * abs(weight), marker="o", markersize=4
            )
    show_colours(bar, True, scale_ends("local", peak))
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
    folder: Path,
    view: PairView,
    label: str,
    regions: dict[str, np.ndarray],
    answer: str,
    notes: Sequence[str] = (),
    trust: dict | None = None,
) -> list[Path]:
    """Write a pair's page, pictures and statistics, and return the files; the statistics come last: with them, all are
    there. regions: as `face_regions`; the others as `pair_page`."""
    stem = stem_of(view.names)
    title = f"{label}: {answer}"
    figures = {"pair_attention": draw_contact_sheet([view], "distinctive", [answer], label)}
    for ending, names in PICTURES.items():
        if set(names) <= set(view.kinds):
            figures[ending] = draw_view(view, names, title)
    if "local" in view.kinds:
        figures["local_matches"] = draw_matches(view, title)
    figures["discriminative_regions"] = draw_regions(view, "distinctive", regions, title)
    files = [write_figure(folder / f"{stem}_{ending}.png", figure) for ending, figure in figures.items()]
    statistics = view_statistics(view, regions)
    files.append(folder / f"{stem}.html")
    write_text(files[-1], pair_page(view, label, answer, statistics, notes, trust))
    found = {"data": label, "images": list(view.names), "score": view.score, "answer": answer}
    found["maps"] = statistics
    files.append(folder / f"{stem}_attention_stats.json")
    write_text(files[-1], json.dumps(found, indent=1, allow_nan=False))
    return files
