"""`python -m benchmarks.ablation`: train the rows that are missing and write a table of the effect of each part."""

import json
import os
import sys
from pathlib import Path

from benchmarks.ablation.effects import as_markdown, draw_effects, effects
from benchmarks.ablation.rows import ROWS
from benchmarks.ablation.runs import plan, run_all
from dcal_core.commands.options import COMMANDS, command_parser, given_parameters
from dcal_core.config.recipes import load
from dcal_core.config.shared import Config
from dcal_core.data.splits import TwinData, open_data
from dcal_core.environment import banner, gpu_verdict, output_root
from dcal_core.errors import ConfigError, UserError
from dcal_core.storage import write_text
from dcal_core.verification.protocol import twin_pairs

TEST_FAMILIES = 120  # drawn, and none of them trained on: a row's EER within half a point


def main(arguments: list[str]) -> int:
    """Run or resume the ablation; returns the exit status, 1 if a run fails."""
    try:
        ablate(arguments)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def ablate(arguments: list[str]) -> None:
    """Train and score the chosen rows and write the effect of each part."""
    gpu = gpu_verdict()[0]
    parser = command_parser("ablation", __doc__, shown=COMMANDS["train"].shown)
    parser.set_defaults(preset="demo")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"some of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the main rows")
    parser.add_argument("--few", type=int, default=2, help="seeds of the others")
    parser.add_argument("--jobs", type=int, default=1 if gpu else os.cpu_count(), help="runs side by side")
    parser.add_argument("--folder", type=Path, default=output_root() / "ablation", help="where runs and results go")
    options = parser.parse_args(arguments)
    print(banner("Ablation"))
    rows = chosen_rows(options.rows)
    given, params_dir = given_parameters(options)
    base = load(given.pop("preset"), params_dir, {"synthetic_test_families": TEST_FAMILIES} | given)
    data = open_data(base, ("test",))
    trials = plan(rows, base, data["test"].index.fingerprint(), options.folder, options.seeds, options.few)
    run_all(trials, options.jobs, max(1, os.cpu_count() // options.jobs))
    report(rows, trials, base, data, options.folder)


def chosen_rows(names: list[str] | None) -> tuple:
    """The rows of these names, all if none are given; raises ConfigError."""
    known = {row.name: row for row in ROWS}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--rows {name}: takes some of {', '.join(known)}.")
    return tuple(row for row in ROWS if not names or row.name in names)


def report(rows: tuple, trials: list, base: Config, data: TwinData, folder: Path) -> None:
    """Print the effects and write them to ablation.json, ablation.md and ablation.png in the folder."""
    index = data["test"].index
    found = effects(rows, trials, twin_pairs(index), base.bootstrap_draws)
    table = as_markdown(found)
    about = {"data": data.label, "test_families": len(index.families), "parameters": base.as_dict(), "rows": found}
    write_text(folder / "ablation.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
    write_text(folder / "ablation.md", table + "\n")
    draw_effects(found, data.label).savefig(folder / "ablation.png", dpi=110)
    print(f"\n{data.label}, {len(index.families)} unseen families\n\n{table}\n\nTable, figure and JSON: {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
