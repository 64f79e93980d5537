"""`python -m benchmarks.rehearsal FOLDER [FOLDER]`: which recipe makes a pretrained ViT learn, and how soon.

Every row is trained on the first folder, one made by `twins synth --like`, aligned by `twins prepare --align` or not;
the main rows also on the others, so that no recipe is chosen that wins on one level of alignment alone. Only validation
families are looked at. `--test` then scores the main rows, or those that `--rows` names, on the test families, once.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.ablation.effects import as_markdown, effects
from benchmarks.rehearsal.curves import draw_curves, summaries, summary_table
from benchmarks.rehearsal.rows import ROWS
from benchmarks.trials import Row, Trial, chosen_rows, exit_status, parser_of_rows, plan, run_all
from dcal_core.commands.options import given_parameters
from dcal_core.config.recipes import load
from dcal_core.config.shared import Config
from dcal_core.data.splits import open_data
from dcal_core.environment import banner
from dcal_core.errors import ConfigError
from dcal_core.storage import write_text
from dcal_core.verification.protocol import twin_pairs

PRESET = "kaggle_t4x2"
GIVEN = {  # over the preset: what fits the machine, and nothing that decides how well a recipe learns
    "gpu": "optional",
    "tracker": "none",
    "backbone": "vit_small_patch14_dinov2",
    "image_size": 112,
    "loader_workers": 0,
}


def main(arguments: list[str]) -> int:
    """Run or resume the rehearsal; returns the exit status."""
    return exit_status(rehearse, arguments)


def rehearse(arguments: list[str]) -> None:
    """Train the chosen rows, and write their learning curves and what each change does."""
    parser = parser_of_rows(
        "rehearsal", __doc__, ROWS, PRESET, seeds=3, example="aligned loose -p weights vit.safetensors"
    )
    parser.add_argument("data", nargs="+", type=Path, help="folders with index files and images, one for each level")
    parser.add_argument("--steps", type=int, default=120, help="of each run")
    parser.add_argument("--every", type=int, default=20, help="steps between two validations")
    parser.add_argument("--test", action="store_true", help="score the main rows, or those named, on the test families")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.every < 1 or options.steps % options.every:
        raise ConfigError(f"--steps {options.steps}: take a multiple of --every {options.every}, above 0.")
    print(banner("Rehearsal"))
    rows = rows_at(options.data, chosen_rows(options.rows, ROWS))
    given, params_dir = given_parameters(options)
    lengths = {"steps_per_epoch": options.every, "epochs": options.steps // options.every, "checkpoint_every": 1}
    base = load(given.pop("preset"), params_dir, GIVEN | lengths | given)
    trials = plan(rows, base, "", options.folder, options.seeds, options.seeds)
    run_all(trials, options.jobs)
    report(rows, trials, options.folder)
    if options.test:
        for level in options.data:
            root = str(level.resolve())
            scored = tuple(
                row for row in rows if row.changes["data_root"] == root and (row.main or options.rows is not None)
            )
            score(scored, base.replace(data_root=root), options, level.name)


def rows_at(levels: list[Path], rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows at each level, named ROW-FOLDER: all at the first one, the main ones at every level; raises ConfigError."""
    names = [level.name for level in levels]
    if len(set(names)) < len(names):
        raise ConfigError(f"{', '.join(map(str, levels))}: folders of one name: results go by it, so rename one.")
    found = []
    for number, level in enumerate(levels):
        for row in rows:
            if row.main or not number:
                data = {"data_root": str(level.resolve())}
                against = f"{row.against}-{level.name}" if row.against else ""
                meaning = f"{row.meaning} ({level.name})"
                found.append(Row(f"{row.name}-{level.name}", meaning, row.changes | data, against, row.main))
    return tuple(found)


def report(rows: tuple[Row, ...], trials: list[Trial], folder: Path) -> None:
    """Print what each row comes to on validation families, and write rehearsal.json, .md and .png to the folder."""
    label = ", ".join(sorted({trial.result()["data"] for trial in trials}))
    found = summaries(rows, trials)
    table = summary_table(found)
    write_text(folder / "rehearsal.json", json.dumps({"data": label, "rows": found}, indent=1) + "\n")
    write_text(folder / "rehearsal.md", table + "\n")
    draw_curves([line for line in found if line["main"]], label).savefig(folder / "rehearsal.png", dpi=110)
    print(f"\n{label}, validation families\n\n{table}\n\nTable, figure and JSON: {folder}")


def score(rows: tuple[Row, ...], base: Config, options: argparse.Namespace, level: str) -> None:
    """Score the runs of some rows on the test families of one level; prints the table, and writes it beside."""
    data = open_data(base, ("test",))
    index = data["test"].index
    trials = plan(rows, base, index.fingerprint(), options.folder, options.seeds, options.seeds)
    run_all(trials, options.jobs)
    found = effects(rows, trials, twin_pairs(index), base.bootstrap_draws)
    about = {"data": data.label, "test_families": len(index.families), "rows": found}
    write_text(options.folder / f"test-{level}.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
    write_text(options.folder / f"test-{level}.md", as_markdown(found) + "\n")
    print(f"\n{data.label}, {len(index.families)} unseen families, {level}\n\n{as_markdown(found)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
