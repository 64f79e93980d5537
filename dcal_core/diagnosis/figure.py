"""A diagnosis as one figure, whose panels are the letters that findings name."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding
from dcal_core.diagnosis.images import COPIES
from dcal_core.diagnosis.outcome import spectrum
from dcal_core.diagnosis.rates import FAR, STILL
from dcal_core.diagnosis.samples import Scores
from dcal_core.lettering import as_written
from dcal_core.palette import BLUE, COLOURS, GREEN, VERMILION

SHOWN = (3, 6)  # rows and columns of images
LEAST = 1e-8  # where a part that has not moved is drawn


def draw_loss(axes: Axes, evidence: Evidence) -> str:
    """The loss over the batches."""
    lines = [(line["batch"], line["loss"]) for line in evidence.history if "loss" in line]
    if lines:
        axes.plot(*zip(*lines, strict=True), ".-", color=BLUE)
    axes.set(xlabel="batch", ylabel="loss")
    return "training loss"


def draw_errors(axes: Axes, evidence: Evidence) -> str:
    """The validation EER over the batches."""
    lines = [(line["batch"], 100 * line["validation/eer"]) for line in evidence.history if "validation/eer" in line]
    if lines:
        axes.plot(*zip(*lines, strict=True), "o-", color=BLUE)
    axes.axhline(50, color=VERMILION, linestyle="--", label="chance")
    axes.set(xlabel="batch", ylabel="EER (%)", ylim=(-2, 60))
    axes.legend(fontsize=8)
    return "EER on validation families"


def draw_scores(axes: Axes, found: Scores, impostors: str) -> None:
    """Histograms of the three kinds of pairs."""
    kinds = {"one person": found.scores[found.genuine], impostors: found.scores[~found.genuine]}
    if impostors != "strangers":
        kinds["strangers"] = found.strangers
    low, high = np.quantile(np.concatenate(list(kinds.values())), (0.001, 0.999))
    bins = np.linspace(low - 1e-6, high + 1e-6, 40)
    for (label, scores), colour in zip(kinds.items(), (BLUE, VERMILION, GREEN), strict=False):
        axes.hist(scores, bins, density=True, histtype="step", color=colour, label=label, linewidth=1.5)
    axes.set(xlabel="score", ylabel="density", yticks=[])
    axes.legend(fontsize=8)


def draw_movement(axes: Axes, evidence: Evidence) -> str:
    """How far each part has moved, those without a gradient in another colour."""
    if not evidence.moved:
        axes.text(0.5, 0.5, "the start is not known", ha="center", va="center", transform=axes.transAxes)
        return "how far weights have moved"
    names = list(evidence.moved)[::-1]
    dead = evidence.dead_parts
    colours = [VERMILION if name in dead else BLUE for name in names]
    axes.barh(names, [max(evidence.moved[name], LEAST) for name in names], color=colours)
    axes.axvline(STILL, color="grey", linestyle=":")
    axes.axvline(FAR, color="grey", linestyle=":")
    axes.set(xscale="log", xlim=(LEAST / 10, 1e2), xlabel="distance from the start / size then")
    axes.tick_params(axis="y", labelsize=7)
    return "how far weights have moved" + (" (no gradient: red)" if dead else "")


def draw_spectrum(axes: Axes, evidence: Evidence) -> str:
    """The variance of the embeddings in their directions."""
    for (branch, rows), colour in zip(evidence.embeddings.items(), COLOURS, strict=False):
        shares = spectrum(rows)
        axes.plot(np.arange(1, len(shares) + 1), shares.cumsum(), ".-", color=colour, label=branch, markersize=3)
    axes.set(xscale="log", xlabel="directions", ylabel="share of the variance", ylim=(0, 1.05))
    axes.legend(fontsize=8)
    return "embeddings on validation families"


def draw_likeness(axes: Axes, evidence: Evidence) -> str:
    """What labels and images have to do with one another, by measures that training has not bent."""
    found = {f"{name}\nvs strangers": one for name, one in evidence.likeness.items()}
    if evidence.samples["train"].index.co_twins:
        found["one person vs co-twin,\nby a linear comparison"] = evidence.linear
    found |= {f"gain by\n{name}": gain for name, gain in evidence.gains.items()}
    for place, one in enumerate(found.values()):
        error = 0.0 if np.isinf(one.error) else 2 * one.error
        axes.errorbar(one.auc, -place, xerr=error, fmt="o", color=BLUE)
    axes.axvline(0.5, color=VERMILION, linestyle="--")
    if evidence.gains:
        axes.axvline(0, color="grey", linestyle=":")
    axes.set_yticks(-np.arange(len(found)), list(found), fontsize=7)
    axes.set(xlabel="ROC-AUC, 95 % interval", xlim=(-0.3 if evidence.gains else 0.3, 1.02))
    return "labels and images, before training"


def draw_images(axes: Axes, evidence: Evidence, copied: bool) -> str:
    """Training images as the model is given them, a person a row; or validation images above the training images that
    they are copies of."""
    sample = evidence.samples["train"]
    rows = [sample.pixels[sample.index.images_of(person)[: SHOWN[1]]] for person in range(SHOWN[0])]
    if copied:
        held = np.flatnonzero(evidence.copies >= 0)[: SHOWN[1]]
        theirs = evidence.data["train"].images.batch(evidence.copies[held]).numpy()
        rows = [evidence.samples["validation"].pixels[held], theirs]
    side = sample.pixels.shape[-1]
    grid = np.full((len(rows) * side, SHOWN[1] * side, 3), 255, np.uint8)
    for place, images in enumerate(rows):
        strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), axis=1)  # [S, n S, 3]
        grid[place * side : (place + 1) * side, : strip.shape[1]] = strip
    axes.imshow(grid)
    axes.set(xticks=[], yticks=[])
    return "validation images above their copies in training" if copied else "training images, a person a row"


def draw_diagnosis(evidence: Evidence, findings: Sequence[Finding], label: str) -> Figure:
    """All panels; the titles of those that findings name stand out."""
    figure = Figure(figsize=(20, 9), layout="constrained")
    panels = dict(zip("abcdefgh", figure.subplots(2, 4).flat, strict=True))
    impostors = "co-twins" if evidence.samples["train"].index.co_twins else "strangers"
    titles = {
        "a": draw_loss(panels["a"], evidence),
        "b": draw_errors(panels["b"], evidence),
        "e": draw_movement(panels["e"], evidence),
        "f": draw_spectrum(panels["f"], evidence),
        "g": draw_likeness(panels["g"], evidence),
        "h": draw_images(panels["h"], evidence, copied=any(finding.name == COPIES for finding in findings)),
    }
    for letter, split in (("c", "train"), ("d", "validation")):
        own = evidence.own(split)
        draw_scores(panels[letter], own, impostors)
        titles[letter] = f"{split}: ROC-AUC {own.twins.auc:.2f}, against strangers {own.people.auc:.2f}"
    for letter, axes in panels.items():
        named = [finding.name for finding in findings if finding.panel == letter]
        title = "\n".join([f"{letter}: {titles[letter]}", *named])
        axes.set_title(title, fontsize=10, color=VERMILION if named else "black")
    count = "nothing found" if not findings else f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    figure.suptitle(f"Diagnosis after {evidence.progress.batch} batches ({label}): {count}")
    return as_written(figure)
