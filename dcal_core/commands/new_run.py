"""What a training is refused for before torch is imported: its data, its folder, and the files that it starts from."""

import os
from pathlib import Path

from dcal_core.commands.chosen import read_given, refuse_unknown_co_twins, refuse_without_data, run_folder
from dcal_core.config.shared import Config
from dcal_core.data.benchmarks.packed_pairs import FILES, pair_files
from dcal_core.environment import input_roots
from dcal_core.errors import ConfigError
from dcal_core.models.weight_kinds import check_file
from dcal_core.runs import RunFolder, attached_runs, find_source, other_runs, refuse_other_parameters
from dcal_core.storage import existing


def run_to_train(given: dict, params_dir: Path) -> tuple[str, Config, RunFolder]:
    """The preset, the parameters and the folder of a run to train."""
    preset, config = read_given(given, params_dir, trains=True)
    folder = run_folder(config.run_dir, preset)
    refuse_without_data(config, preset, params_dir, given)
    refuse_unknown_co_twins(config)
    if config.best_by == "benchmarks" and not pair_files(config):
        raise ConfigError(f"best_by=benchmarks: none of {FILES} is there: give the folder of one as benchmarks_root.")
    check_folder(folder)
    check_resumed(config, folder, given)
    if config.resume:
        refuse_other_parameters(folder, config)
    find_source(config.resume_from, folder, agrees=True)
    if config.weights and begins_anew(config, folder):
        check_file(Path(config.weights))
    return preset, config, folder


def check_resumed(config: Config, folder: RunFolder, given: dict) -> None:
    """Raise ConfigError where resume=true is given, which is the default too, with a run_dir that holds no run."""
    asked = config.run_dir and config.resume and not config.resume_from and given.get("resume") not in (None, "")
    if asked and not (folder.exists or attached_runs(input_roots())):
        raise ConfigError(
            f"resume=true, yet there is no run in {folder}{other_runs(folder)}: correct run_dir, or leave resume out "
            "to start a run there."
        )


def begins_anew(config: Config, folder: RunFolder) -> bool:
    """Whether a training starts from pretrained or random weights, and not from those of an earlier run."""
    earlier = find_source(config.resume_from, folder, agrees=True) or folder.started_from.is_file()
    return not (earlier or (folder.saved and config.resume) or attached_runs(input_roots()))


def check_folder(folder: RunFolder) -> None:
    """Raise ConfigError where a run's folder cannot be made or written to."""
    place = existing(folder.path)
    if not place.is_dir():
        raise ConfigError(f"run_dir={folder}: {place} is a file: give a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"run_dir={folder}: nothing can be written to {place}: give another folder.")
