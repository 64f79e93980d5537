"""The figures of the verification report; each names its data and the number of families."""

from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from dcal_core.lettering import as_written
from dcal_core.palette import BLUE, COLOURS, VERMILION
from dcal_core.verification.bootstrap import resolvable_fmr, roc_band
from dcal_core.verification.comparisons import clusters_of
from dcal_core.verification.metrics import equal_error_rate, error_rates, roc_auc
from dcal_core.verification.statements import shown_bins
from dcal_core.verification.words import Terms, terms_of

GENUINE = BLUE
IMPOSTOR = VERMILION
MARK = "#222222"
LOOKS = [{"color": colour, "linestyle": style, "linewidth": 1.6} for style in ("-", "--") for colour in COLOURS]
DET_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def terms_of_pairs(family) -> Terms:
    """The terms for comparisons within families, [P], or of two people, [P, 2]."""
    return terms_of(np.ndim(family) == 1)


def _title(what: str, label: str, counts: dict, terms: Terms) -> str:
    """What a figure shows, on which data, and the number of comparisons and families, as in a result's `counts`."""
    comparisons = f"{counts['genuine']:,} pairs of one person and {counts['impostor']:,} of {terms.impostors}"
    return f"{what} ({label})\n{comparisons}, {counts['families']:,} {terms.units}"


def titled_axes(what: str, label: str, genuine, family, height=5) -> tuple[Figure, Axes]:
    """A figure and its axes, below a title with what it shows, the data and its numbers."""
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    same = int(np.sum(genuine))
    counts = {"genuine": same, "impostor": len(genuine) - same, "families": len(np.unique(family))}
    axes.set_title(_title(what, label, counts, terms_of_pairs(family)), fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.25)
    return figure, axes


def legend_below(figure: Figure) -> None:
    """A legend below the axes, where it hides no curve."""
    figure.legend(fontsize=10, loc="outside lower center", ncols=2)


def draw_histogram(scores, genuine, family, threshold: float, label: str) -> Figure:
    """Densities of genuine and impostor scores, with the frozen threshold and its error rates."""
    scores = np.asarray(scores, dtype=np.float64)
    genuine = np.asarray(genuine, dtype=bool)
    terms = terms_of_pairs(family)
    figure, axes = titled_axes(f"Scores of one person and of {terms.impostors}", label, genuine, family)
    fmr = np.mean(scores[~genuine] >= threshold)
    fnmr = np.mean(scores[genuine] < threshold)
    bins = np.histogram_bin_edges(scores, bins=50)
    densities = [np.histogram(scores[part], bins, density=True)[0] for part in (genuine, ~genuine)]
    floor = min(density[density > 0].min() for density in densities) / 2
    for density, colour, hatch, name in (
        (densities[0], GENUINE, None, f"one person: {fnmr:.1%} below the threshold (FNMR)"),
        (densities[1], IMPOSTOR, "////", f"{terms.impostors}: {fmr:.1%} at or above it (FMR)"),
    ):
        look = {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "hatch": hatch, "label": name}
        axes.stairs(np.maximum(density, floor), bins, baseline=floor, fill=True, **look)
    axes.axvline(threshold, color=MARK, linestyle="--", label=f"threshold {threshold:.3f}, frozen")
    axes.set_yscale("log")  # else the few errors beside the threshold are too low to see
    axes.set_ylim(bottom=floor)
    axes.set_xlabel("score (higher = more alike)", fontsize=11)
    axes.set_ylabel("density (per unit of score), logarithmic", fontsize=11)
    legend_below(figure)
    return as_written(figure)


def _draw_band(axes: Axes, x, low, high, terms: Terms) -> None:
    name = f"95 % band (bootstrap over {terms.units})"
    axes.fill_between(x, low, high, color=GENUINE, alpha=0.2, linewidth=0, label=name)


