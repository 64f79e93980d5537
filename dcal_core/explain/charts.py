"""What maps say in figures, drawn as dots with 95 % intervals over families."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt

from dcal_core.explain.figures import OPACITY, colour_bar, full_colour, overlay, peak_of, wrapped
from dcal_core.explain.registry import MAPS
from dcal_core.explain.statistics import statistics
from dcal_core.explain.views import PairView

COLOURS = ("#0072B2", "#D55E00")  # Okabe-Ito: told apart by colour-blind eyes, and by their markers
MARKERS, GREY = ("o", "s"), "#777777"
GROUP_NAMES = {"same": "one person", "twins": "co-twins"}
SPEAKS = {"all": "the map", "same": "what speaks for one person", "different": "what speaks for two people"}
BASELINES = {
    "centre": "the middle of the image",
    "image_difference": "pixel difference",
    "gradient_times_input": "gradient x input",
    "usual_places": "usual places of marks",
    "random": "random",
}


def map_title(name: str) -> str:
    """What a map, or a baseline of `faithfulness`, is called."""
    return MAPS[name].title if name in MAPS else f"Baseline: {BASELINES[name]}"


def _prepare(axes: Axes, labels: Sequence[str]) -> None:
    """A row for each label, the first on top."""
    axes.set_yticks(range(len(labels)), labels=labels, fontsize=10)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(labelsize=10)


def _dot(axes: Axes, y: float, estimate: dict, factor: float = 1, **look) -> None:
    """One estimate with its interval, where it has them."""
    if estimate["value"] is None:
        return
    if estimate["low"] is not None:
        axes.plot([factor * estimate["low"], factor * estimate["high"]], [y, y], color=look["color"], linewidth=1.6)
    axes.plot(factor * estimate["value"], y, linestyle="none", markersize=7, zorder=3, **look)


def _area_mark(axes: Axes, areas: Sequence[float]) -> Line2D:
    """A bar at the share of the face that each row's region covers: what an even spread would give."""
    look = {"linestyle": "none", "marker": "|", "markersize": 15, "markeredgewidth": 2.5, "color": GREY}
    return axes.plot(100 * np.array(areas), range(len(areas)), label="share of the picture's area", **look)[0]


