"""What a notebook or a command works with: the parameters, the run's folder, and the data for a trained model."""

import base64
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from matplotlib.figure import Figure

from dcal_core.commands.chosen import trained_config, trained_run
from dcal_core.config.shared import Config
from dcal_core.data.roots import find_root
from dcal_core.data.splits import SYNTHETIC, TwinData, open_data
from dcal_core.data.twins import DataError
from dcal_core.environment import banner, scratch_root
from dcal_core.runs import RunFolder, find_trained
from dcal_core.storage import disk_errors, size_of


@dataclass(frozen=True)
class Session:
    """A notebook's parameters, the folder of its run, and the trained model's folder where the notebook needs one."""

    config: Config
    folder: RunFolder
    trained: Path | None = None
    began: float = field(default_factory=time.monotonic)

    def open_data(self, names: tuple[str, ...]) -> TwinData:
        """The data to try the trained model on; raises DataError where it has been trained on these people.

        The label also names the training data where that was of another kind, and the share that is occluded.
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
        if self.config.occluded_share:
            data = replace(
                data, label=f"{data.label}, {100 * self.config.occluded_share:g} % of images occluded by drawing"
            )
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
        show_picture(self.keep(figure, name))


def show_picture(file: Path) -> None:
    """Draw a PNG file below a notebook's cell; a log shows its path."""
    from IPython.display import display  # only notebooks have it

    picture = base64.b64encode(file.read_bytes()).decode()
    display({"image/png": picture, "text/plain": f"Picture: {file}"}, raw=True)


def begin_with_trained(title: str, given: dict, params_dir: Path) -> Session:
    """Describe the machine and find a trained run, whose parameters hold where they decide the weights."""
    config, folder, trained = trained_run(given, params_dir)
    print(banner(title))
    print(f"Model {trained}")
    return Session(config, folder, trained)


def other_trained(folder: Path, config: Config) -> Session:
    """Another trained run beside the one whose config is given, on the same data; raises ConfigError, DamagedError."""
    run = RunFolder(folder.resolve())
    trained = find_trained(run, [])
    shared = "data_root exclusions max_lost_share synthetic_test_families synthetic_test_seed encode_batch"
    names = f"{shared} occluded_share occluded_kinds flip_fusion".split()
    print(f"Model {trained}")
    return Session(trained_config(trained, {name: getattr(config, name) for name in names}), run, trained)


def scratch_size() -> str:
    """A line on the folder of what can be made again."""
    folder = scratch_root()
    size = f"{size_of(folder) / 1e6:,.0f} MB"
    return f"Drawn faces and decoded images: {size} in {folder}: used by evaluation too, and made again if deleted."
