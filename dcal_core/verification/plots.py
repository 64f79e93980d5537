"""The figures of the verification report; each names its data and the number of families.

result: as `report.evaluate` gives it; test: the scored test families of its first system.
"""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.special import ndtri

from dcal_core.lettering import as_written
from dcal_core.palette import BLUE, COLOURS, VERMILION
from dcal_core.verification.bootstrap import resolvable_fmr, roc_band
from dcal_core.verification.metrics import error_rates
from dcal_core.verification.protocol import Scored

GENUINE = BLUE
IMPOSTOR = VERMILION
MARK = "#222222"
LOOKS = [{"color": colour, "linestyle": style, "linewidth": 1.6} for style in ("-", "--") for colour in COLOURS]
DET_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def _title(what: str, result: dict) -> str:
    counts = result["metrics"]["counts"]
    sizes = f"{counts['genuine']:,} genuine and {counts['impostor']:,} co-twin comparisons"
    return f"{what} ({result['data']})\n{sizes}, {counts['families']:,} families"


def _axes(what: str, result: dict, x: str, y: str, height=6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(_title(what, result), fontsize=11)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.25)
    return figure, axes


def _diagonal(axes: Axes, name: str) -> None:
    """A dotted diagonal in square axes from 0 to 100 %."""
    axes.plot([0, 100], [0, 100], color=MARK, linestyle=":", linewidth=1, label=name)
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")


def _legend(figure: Figure) -> None:
    """A legend below the axes, where it hides no curve."""
    figure.legend(fontsize=10, loc="outside lower center", ncols=2)


def draw_histogram(result: dict, test: Scored) -> Figure:
    """Densities of genuine and co-twin scores, with the frozen threshold and its error rates."""
    labels = "score (higher = more alike)", "density (per unit of score)"
    figure, axes = _axes("Scores of genuine and co-twin comparisons", result, *labels, height=5)
    genuine = test.pairs.genuine
    threshold = result["threshold"]["value"]
    fmr, fnmr = (result["metrics"][name]["value"] for name in ("fmr", "fnmr"))
    bins = np.histogram_bin_edges(test.scores, bins=50)
    for part, colour, hatch, name in (
        (genuine, GENUINE, None, f"genuine: {fnmr:.1%} below the threshold (FNMR)"),
        (~genuine, IMPOSTOR, "////", f"co-twins: {fmr:.1%} at or above it (FMR)"),
    ):
        density, _ = np.histogram(test.scores[part], bins, density=True)
        look = {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "hatch": hatch, "label": name}
        axes.stairs(density, bins, fill=True, **look)
    axes.axvline(threshold, color=MARK, linestyle="--", label=f"threshold {threshold:.3f}, frozen")
    _legend(figure)
    return as_written(figure)


def _draw_band(axes: Axes, x, low, high) -> None:
    name = "95 % band (bootstrap over families)"
    axes.fill_between(x, low, high, color=GENUINE, alpha=0.2, linewidth=0, label=name)


def draw_roc(result: dict, test: Scored, draws=1000) -> Figure:
    """ROC with its 95 % band over families, its area, and the point of equal errors."""
    labels = "FMR: co-twins taken for one person (%)", "TAR: genuine pairs accepted (%)"
    figure, axes = _axes("ROC", result, *labels)
    _, fmr, fnmr = error_rates(test.scores, test.pairs.genuine)
    eer, auc = (result["metrics"][name]["value"] for name in ("eer", "roc_auc"))
    grid = np.linspace(0, 1, 201)
    low, high = roc_band(*test.labelled, grid, draws)
    _draw_band(axes, 100 * grid, 100 * low, 100 * high)
    axes.plot(100 * fmr, 100 * (1 - fnmr), color=GENUINE, label=f"AUC {auc:.3f}")
    axes.plot(100 * eer, 100 * (1 - eer), "o", color=IMPOSTOR, markersize=8, label=f"EER {eer:.1%}")
    _diagonal(axes, "chance")
    _legend(figure)
    return as_written(figure)


def _deviate(rates) -> np.ndarray:
    """Normal deviate of each rate, the axis of a DET plot; rates of 0 and 1 end up just outside its edges."""
    return ndtri(np.clip(rates, 1e-4, 1 - 1e-4))


