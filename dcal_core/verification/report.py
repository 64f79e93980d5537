"""The verification report: one JSON result, and figures that each say on what data and how many families."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from dcal_core.data.twins import TwinIndex
from dcal_core.verification.metrics import (
    equal_error_rate,
    error_rates,
    family_weights,
    rates_at,
    resolvable_fmr,
    roc_auc,
    roc_band,
    summarise,
)
from dcal_core.verification.protocol import Pairs

GENUINE, IMPOSTOR, MARK = "#0072B2", "#D55E00", "#222222"  # Okabe-Ito: told apart by colour-blind eyes
CURVE_POINTS = 200
BAND_DRAWS = 300  # a drawn band needs no more; the reported intervals take their own number
DET_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def evaluate(
    scores,
    pairs: Pairs,
    index: TwinIndex,
    threshold: float,
    threshold_source: str,
    label: str,
    draws=1000,
    seed=0,
) -> dict:
    """Return the result of one system on one split, ready for `write_json`.

    scores: [P], in the order of `pairs`. label: the data set's name, or SYNTHETIC. threshold_source: the
    families that the threshold was chosen on. `metrics` counts every comparison the same, as publications do;
    `metrics_per_family` every family. See `summarise` for both, and for errors.
    """
    scores = np.asarray(scores, dtype=np.float64)
    even = family_weights(pairs.family, pairs.genuine)
    return {
        "data": label,
        "split": index.name,
        "threshold": {"value": float(threshold), "source": threshold_source},
        "metrics": summarise(scores, pairs.genuine, pairs.family, threshold, draws, seed),
        "metrics_per_family": summarise(scores, pairs.genuine, pairs.family, threshold, draws, seed, even),
        "curve": _curve(scores, pairs.genuine),
        "confusable": most_confusable(scores, pairs, index, threshold),
    }


def _curve(scores: np.ndarray, genuine: np.ndarray) -> dict[str, list[float]]:
    """At most CURVE_POINTS operating points, spread evenly along the curve so that its ends stay sharp."""
    thresholds, fmr, fnmr = error_rates(scores, genuine)
    thresholds, fmr, fnmr = thresholds[:-1], fmr[:-1], fnmr[:-1]  # the last threshold is infinite
    travelled = fnmr - fmr
    wanted = np.linspace(travelled[0], travelled[-1], CURVE_POINTS)
    kept = np.unique(np.searchsorted(travelled, wanted).clip(max=len(travelled) - 1))
    return {"threshold": thresholds[kept].tolist(), "fmr": fmr[kept].tolist(), "fnmr": fnmr[kept].tolist()}


def most_confusable(scores, pairs: Pairs, index: TwinIndex, threshold: float, count=4) -> list[dict]:
    """Return the highest-scoring co-twin pairs, then the lowest-scoring genuine pairs, one per family each.

    Each holds `images` (two indices), `paths`, `people`, `score`, `genuine`, and `matched` at the threshold.
    """
    scores, found = np.asarray(scores, dtype=np.float64), []
    for genuine, wrongness in ((False, scores), (True, -scores)):
        order = np.argsort(-wrongness, kind="stable")
        order = order[pairs.genuine[order] == genuine]
        _, worst_of_family = np.unique(pairs.family[order], return_index=True)
        for position in order[np.sort(worst_of_family)[:count]]:
            images = [int(pairs.a[position]), int(pairs.b[position])]
            found.append(
                {
                    "images": images,
                    "paths": [str(index.paths[image]) for image in images],
                    "people": [index.people[index.person_of[image]] for image in images],
                    "score": float(scores[position]),
                    "genuine": genuine,
                    "matched": bool(scores[position] >= threshold),
                }
            )
    return found


def write_json(path, result: dict) -> None:
    """Write a result, sorted and indented, whole or not at all; ValueError if it holds a NaN or infinity."""
    text = json.dumps(result, indent=2, sort_keys=True, allow_nan=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def _title(what: str, label: str, genuine: int, impostor: int, families: int) -> str:
    """What a figure shows, on which data, and how much of it there is."""
    return f"{what} ({label})\n{genuine:,} genuine and {impostor:,} co-twin comparisons, {families:,} families"


def _axes(what: str, label: str, genuine, family, height=5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    same = int(np.sum(genuine))
    axes.set_title(_title(what, label, same, len(genuine) - same, len(np.unique(family))), fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.25)
    return figure, axes


def _legend(figure: Figure) -> None:
    """Below the axes, where it hides no curve."""
    figure.legend(fontsize=10, loc="outside lower center", ncols=2)


def draw_histogram(scores, genuine, family, threshold: float, label: str) -> Figure:
    """Densities of genuine and co-twin scores, with the frozen threshold and the errors that it makes."""
    scores, genuine = np.asarray(scores, dtype=np.float64), np.asarray(genuine, dtype=bool)
    figure, axes = _axes("Scores of genuine and co-twin comparisons", label, genuine, family)
    fmr, fnmr = rates_at(scores, genuine, threshold)
    bins = np.histogram_bin_edges(scores, bins=50)
    for part, colour, hatch, name in (
        (genuine, GENUINE, None, f"genuine: {fnmr:.1%} below the threshold (FNMR)"),
        (~genuine, IMPOSTOR, "////", f"co-twins: {fmr:.1%} at or above it (FMR)"),
    ):
        density, _ = np.histogram(scores[part], bins, density=True)
        look = {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "hatch": hatch, "label": name}
        axes.stairs(density, bins, fill=True, **look)
    axes.axvline(threshold, color=MARK, linestyle="--", label=f"threshold {threshold:.3f}, frozen")
    axes.set_xlabel("score (higher = more alike)", fontsize=11)
    axes.set_ylabel("density (per unit of score)", fontsize=11)
    _legend(figure)
    return figure


def _draw_band(axes: Axes, x, low, high) -> None:
    name = "95 % band (bootstrap over families)"
    axes.fill_between(x, low, high, color=GENUINE, alpha=0.2, linewidth=0, label=name)


def draw_roc(scores, genuine, family, label: str, draws=BAND_DRAWS, seed=0) -> Figure:
    """ROC with its 95 % band over families, its area, and the point of equal errors."""
    figure, axes = _axes("ROC", label, genuine, family, height=6)
    _, fmr, fnmr = error_rates(scores, genuine)
    grid = np.linspace(0, 1, 201)
    low, high = roc_band(scores, genuine, family, grid, draws, seed)
    eer, _ = equal_error_rate(scores, genuine)
    _draw_band(axes, 100 * grid, 100 * low, 100 * high)
    axes.plot(100 * fmr, 100 * (1 - fnmr), color=GENUINE, label=f"AUC {roc_auc(scores, genuine):.3f}")
    axes.plot(100 * eer, 100 * (1 - eer), "o", color=IMPOSTOR, markersize=8, label=f"EER {eer:.1%}")
    axes.plot([0, 100], [0, 100], color=MARK, linestyle=":", linewidth=1, label="chance")
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    axes.set_xlabel("FMR: co-twins taken for one person (%)", fontsize=11)
    axes.set_ylabel("TAR: genuine pairs accepted (%)", fontsize=11)
    _legend(figure)
    return figure


def _deviate(rates: Iterable[float]) -> np.ndarray:
    """Normal deviate of each rate, the axis of a DET plot; rates of 0 and 1 end up just outside its edges."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(rate) for rate in np.clip(rates, 1e-4, 1 - 1e-4)])


