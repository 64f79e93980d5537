"""Pairs of one person against pairs of co-twins: do their maps differ, or show the same for both?

Figures are {"value", "low", "high"} with 95 % intervals over families, each counting the same.
n pairs, P = g x g patches.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.data.images import ImageStore
from dcal_core.explain import paint
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.pair_maps import encode_pairs
from dcal_core.explain.regions import SPEAKS, SPREAD, WHOSE_SIDES, speaks, statistics
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.models.verifier import Verifier
from dcal_core.palette import COLOURS
from dcal_core.progress import progress_line
from dcal_core.verification.intervals import mean_share, paired_difference
from dcal_core.verification.protocol import Pairs
from dcal_core.verification.words import terms_of

GROUPS = ("same", "twins")
NONE = {"value": None, "low": None, "high": None}


def quick_maps(
    model: Verifier, images: ImageStore, pairs: Pairs, names: Sequence[str], batch: int = 16
) -> dict[str, np.ndarray]:
    """Quick maps of n pairs, name -> fp32 [n, 2, g, g]; ValueError for a map that is not quick, or not this model's."""
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
    some = images.batch(np.unique(np.linspace(0, len(images.images) - 1, most).round()))
    return some.float().mean(0).round().byte().permute(1, 2, 0).numpy()  # [S, S, 3]


def compare_groups(
    maps: dict[str, np.ndarray], pairs: Pairs, regions: dict[str, np.ndarray], co_twins: bool = True
) -> dict:
    """How the maps of same-person and of co-twin pairs, or of unrelated people, differ, for JSON.

    maps: as `quick_maps` gives them; regions: as `face_regions`. `means` of an unsigned map are multiples of an even
    spread. `difference`: twins less same, within each family that has both. `empty` counts the faces left out of a part
    of `speaks` since their map is zero in it. ValueError if a group has no pair, or counts differ.
    """
    if any(one.shape[:2] != (len(pairs), 2) for one in maps.values()):
        raise ValueError(f"each map must be [n, 2, g, g] of all {len(pairs)} pairs")
    member = {"same": np.asarray(pairs.genuine, bool), "twins": ~np.asarray(pairs.genuine, bool)}
    if missing := [group for group, inside in member.items() if not inside.any()]:
        raise ValueError(f"there is no pair of the group {missing[0]}: a comparison takes both")
    families = {group: np.unique(pairs.family[inside]) for group, inside in member.items()}
    counts = {group: len(those) for group, those in families.items()}
    return {
        "impostors": terms_of(co_twins).impostors,
        "units": "families" if co_twins else "couples of people",
        "pairs": {group: int(inside.sum()) for group, inside in member.items()},
        "families": counts | {"both": len(np.intersect1d(*families.values()))},
        "areas": {name: float(region.mean()) for name, region in regions.items()},
        "maps": {name: _compared(name, one, member, pairs.family, regions) for name, one in maps.items()},
    }


def _compared(name: str, maps: np.ndarray, member: dict, family: np.ndarray, regions: dict) -> dict:
    signed = MAPS[name].signed
    result = {"means": {}, "speaks": {}}
    totals = maps.sum((2, 3), keepdims=True, dtype=np.float64)
    shown = maps if signed else maps / np.where(totals > 0, totals, 1) * maps[0, 0].size
    for group, inside in member.items():
        _, number, sizes = np.unique(family[inside], return_inverse=True, return_counts=True)
        mean_map = np.average(shown[inside].mean(1), axis=0, weights=1 / sizes[number])  # [g, g]
        result["means"][group] = np.round(mean_map, 6).tolist()
    for what, weights in speaks(maps, signed).items():
        faces = [statistics(face, regions) for face in weights.reshape(-1, *weights.shape[2:])]  # [2n]
        result["speaks"][what] = _group_estimates(faces, member, family, regions)
    return result


def _group_estimates(faces: list[dict], member: dict, family: np.ndarray, regions: Iterable[str]) -> dict:
    """Each figure of `faces`, the statistics of both faces of n pairs one after the other, in both groups."""
    family = np.repeat(family, 2)
    full = np.array([face["total"] > 0 for face in faces])
    of_group = {group: np.repeat(inside, 2) for group, inside in member.items()}
    result = {"empty": {group: int((inside & ~full).sum()) for group, inside in of_group.items()}, "figures": {}}
    values = {name: [face[name] for face in faces] for name in SPREAD}
    values |= {name: [face["regions"][name]["share"] for face in faces] for name in regions}
    for name, column in values.items():
        column = np.clip(np.array(column, dtype=np.float64), 0, 1)  # rounding may leave [0, 1], where log-odds end
        parts = {group: (column[inside & full], family[inside & full]) for group, inside in of_group.items()}
        figure = {group: mean_share(*part) if len(part[0]) else NONE for group, part in parts.items()}
        both = all(len(part[0]) for part in parts.values())
        figure["difference"] = paired_difference(*parts["twins"], *parts["same"]) if both else NONE
        result["figures"][name] = figure
    return result


