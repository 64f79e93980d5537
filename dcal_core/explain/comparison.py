"""Pairs of one person against pairs of co-twins: do their maps differ, or show the same for both?

Figures are {"value", "low", "high"} with 95 % intervals over families, each counting the same.
n pairs, P = g x g patches.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.data.images import ImageStore
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.paint import (
    GREY,
    MARKERS,
    draw_areas,
    draw_estimate,
    estimate_text,
    full_colour,
    label_rows,
    peak_of,
    show_colours,
    show_map,
)
from dcal_core.explain.pair_maps import encode_pairs
from dcal_core.explain.regions import OPACITY, SPEAKS, SPREAD, speaks, statistics
from dcal_core.markdown import table
from dcal_core.models.verifier import Verifier
from dcal_core.palette import COLOURS
from dcal_core.progress import progress_line
from dcal_core.verification.intervals import mean_share, paired_difference
from dcal_core.verification.protocol import Pairs

GROUPS = ("same", "twins")  # pairs of one person, pairs of co-twins
GROUP_NAMES = {"same": "one person", "twins": "co-twins"}
NONE = {"value": None, "low": None, "high": None}


def quick_maps(
    model: Verifier, images: ImageStore, pairs: Pairs, names: Sequence[str], batch: int = 16
) -> dict[str, np.ndarray]:
    """Quick maps of n pairs, name -> fp32 [n, 2, g, g]; ValueError for a name that is no quick map, or that this model
    does not have."""
    if unknown := set(names) - {name for name, kind in MAPS.items() if kind.quick}:
        raise ValueError(f"{', '.join(sorted(unknown))}: choose of the quick maps")
    device = next(model.parameters()).device
    found = {name: [] for name in names}
    starts = range(0, len(pairs), batch)
    for start in progress_line(starts, desc="mapping pairs", total=len(starts), unit="batch"):
        part = slice(start, start + batch)
        a = images.batch(pairs.a[part]).to(device)
        b = images.batch(pairs.b[part]).to(device)
        encoded = encode_pairs(model, a, b, model.grid)
        for name in names:
            if not MAPS[name].fits(encoded):
                raise ValueError(f"this model has no map {name}: leave it out")
            found[name].append(MAPS[name].make(encoded).cpu().numpy().swapaxes(0, 1))  # [b, 2, g, g]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def mean_face(images: ImageStore, most: int = 256) -> np.ndarray:
    """The mean of at most `most` images, spread evenly, uint8 [S, S, 3]: the face under a mean map."""
    some = images.batch(np.unique(np.linspace(0, len(images.kept) - 1, most).round()))
    return some.float().mean(0).round().byte().permute(1, 2, 0).numpy()  # [S, S, 3]


def compare_groups(maps: dict[str, np.ndarray], pairs: Pairs, regions: dict[str, np.ndarray]) -> dict:
    """How the maps of same-person and of co-twin pairs differ, for JSON.

    maps: name -> [n, 2, g, g], as `quick_maps` gives them; regions: as `face_regions`. `pairs` and `families` count
    what there is in each group (`both`: families in both); `areas`: each region's share of the face. For each map
    `means`, [g, g] by group, of an unsigned map in multiples of an even spread; and for each part of `speaks`
    `figures`, each with `same`, `twins` and the `difference`, twins less same within each family that has both; and
    `empty`, how many faces were left out since their map is zero in that part.
    ValueError if a group has no pair, or counts differ.
    """
    if any(one.shape[:2] != (len(pairs), 2) for one in maps.values()):
        raise ValueError(f"each map must be [n, 2, g, g] of all {len(pairs)} pairs")
    member = {"same": np.asarray(pairs.genuine, bool), "twins": ~np.asarray(pairs.genuine, bool)}
    if missing := [group for group in GROUPS if not member[group].any()]:
        raise ValueError(f"there is no pair of the group {missing[0]}: a comparison takes both")
    families = {group: np.unique(pairs.family[member[group]]) for group in GROUPS}
    result = {"pairs": {group: int(member[group].sum()) for group in GROUPS}}
    result["families"] = {group: len(families[group]) for group in GROUPS}
    result["families"]["both"] = len(np.intersect1d(*families.values()))
    result["areas"] = {name: float(region.mean()) for name, region in regions.items()}
    result["maps"] = {name: _compared(name, one, member, pairs.family, regions) for name, one in maps.items()}
    return result


def _compared(name: str, maps: np.ndarray, member: dict, family: np.ndarray, regions: dict) -> dict:
    """The comparison of one kind of map."""
    signed = MAPS[name].signed
    result = {"means": {}, "speaks": {}}
    totals = maps.sum((2, 3), keepdims=True, dtype=np.float64)
    shown = maps if signed else maps / np.where(totals > 0, totals, 1) * maps[0, 0].size
    for group in GROUPS:
        _, number, sizes = np.unique(family[member[group]], return_inverse=True, return_counts=True)
        mean_map = np.average(shown[member[group]].mean(1), axis=0, weights=1 / sizes[number])  # [g, g]
        result["means"][group] = np.round(mean_map, 6).tolist()
    for what, weights in speaks(maps, signed).items():
        rows = [[statistics(side, regions) for side in sides] for sides in weights]
        result["speaks"][what] = _group_estimates(rows, member, family, regions)
    return result


def _group_estimates(rows: list[list[dict]], member: dict, family: np.ndarray, regions: Iterable[str]) -> dict:
    """Each figure of `rows`, the statistics of both faces of n pairs, in both groups."""
    faces = np.repeat(family, 2)
    flat = [side for sides in rows for side in sides]
    full = np.array([side["total"] > 0 for side in flat])
    of_group = {group: np.repeat(inside, 2) for group, inside in member.items()}
    values = {name: [side[name] for side in flat] for name in SPREAD}
    values |= {name: [side["regions"][name]["share"] for side in flat] for name in regions}
    result = {"empty": {group: int((of_group[group] & ~full).sum()) for group in GROUPS}, "figures": {}}
    for name, column in values.items():
        column = np.clip(np.array(column, dtype=np.float64), 0, 1)  # rounding may leave [0, 1], where log-odds end
        parts = {
            group: (column[part], faces[part]) for group, inside in of_group.items() if (part := inside & full).any()
        }
        figure = {group: mean_share(*parts[group]) if group in parts else NONE for group in GROUPS}
        both = len(parts) == len(GROUPS)
        figure["difference"] = paired_difference(*parts["twins"], *parts["same"]) if both else NONE
        result["figures"][name] = figure
    return result


# ---- as a figure and as a table


def draw_comparison(result: dict, name: str, face: np.ndarray, label: str) -> Figure:
    """One map of `compare_groups`: its mean over the pairs of one person and over those of co-twins, on a face uint8
    [S, S, 3] that stands for all, and the shares of its regions in both groups and their differences."""
    found = result["maps"][name]
    figure = Figure(figsize=(15.5, 1.2 + 4.2 * len(found["speaks"])), layout="constrained")
    pairs = result["pairs"]
    families = result["families"]
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
    peak = peak_of(np.array([*means.values()]))
    signed = MAPS[name].signed
    for side, (group, weights) in enumerate(means.items()):
        axes = figure.add_subplot(cells[0, side])
        show_map(axes, face, np.array(weights), signed, OPACITY, peak)
        axes.set_title(f"mean map, {GROUP_NAMES[group]}", fontsize=10)
        axes.set_anchor("S")  # close to the bar
    bar = figure.add_subplot(cells[1, :])
    show_colours(bar, signed)
    bar.set_xlabel(full_colour(name, peak, None if signed else "times an even spread"), fontsize=9)


def _draw_shares(row: Sequence[Axes], what: str, figures: dict, areas: dict) -> None:
    """Left the share of each region in both groups, right their difference."""
    regions = [name for name in figures if name in areas]
    for axes in row:
        label_rows(axes, regions)
    for number, region in enumerate(regions):
        for side, group in enumerate(GROUP_NAMES):
            look = {"marker": MARKERS[side], "color": COLOURS[side]}
            label = GROUP_NAMES[group] if number == 0 else None
            draw_estimate(row[0], number - 0.14 + 0.28 * side, figures[region][group], 100, label=label, **look)
        draw_estimate(row[1], number, figures[region]["difference"], 100, marker="D", color="black")
    draw_areas(row[0], [areas[region] for region in regions])
    row[0].set_xlabel(f"share of {SPEAKS[what]} (%)", fontsize=10)
    row[1].axvline(0, color=GREY, linestyle="--", linewidth=1)
    row[1].set_xlabel("co-twins less one person (percentage points)", fontsize=10)


def comparison_table(result: dict, name: str) -> str:
    """Spread and regions of one map of `compare_groups`: both groups, and twins less same."""
    rows = []
    for what, one in result["maps"][name]["speaks"].items():
        for figure, values in one["figures"].items():
            head = SPREAD[figure][0] if figure in SPREAD else figure
            groups = [estimate_text(values[group], "%") for group in GROUP_NAMES]
            rows.append([SPEAKS[what], head, *groups, estimate_text(values["difference"], "points")])
    return table(["of", "figure", *GROUP_NAMES.values(), "co-twins less one person"], rows)
