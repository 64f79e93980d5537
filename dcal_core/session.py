"""How every notebook begins: parameters read and checked, the machine described, the run's folder found."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from dcal_core.config import FIELDS, Config, ConfigError, check, load, read_values
from dcal_core.data.splits import SYNTHETIC, TwinData, open_data
from dcal_core.data.twins import DataError, find_indexes
from dcal_core.environment import banner, gpu_verdict, input_roots, output_root
from dcal_core.training.checkpoints import find_trained, move_aside, refuse_other_parameters


@dataclass(frozen=True)
class Session:
    """A notebook's parameters, the folder of its run, and the trained model's folder where the notebook needs one."""

    config: Config
    folder: Path
    trained: Path | None = None

    def open_data(self, names: tuple[str, ...]) -> TwinData:
        """The data to try the trained model on; raises DataError where it has been trained on these people.

        The label names the training data too where that was of another kind.
        """
        trained_on = json.loads((self.trained.parents[1] / "trained_on.json").read_text())
        data = open_data(self.config, names)
        if data.synthetic and trained_on["data"] != data.label:
            raise DataError(
                f"the model was trained on {trained_on['data']}, which is not to be found, and drawn twins would say "
                "nothing about it: attach that dataset, or give data_root."
            )
        for split in data.splits.values():
            seen = sorted(set(split.index.people) & set(trained_on["people"]))
            if seen:
                raise DataError(
                    f"{len(seen)} people of the {split.index.name} split, first {seen[0]}, were trained on: a model is "
                    "evaluated on people it has not seen. Attach the dataset that it was trained with."
                )
        mixed = trained_on["data"] == SYNTHETIC and not data.synthetic
        return replace(data, label=f"{data.label}, model trained on {SYNTHETIC}") if mixed else data

    def show(self, figure: Figure, name: str) -> None:
        """Keep a figure as PNG in the run's folder, and draw that file below the cell."""
        from IPython.display import Image, display  # only notebooks have it

        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        display(Image(filename=path))


def choose_preset(preset: str, data_root: str) -> str:
    """`auto` as the preset for what is there: ViT-B on real data with a GPU, else the small model of the demo."""
    if preset != "auto":
        return preset
    return "kaggle_t4x2" if gpu_verdict()[0] and find_indexes(input_roots(data_root)) else "demo"


def begin_training(title: str, given: dict, params_dir: Path) -> Session:
    """Describe the machine and read the parameters of a run to train; raises ConfigError."""
    preset = choose_preset(given.pop("preset"), given.get("data_root", ""))
    config = load(preset, params_dir, given)
    print(banner(title))
    print(f"Preset {preset}, seed {config.seed}, time budget {config.time_budget_hours:g} h")
    folder = run_folder(config, preset)
    if config.resume:
        refuse_other_parameters(folder, config)  # here already, before the data is read
    else:
        move_aside(folder)
    return Session(config, folder)


def begin_with_trained(title: str, given: dict, params_dir: Path) -> Session:
    """Describe the machine and find a trained run, whose parameters hold where they decide the weights."""
    preset = choose_preset(given.pop("preset"), given.get("data_root", ""))
    folder = run_folder(load(preset, params_dir, given), preset)
    trained = find_trained(folder, [] if given.get("run_dir") else input_roots())
    saved = json.loads((trained.parents[1] / "config.json").read_text())
    saved = {name: value for name, value in saved.items() if name in FIELDS}
    given = {name: value for name, value in read_values(given, "the given parameters").items() if value != ""}
    for name, value in given.items():
        if FIELDS[name].metadata["result"] and value != saved.get(name, value):
            raise ConfigError(
                f"{name}={value!r}: the model in {trained} was trained with {saved[name]!r}; leave it out."
            )
    print(banner(title))
    print(f"Model {trained}")
    return Session(check(Config(**saved | given)), folder, trained)


def run_folder(config: Config, preset: str) -> Path:
    """The folder of a run: the one given, else one named after the preset among the outputs."""
    return Path(config.run_dir).resolve() if config.run_dir else output_root() / preset
