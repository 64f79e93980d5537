"""`python -m benchmarks.maps`: how far every map can be believed, with several seeds of a preset, for docs/maps.json.

Models that are missing are trained first. All are measured on families drawn with a seed that no map was chosen on.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.trials import Row, Trial, exit_status, parser_of_rows, plan, run_all
from dcal_core.commands.options import given_parameters
from dcal_core.config.recipes import load
from dcal_core.data.splits import TwinData, open_data
from dcal_core.environment import banner, fit_device
from dcal_core.explain.trust import COLUMNS, figure_of, map_title, measure_maps
from dcal_core.markdown import table
from dcal_core.models.files import load_model
from dcal_core.runs import RunFolder
from dcal_core.storage import read_json, write_text

ROWS = (Row("preset", "the preset as it is", main=True),)
FRESH = {"synthetic_test_families": 120, "synthetic_test_seed": 20261128}
FIGURES = (*COLUMNS, "pointing_any")
RESULT = Path(__file__).parents[2] / "docs/maps.json"


def main(arguments: list[str]) -> int:
    """Run or resume the measurement; returns the exit status."""
    return exit_status(measure, arguments)


def measure(arguments: list[str]) -> None:
    """Train what is missing, measure every map with every seed, and write and print the figures."""
    parser = parser_of_rows("maps", __doc__, ROWS, "demo", seeds=5, example="--seeds 5")
    parser.add_argument("--out", type=Path, default=RESULT, help="the file of figures; docs/maps.json")
    options = parser.parse_args(arguments)
    print(banner("How far maps can be believed"))
    given, params_dir = given_parameters(options)
    preset = given.pop("preset")
    base = load(preset, params_dir, FRESH | given)
    trials = plan(ROWS, base, "", options.folder, options.seeds, 1)
    run_all(trials, options.jobs)
    data = open_data(base, ("test",))
    found = {str(trial.seed): measured(trial, data) for trial in trials}
    result = summary(found, f"{preset} preset, seeds 0 to {len(trials) - 1}", base.synthetic_test_seed)
    write_text(options.out, json.dumps(result) + "\n")
    print(f"\n{table_of(result)}\n\n{data.label}; means over the seeds. Figures, with their intervals: {options.out}")


def measured(trial: Trial, data: TwinData) -> dict:
    """The result of `measure_maps` for the best model of a trial, kept in its folder."""
    file = trial.folder / "maps.json"
    people = data["test"].index.fingerprint()
    known = read_json(file) if file.is_file() else {}
    if known.get("test") == people and known.get("fingerprint") == trial.config.fingerprint():
        return known["found"]
    model = load_model(RunFolder(trial.folder).best).to(fit_device()).eval()
    torch.manual_seed(0)
    found = measure_maps(model, data)
    write_text(file, json.dumps({"test": people, "fingerprint": trial.config.fingerprint(), "found": found}) + "\n")
    return found


def figures_of(found: dict) -> dict:
    """The figures of one map in a result of `faithfulness`, as [value, low, high]."""
    estimates = {figure: figure_of(found, figure) for figure in FIGURES}
    ends = ("value", "low", "high")
    return {figure: [round(one[end], 4) for end in ends] for figure, one in estimates.items() if one is not None}


def summary(found: dict[str, dict], model: str, test_seed: int) -> dict:
    """What docs/maps.json holds, from the result of `measure_maps` by seed."""
    first = next(iter(found.values()))
    seeds = {seed: {name: figures_of(of) for name, of in one["maps"].items()} for seed, one in found.items()}
    together = {}
    for name, figures in next(iter(seeds.values())).items():
        values = {figure: [one[name][figure][0] for one in seeds.values()] for figure in figures}
        together[name] = {key: [round(float(np.mean(of)), 4), min(of), max(of)] for key, of in values.items()}
    about = {
        "data": first["data"],
        "model": model,
        "pairs": first["pairs"],
        "families": first["families"],
        "left_out": first["left_out"],
        "synthetic_test_seed": test_seed,
        "figures": "of each seed [value, low, high], 95 % over families; of all seeds [mean, lowest, highest]",
    }
    return {"about": about, "all_seeds": together, "seeds": seeds}


def table_of(result: dict) -> str:
    """The figures of all seeds as the table of docs/explanations.md, best first."""
    rows = []
    for name, figures in sorted(result["all_seeds"].items(), key=lambda one: one[1]["pointing"], reverse=True):
        seeds = ", ".join(f"{100 * one[name]['pointing'][0]:.0f}" for one in result["seeds"].values())
        energy = f"{figures['energy'][0]:.1f}"
        similarity = f"{figures['randomisation'][0]:.2f}" if "randomisation" in figures else ""
        rows.append([map_title(name), f"{100 * figures['pointing'][0]:.1f} %", seeds, energy, similarity])
    head = ("map", "hottest patch on a true mark", "seeds", "map on marks / their area", "like shuffled weights")
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
