"""The curves of a training run."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.palette import COLOURS

BRANCHES = {"sa": "SA ", "glca": "GLCA ", "pwca": "PWCA ", "embedding": ""}  # how they are called in a legend
IN_TRIPLETS = {
    "d_ap": "distance to the same person",
    "d_an": "distance to the co-twin",
    "active": "share of triplets with a loss",
    "embedding/twin": "mean loss of all triplets",
}


def draw_losses(history: list[dict], label: str) -> Figure:
    """The losses of each branch by epoch, from the lines of metrics.jsonl; where triplets were trained on, beside them
    the distances in those and the share of them that is active."""
    triplets = any("d_ap" in line for line in history)
    figure = Figure(figsize=(10 if triplets else 7, 4), layout="constrained")
    losses, *others = figure.subplots(1, 1 + triplets, squeeze=False)[0]
    for colour, (branch, name) in zip(COLOURS, BRANCHES.items(), strict=True):
        for kind, style in (("identity", "-"), ("twin", "--")):
            _draw_line(losses, history, f"{branch}/{kind}", f"{name}{kind}", style, colour)
    _finish(losses, f"Training losses ({label})", "loss")
    for axes in others:
        for colour, (name, meaning) in zip(COLOURS, IN_TRIPLETS.items(), strict=True):
            _draw_line(axes, history, name, meaning, "-", colour)
        _finish(axes, f"Triplets ({label})", "distance, share, loss")
    return figure


def draw_validation(history: list[dict], label: str) -> Figure:
    """EER and ROC-AUC on the held-out families by epoch, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    errors, areas = figure.subplots(1, 2)
    lines = [line | {"EER (%)": 100 * line["validation/eer"]} for line in history if "validation/eer" in line]
    if lines:
        best = min(lines, key=lambda line: line["EER (%)"])
        _draw_line(errors, lines, "EER (%)", None, "o-", COLOURS[0])
        _draw_line(
            errors, [best], "EER (%)", f"best: {best['EER (%)']:.1f} %, epoch {best['epoch']:g}", "o", COLOURS[1]
        )
        _draw_line(areas, lines, "validation/auc", None, "o-", COLOURS[0])
    _finish(errors, f"Validation on held-out families ({label})", "EER (%)")
    _finish(areas, f"Validation on held-out families ({label})", "ROC-AUC")
    errors.set_ylim(0, max([60, *(line["EER (%)"] for line in lines)]))
    areas.set_ylim(min([0.5, *(line["validation/auc"] for line in lines)]), 1)
    return figure


def _draw_line(axes: Axes, history: list[dict], name: str, label: str | None, style: str, colour: str) -> None:
    """A figure over the epochs, where it was logged."""
    points = [(line["epoch"], line[name]) for line in history if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=label)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)
