"""Figures of the data and of training; those of the verification report and of attention live with them."""

import numpy as np
from matplotlib.figure import Figure

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import TwinIndex

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe-Ito: told apart by colour-blind eyes


def draw_families(index: TwinIndex, images: ImageStore, label: str, families: int = 4, each: int = 4) -> Figure:
    """A sheet of some families: a row each, some images of one sibling, then of the other."""
    families = min(families, len(index.families))
    figure = Figure(figsize=(10, 1.45 * families), layout="constrained")
    figure.suptitle(f"Some families of the {index.name} split ({label})", fontsize=12)
    for axes, family in zip(figure.subplots(families, 1, squeeze=False)[:, 0], index.families, strict=False):
        people = [index.people.index(person) for person in family[:2]]
        rows = [np.resize(index.images_of(person), each) for person in people]
        faces = images.batch(np.concatenate(rows)).numpy().transpose(0, 2, 3, 1)  # [faces, S, S, 3]
        gap = np.full_like(faces[0, :, : faces.shape[2] // 8], 255)
        axes.imshow(np.concatenate([*faces[:each], gap, *faces[each:]], axis=1))
        axes.set_axis_off()
        axes.set_title("                and co-twin                ".join(family[:2]), fontsize=10)
    return figure


def draw_curves(history: list[dict], label: str) -> Figure:
    """Left the losses of each branch, right the validation EER, both by epoch, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    steps = [line for line in history if "loss" in line]
    for colour, branch in zip(COLOURS, ("sa", "glca", "pwca"), strict=False):
        for kind, style in (("identity", "-"), ("twin", "--")):
            line = [(s["epoch"], s[f"{branch}/{kind}"]) for s in steps if f"{branch}/{kind}" in s]
            if line:
                losses.plot(*zip(*line, strict=True), style, color=colour, label=f"{branch.upper()} {kind}")
    losses.set(title=f"Training losses ({label})", xlabel="epoch", ylabel="loss")
    if losses.lines:
        losses.legend(fontsize=9, ncols=3, loc="center right")
    validated = [(line["epoch"], 100 * line["validation/eer"]) for line in history if "validation/eer" in line]
    if validated:
        errors.plot(*zip(*validated, strict=True), "o-", color=COLOURS[0], markersize=4)
        epoch, best = min(validated, key=lambda point: point[1])
        errors.plot(epoch, best, "o", color=COLOURS[1], label=f"best: {best:.1f} %, epoch {epoch:g}")
        errors.legend(fontsize=9, loc="upper right")
    errors.set(title=f"Validation on held-out families ({label})", xlabel="epoch", ylabel="EER (%)")
    errors.set_ylim(0, max([60, *(error for _, error in validated)]))
    for axes in (losses, errors):
        axes.grid(alpha=0.25)
    return figure
