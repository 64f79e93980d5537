"""The effects in the ablation: each row's EER and its difference from a reference row, as table and figure.

Both families and seeds are drawn anew in each bootstrap draw, the same ones for every row, so that differences are
paired: a run is compared with the run of the same seed, on the same test families.
Letters: S seeds, D bootstrap draws.
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm, t

from benchmarks.trials import Row, Trial
from dcal_core.explain.paint import draw_estimate
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.palette import BLUE, VERMILION
from dcal_core.verification.bootstrap import replicate_eer
from dcal_core.verification.protocol import Pairs

FURTHEST = 2.0  # the largest relative difference that the figure's axis shows
LEAST = 1e-4  # smallest EER in a ratio
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # %, of an EER


def effects(rows: tuple[Row, ...], trials: list[Trial], pairs: Pairs, draws: int = 1000, seed: int = 0) -> list[dict]:
    """Return for each trained row, each with value, low and high: `eer`, the mean over its seeds; `difference` from its
    reference row; and `relative`, the difference as a share of the reference's EER. `seeds`: the EERs.

    `relative` is a geometric mean over seeds: one run that has not learnt would otherwise outweigh all others.
    """
    drawn = {row.name: {} for row in rows}  # row -> seed -> EER [1 + D], the sample's own first
    for trial in trials:
        if trial.result():
            replicates = replicate_eer(trial.scores(), pairs.genuine, pairs.family, draws, seed)
            drawn[trial.row][trial.seed] = replicates.values["eer"]
    found = []
    for row in rows:
        own = drawn[row.name]
        other = drawn.get(row.against, {})
        if not own:
            continue
        line = {"row": row.name, "meaning": row.meaning, "against": row.against, "main": row.main}
        eer = interval(over_seeds(own, own), len(own))
        line["eer"] = {end: float(np.clip(value, 0, 1)) for end, value in eer.items()}
        line["seeds"] = {str(seed): float(own[seed][0]) for seed in sorted(own)}
        common = sorted(own.keys() & other.keys())
        if common:
            line["difference"] = interval(over_seeds(own, common) - over_seeds(other, common), len(common))
            ratios = {seed: np.log(np.maximum(own[seed], LEAST) / np.maximum(other[seed], LEAST)) for seed in common}
            logarithm = interval(over_seeds(ratios, common), len(common))
            line["relative"] = {end: float(np.expm1(value)) for end, value in logarithm.items()}
        found.append(line)
    return found


def over_seeds(drawn: dict[int, np.ndarray], seeds) -> np.ndarray:
    """The mean EER over S seeds, [1 + D]: of each once in the sample, of S with replacement in each draw."""
    table = np.stack([drawn[seed] for seed in sorted(seeds)])  # [S, 1 + D]
    count = len(seeds)
    random = np.random.default_rng(count)  # the same seeds for every row, so that rows are paired
    weights = random.multinomial(count, np.full(count, 1 / count), size=table.shape[1]).T / count  # [S, 1 + D]
    weights[:, 0] = 1 / count
    return (weights * table).sum(0)


def interval(values: np.ndarray, seeds: int) -> dict:
    """The sample's value, the first of [1 + D], with a 95 % interval from the spread of the draws: Student's t, since
    seeds are few. One seed shows no spread: its interval is that of the families.

    The factor under the root corrects the variance of drawing S of S with replacement, (S - 1) / S of the true one.
    """
    value = float(values[0])
    factor = norm.ppf(0.975)
    if seeds > 1:
        factor = t.ppf(0.975, seeds - 1) * np.sqrt(seeds / (seeds - 1))
    reach = float(np.std(values[1:], ddof=1) * factor)
    return {"value": value, "low": value - reach, "high": value + reach}


def as_markdown(found: list[dict]) -> str:
    """The effects as a table, in per cent and points of EER."""
    rows = []
    names = {line["row"]: line["meaning"] for line in found}
    for line in found:
        cells = [line["meaning"], as_text(line["eer"], "{:.1f}"), str(len(line["seeds"]))]
        if "difference" in line:
            against = names[line["against"]].split(":")[0]
            cells += [against, as_text(line["difference"], "{:+.1f}"), as_text(line["relative"], "{:+.0f} %")]
        else:
            cells += ["", "", ""]
        rows.append(cells)
    return table(["system", "EER, %", "seeds", "compared with", "difference, points", "relative"], rows)


def as_text(figure: dict, form: str) -> str:
    """A share in per cent with its interval."""
    value, low, high = (form.format(100 * figure[end]) for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def draw_effects(found: list[dict], label: str) -> Figure:
    """Each row's EER on the left, its seeds as dots; on the right its EER relative to its reference row's."""
    figure = Figure(figsize=(13, 2 + 0.42 * len(found)), layout="constrained")
    figure.suptitle(
        f"Ablation ({label}): EER on unseen families, 95 % intervals over families and seeds\n"
        "SA: self-attention, GLCA: global-local, PWCA: pair-wise cross-attention",
        fontsize=12,
    )
    names = {line["row"]: line["meaning"] for line in found}
    errors, differences = figure.subplots(1, 2, width_ratios=(3, 2))
    for y, line in enumerate(found):
        errors.plot([100 * eer for eer in line["seeds"].values()], [y] * len(line["seeds"]), ".", color="#888888")
        draw_estimate(errors, y, line["eer"], 100, color=BLUE, marker="o")
        if "difference" in line:
            shown = line["relative"]["low"] * line["relative"]["high"] > 0
            colour = VERMILION if shown else "#888888"
            draw_estimate(differences, y, line["relative"], 100, color=colour, marker="o")
            if line["relative"]["low"] > FURTHEST:
                differences.plot(100 * FURTHEST, y, ">", color=VERMILION, clip_on=False)
    rows = range(len(found))
    references = [f"than {names[line['against']]}" if "difference" in line else "" for line in found]
    errors.set_yticks(rows, list(names.values()), fontsize=9)
    differences.set_yticks(rows, references, fontsize=9)
    differences.yaxis.tick_right()
    errors.set_xlabel("EER (%), mean over seeds\ngrey dots: single seeds")
    errors.set_xscale("log")
    errors.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    errors.set_xlim(left=TICKS[0])
    errors.minorticks_off()
    differences.set_xlabel("EER lower or higher (%)\ncoloured: the interval excludes 0\narrow: beyond 200 %")
    differences.axvline(0, color="#222222", linewidth=1)
    differences.set_xlim(-100, 100 * FURTHEST)
    for axes in (errors, differences):
        axes.set_ylim(len(found) - 0.5, -0.5)  # the first row on top
        axes.grid(alpha=0.25)
    return as_written(figure)