def draw_det(scores, genuine, family, label: str, draws=BAND_DRAWS, seed=0) -> Figure:
    """DET curve on normal-deviate axes (Martin et al. 1997) with its 95 % band over families.

    The FMR that the families cannot resolve is shaded.
    """
    figure, axes = _axes("DET", label, genuine, family, height=6)
    genuine, family = np.asarray(genuine, dtype=bool), np.asarray(family)
    _, fmr, fnmr = error_rates(scores, genuine)
    eer, _ = equal_error_rate(scores, genuine)
    grid = np.geomspace(DET_TICKS[0], DET_TICKS[-1], 200)
    low, high = roc_band(scores, genuine, family, grid, draws, seed)
    limit = resolvable_fmr(int((~genuine).sum()), len(np.unique(family[~genuine])))
    _draw_band(axes, _deviate(grid), _deviate(1 - high), _deviate(1 - low))
    axes.plot(_deviate(fmr), _deviate(fnmr), color=GENUINE, drawstyle="steps-post", label="measured")
    axes.plot(*_deviate([eer, eer])[:, None], "o", color=IMPOSTOR, markersize=8, label=f"EER {eer:.1%}")
    edges = _deviate((DET_TICKS[0], DET_TICKS[-1]))
    shade = {"color": MARK, "alpha": 0.08, "linewidth": 0, "label": f"FMR below {limit:.1%}: not resolvable"}
    axes.axvspan(edges[0], max(edges[0], *_deviate([limit])), **shade)
    ticks, names = _deviate(DET_TICKS), [f"{100 * rate:g}" for rate in DET_TICKS]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlim=edges, ylim=edges, aspect="equal")
    axes.set_xlabel("FMR: co-twins taken for one person (%)", fontsize=11)
    axes.set_ylabel("FNMR: genuine pairs rejected (%)", fontsize=11)
    _legend(figure)
    return figure


