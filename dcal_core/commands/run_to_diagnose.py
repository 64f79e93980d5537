"""Which run `twins diagnose` looks at, found or refused before torch is imported."""

from pathlib import Path

from dcal_core.commands.chosen import read_given, run_folder, trained_config
from dcal_core.config.shared import Config
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder, other_runs


def run_to_diagnose(given: dict, params_dir: Path) -> tuple[Config, RunFolder]:
    """The parameters that a run was trained with, with those given now where they cannot change its weights, and its
    folder; raises ConfigError where it has no checkpoint."""
    given = dict(given)
    run_dir = given.get("run_dir", "")
    if not run_dir:
        preset, config = read_given(given, params_dir)
        run_dir = config.run_dir
    else:
        preset = given["preset"]
    del given["preset"]
    folder = run_folder(str(run_dir), preset)
    if not folder.saved:
        state = "no checkpoint yet: train it for some minutes" if folder.exists else "no run"
        others = "" if folder.exists else other_runs(folder)
        raise ConfigError(f"{folder} holds {state}{others}: name the folder of a run with a checkpoint.")
    return trained_config(folder.saved[0], given), folder
