"""`python -m benchmarks.ablation`: train the rows that are missing and write a table of the effect of each part."""

import json
import sys
from pathlib import Path

from benchmarks.ablation.effects import as_markdown, draw_effects, effects
from benchmarks.ablation.learning import as_table, draw_learning, learning
from benchmarks.ablation.rows import CONFIRM, FRESH, LONG, ROWS
from benchmarks.trials import chosen_rows, exit_status, parser_of_rows, plan, run_all
from dcal_core.commands.options import given_parameters
from dcal_core.config.recipes import load
from dcal_core.config.shared import Config
from dcal_core.data.splits import TwinData, open_data
from dcal_core.environment import banner
from dcal_core.storage import write_text
from dcal_core.verification.protocol import twin_pairs

TEST_FAMILIES = 120  # drawn, and none of them trained on: a row's EER within half a point
EARLY = 400  # steps of the preset


def main(arguments: list[str]) -> int:
    """Run or resume the ablation; returns the exit status."""
    return exit_status(ablate, arguments)


def ablate(arguments: list[str]) -> None:
    """Train and score the chosen rows and write the effect of each part."""
    parser = parser_of_rows("ablation", __doc__, ROWS + CONFIRM, "demo", seeds=5, example="--confirm")
    parser.add_argument("--few", type=int, default=3, help="seeds of the others")
    parser.add_argument(
        "--confirm", action="store_true", help="the rows, length and families planned in docs/ablation.md"
    )
    options = parser.parse_args(arguments)
    print(banner("Ablation"))
    rows = chosen_rows(options.rows, CONFIRM if options.confirm else ROWS)
    given, params_dir = given_parameters(options)
    changes = LONG | FRESH if options.confirm else {"synthetic_test_families": TEST_FAMILIES}
    base = load(given.pop("preset"), params_dir, changes | given)
    data = open_data(base, ("test",))
    trials = plan(rows, base, data["test"].index.fingerprint(), options.folder, options.seeds, options.few)
    run_all(trials, options.jobs)
    report(rows, trials, base, data, options.folder)


def report(rows: tuple, trials: list, base: Config, data: TwinData, folder: Path) -> None:
    """Print the effects and how the rows learnt; write them to ablation.json, .md and .png and to learning.md and
    learning.png in the folder."""
    index = data["test"].index
    found = effects(rows, trials, twin_pairs(index), base.bootstrap_draws)
    table = as_markdown(found)
    curves = learning(rows, trials, EARLY)
    mains = {row.name for row in rows if row.main}
    kept = ("row", "seed", "fingerprint", "test", "eer")
    runs = [{name: result[name] for name in kept} for trial in trials if (result := trial.result())]
    about = {"data": data.label, "test_families": len(index.families), "parameters": base.as_dict()}
    about |= {"rows": found, "learning": curves, "runs": runs}
    write_text(folder / "ablation.json", json.dumps(about, indent=1, allow_nan=False) + "\n")
    write_text(folder / "ablation.md", table + "\n")
    draw_effects(found, data.label).savefig(folder / "ablation.png", dpi=110)
    curves_table = as_table(curves, EARLY)
    write_text(folder / "learning.md", curves_table + "\n")
    drawn = [line for line in curves if line["row"] in mains] or curves  # of side rows alone, these
    draw_learning(drawn, data.label).savefig(folder / "learning.png", dpi=110)
    print(f"\n{data.label}, {len(index.families)} unseen families\n\n{table}\n\n{curves_table}")
    print(f"\nTables, figures and JSON: {folder}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
