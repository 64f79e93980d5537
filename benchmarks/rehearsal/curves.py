"""What the rehearsal's runs come to on their validation families: learning curves, and the effect of each change.

S: seeds. A seed draws the validation families too, so a row is compared with another seed by seed.
"""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.trials import Row, Trial, over_seeds
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.palette import COLOURS

LEARNT = 0.10  # validation EER that tells a recipe which learns soon
LEAST = 0.001  # validation EER that the figure shows; lower ones, 0 among them, lie on it
TICKS = {0.001: "0.1 or less", 0.01: "1", 0.05: "5", 0.1: "10", 0.2: "20", 0.5: "50"}  # %


def summaries(rows: tuple[Row, ...], trials: list[Trial]) -> list[dict]:
    """For each trained row: `curves`, by seed the validation EER after so many steps; `eer`, the mean over the seeds
    of the last, and `difference` from its reference row, each as value, low and high (95 %, Student's t; no ends for
    one seed); `learnt`, by seed the first validated step with an EER of at most LEARNT, None for never."""
    results = {row.name: {} for row in rows}
    for trial in trials:
        if result := trial.result():
            results[trial.row][trial.seed] = result["validation"]
    last = {name: {seed: curve[-1][1] for seed, curve in curves.items()} for name, curves in results.items()}
    found = []
    for row in rows:
        own = results[row.name]
        if not own:
            continue
        learnt = {seed: next((step for step, eer in curve if eer <= LEARNT), None) for seed, curve in own.items()}
        line = {"row": row.name, "meaning": row.meaning, "against": row.against, "main": row.main}
        line |= {"curves": {str(seed): curve for seed, curve in sorted(own.items())}}
        line |= {"learnt": {str(seed): step for seed, step in sorted(learnt.items())}}
        line["eer"] = over_seeds(list(last[row.name].values()))
        common = sorted(own.keys() & last.get(row.against, {}).keys())
        if common:
            line["difference"] = over_seeds([last[row.name][seed] - last[row.against][seed] for seed in common])
        found.append(line)
    return found


def summary_table(found: list[dict]) -> str:
    """The rows as a table, in per cent and points of EER."""
    lines = []
    for line in found:
        seeds = ", ".join(f"{100 * curve[-1][1]:.1f}" for curve in line["curves"].values())
        learnt = ", ".join("never" if step is None else str(step) for step in line["learnt"].values())
        difference = as_points(line["difference"]) if "difference" in line else ""
        lines.append([line["meaning"], f"{100 * line['eer']['value']:.1f}", seeds, learnt, difference])
    reached = f"first step at EER of {LEARNT:.0%} or less"
    return table(["recipe", "validation EER, %", "of each seed", reached, "against the new one, points"], lines)


def as_points(figure: dict) -> str:
    """A difference in points, with its interval if it has one."""
    text = f"{100 * figure['value']:+.1f}"
    return text if figure["low"] is None else f"{text} ({100 * figure['low']:+.1f} to {100 * figure['high']:+.1f})"


def draw_curves(found: list[dict], label: str) -> Figure:
    """Validation EER by training step, a line for each seed, a pair of axes for each level of alignment. label: of the
    data."""
    levels = list(dict.fromkeys(line["row"].split("-", 1)[1] for line in found))
    figure = Figure(figsize=(5.5 * len(levels), 4.5), layout="constrained")
    figure.suptitle(f"Learning curves ({label}): families that are not trained on")
    for axes, level in zip(figure.subplots(1, len(levels), squeeze=False, sharey=True)[0], levels, strict=True):
        lines = [line for line in found if line["row"].split("-", 1)[1] == level]
        for colour, line in zip(COLOURS, lines, strict=False):
            for number, curve in enumerate(line["curves"].values()):
                label = None if number else line["meaning"].removesuffix(f" ({level})")
                steps, errors = np.transpose(curve)
                axes.plot(steps, np.maximum(errors, LEAST), ".-", color=colour, label=label)
        axes.axhline(0.5, color="#777777", linestyle=":", label="chance")
        axes.axhline(LEARNT, color="#777777", linestyle="--", label=f"goal: {LEARNT:.0%}")
        axes.set(title=level, xlabel="training step", yscale="log", ylim=(0.8 * LEAST, 0.6))
        axes.set_yticks(list(TICKS), list(TICKS.values()))
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("validation EER (%)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    return as_written(figure)