# ---- as a figure and as a table


def draw_comparison(result: dict, name: str, face: np.ndarray, label: str) -> Figure:
    """One map of `compare_groups`: its mean over the pairs of one person and over those of co-twins, on a face uint8
    [S, S, 3] that stands for all, and the shares of its regions in both groups and their differences."""
    found = result["maps"][name]
    rows = len(found["speaks"])
    figure = Figure(figsize=(15.5, 1.5 + 3.5 * rows), layout="constrained")
    pairs = result["pairs"]
    families = result["families"]
    counted = f"{pairs['same']:,} pairs of one person, {pairs['twins']:,} of {result['impostors']}"
    counted += f", {families['both']:,} {result['units']}"
    names = names_of(result)
    figure.suptitle(f"{MAPS[name].title} ({label})\n{counted}", fontsize=12)
    pictures, charts = figure.subfigures(1, 2, width_ratios=(1.35 / rows, 1.6))
    _draw_means(pictures, found["means"], face, name, rows, names)
    cells = charts.subplots(rows, 2, sharey=True, squeeze=False)
    for row, (what, one) in zip(cells, found["speaks"].items(), strict=True):
        _draw_shares(row, what, one["figures"], result["areas"], names)
    charts.suptitle(WHOSE_SIDES, fontsize=9)
    handles, labels = cells[0, 0].get_legend_handles_labels()
    charts.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=10)
    return as_written(figure)


def names_of(result: dict) -> dict[str, str]:
    """Whom the pairs of each group show."""
    return dict(zip(GROUPS, ("one person", result["impostors"]), strict=True))


def _draw_means(figure, means: dict, face: np.ndarray, name: str, rows: int, names: dict[str, str]) -> None:
    """Both mean maps, beside one another or in two rows, above what their colours mean."""
    grid = figure.add_gridspec(rows + 1, 2 // rows, height_ratios=(*[1] * rows, 0.04))
    peak = paint.peak_of(np.array([*means.values()]))
    signed = MAPS[name].signed
    for side, (group, weights) in enumerate(means.items()):
        axes = figure.add_subplot(grid[divmod(side, 2 // rows)])
        paint.show_map(axes, face, np.array(weights), signed, peak)
        axes.set_title(f"mean map, {names[group]}", fontsize=10)
        axes.set_anchor("S")  # close to the bar
    unit = None if signed else "times an even spread"
    paint.show_colours(figure.add_subplot(grid[-1, :]), signed, paint.scale_ends(name, peak, unit))


def _draw_shares(row: Sequence[Axes], what: str, figures: dict, areas: dict, names: dict[str, str]) -> None:
    """Left the share of each region in both groups, right their difference."""
    regions = [name for name in figures if name in areas]
    for axes in row:
        paint.label_rows(axes, regions)
    for number, region in enumerate(regions):
        for side, group in enumerate(GROUPS):
            look = {"marker": paint.MARKERS[side], "color": COLOURS[side]}
            label = names[group] if number == 0 else None
            paint.draw_estimate(row[0], number - 0.14 + 0.28 * side, figures[region][group], 100, label=label, **look)
        paint.draw_estimate(row[1], number, figures[region]["difference"], 100, marker="D", color="black")
    paint.draw_areas(row[0], [areas[region] for region in regions])
    row[0].set_xlabel(f"share of {SPEAKS[what]} (%)", fontsize=10)
    row[1].axvline(0, color=paint.GREY, linestyle="--", linewidth=1)
    row[1].set_xlabel(paint.wrapped(f"{names['twins']} less one person (percentage points)", 48), fontsize=10)


def comparison_table(result: dict, name: str) -> str:
    """Spread and regions of one map of `compare_groups`: both groups, and twins less same."""
    rows = []
    names = names_of(result)
    signed = MAPS[name].signed
    for what, one in result["maps"][name]["speaks"].items():
        for figure, values in one["figures"].items():
            groups = [paint.estimate_text(values[group], "%") for group in GROUPS]
            difference = paint.estimate_text(values["difference"], "points")
            rows.append([*([SPEAKS[what]] if signed else []), SPREAD.get(figure, figure), *groups, difference])
    heads = [*(["of"] if signed else []), "share of the map", *names.values(), f"{names['twins']} less one person"]
    return table(heads, rows)
