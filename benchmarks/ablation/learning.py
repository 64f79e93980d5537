"""How the rows learn: validation EER by training step as a band over seeds, and whether it has become flat.

Letters: S seeds, V validations.
"""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.ablation.effects import as_text
from benchmarks.trials import Row, Trial, over_seeds
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.palette import COLOURS

TICKS = (0.5, 1, 2, 5, 10, 20, 50)  # %, of an EER
LEAST = 1e-3  # smallest validation EER in a ratio
FLAT = 0.005  # EER that the last quarter of a run may lie below the quarter before it


def learning(rows: tuple[Row, ...], trials: list[Trial], early: int) -> list[dict]:
    """For each trained row: `steps` [V]; the validation EER as `mean`, `least` and `most` over its seeds, each [V];
    `flat`, whether the last quarter's mean lies at most FLAT below that of the quarter before it; and, if its reference
    row is trained, `relative`: the EER after about `early` steps relative to that row's, as value, low and high. Rows
    whose seeds were not validated at the same steps raise ValueError.

    `relative` is a geometric mean over the seeds of both, its interval (95 %) Student's t over them. A seed draws the
    validation families too.
    """
    found = []
    soon = {}  # row -> seed -> EER after about `early` steps
    results = {row.name: {} for row in rows}
    for trial in trials:
        if result := trial.result():
            results[trial.row][trial.seed] = result["validation"]
    for row in rows:
        curves = results[row.name]
        if not curves:
            continue
        steps, errors = np.moveaxis(np.array(list(curves.values()), float), 2, 0)  # each [S, V]
        if (steps != steps[0]).any():
            raise ValueError(f"{row.name}: its seeds were validated at different steps")
        soon[row.name] = dict(zip(curves, errors[:, np.abs(steps[0] - early).argmin()], strict=True))
        mean = errors.mean(0)
        quarter = max(1, len(mean) // 4)
        fall = mean[-2 * quarter : -quarter].mean() - mean[-quarter:].mean() if len(mean) > 1 else np.inf
        line = {"row": row.name, "meaning": row.meaning, "steps": steps[0].tolist(), "mean": mean.tolist()}
        line |= {"least": errors.min(0).tolist(), "most": errors.max(0).tolist(), "flat": bool(fall <= FLAT)}
        found.append(line)
    for line, row in zip(found, (row for row in rows if row.name in soon), strict=True):
        own, other = soon[row.name], soon.get(row.against, {})
        if common := sorted(own.keys() & other.keys()):
            logs = [np.log(max(own[seed], LEAST) / max(other[seed], LEAST)) for seed in common]
            line["against"] = row.against
            ends = over_seeds(logs).items()
            line["relative"] = {end: None if one is None else float(np.expm1(one)) for end, one in ends}
    return found


def as_table(found: list[dict], early: int) -> str:
    """The rows as a table in per cent: the validation EER after about `early` steps, also relative to the reference
    row's, and in the end, and flatness."""
    lines = []
    names = {line["row"]: line["meaning"] for line in found}
    for line in found:
        then = int(np.argmin(np.abs(np.array(line["steps"]) - early)))
        cells = [
            f"{100 * line['mean'][k]:.1f} ({100 * line['least'][k]:.1f}-{100 * line['most'][k]:.1f})"
            for k in (then, -1)
        ]
        relative = ["", ""]
        if "relative" in line:
            one = line["relative"]
            relative[1] = f"{100 * one['value']:+.0f} %" if one["low"] is None else as_text(one, "{:+.0f} %")
            relative[0] = names[line["against"]]
        lines.append([line["meaning"], cells[0], *relative, cells[1], "yes" if line["flat"] else "no"])
    last = f"after {found[0]['steps'][-1]:,.0f}" if found else "in the end"
    head = ["system", f"validation EER after {early} steps, %", "compared with", "relative", f"{last}, %", "flat"]
    return table(head, lines)


def draw_learning(found: list[dict], label: str) -> Figure:
    """Validation EER by step: the mean of each row as a line, its seeds as a band; four rows to a pair of axes."""
    groups = [found[first : first + len(COLOURS)] for first in range(0, len(found), len(COLOURS))]
    figure = Figure(figsize=(6.5 * len(groups), 5.5), layout="constrained")
    figure.suptitle(f"Learning curves ({label}): held-out families, mean and range over seeds")
    for axes, lines in zip(figure.subplots(1, len(groups), squeeze=False, sharey=True)[0], groups, strict=True):
        for colour, line in zip(COLOURS, lines, strict=False):
            mean, least, most = (100 * np.array(line[name]) for name in ("mean", "least", "most"))
            axes.plot(line["steps"], mean, color=colour, label=line["meaning"])
            axes.fill_between(line["steps"], least, most, color=colour, alpha=0.12)
        axes.axhline(50, color="#777777", linestyle=":", label="chance")
        axes.set(xlabel="training step", yscale="log", ylim=(0.3, 60))
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(loc="lower left", fontsize=8)
    figure.axes[0].set_ylabel("validation EER (%)")
    return as_written(figure)
