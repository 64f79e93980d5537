"""How every notebook begins: parameters read and checked, the machine described, the run's folder found."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from dcal_core.config.parameters import is_decisive, read
from dcal_core.config.recipes import check_names, load, name_of, parameters_of, read_preset
from dcal_core.config.shared import Config
from dcal_core.data.locate import find_indexes
from dcal_core.data.splits import SYNTHETIC, TwinData, find_root, open_data
from dcal_core.data.twins import DataError
from dcal_core.environment import banner, gpu_verdict, input_roots, on_kaggle, output_root, scratch_root
from dcal_core.errors import ConfigError
from dcal_core.runs import RunFolder, find_trained
from dcal_core.storage import DamagedError, disk_errors, read_json, size_of


@dataclass(frozen=True)
class Session:
    """A notebook's parameters, the folder of its run, and the trained model's folder where the notebook needs one."""

    config: Config
    folder: RunFolder
    trained: Path | None = None

    def open_data(self, names: tuple[str, ...]) -> TwinData:
        """The data to try the trained model on; raises DataError where it has been trained on these people.

        The label names the training data too where that was of another kind.
        """
        run = RunFolder.around(self.trained)
        if not run.trained_on.is_file():
            raise DataError(
                f"{run.trained_on} is missing, which names the people that the model was trained on: attach the whole "
                "run."
            )
        trained_on = run.data()
        people = set(run.people())
        if trained_on != SYNTHETIC and find_root(self.config) is None:
            raise DataError(
                f"the model was trained on {trained_on}, which is not to be found, and drawn twins would say nothing "
                "about it: attach that dataset, or give data_root."
            )
        data = open_data(self.config, names)
        for split in data.splits.values():
            seen = sorted(set(split.index.people) & people)
            if seen:
                raise DataError(
                    f"{len(seen)} people of the {split.index.name} split, first {seen[0]}, were trained on: a model is "
                    "evaluated on people it has not seen. Attach the dataset that it was trained with."
                )
        if trained_on == SYNTHETIC and not data.synthetic:
            return replace(data, label=f"{data.label}, model trained on {SYNTHETIC}")
        was_aligned = run.on_aligned()
        if was_aligned != data.aligned:
            forms = {True: "faces that prepare aligned", False: "images that prepare did not align"}
            then = forms[was_aligned]
            now = forms[data.aligned]
            print(
                f"The model was trained on {then} ({trained_on}); {data.root} holds {now}: give the same as data_root."
            )
            return replace(data, label=f"{data.label}, model trained on {then}")
        return data

    def keep(self, figure: Figure, name: str) -> Path:
        """Keep a figure as PNG in the run's folder; returns its path."""
        path = self.folder.figures / f"{name}.png"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110)
        return path

    def show(self, figure: Figure, name: str) -> None:
        """Keep a figure as PNG, and draw that file below the cell."""
        from IPython.display import Image, display  # only notebooks have it

        display(Image(filename=self.keep(figure, name)))


def choose_preset(preset: str, data_root: str, trains: bool = False) -> str:
    """`auto` as the preset for what is there: ViT-B on real data with a GPU, else the small model of the demo.

    trains: whether a model is to be trained, which takes a GPU; on Kaggle the other notebooks take the preset of a
    training that has had one.
    """
    if preset != "auto":
        return preset
    gpu = gpu_verdict()[0] or (on_kaggle() and not trains)
    return "kaggle_t4x2" if gpu and find_indexes(input_roots(data_root)) else "demo"


def read_given(title: str, given: dict, params_dir: Path, trains: bool = False) -> tuple[str, Config]:
    """The preset and the parameters of a run, with the first lines of output: the title and the machine."""
    preset = choose_preset(given["preset"], given.get("data_root", ""), trains)
    config = load(preset, params_dir, {name: value for name, value in given.items() if name != "preset"})
    print(banner(title_of(title, given["preset"], preset)))
    return preset, config


def title_of(title: str, wanted: str, preset: str) -> str:
    """The first line of a notebook's output: what it is, and whether `auto` has fallen back to drawn twins."""
    drawn = wanted == "auto" and preset == "demo" and not find_indexes(input_roots())
    return f"{title} (no data found: on drawn twins, SYNTHETIC)" if drawn else title


def refuse_without_data(config: Config, preset: str, params_dir: Path, given: dict) -> None:
    """Raise DataError where a preset is for real data and none is there. Twins are drawn only where
    `synthetic_families` is given, in the preset's file or now."""
    if find_root(config) or "synthetic_families" in read_preset(preset, params_dir) | given:
        return
    roots = " and ".join(map(str, input_roots())) or "data/, which is not there"
    raise DataError(
        f"preset {Path(preset).name} is for real data, and none was found (searched: {roots}): give data_root, attach "
        "a dataset on Kaggle (Add Input), or take --preset demo, which draws twins."
    )


def begin_with_trained(title: str, given: dict, params_dir: Path) -> Session:
    """Describe the machine and find a trained run, whose parameters hold where they decide the weights."""
    given = dict(given)
    preset = choose_preset(given.pop("preset"), given.get("data_root", ""))
    run_dir = given.get("run_dir") or read_preset(preset, params_dir).get("run_dir", "")
    folder = run_folder(str(run_dir), preset)
    trained = find_trained(folder, [] if given.get("run_dir") else input_roots())
    config = trained_config(trained, given)
    for other in folders_to_compare(config):
        find_trained(RunFolder(other), [], f"compare={other}: ")
    print(banner(title))
    print(f"Model {trained}")
    return Session(config, folder, trained)


def listed(text: str) -> list[str]:
    """The names between commas; one that contains a comma stands in double quotes."""
    return [name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name.strip()]


def folders_to_compare(config: Config) -> list[Path]:
    """The folders of the runs that `compare` names."""
    return [Path(name).expanduser().resolve() for name in listed(config.compare)]


def other_trained(folder: Path, config: Config) -> Session:
    """Another trained run beside the one whose config is given, on the same data; raises ConfigError, DamagedError."""
    run = RunFolder(folder.resolve())
    trained = find_trained(run, [])
    shared = ("data_root", "exclusions", "max_lost_share", "synthetic_test_families", "encode_batch")
    print(f"Model {trained}")
    return Session(trained_config(trained, {name: getattr(config, name) for name in shared}), run, trained)


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


def scratch_size() -> str:
    """A line on the folder of what can be made again."""
    folder = scratch_root()
    return f"Drawn faces and decoded images: {size_of(folder) / 1e6:,.0f} MB in {folder}, which can be deleted."


def run_folder(run_dir: str, preset: str) -> RunFolder:
    """The folder that `run_dir` names, else one named after the preset among the outputs."""
    return RunFolder(Path(run_dir).resolve() if run_dir else output_root() / name_of(preset))
