"""The preset, parameters, data and trained run that a command is to work with; nothing here imports torch, so that what
cannot be used is refused at once."""

import csv
from pathlib import Path

from dcal_core.config.parameters import is_decisive, read
from dcal_core.config.recipes import check_names, load, name_of, parameters_of, read_preset
from dcal_core.config.shared import Config
from dcal_core.data.enough import of_unknown_co_twins
from dcal_core.data.roots import find_data, find_root, folders_not_taken, knows_co_twins
from dcal_core.data.twins import DataError
from dcal_core.environment import gpu_verdict, input_roots, on_kaggle, output_root
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder, find_trained
from dcal_core.storage import DamagedError, read_json


def data_to_check(given: dict, params_dir: Path) -> tuple[str, Config]:
    """The preset and the parameters of an audit."""
    preset, config = read_given(given, params_dir)
    refuse_without_data(config, preset, params_dir, given)
    return preset, config


def trained_run(given: dict, params_dir: Path) -> tuple[Config, RunFolder, Path]:
    """A trained run, whose parameters hold where they decide the weights: these, its folder, and its best model's."""
    given = dict(given)
    preset, run_dir = given.pop("preset"), given.get("run_dir")
    if not run_dir:
        preset = choose_preset(preset, given.get("data_root", ""))
        run_dir = read_preset(preset, params_dir).get("run_dir", "")
    folder = run_folder(str(run_dir), preset)
    trained = find_trained(folder, [] if given.get("run_dir") else input_roots())
    config = trained_config(trained, given)
    for other in folders_to_compare(config):
        find_trained(RunFolder(other), [], f"compare={other}: ")
    return config, folder, trained


def choose_preset(preset: str, data_root: str, trains: bool = False) -> str:
    """`auto` as the preset for what is there: ViT-B on real data with a GPU, else the small model of the demo.

    trains: whether a model is to be trained, which takes a GPU; on Kaggle the other notebooks take the preset of a
    training that has had one.
    """
    if preset != "auto":
        return preset
    if not find_data(data_root):
        return "demo"
    return "kaggle_t4x2" if (on_kaggle() and not trains) or gpu_verdict()[0] else "demo"


def read_given(given: dict, params_dir: Path, trains: bool = False) -> tuple[str, Config]:
    """The preset and the parameters that a notebook or a command is given; raises ConfigError."""
    preset = choose_preset(given["preset"], given.get("data_root", ""), trains)
    return preset, load(preset, params_dir, {name: value for name, value in given.items() if name != "preset"})


def title_of(title: str, given: dict, preset: str) -> str:
    """The first line of a notebook's output: what it is, and whether `auto` has fallen back to drawn twins or, on data
    without a GPU, to the demo's small model."""
    if given["preset"] != "auto" or preset != "demo":
        return title
    if find_data(given.get("data_root", "")):
        return f"{title} (no GPU: the demo's small model)"
    return f"{title} (no data found: on drawn twins, SYNTHETIC)"


def refuse_without_data(config: Config, preset: str, params_dir: Path, given: dict) -> None:
    """Raise DataError where a preset is for real data and none is there. Twins are drawn only where
    `synthetic_families` is given, in the preset's file or now."""
    if find_root(config) or "synthetic_families" in read_preset(preset, params_dir) | given:
        return
    roots = " and ".join(map(str, input_roots())) or "data/, which is not there"
    raise DataError(
        f"preset {Path(preset).name} is for real data, and none was found (searched: {roots}): give data_root, attach "
        f"a dataset on Kaggle (Add Input), or take --preset demo, which draws twins.{folders_not_taken()}"
    )


def refuse_unknown_co_twins(config: Config) -> None:
    """Raise DataError where a recipe learns from co-twins, and the data does not say who they are."""
    root = find_root(config)
    if root and config.needs_co_twins and not knows_co_twins(root):
        raise DataError(of_unknown_co_twins(root))


def listed(text: str) -> list[str]:
    """The names between commas; one that contains a comma stands in double quotes."""
    return [name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name.strip()]


def folders_to_compare(config: Config) -> list[Path]:
    """The folders of the runs that `compare` names."""
    return [Path(name).expanduser().resolve() for name in listed(config.compare)]


def trained_config(trained: Path, given: dict) -> Config:
    """The parameters that a model was trained with, and those given now where they cannot change its weights; raises
    ConfigError, DamagedError."""
    run = RunFolder.around(trained)
    try:
        saved = read_json(run.config)
        kind = parameters_of(saved)
        saved = {name: value for name, value in saved.items() if name in kind.model_fields}  # of other versions too
        config = read(kind, saved)
    except ConfigError as error:  # which names a parameter that nobody has given now
        raise DamagedError(f"{run.config} is damaged: {error} Restore it or attach the run again.") from None
    given = {name: value for name, value in given.items() if value != ""}
    check_names(kind, given, "the given parameters")
    now = read(kind, given, agreeing=False)
    for name in given:
        if is_decisive(kind.model_fields[name]) and getattr(now, name) != getattr(config, name):
            raise ConfigError(
                f"{name}={getattr(now, name)!r}: the model in {trained} was trained with {getattr(config, name)!r}; "
                "leave it out."
            )
    return config.replace(**{name: getattr(now, name) for name in given})


def run_folder(run_dir: str, preset: str) -> RunFolder:
    """The folder that `run_dir` names, else one named after the preset among the outputs."""
    return RunFolder(Path(run_dir).expanduser().resolve() if run_dir else output_root() / name_of(preset))
