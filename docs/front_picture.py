"""Draws the picture of the README from a trained and evaluated demo run.

    python docs/front_picture.py            runs/demo -> docs/front.png

The pair is not chosen by its looks: it is the pair of co-twins with the median score.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from dcal_core.commands.maps import open_explorer
from dcal_core.commands.session import begin_with_trained
from dcal_core.explain.explorer import Explorer
from dcal_core.explain.paint import painted_pair, show_picture
from dcal_core.installation import presets_folder
from dcal_core.palette import BLUE, VERMILION
from dcal_core.verification.bootstrap import roc_band
from dcal_core.verification.metrics import equal_error_rate, error_rates

MAP = "distinctive"  # "What tells them apart"
SMALL, LARGE = 17, 22  # points; on a phone the picture is a third as wide
TICKS = (0.01, 0.05, 0.2, 0.5)
WORDS = {"same": "One person", "different": "Two people", "undecided": "Undecided"}


def median_twins(explorer: Explorer) -> tuple[int, int]:
    """The two images of the pair of co-twins with the median score."""
    scored = explorer.scored
    twins = np.flatnonzero(~scored.pairs.genuine)
    place = twins[np.argsort(scored.scores[twins], kind="stable")[len(twins) // 2]]
    return int(scored.pairs.a[place]), int(scored.pairs.b[place])


def verdict_of(explorer: Explorer, score: float) -> str:
    """The verdict and the likelihood ratio, in few words."""
    ratio = explorer.rule.llr(score)
    likelier = "one person than for two" if ratio >= 0 else "two people than for one"
    return f"{WORDS[explorer.rule.verdict(score)]}: {math.exp(abs(ratio)):.0f} times likelier for {likelier}"


def draw_det(axes: Axes, explorer: Explorer) -> None:
    """Both error rates against one another, on the axes of normal deviates, with the band of 95 % over families."""
    scored = explorer.scored
    genuine, family = scored.pairs.genuine, scored.pairs.family
    _, fmr, fnmr = error_rates(scored.scores, genuine)
    eer, _ = equal_error_rate(scored.scores, genuine)
    grid = np.geomspace(0.003, 0.7, 120)
    low, high = roc_band(scored.scores, genuine, family, grid, draws=1000, seed=0)
    ends = norm.ppf([0.003, 0.6])
    axes.fill_between(norm.ppf(grid), *norm.ppf(np.clip([1 - high, 1 - low], 1e-4, 1 - 1e-4)), color=BLUE, alpha=0.2)
    axes.plot(norm.ppf(np.clip(fmr, 1e-4, 1)), norm.ppf(np.clip(fnmr, 1e-4, 1)), color=BLUE, linewidth=3)
    axes.plot(*norm.ppf([[eer], [eer]]), "o", color=VERMILION, markersize=12)
    axes.annotate(f"EER {eer:.1%}", norm.ppf([eer, eer]), (14, 14), textcoords="offset points", fontsize=LARGE)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(TICKS), [f"{tick:.0%}" for tick in TICKS], fontsize=SMALL)
    axes.grid(alpha=0.3)
    axes.set_xlabel("co-twins accepted", fontsize=SMALL)
    axes.set_ylabel("same person rejected", fontsize=SMALL)
    axes.set_title(f"SYNTHETIC twins: {len(np.unique(family))} unseen families", fontsize=SMALL, color=VERMILION)


def draw(explorer: Explorer) -> Figure:
    """Two faces with their maps, the verdict above them, and the error rates beside them."""
    view = explorer.view(*median_twins(explorer))
    figure = Figure(figsize=(12, 6.7), layout="constrained")
    figure.suptitle(verdict_of(explorer, view.score), fontsize=LARGE, fontweight="bold")
    faces, rates = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    grid = faces.subplots(2, 2)
    pictures, _ = painted_pair(view, view.map(MAP), signed=False)
    for side, picture in enumerate(pictures):
        grid[0, side].imshow(view.faces[side], interpolation="bicubic")
        grid[0, side].set_axis_off()
        show_picture(grid[1, side], picture)
    faces.supxlabel("what tells them apart for the model;\noutlined: where they truly differ", fontsize=SMALL)
    draw_det(rates.subplots(), explorer)
    return figure


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of the evaluated demo run")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "front.png", help="the picture")
    options = parser.parse_args()
    given = {"preset": "demo", "run_dir": str(options.run)}
    explorer = open_explorer(begin_with_trained("The picture of the README", given, presets_folder()))
    if explorer.rule is None:
        raise SystemExit(f"{options.run} has not been evaluated: run `twins evaluate -p run_dir {options.run}` first.")
    draw(explorer).savefig(options.to, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