def _shade_unresolved(axes: Axes, genuine, family, place=lambda rate: rate) -> None:
    """A grey area over the FMR that the families cannot resolve; place: where an axis has a rate."""
    limit = resolvable_fmr(int((~genuine).sum()), len(np.unique(clusters_of(family[~genuine]))))
    name = f"FMR below {100 * limit:.2g} %: not resolvable" if limit < 1 else "no FMR is resolvable with so few pairs"
    first, last = axes.get_xlim()
    end = np.clip(place(limit), first, last)
    axes.axvspan(first, end, color=MARK, alpha=0.08, linewidth=0, label=name)


def _rate_ticks(least: float) -> list[float]:
    """Round rates from the least one to 1, in steps of 1, 2, 5, or of 10 where that would be too many."""
    decades = np.arange(np.floor(np.log10(least)), 1)
    steps = (1, 2, 5) if len(decades) < 5 else (1,)
    return [rate for decade in decades for step in steps if least <= (rate := round(step * 10**decade, 12)) <= 1]


def draw_roc(scores, genuine, family, label: str, draws=1000, seed=0) -> Figure:
    """ROC over a logarithmic FMR with its 95 % band over families, its area, and the point of equal errors."""
    figure, axes = titled_axes("ROC", label, genuine, family, height=6)
    genuine = np.asarray(genuine, dtype=bool)
    family = np.asarray(family)
    _, fmr, fnmr = error_rates(scores, genuine)
    least = min(0.1, 0.5 / (~genuine).sum())  # half of one false match stands for none
    grid = np.geomspace(least, 1, 200)
    low, high = roc_band(scores, genuine, family, grid, draws, seed)
    eer, _ = equal_error_rate(scores, genuine)
    _draw_band(axes, grid, 100 * low, 100 * high, terms_of_pairs(family))
    curve = {"color": GENUINE, "drawstyle": "steps-post", "label": f"AUC {roc_auc(scores, genuine):.3f}"}
    axes.plot(np.maximum(fmr, least), 100 * (1 - fnmr), **curve)
    axes.plot(max(eer, least), 100 * (1 - eer), "o", color=IMPOSTOR, markersize=8, label=f"EER {eer:.1%}")
    axes.plot(grid, 100 * grid, color=MARK, linestyle=":", linewidth=1, label="chance")
    axes.set_xscale("log")
    axes.set(xlim=(least, 1.05), ylim=(-1, 101))
    _shade_unresolved(axes, genuine, family)
    ticks = _rate_ticks(least)
    axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"FMR: {terms_of_pairs(family).impostors} taken for one person (%), logarithmic", fontsize=11)
    axes.set_ylabel("TAR: one person taken for one (%)", fontsize=11)
    legend_below(figure)
    return as_written(figure)


def _place(rates) -> np.ndarray:
    """Where a rate is on a DET plot's logarithmic axis; a rate of 0 ends up just outside its edge."""
    return np.log10(np.maximum(rates, 1e-4))


