"""What a map says in numbers: how spread out it is, and on which parts of an aligned face it lies.

The parts are cut in the face's own frame (`landmarks.py`); they do not follow its outline, and hair can cover them.
Left and right are those of the image. Cheeks have sides, since a mole on one of them is what tells twins apart.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt, label

from dcal_core.data.landmarks import face_frame
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.paint import MARKERS, draw_areas, label_rows, peak_of, show_map, wrapped
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.palette import COLOURS
from dcal_core.verification.words import number_text

SPREAD = {  # shares that `statistics` gives, by their names in tables
    "entropy_share": "entropy (% of the largest)",
    "concentration": "in the hottest tenth",
    "centre_x": "centre, from the left",
    "centre_y": "centre, from above",
}
SPEAKS = {"all": "the map", "same": "what speaks for one person", "different": "what speaks for two people"}
WHOSE_SIDES = "Left and right are the picture's. Elsewhere: hair, ears, temples, neck, clothes, background."
TOP = 0.1  # of the patches, in `concentration`
EMPTY = "the map is zero everywhere"


def _in_frame(landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] of the image as (x, y) in the frame of the face."""
    origin, axes = face_frame(landmarks)
    return (points - origin) @ np.linalg.inv(axes).T


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low <= values) & (values < high)


def face_regions(landmarks: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Which pixels of an aligned face belong to which part, name -> bool [size, size]; each pixel is in exactly one.

    "elsewhere" is hair, ears, temples, neck, clothes, background. ValueError for landmarks that span no face.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (5, 2):
        raise ValueError(f"landmarks must be [5, 2], shares of the image's side, got {[*landmarks.shape]}")
    middles = (np.arange(size) + 0.5) / size
    x, y = np.moveaxis(_in_frame(landmarks, np.stack(np.meshgrid(middles, middles), axis=-1)), -1, 0)
    _, _, nose, *mouth = _in_frame(landmarks, landmarks)
    across = abs(x)
    nose_end = nose[1] + 0.2
    lips = (mouth[1][0] - mouth[0][0]) / 2 + 0.13
    face = (x / 1.15) ** 2 + (np.maximum(y - 0.2, 0) / 1.45) ** 2 < 1  # the chin is at 1.65
    parts = {  # a pixel belongs to the first that holds it
        "brows": _within(across, 0.1, 0.85) & _within(y, -0.6, -0.22),
        "eyes": _within(across, 0.15, 0.85) & _within(y, -0.22, 0.2),
        "nose": (across < 0.15 + 0.2 * np.clip(y / nose_end, 0, 1)) & _within(y, -0.22, nose_end),
        "mouth": (across < lips) & _within(y, nose_end, 1.3),
        "left cheek": face & (x < 0) & _within(y, 0.2, 1),
        "right cheek": face & (x >= 0) & _within(y, 0.2, 1),
        "jaw": face & (y >= 1),
        "forehead": (across < 0.9) & _within(y, -1, -0.22),
        "elsewhere": np.ones_like(face),
    }
    first = np.argmax([*parts.values()], axis=0)
    return {name: first == number for number, name in enumerate(parts)}


def covered_share(region: np.ndarray, grid: int) -> np.ndarray:
    """The share of each patch that lies in a region bool [S, S], [g, g]; exact where patches cut through pixels."""
    patches = np.linspace(0, 1, grid + 1)
    pixels = np.linspace(0, 1, len(region) + 1)
    ends = np.minimum(patches[1:, None], pixels[None, 1:]) - np.maximum(patches[:-1, None], pixels[None, :-1])
    shared = np.maximum(ends, 0) * grid  # [g, S], of a patch's side
    return shared @ region @ shared.T


# ---- statistics of a map


def statistics(weights: np.ndarray, regions: dict[str, np.ndarray]) -> dict:
    """Figures of a map of weights >= 0, [g, g], for JSON; regions: bool [S, S] by name.

    entropy_share: of the largest entropy, log2 P. centre_x, centre_y: centre of mass, from the upper left, as shares of
    the side. concentration: the share of the map in the hottest tenth of its patches, 1 less the Lorenz curve at 0.9.
    regions: each one's share of the map and of the area. In a map of zeros all but areas are None; `reason` says why.
    ValueError for a map that is not square, has a single patch, or a weight that is negative or not finite.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or len(weights) < 2:
        raise ValueError(f"a map must be [g, g] with g at least 2, got {[*weights.shape]}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative: of a signed map take `speaks` apart first")
    grid = len(weights)
    total = float(weights.sum())
    covered = {name: covered_share(region, grid) for name, region in regions.items()}
    parts = {name: {"share": None, "area": float(cover.mean())} for name, cover in covered.items()}
    if not total:
        nothing = dict.fromkeys(("entropy_bits", "entropy_share", "centre_x", "centre_y", "concentration"))
        return {"total": total, **nothing, "regions": parts, "reason": EMPTY}
    shares = weights / total
    for name, cover in covered.items():
        parts[name]["share"] = float((shares * cover).sum())
    return {"total": total, **_spread_figures(shares), "regions": parts}


def _spread_figures(shares: np.ndarray) -> dict:
    """The figures of a map [g, g] that sums to 1, but for its regions."""
    held = shares[shares > 0]
    middles = (np.arange(len(shares)) + 0.5) / len(shares)
    entropy = -(held * np.log2(held)).sum()
    lorenz = np.append(0, np.cumsum(np.sort(shares, axis=None)[::-1]))  # of the hottest k patches, k from 0 to P
    figures = {
        "entropy_bits": entropy,
        "entropy_share": entropy / np.log2(shares.size),
        "centre_x": shares.sum(0) @ middles,
        "centre_y": shares.sum(1) @ middles,
        "concentration": np.interp(TOP * shares.size, np.arange(lorenz.size), lorenz),
    }
    return {name: float(value) for name, value in figures.items()}


def speaks(weights: np.ndarray, signed: bool) -> dict[str, np.ndarray]:
    """The parts of a map, each >= 0: `all`, or if signed, what speaks for the `same` person and `different` people."""
    if not signed:
        return {"all": weights}
    return {"same": np.maximum(weights, 0), "different": np.maximum(-weights, 0)}


def view_statistics(view: PairView, regions: dict[str, np.ndarray]) -> dict:
    """`statistics` of every map of a pair: by kind of map, then by the parts of `speaks`, then for both faces."""
    found = {}
    for kind in view.kinds:
        parts = speaks(view.map(kind), MAPS[kind].signed)
        found[kind] = {what: [statistics(side, regions) for side in sides] for what, sides in parts.items()}
    return found


# ---- as a figure and as a table


def draw_regions(view: PairView, name: str, regions: dict[str, np.ndarray], title: str) -> Figure:
    """The regions of both faces with their shares of an unsigned map, and beside them these against their areas."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    figure.suptitle(wrapped(f"{title}\n{WHOSE_SIDES}", 120), fontsize=12)
    *faces, chart = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
    weights = view.map(name)
    peak = peak_of(weights)
    label_rows(chart, list(regions))
    for side, axes in enumerate(faces):
        show_map(axes, view.faces[side], weights[side], peak=peak)
        axes.set_title(wrapped(view.names[side], 44), fontsize=10)
        found = statistics(weights[side], regions)["regions"]
        _name_regions(axes, regions, found)
        shares = [100 * one["share"] if one["share"] is not None else np.nan for one in found.values()]
        look = {"linestyle": "none", "marker": MARKERS[side], "color": COLOURS[side], "markersize": 8}
        chart.plot(shares, np.arange(len(shares)) - 0.12 + 0.24 * side, label=view.names[side], **look)
    draw_areas(chart, [one["area"] for one in found.values()])
    chart.set_xlabel(f"share of “{MAPS[name].title}” (%)", fontsize=10)
    chart.set_xlim(left=-1)
    figure.legend(*chart.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=9)
    return as_written(figure)


def _name_regions(axes: Axes, regions: dict[str, np.ndarray], found: dict) -> None:
    """Outlines of the regions, and in each its name and its share of the map."""
    edge = [withStroke(linewidth=2.2, foreground="black")]
    words = {"ha": "center", "va": "center", "fontsize": 8.5, "color": "white", "path_effects": edge}
    for region, inside in regions.items():
        if region != "elsewhere" and inside.any():
            axes.contour(inside, levels=[0.5], colors="white", linewidths=0.9)
            row, column = _label_place(inside)
            share = found[region]["share"]
            name = f"both {region}" if label(inside)[1] > 1 else region
            axes.text(column, row, name if share is None else f"{name}\n{100 * share:.0f} %", **words)


def _label_place(inside: np.ndarray) -> np.ndarray:
    """The (row, column) well inside a region that is nearest to its middle, which can lie outside a curved region."""
    depth = distance_transform_edt(inside)
    middle = np.argwhere(inside).mean(0)
    deep = np.argwhere(depth >= min(depth.max(), 0.04 * len(inside)))
    return deep[((deep - middle) ** 2).sum(1).argmin()]


def statistics_table(maps: dict, names: tuple[str, str]) -> str:
    """`view_statistics` of a pair of images of these names: how spread out each map is, where, and on which region it
    lies most for that region's area."""
    rows = []
    for kind, by_sign in maps.items():
        for what, sides in by_sign.items():
            title = MAPS[kind].title if what == "all" else f"{MAPS[kind].title}: {SPEAKS[what]}"
            for name, side in zip(names, sides, strict=True):
                spread = ["-" if side[figure] is None else number_text(side[figure], "%") for figure in SPREAD]
                rows.append([title, name, *spread, _densest(side)])
    return table(["map", "image", *SPREAD.values(), "most for its area"], rows)


def _densest(figures: dict) -> str:
    """The region whose share of the map exceeds its area the most, in words."""
    if "reason" in figures:
        return figures["reason"]
    times = {name: one["share"] / one["area"] for name, one in figures["regions"].items() if one["area"]}
    region = max(times, key=times.get)
    return f"{region}: {times[region]:.1f} x its area"
