"""The limit of detection in words, as a table and as a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from dcal_core.explain.paint import GREY, label_rows, show_picture, wrapped
from dcal_core.explain.planting import cover, places, planted
from dcal_core.explain.sensitivity import CONTRASTS, LEVELS, MAIN, share_seen
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.palette import COLOURS
from dcal_core.verification.words import estimate_in_words

VERDICT = "turned into two people"
FACE = "forehead", "left cheek", "right cheek", "jaw", "nose"  # parts for the marks of the example, the first with skin


def contrast_name(contrast: float) -> str:
    """A contrast in words."""
    return f"{100 * abs(contrast):.0f} % {'darker' if contrast < 0 else 'lighter'}"


def size_text(estimate: dict, largest: float) -> str:
    """A diameter with its interval, or that even the largest mark is too small."""
    over = f"over {largest:.1f}"
    value, low, high = (over if estimate[end] is None else f"{estimate[end]:.1f}" for end in ("value", "low", "high"))
    return f"{value} px" if low == high == over else f"{value} px ({low} to {high})"


def from_where(estimate: dict, largest: float) -> str:
    """From which diameter marks are seen, in words that follow "seen in 50 % of the cases"."""
    text = size_text(estimate, largest)
    return f"at no diameter up to {largest:.1f} px" if text.startswith("over") else f"from {text}"


def by_part(result: dict) -> str:
    """On which parts of the face marks are seen in half of the cases, and from which diameter, as a sentence."""
    largest = result["diameters"][-1]
    on = {region: curve["half"] for region, curve in result["regions"].items()}
    seen = sorted((region for region in on if on[region]["value"] is not None), key=lambda one: on[one]["value"])
    said = [f"{region} {size_text(on[region], largest)}" for region in seen]
    if unseen := [region for region in on if region not in seen]:
        said.append(f"at no diameter up to {largest:.1f} px: {', '.join(unseen)}")
    return f"By part of the face, 50 % are seen from: {'; '.join(said)}."


def limits(result: dict) -> list[str]:
    """What the limit of detection is, in sentences: of the face and its parts, what counts as seen, and the verdict."""
    largest = result["diameters"][-1]
    curve = result["contrasts"][f"{MAIN:+g}"]
    half, most = (from_where(curve[name], largest) for name in LEVELS)
    sentences = [
        f"A single mark, {contrast_name(MAIN)} than the skin, is seen in 50 % of the cases {half}, in 95 % {most}; at "
        f"{largest:.1f} px in {estimate_in_words(curve['seen'][-1], '%')}. The images have {result['image_size']} px, "
        f"with the eyes {result['eye_distance']:.1f} px apart (on an adult's face about 63 mm).",
        by_part(result),
        "Seen: the score of one person's pair falls below those of 95 % of such pairs without a mark, of other "
        f"families. Without a mark that happens in {estimate_in_words(curve['chance'], '%')}.",
    ]
    if "verdict" in result:
        turned = result["verdict"]
        sentences.append(
            "Such a mark turns one person's pair into two people's, at the threshold of evaluation, in 50 % of the "
            f"cases {from_where(turned['half'], largest)}; without a mark that happens in "
            f"{estimate_in_words(turned['chance'], '%')}."
        )
    return sentences


def curves_of(result: dict) -> dict[str, dict]:
    """Every curve of a result by its name, as the table lists them."""
    found = {f"{contrast_name(one)} than the skin": result["contrasts"][f"{one:+g}"] for one in CONTRASTS}
    found |= {f"{contrast_name(MAIN)}, {region}": curve for region, curve in result["regions"].items()}
    return found | ({f"{contrast_name(MAIN)}, {VERDICT}": result["verdict"]} if "verdict" in result else {})


def sensitivity_table(result: dict) -> str:
    """From which diameter marks are seen, and how far the score falls by the largest one."""
    largest = result["diameters"][-1]
    rows = []
    for name, curve in curves_of(result).items():
        sizes = (size_text(curve[level], largest) for level in LEVELS)
        most = estimate_in_words(curve["seen"][-1], "%")
        fall = estimate_in_words(curve["fall"][-1], "score")
        rows.append([name, *sizes, estimate_in_words(curve["chance"], "%"), most, fall])
    head = ("seen in 50 % from", "seen in 95 % from", "without a mark", f"at {largest:.1f} px", "the score falls by")
    return table(["mark", *head], rows)


def example(image: np.ndarray, landmarks: np.ndarray, diameters: list[float]) -> np.ndarray:
    """An image [3, S, S] under a mark of each diameter at MAIN, uint8 [D, S, S, 3]."""
    at = places(image, landmarks, np.random.default_rng(0))
    place = next(at[part] for part in (*FACE, *at) if at[part] is not None)
    return planted(image, cover(place, diameters, image.shape[-1]), [MAIN])[0].transpose(0, 2, 3, 1)


def draw_sensitivity(result: dict, faces: np.ndarray, title: str) -> Figure:
    """Marks by size on a face [D, S, S, 3]; the fall of the score and the share seen by diameter and contrast, and from
    where marks are seen, by part of the face."""
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    figure.suptitle(wrapped(title, 120), fontsize=12)
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2.4))
    for axes, face, diameter in zip(above.subplots(1, len(faces)), faces, result["diameters"], strict=True):
        show_picture(axes, face)
        axes.set_title(f"{diameter:.1f} px", fontsize=10)
    falls, seen, regions = below.subplots(1, 3, width_ratios=(1, 1, 1.1))
    for number, contrast in enumerate(CONTRASTS):
        curve = result["contrasts"][f"{contrast:+g}"]
        look = {"color": COLOURS[number], "marker": "osD"[number]}
        _points(falls, result["diameters"], curve["fall"], 1, contrast_name(contrast), look)
        _points(seen, result["diameters"], curve["seen"], 100, None, look)
        size = np.linspace(*np.log([result["diameters"][0], result["diameters"][-1]]), 100)
        seen.plot(np.exp(size), 100 * share_seen(size, **curve["fit"]), color=look["color"], linewidth=1.5)
    chance = 100 * result["contrasts"][f"{MAIN:+g}"]["chance"]["value"]
    seen.axhline(chance, color=GREY, linestyle="--", linewidth=1, label="without a mark")
    for level in LEVELS.values():
        seen.axhline(100 * level, color=GREY, linestyle=":", linewidth=1)
    falls.set_ylabel("the score falls by", fontsize=10)
    seen.set_ylabel("seen (% of the cases)", fontsize=10)
    seen.set_ylim(-2, 102)
    _draw_regions(regions, result)
    for axes in (falls, seen, regions):
        axes.set_xscale("log")
        axes.set_xticks([diameter for diameter in result["diameters"][1::2]])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{diameter:.1f}" for diameter in result["diameters"][1::2]])
        axes.set_xlabel(f"diameter of the mark (px; the eyes are {result['eye_distance']:.0f} px apart)", fontsize=10)
        axes.grid(alpha=0.25)
    below.legend(loc="outside lower center", ncols=3, fontsize=10)
    return as_written(figure)


def _points(axes: Axes, diameters: list[float], estimates: list[dict], factor: float, label: str | None, look: dict):
    values, lows, highs = (factor * np.array([one[end] for one in estimates]) for end in ("value", "low", "high"))
    axes.errorbar(
        diameters,
        values,
        (values - lows, highs - values),
        linestyle="none",
        markersize=6,
        linewidth=1,
        label=label,
        **look,
    )


def _draw_regions(axes: Axes, result: dict) -> None:
    """From which diameter marks at MAIN are seen on each part, an arrow where none of them is large enough."""
    largest = result["diameters"][-1]
    edge = 1.15 * largest
    label_rows(axes, list(result["regions"]))
    for place, (level, share) in enumerate(LEVELS.items()):
        look = {"color": "black", "markersize": 7, "markerfacecolor": "black" if place else "white"}
        for row, curve in enumerate(result["regions"].values()):
            at = row - 0.12 + 0.24 * place
            value, low, high = (curve[level][end] or edge for end in ("value", "low", "high"))
            axes.plot([low, high], [at, at], color="black", linewidth=1.2)
            axes.plot(value, at, marker=">" if value == edge else "o", **look)
        name = f"{contrast_name(MAIN)}: seen in {100 * share:.0f} % from (>: no mark is large enough)"
        axes.plot([], [], linestyle="none", marker="o", label=name, **look)
    axes.set_xlim(result["diameters"][0], 1.25 * largest)