def draw_det(systems: dict[str, np.ndarray], genuine, family, label: str, draws=1000, seed=0) -> Figure:
    """DET curves of named scores [P] on logarithmic axes, the first with its 95 % band.

    The axes end where all curves have left them. The FMR that the families cannot resolve is shaded.
    """
    figure, axes = titled_axes("DET", label, genuine, family, height=6)
    genuine = np.asarray(genuine, dtype=bool)
    family = np.asarray(family)
    grid = np.geomspace(DET_TICKS[0], DET_TICKS[-1], 200)
    low, high = roc_band(next(iter(systems.values())), genuine, family, grid, draws, seed)
    _draw_band(axes, _place(grid), _place(1 - high), _place(1 - low), terms_of_pairs(family))
    furthest = 0
    for look, (name, scores) in zip(cycle(LOOKS), systems.items(), strict=False):
        _, fmr, fnmr = error_rates(scores, genuine)
        eer, _ = equal_error_rate(scores, genuine)
        furthest = max(furthest, fnmr[fmr >= DET_TICKS[0]].max(), fmr[fnmr >= DET_TICKS[0]].max())
        axes.plot(_place(fmr), _place(fnmr), **look, drawstyle="steps-post", label=f"{name}: EER {eer:.1%}")
        axes.plot(_place(eer), _place(eer), "o", color=look["color"], markersize=7)
    axes.plot([], [], "o", color=MARK, markersize=7, label="dots: equal errors (EER)")
    last = min(max(np.searchsorted(DET_TICKS, furthest), DET_TICKS.index(0.1)), len(DET_TICKS) - 1)
    shown = DET_TICKS[: last + 1]
    ticks = _place(shown)
    axes.set(xlim=ticks[[0, -1]], ylim=ticks[[0, -1]], aspect="equal")
    _shade_unresolved(axes, genuine, family, _place)
    names = [f"{100 * rate:g}" for rate in shown]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel(f"FMR: {terms_of_pairs(family).impostors} taken for one person (%)", fontsize=11)
    axes.set_ylabel("FNMR: one person taken for two (%)", fontsize=11)
    legend_below(figure)
    return as_written(figure)


def draw_systems(result: dict) -> Figure:
    """The EER of each system, and the first one's EER minus its own, paired, by `draw_paired`.

    result: as `report.evaluate` gives it, of two systems or more.
    """
    differences = [{"value": None}, *(one for one in result["differences"] if one["metric"] == "eer")]
    what = "EER of each system, and the first one's EER minus its own, with 95 % intervals"
    rows = [
        (system["name"], system["metrics"]["eer"], difference, GENUINE)
        for system, difference in zip(result["systems"], differences, strict=True)
    ]
    return draw_paired(_title(what, result["data"], result["metrics"]["counts"], Terms(**result["terms"])), rows)


def draw_paired(title: str, rows: list[tuple[str, dict, dict, str]]) -> Figure:
    """Rows of a name, an EER on the left, a difference of EERs on the right, if there are any, and their colour, the
    first on top; both with 95 % intervals over families. An estimate without a value leaves its place empty."""
    figure = Figure(figsize=(10, 2 + 0.38 * len(rows)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    paired = any(difference["value"] is not None for _, _, difference, _ in rows)
    panels = figure.subplots(1, 1 + paired, sharey=True, squeeze=False)[0]
    for row, (_, *estimates, colour) in enumerate(rows):
        for axes, estimate in zip(panels, estimates, strict=False):
            _draw_estimate(axes, row, estimate, colour)
    panels[0].set_yticks(range(len(rows)), [name for name, *_ in rows])
    panels[0].set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, None))
    panels[0].set_xlabel("EER (%)", fontsize=11)
    if paired:
        panels[1].axvline(0, color=MARK, linestyle=":", linewidth=1)
        panels[1].set_xlabel("EER of the first minus its own (points)", fontsize=11)
    for axes in panels:
        axes.tick_params(labelsize=10)
        axes.grid(alpha=0.25)
    return as_written(figure)


def _draw_estimate(axes: Axes, row: int, estimate: dict, colour: str) -> None:
    """A share as a point with its interval, in percent."""
    if estimate["value"] is None:
        return
    value = 100 * estimate["value"]
    if estimate["low"] is not None:
        axes.plot([100 * estimate["low"], 100 * estimate["high"]], [row, row], color=colour, linewidth=2)
    axes.plot(value, row, "o", color=colour)
    axes.annotate(f"{value:.1f}", (value, row), (0, 6), textcoords="offset points", ha="center", fontsize=9)


