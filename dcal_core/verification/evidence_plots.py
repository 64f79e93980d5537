"""The figures of an examiner: Tippett, PAV and ECE plots of the likelihood ratios of test families."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.lettering import as_written
from dcal_core.verification.evidence import cross_entropy, levels_of, pav_curve
from dcal_core.verification.plots import GENUINE, IMPOSTOR, MARK, legend_below, terms_of_pairs, titled_axes

RATIO = "log10 of the likelihood ratio (0: the score says nothing)"


def draw_evidence(llr, genuine, family, weights, label: str) -> dict[str, Figure]:
    """The three figures by name; llr: natural-log ratios [P], genuine, family, weights: [P]."""
    genuine = np.asarray(genuine, dtype=bool)
    figures, axes = {}, {}
    for name, what in (("tippett", "Tippett plot"), ("pav", "PAV plot"), ("ece", "Empirical cross-entropy")):
        figures[name], axes[name] = titled_axes(f"{what} of the likelihood ratios", label, genuine, family)
    _tippett(axes["tippett"], llr, genuine, family, weights)
    _pav(axes["pav"], llr, genuine, weights)
    _ece(axes["ece"], cross_entropy(llr, genuine, weights))
    for figure in figures.values():
        legend_below(figure)
    return {name: as_written(figure) for name, figure in figures.items()}


def _tippett(axes: Axes, llr, genuine, family, weights) -> None:
    level = levels_of(llr)
    for part, colour, style, name in (
        (genuine, GENUINE, "-", "one person"),
        (~genuine, IMPOSTOR, "--", terms_of_pairs(family).impostors),
    ):
        order = np.argsort(level[part])
        above = 100 * (1 - np.cumsum(weights[part][order]) / weights[part].sum())
        x = np.concatenate([[level.min()], level[part][order], [level.max()]])
        axes.plot(x, np.concatenate([[100], above, [0]]), style, color=colour, drawstyle="steps-pre", label=name)
    axes.axvline(0, color=MARK, linestyle=":", linewidth=1)
    axes.set_xlabel(RATIO, fontsize=11)
    axes.set_ylabel("pairs with at least this ratio (%)", fontsize=11)


def _pav(axes: Axes, llr, genuine, weights) -> None:
    level = levels_of(llr)
    levels, at = np.unique(level, return_inverse=True)
    held = [np.bincount(at[part], weights[part], len(levels)) for part in (genuine, ~genuine)]
    axes.plot(*pav_curve(levels, *held), color=GENUINE, label="after PAV, where finite")
    ends = level.min(), level.max()
    axes.plot(ends, ends, ":", color=MARK, linewidth=1, label="perfect calibration")
    axes.set_xlabel(RATIO, fontsize=11)
    axes.set_ylabel("log10 of the ratio after PAV", fontsize=11)


def _ece(axes: Axes, found: dict[str, list[float]]) -> None:
    for name, colour, style, text in (
        ("ratios", GENUINE, "-", "these ratios"),
        ("best", MARK, "--", "the best calibration of them (PAV)"),
        ("none", IMPOSTOR, ":", "no ratio at all"),
    ):
        axes.plot(found["prior"], found[name], style, color=colour, label=text)
    axes.set_xlabel("log10 of the prior odds of one person", fontsize=11)
    axes.set_ylabel("cost (bits a pair)", fontsize=11)