def draw_det(result: dict, tests: list[Scored], draws=1000) -> Figure:
    """DET curves of all systems on normal-deviate axes (Martin et al. 1997), the first with its 95 % band.

    tests: of each of the result's systems. The FMR that the families cannot resolve is shaded.
    """
    labels = "FMR: co-twins taken for one person (%)", "FNMR: genuine pairs rejected (%)"
    figure, axes = _axes("DET", result, *labels)
    grid = np.geomspace(DET_TICKS[0], DET_TICKS[-1], 200)
    low, high = roc_band(*tests[0].labelled, grid, draws)
    _draw_band(axes, _deviate(grid), _deviate(1 - high), _deviate(1 - low))
    for look, system, test in zip(cycle(LOOKS), result["systems"], tests, strict=False):
        _, fmr, fnmr = error_rates(test.scores, test.pairs.genuine)
        eer = system["metrics"]["eer"]["value"]
        name = f"{system['name']}: EER {eer:.1%}"
        axes.plot(_deviate(fmr), _deviate(fnmr), **look, drawstyle="steps-post", label=name)
        axes.plot(_deviate(eer), _deviate(eer), "o", color=look["color"], markersize=7)
    pairs = tests[0].pairs
    impostor_families = pairs.family[~pairs.genuine]  # of each comparison
    limit = resolvable_fmr(len(impostor_families), len(np.unique(impostor_families)))
    ticks = _deviate(DET_TICKS)
    shade = {"color": MARK, "alpha": 0.08, "linewidth": 0, "label": f"FMR below {limit:.1%}: not resolvable"}
    axes.axvspan(ticks[0], max(ticks[0], _deviate(limit)), **shade)
    names = [f"{100 * rate:g}" for rate in DET_TICKS]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlim=ticks[[0, -1]], ylim=ticks[[0, -1]], aspect="equal")
    _legend(figure)
    return as_written(figure)


def draw_systems(result: dict) -> Figure:
    """The EER of each of two systems or more on the left; on the right the first one's EER minus its own, paired."""
    systems = result["systems"]
    differences = [{"value": None}, *(one for one in result["differences"] if one["metric"] == "eer")]
    figure = Figure(figsize=(10, 2 + 0.45 * len(systems)), layout="constrained")
    what = "EER of each system, and the first one's EER minus its own, with 95 % intervals"
    figure.suptitle(_title(what, result), fontsize=11)
    errors, gaps = figure.subplots(1, 2, sharey=True)
    for row, (system, difference) in enumerate(zip(systems, differences, strict=True)):
        _draw_estimate(errors, row, system["metrics"]["eer"])
        _draw_estimate(gaps, row, difference)
    gaps.axvline(0, color=MARK, linestyle=":", linewidth=1)
    errors.set_yticks(range(len(systems)), [system["name"] for system in systems])
    errors.set(ylim=(len(systems) - 0.5, -0.5), xlim=(0, None))  # the first one on top
    errors.set_xlabel("EER (%)", fontsize=11)
    gaps.set_xlabel("EER of the first minus its own (points)", fontsize=11)
    for axes in (errors, gaps):
        axes.tick_params(labelsize=10)
        axes.grid(alpha=0.25)
    return as_written(figure)


def _draw_estimate(axes: Axes, row: int, estimate: dict) -> None:
    """A share as a point with its interval, in percent."""
    if estimate["value"] is None:
        return
    value = 100 * estimate["value"]
    if estimate["low"] is not None:
        axes.plot([100 * estimate["low"], 100 * estimate["high"]], [row, row], color=GENUINE, linewidth=2)
    axes.plot(value, row, "o", color=GENUINE)
    axes.annotate(f"{value:.1f}", (value, row), (0, 6), textcoords="offset points", ha="center", fontsize=9)


def draw_reliability(result: dict) -> Figure:
    """The calibrated posterior at equal priors against the observed share of genuine pairs of the test families.

    Bins with too few families are left out.
    """
    x = "predicted probability that both images show one person (%)"
    y = "share of genuine pairs, both kinds equally frequent (%)"
    figure, axes = _axes("Reliability of the calibrated verifier", result, x, y)
    _diagonal(axes, "perfect calibration")
    name = "observed, with 95 % interval over families"
    for one in result["calibration"]["reliability"]:
        observed = one["observed"]
        if observed is None:
            continue
        x = 100 * one["posterior"]
        value = 100 * observed["value"]
        if observed["low"] is not None:
            axes.plot([x, x], [100 * observed["low"], 100 * observed["high"]], color=GENUINE, linewidth=2)
        axes.plot(x, value, "o", color=GENUINE, label=name)
        axes.annotate(f"{one['count']:,}", (x, value), (7, -4), textcoords="offset points", fontsize=9)
        name = None  # one entry in the legend
    _legend(figure)
    return as_written(figure)


def draw_confusable(result: dict, images) -> Figure:
    """Contact sheet of the most confusable pairs: co-twins most alike above, people least like themselves below.

    images: the `ImageStore` that was scored.
    """
    kinds = {"Co-twins with the highest scores": False, "One person with the lowest scores": True}
    by_kind = [[pair for pair in result["confusable"] if pair["genuine"] == genuine] for genuine in kinds.values()]
    columns = max(1, *map(len, by_kind))
    figure = Figure(figsize=(max(7.0, 2.5 * columns), 5), layout="constrained")
    figure.suptitle(_title("Most confusable pairs, one per family", result), fontsize=12)
    for row, kind, pairs in zip(figure.subfigures(2, 1), kinds, by_kind, strict=True):
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
    return as_written(figure)