def draw_reliability(calibration: dict, genuine, family, label: str) -> Figure:
    """The calibrated posterior at equal priors against the observed share of genuine pairs of the test families.

    calibration: as `report.calibrate` gives it. Bins with too few families are left out.
    """
    figure, axes = titled_axes("Reliability of the calibrated verifier", label, genuine, family, height=6)
    shown = shown_bins(calibration)
    right = "perfect: below it, one person is predicted too often"
    axes.plot([0, 100], [0, 100], color=MARK, linestyle=":", linewidth=1, label=right)
    for number, one in enumerate(shown):
        x = 100 * one["posterior"]
        observed = one["observed"]
        y = 100 * observed["value"]
        name = f"observed, with 95 % interval over {terms_of_pairs(family).units}" if number == 0 else None
        if observed["low"] is not None:
            axes.plot([x, x], [100 * observed["low"], 100 * observed["high"]], color=GENUINE, linewidth=1.5, alpha=0.6)
        axes.plot(x, y, "o", color=GENUINE, label=name)
        aside, side = (-7, "right") if x > 50 else (7, "left")  # never out of the frame
        up = 2 if y < 5 else -10 if y > 95 else -4
        look = {"textcoords": "offset points", "ha": side, "fontsize": 9}
        axes.annotate(f"{one['count']:,}", (x, y), (aside, up), **look)
    axes.plot([], [], " ", label="numbers: comparisons")
    axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    axes.set_xlabel("predicted probability that both images show one person (%)", fontsize=11)
    axes.set_ylabel("share of one person, both kinds equally frequent (%)", fontsize=11)
    legend_below(figure)
    return as_written(figure)


def draw_confusable(result: dict, images, marks: list[np.ndarray] | None = None) -> Figure:
    """Contact sheet of an evaluation: two people most alike above, people least like themselves below.

    images: the `ImageStore` that was scored, `batch(indices) -> uint8 [B, 3, S, S]`. marks: of drawn twins, where
    both faces of each pair have marks, bool [2, S, S].
    """
    pairs = result["confusable"]
    marked = zip(pairs, marks or [None] * len(pairs), strict=True)
    terms = Terms(**result["terms"])
    impostors = [(pair, mark) for pair, mark in marked if not pair["genuine"]]
    people = [(pair, None) for pair in pairs if pair["genuine"]]
    outlined = ", their marks outlined" if marks else ""
    above = f"{terms.impostors.capitalize()} with the highest scores{outlined}"
    kinds = {above: impostors, "One person with the lowest scores": people}
    columns = max(1, len(impostors), len(people))
    figure = Figure(figsize=(max(7.0, 2.5 * columns), 5), layout="constrained")
    title = _title(f"Most confusable pairs, one per {terms.unit}", result["data"], result["metrics"]["counts"], terms)
    figure.suptitle(title, fontsize=12)
    for row, (kind, pairs) in zip(figure.subfigures(2, 1), kinds.items(), strict=True):
        row.suptitle(kind, fontsize=12)
        grid = row.subplots(1, columns, squeeze=False)[0]
        for axes in grid:
            axes.set_axis_off()
        for axes, (pair, mark) in zip(grid, pairs, strict=False):
            left, right = np.asarray(images.batch(pair["images"])).transpose(0, 2, 3, 1)  # [S, S, 3] each
            gap = np.full_like(left[:, :4], 255)
            axes.imshow(np.concatenate([left, gap, right], axis=1))
            if mark is not None:
                _outline(axes, *mark, gap.shape[1])
            verdict = "right" if pair["matched"] == pair["genuine"] else "WRONG"
            people = " / ".join(dict.fromkeys(pair["people"]))
            axes.set_title(f"{people}\nscore {pair['score']:.3f}, {verdict}", fontsize=11)
    return as_written(figure)


def _outline(axes: Axes, left: np.ndarray, right: np.ndarray, gap: int) -> None:
    """A line around the marks of two faces, each bool [S, S], that are drawn side by side with a gap in pixels."""
    both = np.concatenate([left, np.zeros((len(left), gap), dtype=bool), right], axis=1)
    if both.any():
        for colour, width in (("black", 2.0), ("white", 0.8)):
            axes.contour(both, levels=[0.5], colors=colour, linewidths=width)