def draw_regions(view: PairView, name: str, regions: dict[str, np.ndarray], title: str) -> Figure:
    """The regions of both faces with their shares of an unsigned map, and beside them these against their areas."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    figure.suptitle(wrapped(title, 120), fontsize=12)
    *faces, chart = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    weights = view.map(name)
    _prepare(chart, list(regions))
    for side, axes in enumerate(faces):
        overlay(axes, view.faces[side], weights[side], False, OPACITY, peak_of(weights[side]))
        axes.set_title(wrapped(view.names[side], 44), fontsize=10)
        found = statistics(weights[side], regions)["regions"]
        _name_regions(axes, regions, found)
        shares = [100 * one["share"] if one["share"] is not None else np.nan for one in found.values()]
        look = {"linestyle": "none", "marker": MARKERS[side], "color": COLOURS[side], "markersize": 8}
        chart.plot(shares, np.arange(len(shares)) - 0.12 + 0.24 * side, label=view.names[side], **look)
    _area_mark(chart, [one["area"] for one in found.values()])
    chart.set_xlabel(f"share of “{MAPS[name].title}” (%)", fontsize=10)
    chart.set_xlim(left=-1)
    figure.legend(*chart.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=9)
    return figure


def _name_regions(axes: Axes, regions: dict[str, np.ndarray], found: dict) -> None:
    """Outlines of the regions, and in each its name and its share of the map."""
    for region, inside in regions.items():
        if region != "elsewhere" and inside.any():
            axes.contour(inside, levels=[0.5], colors="white", linewidths=0.9)
            row, column = _label_place(inside)
            share = found[region]["share"]
            text = f"{region}\n{100 * share:.0f} %" if share is not None else region
            edge = [withStroke(linewidth=2.2, foreground="black")]
            words = {"ha": "center", "va": "center", "fontsize": 8.5, "color": "white", "path_effects": edge}
            axes.text(column, row, text, **words)


def _label_place(inside: np.ndarray) -> np.ndarray:
    """The (row, column) well inside a region that is nearest to its middle: of a curved one that lies outside."""
    depth, middle = distance_transform_edt(inside), np.argwhere(inside).mean(0)
    deep = np.argwhere(depth >= min(depth.max(), 0.04 * len(inside)))
    return deep[((deep - middle) ** 2).sum(1).argmin()]


def draw_comparison(result: dict, name: str, face: np.ndarray, label: str) -> Figure:
    """One map of `compare_groups`: its mean over the pairs of one person and over those of co-twins, on a face uint8
    [S, S, 3] that stands for all, and the shares of its regions in both groups and their differences."""
    found = result["maps"][name]
    figure = Figure(figsize=(15.5, 1.2 + 4.2 * len(found["speaks"])), layout="constrained")
    pairs, families = result["pairs"], result["families"]
    counted = f"{pairs['same']:,} pairs of one person, {pairs['twins']:,} of co-twins, {families['both']:,} families"
    figure.suptitle(f"{MAPS[name].title} ({label})\n{counted}", fontsize=12)
    pictures, charts = figure.subfigures(1, 2, width_ratios=(1, 1.6))
    _draw_means(pictures, found["means"], face, name)
    for row, (what, one) in zip(
        np.atleast_2d(charts.subplots(len(found["speaks"]), 2, sharey=True)), found["speaks"].items(), strict=True
    ):
        _draw_shares(row, what, one["figures"], result["areas"])
    handles, labels = row[0].get_legend_handles_labels()
    charts.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)
    return figure


def _draw_means(figure, means: dict, face: np.ndarray, name: str) -> None:
    """The mean maps of both groups, side by side on one scale."""
    cells = figure.add_gridspec(2, 2, height_ratios=(1, 0.04))
    peak, signed = peak_of(np.array([*means.values()])), MAPS[name].signed
    for side, (group, weights) in enumerate(means.items()):
        axes = figure.add_subplot(cells[0, side])
        scale = overlay(axes, face, np.array(weights), signed, OPACITY, peak)
        axes.set_title(f"mean map, {GROUP_NAMES[group]}", fontsize=10)
        axes.set_anchor("S")  # close to the bar
    bar = figure.add_subplot(cells[1, :])
    colour_bar(figure, bar, scale, signed)
    bar.set_xlabel(full_colour(name, peak, None if signed else "times an even spread"), fontsize=9)


def _draw_shares(row: Sequence[Axes], what: str, figures: dict, areas: dict) -> None:
    """Left the share of each region in both groups, right their difference."""
    regions = [name for name in figures if name in areas]
    for axes in row:
        _prepare(axes, regions)
    for number, region in enumerate(regions):
        for side, group in enumerate(GROUP_NAMES):
            look = {"marker": MARKERS[side], "color": COLOURS[side]}
            label = GROUP_NAMES[group] if number == 0 else None
            _dot(row[0], number - 0.14 + 0.28 * side, figures[region][group], 100, label=label, **look)
        _dot(row[1], number, figures[region]["difference"], 100, marker="D", color="black")
    _area_mark(row[0], [areas[region] for region in regions])
    row[0].set_xlabel(f"share of {SPEAKS[what]} (%)", fontsize=10)
    row[1].axvline(0, color=GREY, linestyle="--", linewidth=1)
    row[1].set_xlabel("co-twins less one person (percentage points)", fontsize=10)


PANELS = (  # figure of `faithfulness`, factor, what it says, what chance gives
    ("pointing", 100, "hottest patch lies on\na true mark (%)", None),
    ("energy", 1, "share of the map on true marks /\nshare of the picture that they cover", 1),
    ("deletion", 1, "score gained when the hottest patches\nare covered first, over a random order", 0),
    ("insertion", 1, "score lost when the hottest patches\nare shown first, over a random order", 0),
)


def figure_of(found: dict, name: str) -> dict | None:
    """A figure of one map in the result of `faithfulness`, wherever it stands; None where it was not measured."""
    return found.get(name) or found.get("localisation", {}).get(name)


def ranked(result: dict) -> list[str]:
    """The maps of a result of `faithfulness`, best first: by pointing where true marks are known, else by insertion."""
    by = "pointing" if any("localisation" in found for found in result.values()) else "insertion"
    return sorted(result, key=lambda name: -(figure_of(result[name], by) or {"value": -np.inf})["value"])


def draw_faithfulness(result: dict, title: str) -> Figure:
    """How far each map can be believed, from the result of `faithfulness`: maps as dots, baselines as grey squares,
    best first; hollow what hardly changes when the model forgets all that it has learnt."""
    names = ranked(result)
    panels = [panel for panel in PANELS if any(figure_of(found, panel[0]) for found in result.values())]
    figure = Figure(figsize=(3.4 + 3.2 * len(panels), 1.9 + 0.36 * len(names)), layout="constrained")
    figure.suptitle(wrapped(title, 100), fontsize=12)
    for axes, (wanted, factor, text, chance) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        _prepare(axes, [map_title(name) for name in names])
        axes.set_xlabel(text, fontsize=10)
        if chance is not None:
            axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        for number, name in enumerate(names):
            if (estimate := figure_of(result[name], wanted)) is not None:
                _dot(axes, number, estimate, factor, **_look(name, result[name]))
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _look(name: str, found: dict) -> dict:
    """Maps as dots, baselines as grey squares; hollow where the map is not to be trusted."""
    colour, marker = (COLOURS[0], "o") if name in MAPS else (GREY, "s")
    inside = "white" if found.get("untrustworthy") else colour
    return {"color": colour, "marker": marker, "markerfacecolor": inside}


def _legend() -> list[Line2D]:
    look = {"linestyle": "none", "markersize": 7}
    return [
        Line2D([], [], color=COLOURS[0], marker="o", label="map", **look),
        Line2D([], [], color=GREY, marker="s", label="baseline", **look),
        Line2D([], [], color=GREY, linestyle="--", label="chance"),
        Line2D(
            [],
            [],
            color=COLOURS[0],
            marker="o",
            markerfacecolor="white",
            label="hollow: hardly changes when the weights are shuffled, not to be trusted",
            **look,
        ),
    ]
