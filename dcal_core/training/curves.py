"""What a run has logged: summed up by epoch, and drawn."""

import math
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.lettering import as_written
from dcal_core.palette import COLOURS


@dataclass(frozen=True)
class Line:
    """One logged figure: its name in metrics.jsonl, its name in the legend, its colour in the palette, its style."""

    name: str
    label: str
    colour: int
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """Logged figures that share one pair of axes."""

    title: str
    unit: str
    lines: tuple[Line, ...]


TOTAL = Panel("Total loss", "loss", (Line("loss", "total, as in the progress bar", 0),))
ROOM = 0.05  # beyond the highest and the lowest marker, as a share of the axis
KINDER = (
    "These families choose the epoch and later the threshold, so they flatter the model: "
    "its error on test families is usually higher."
)


def by_epoch(history: list[dict]) -> list[dict]:
    """The lines of metrics.jsonl as one dictionary for each epoch: `epoch`, the number of its last `batch`, the `lr`
    there, the steps `skipped`, every figure of training as its mean over the batches, and the validation."""
    found = []
    done = 0
    for epoch, lines in groupby(history, key=lambda line: math.ceil(line["epoch"])):
        lines = list(lines)
        covered = np.diff([done, *(line["batch"] for line in lines)])  # batches behind each line's means
        done = lines[-1]["batch"]
        found.append({"epoch": epoch, "batch": done})
        for name in dict.fromkeys(name for line in lines for name in line if name not in found[-1]):
            logged = [(line[name], batches) for line, batches in zip(lines, covered, strict=True) if name in line]
            found[-1][name] = summed_up(name, *zip(*logged, strict=True))
    return found


def summed_up(name: str, values: tuple[float, ...], batches: tuple[int, ...]) -> float:
    """A figure of an epoch, from those of its lines and the batches that each of them covers."""
    if name == "skipped":
        return sum(values)
    if name == "lr" or name.startswith("validation/"):
        return values[-1]
    return float(np.average(values, weights=batches))


def draw_losses(history: list[dict], panels: tuple[Panel, ...], label: str) -> Figure:
    """The figures of training by epoch, from the lines of metrics.jsonl: the total, then each panel that has any."""
    logged = {name for line in history for name in line}
    found = [one for one in (TOTAL, *panels) if logged.intersection(line.name for line in one.lines)] or [TOTAL]
    figure = Figure(figsize=(max(7, 4.5 * len(found)), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for line in panel.lines:
            _plot(axes, history, line.name, line.label, line.style, COLOURS[line.colour])
        _finish(axes, f"{panel.title} ({label})", panel.unit)
    return as_written(figure)


def draw_validation(history: list[dict], label: str) -> Figure:
    """EER and ROC-AUC on the held-out families by epoch, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    errors, areas = figure.subplots(1, 2)
    lines = [line | {"EER (%)": 100 * line["validation/eer"]} for line in history if "validation/eer" in line]
    if lines:
        best = min(lines, key=lambda line: line["EER (%)"])
        label_of_best = f"best: {best['EER (%)']:.1f} %, epoch {best['epoch']:g}"
        _plot(errors, lines, "EER (%)", None, "o-", COLOURS[0])
        _plot(errors, [best], "EER (%)", label_of_best, "o", COLOURS[1])
        _plot(areas, lines, "validation/auc", None, "o-", COLOURS[0])
    _finish(errors, f"EER on held-out families ({label})", "EER (%)")
    _finish(areas, f"ROC-AUC on held-out families ({label})", "ROC-AUC")
    highest = max((line["EER (%)"] for line in lines), default=50) or 1
    below = 1 - min((line["validation/auc"] for line in lines), default=0.5) or 0.01
    errors.set_ylim(-ROOM * highest, (1 + ROOM) * highest)  # no marker is cut, not even at 0 or 1
    areas.set_ylim(1 - (1 + ROOM) * below, 1 + ROOM * below)
    figure.supxlabel(KINDER, fontsize=9)
    return as_written(figure)


def _plot(axes: Axes, history: list[dict], name: str, label: str | None, style: str, colour: str) -> None:
    """A figure over the epochs, where it was logged."""
    points = [(line["epoch"], line[name]) for line in history if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)