def draw_confusable(result: dict, images) -> Figure:
    """Contact sheet of an evaluation: co-twins most alike above, people least like themselves below.

    images: the `ImageStore` that was scored, `batch(indices) -> uint8 [B, 3, S, S]`.
    """
    counts = result["metrics"]["counts"]
    kinds = {
        "Co-twins with the highest scores": [pair for pair in result["confusable"] if not pair["genuine"]],
        "One person with the lowest scores": [pair for pair in result["confusable"] if pair["genuine"]],
    }
    columns = max(1, *(len(pairs) for pairs in kinds.values()))
    figure = Figure(figsize=(max(7.0, 2.5 * columns), 5), layout="constrained")
    sizes = counts["genuine"], counts["impostor"], counts["families"]
    figure.suptitle(_title("Most confusable pairs, one per family", result["data"], *sizes), fontsize=12)
    for row, (kind, pairs) in zip(figure.subfigures(2, 1), kinds.items(), strict=True):
        row.suptitle(kind, fontsize=12)
        grid = row.subplots(1, columns, squeeze=False)[0]
        for axes in grid:
            axes.set_axis_off()
        for axes, pair in zip(grid, pairs, strict=False):
            left, right = np.asarray(images.batch(pair["images"])).transpose(0, 2, 3, 1)  # [S, S, 3] each
            axes.imshow(np.concatenate([left, np.full_like(left[:, :4], 255), right], axis=1))
            verdict = "right" if pair["matched"] == pair["genuine"] else "WRONG"
            people = " / ".join(dict.fromkeys(pair["people"]))
            axes.set_title(f"{people}\nscore {pair['score']:.3f}, {verdict}", fontsize=11)
    return figure


NAMES = {
    "eer": "EER",
    "roc_auc": "ROC-AUC",
    "accuracy": "verification accuracy at the frozen threshold",
    "fmr": "FMR at the frozen threshold (co-twins taken for one person)",
    "fnmr": "FNMR at the frozen threshold (one person taken for two)",
    "tar_at_fmr_0.1": "TAR at FMR 10 %",
    "tar_at_fmr_0.05": "TAR at FMR 5 %",
    "tar_at_fmr_0.01": "TAR at FMR 1 %",
}


def as_markdown(result: dict) -> str:
    """The metrics of an evaluation as a table: every comparison counting the same, and every family counting the
    same."""
    counts, threshold = result["metrics"]["counts"], result["threshold"]
    lines = [
        f"**{result['data']}**: {counts['genuine']:,} genuine and {counts['impostor']:,} co-twin comparisons of "
        f"{counts['families']} families. Threshold {threshold['value']:.3f}: {threshold['source']}.",
        "",
        "| metric | each comparison counts the same | each family counts the same |",
        "|---|---|---|",
    ]
    for key, name in NAMES.items():
        cells = (as_text(result[weighting][key], key) for weighting in ("metrics", "metrics_per_family"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if counts["families"] < 30:
        lines += ["", f"*{counts['families']} families are few: read the intervals as the least there is to doubt.*"]
    return "\n".join(lines)


def as_text(figure: dict, name: str) -> str:
    """One figure with its interval, or why there is none."""
    if figure["value"] is None:
        return figure["reason"]
    form = "{:.3f}" if name == "roc_auc" else "{:.1%}"
    value, low, high = (
        form.format(figure[key]) if figure[key] is not None else "?" for key in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})"
