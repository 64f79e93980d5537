"""The figures of the verification report; each names its data and the number of families."""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.special import ndtri

from dcal_core.lettering import as_written
from dcal_core.palette import BLUE, COLOURS, VERMILION
from dcal_core.verification.bootstrap import resolvable_fmr, roc_band
from dcal_core.verification.metrics import equal_error_rate, error_rates, roc_auc

GENUINE = BLUE
IMPOSTOR = VERMILION
MARK = "#222222"
LOOKS = [{"color": colour, "linestyle": style, "linewidth": 1.6} for style in ("-", "--") for colour in COLOURS]
DET_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def _title(what: str, label: str, genuine: int, impostor: int, families: int) -> str:
    """What a figure shows, on which data, and the number of comparisons and families."""
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
    """A legend below the axes, where it hides no curve."""
    figure.legend(fontsize=10, loc="outside lower center", ncols=2)


def draw_histogram(scores, genuine, family, threshold: float, label: str) -> Figure:
    """Densities of genuine and co-twin scores, with the frozen threshold and its error rates."""
    scores = np.asarray(scores, dtype=np.float64)
    genuine = np.asarray(genuine, dtype=bool)
    figure, axes = _axes("Scores of genuine and co-twin comparisons", label, genuine, family)
    fmr = np.mean(scores[~genuine] >= threshold)
    fnmr = np.mean(scores[genuine] < threshold)
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
    return as_written(figure)


def _draw_band(axes: Axes, x, low, high) -> None:
    name = "95 % band (bootstrap over families)"
    axes.fill_between(x, low, high, color=GENUINE, alpha=0.2, linewidth=0, label=name)


def draw_roc(scores, genuine, family, label: str, draws=1000, seed=0) -> Figure:
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
    return as_written(figure)


def _deviate(rates) -> np.ndarray:
    """Normal deviate of each rate, the axis of a DET plot; rates of 0 and 1 end up just outside its edges."""
    return ndtri(np.clip(rates, 1e-4, 1 - 1e-4))


def draw_det(systems: dict[str, np.ndarray], genuine, family, label: str, draws=1000, seed=0) -> Figure:
    """DET curves of named scores [P] on normal-deviate axes (Martin et al. 1997), the first with its 95 % band.

    The FMR that the families cannot resolve is shaded.
    """
    figure, axes = _axes("DET", label, genuine, family, height=6)
    genuine = np.asarray(genuine, dtype=bool)
    family = np.asarray(family)
    grid = np.geomspace(DET_TICKS[0], DET_TICKS[-1], 200)
    low, high = roc_band(next(iter(systems.values())), genuine, family, grid, draws, seed)
    _draw_band(axes, _deviate(grid), _deviate(1 - high), _deviate(1 - low))
    for look, (name, scores) in zip(cycle(LOOKS), systems.items(), strict=False):
        _, fmr, fnmr = error_rates(scores, genuine)
        eer, _ = equal_error_rate(scores, genuine)
        axes.plot(_deviate(fmr), _deviate(fnmr), **look, drawstyle="steps-post", label=f"{name}: EER {eer:.1%}")
        axes.plot(_deviate(eer), _deviate(eer), "o", color=look["color"], markersize=7)
    limit = resolvable_fmr(int((~genuine).sum()), len(np.unique(family[~genuine])))
    unresolved = f"FMR below {limit:.1%}: not resolvable" if limit < 1 else "no FMR is resolvable with so few pairs"
    ticks = _deviate(DET_TICKS)
    end = np.clip(_deviate(limit), ticks[0], ticks[-1])
    axes.axvspan(ticks[0], end, color=MARK, alpha=0.08, linewidth=0, label=unresolved)
    names = [f"{100 * rate:g}" for rate in DET_TICKS]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlim=ticks[[0, -1]], ylim=ticks[[0, -1]], aspect="equal")
    axes.set_xlabel("FMR: co-twins taken for one person (%)", fontsize=11)
    axes.set_ylabel("FNMR: genuine pairs rejected (%)", fontsize=11)
    _legend(figure)
    return as_written(figure)


def draw_systems(result: dict) -> Figure:
    """The EER of each system on the left; on the right the first one's EER minus its own, paired. Both have 95 %
    intervals over families.

    result: as `report.evaluate` gives it, of two systems or more.
    """
    systems = result["systems"]
    counts = result["metrics"]["counts"]
    differences = [{"value": None}, *(one for one in result["differences"] if one["metric"] == "eer")]
    figure = Figure(figsize=(10, 2 + 0.45 * len(systems)), layout="constrained")
    sizes = counts["genuine"], counts["impostor"], counts["families"]
    what = "EER of each system, and the first one's EER minus its own, with 95 % intervals"
    figure.suptitle(_title(what, result["data"], *sizes), fontsize=11)
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


def draw_reliability(calibration: dict, genuine, family, label: str) -> Figure:
    """The calibrated posterior at equal priors against the observed share of genuine pairs of the test families.

    calibration: as `report.calibrate` gives it. Bins with too few families are left out.
    """
    figure, axes = _axes("Reliability of the calibrated verifier", label, genuine, family, height=6)
    shown = [one for one in calibration["reliability"] if one["observed"]]
    axes.plot([0, 100], [0, 100], color=MARK, linestyle=":", linewidth=1, label="perfect calibration")
    for number, one in enumerate(shown):
        x = 100 * one["posterior"]
        observed = one["observed"]
        name = "observed, with 95 % interval over families" if number == 0 else None
        if observed["low"] is not None:
            axes.plot([x, x], [100 * observed["low"], 100 * observed["high"]], color=GENUINE, linewidth=2)
        axes.plot(x, 100 * observed["value"], "o", color=GENUINE, label=name)
        axes.annotate(
            f"{one['count']:,}", (x, 100 * observed["value"]), (7, -4), textcoords="offset points", fontsize=9
        )
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    axes.set_xlabel("predicted probability that both images show one person (%)", fontsize=11)
    axes.set_ylabel("share of genuine pairs, both kinds equally frequent (%)", fontsize=11)
    _legend(figure)
    return as_written(figure)


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
    return as_written(figure)
