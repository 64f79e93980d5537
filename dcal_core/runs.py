"""A run's folder: the name of every path in it, which run to use, and which process may write there.

<run>/config.json                 every parameter, with a label of those that can change the weights
<run>/trained_on.json             the data and the people that the model was trained on
<run>/started_from.json           the weights that the run started from, if they are another run's
<run>/metrics.jsonl               one line for each logged step and each validation
<run>/training_log.json           the same by epoch, once training has finished
<run>/checkpoints/last/00000300/  the newest two checkpoints, by batches done: all that resuming needs
<run>/checkpoints/best/           the best model, by validation EER or `best_by`: a model folder
<run>/checkpoints/epoch_5/        the model every few epochs
<run>/models/                     the best model in other projects' formats
<run>/figures/                    pictures as PNG
<run>/report.json, report.html    the evaluation
<run>/scores.csv                  every pair of it with its score
<run>/benchmarks.json             figures on published face benchmarks
<run>/diagnosis.json              why the run does not learn
<run>/sensitivity.json            how small a mark is seen
<run>/range.json                  the validated range of images
<run>/explained/                  maps of single pairs and of many
<run>/explained/faithfulness.json  how far maps can be believed
<run>/lock                        held by the process that trains
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dcal_core.environment import on_kaggle, output_root
from dcal_core.errors import ConfigError, quoted
from dcal_core.locks import is_held, lock, unlock
from dcal_core.missing import names_in
from dcal_core.storage import CURE, DamagedError, free_name, read_json, read_sums, recover

if TYPE_CHECKING:  # pydantic takes 0.2 s to import
    from dcal_core.config.shared import Config

MODEL_FILE = "model.json"  # in a model folder: the architecture
WEIGHTS_FILE = "model.safetensors"
DECISION_FILE = "decision.json"  # what a score means, left by an evaluation
LISTED = 5  # parameters that a message names


class RunFolder:
    """The folder of one run, which can stand wherever a path is taken."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.trained_on = self.path / "trained_on.json"
        self.started_from = self.path / "started_from.json"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.training_log = self.path / "training_log.json"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last"
        self.best = self.checkpoints / "best"
        self.exports = self.path / "models"
        self.figures = self.path / "figures"
        self.report = self.path / "report.json"
        self.report_page = self.path / "report.html"
        self.scores = self.path / "scores.csv"
        self.benchmarks = self.path / "benchmarks.json"
        self.diagnosis = self.path / "diagnosis.json"
        self.sensitivity = self.path / "sensitivity.json"
        self.range = self.path / "range.json"
        self.explained = self.path / "explained"
        self.faithfulness = self.explained / "faithfulness.json"
        self.lock_file = self.path / "lock"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def around(cls, model: Path) -> "RunFolder":
        """The run that a checkpoint, or a model folder in `checkpoints`, belongs to."""
        model = Path(model)
        return cls(model.parents[2] if model.parent.name == "last" else model.parents[1])

    def checkpoint(self, batch: int) -> Path:
        return self.last / f"{batch:08d}"

    def epoch(self, epoch: int) -> Path:
        return self.checkpoints / f"epoch_{epoch}"

    @property
    def kept_epochs(self) -> list[Path]:
        """The models kept after an epoch, oldest first."""
        return sorted(self.checkpoints.glob("epoch_*"), key=epoch_of)

    @property
    def saved(self) -> list[Path]:
        """The checkpoints that training can resume from, newest first."""
        found = (path for path in self.last.glob("*") if path.name.isdecimal())
        return sorted(found, key=lambda path: int(path.name), reverse=True)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file() or bool(self.saved)

    def parameters(self) -> dict:
        """The parameters as they were saved, {} before the run has begun; raises DamagedError."""
        return read_json(self.config) if self.config.exists() else {}

    def people(self) -> list[str]:
        """The people that the model was trained on; raises DamagedError."""
        people = read_json(self.trained_on).get("people")
        if not isinstance(people, list) or not people or not all(isinstance(one, str) and one for one in people):
            raise DamagedError(f"{self.trained_on} is damaged: it names no people; {CURE}.")
        return people

    def data(self) -> str:
        """The label of the data that the model was trained on; raises DamagedError."""
        label = read_json(self.trained_on).get("data")
        if not isinstance(label, str):
            raise DamagedError(f"{self.trained_on} is damaged: it names no data; attach the run again.")
        return label

    def on_aligned(self) -> bool:
        """Whether the model was trained on faces that prepare aligned; runs of older versions tell by the data's name
        alone. Raises DamagedError."""
        by_name = re.search(r"_aligned_\d+$", self.data()) is not None
        return read_json(self.trained_on).get("aligned", by_name) is True

    def lock(self) -> None:
        """Let no other process train here until this one ends; raises LockedError."""
        lock(self.lock_file, f"the run in {self.path}")

    def unlock(self) -> None:
        """Let other processes train here."""
        unlock(self.lock_file)


def weights_hash(model: Path) -> str:
    """The SHA-256 of the weights in a model folder; raises DamagedError."""
    return read_sums(model)[WEIGHTS_FILE]


def found_of(model: Path, file: Path) -> dict:
    """The JSON that a command has left about a model's weights; {} where it is missing or of others. DamagedError."""
    found = read_json(file) if file.is_file() else {}
    return found if found.get("weights") == weights_hash(model) else {}


def epoch_of(folder: Path) -> int:
    """The epoch after which `epoch_<n>` was kept; others count as the last."""
    number = folder.name.removeprefix("epoch_")
    return int(number) if number.isdecimal() else 2**31


def describe(differences: dict[str, tuple]) -> str:
    listed = [f"{name}: {quoted(then)} then, {quoted(now)} now" for name, (then, now) in differences.items()]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def more_epochs(differences: dict[str, tuple]) -> bool:
    """Whether two sets of parameters differ in nothing but that the second has more epochs."""
    return set(differences) == {"epochs"} and differences["epochs"][1] > differences["epochs"][0]


def refuse_other_parameters(run: RunFolder, config: "Config") -> None:
    """Raise ConfigError where a run has checkpoints of other decisive parameters, unless a new run is to start from
    them."""
    starts_from_it = config.resume_from and Path(config.resume_from).resolve().is_relative_to(run.path)
    if not run.config.exists() or not run.saved or starts_from_it:
        return
    differing = config.differences(run.parameters())
    if differing and not (config.extend and more_epochs(differing)):
        extend = "extend=true to train it for more epochs once it is finished, " if more_epochs(differing) else ""
        raise ConfigError(
            f"the run in {run} was trained with other parameters ({describe(differing)}): give those again to go on, "
            f"{extend}"
            f"resume_from={run} to start a new run from its weights, resume=false to start fresh (either way the old "
            "run is moved aside), or another run_dir."
        )


def move_aside(run: RunFolder) -> RunFolder:
    """Give the run in a folder another name, if there is one, and return it: starting fresh never deletes."""
    if not run.exists:
        return run
    aside = free_name(run.path.with_name(f"{run.path.name}.old"))
    run.path.rename(aside)
    if is_held(RunFolder(aside).lock_file):  # the lock has gone with the run
        run.lock()
    print(f"The run that was in {run} is now in {aside}.")
    return RunFolder(aside)


def other_runs(run: RunFolder) -> str:
    """The runs beside a folder and among the outputs, as a clause that follows the folder's name; "" for none."""
    places = {run.path.parent, output_root()}
    folders = {place / name for place in places for name in names_in(place)}
    found = sorted(str(folder) for folder in folders if RunFolder(folder).exists and folder != run.path)
    return f"; there {'is' if len(found) == 1 else 'are'} {', '.join(found[:LISTED])}" if found else ""


def find_source(given: str, folder: RunFolder, agrees: bool) -> Path | None:
    """The folder of a run or of a model that resume_from names, or None; raises ConfigError.

    None too where it names something in the new run's own folder, and the run there, which agrees in its parameters or
    has no checkpoint yet, has started from that: the same command is given again.
    """
    source = Path(given).resolve()
    try:
        source.exists()
    except OSError as error:  # a name too long for any file
        raise ConfigError(f"resume_from={given:.100}: {error.strerror}: correct it.") from None
    if not given or (source.is_relative_to(folder.path) and folder.started_from.is_file() and agrees):
        return None
    if source.parent.name == "last" and (source / "progress.json").is_file():
        source = RunFolder.around(source).path
    if not RunFolder(source).saved and not (source / WEIGHTS_FILE).is_file():
        others = other_runs(RunFolder(source))
        raise ConfigError(
            f"resume_from={given}: neither a run with a checkpoint nor a model is there{others}: name a run's "
            "folder, or one of those in its checkpoints, or leave resume_from out."
        )
    return source


def attached_runs(roots: list[Path]) -> list[Path]:
    """The folders of all runs with checkpoints below the roots."""
    files = [file for root in roots for file in Path(root).glob("**/checkpoints/last/*/progress.json")]
    return sorted({RunFolder.around(file.parent).path for file in files})


def find_trained(run: RunFolder, input_roots: list[Path], about: str = "") -> Path:
    """The folder of the best model of this run, or of the one attached run; raises ConfigError, whose sentence begins
    with `about`."""
    if not run.best.is_dir():
        recover(run.checkpoints)
    if (run.best / MODEL_FILE).is_file():
        return run.best
    attached = {file.parent for root in input_roots for file in Path(root).glob(f"**/checkpoints/best/{MODEL_FILE}")}
    found = without_copies(attached) if len(attached) > 1 else [*attached]
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} trained runs are attached: choose one by run_dir={RunFolder.around(found[0])}, …"
        )
    if not found:
        if run.exists:
            raise ConfigError(f"{about}no trained model in {run} yet: train it for one epoch at least.")
        attach = ", and none attached: attach its output (Add Input > Notebook Output), " if on_kaggle() else ": "
        raise ConfigError(
            f"{about}no trained model in {run}{other_runs(run)}{attach}train one first, or correct run_dir."
        )
    return found[0]


def without_copies(models: set[Path]) -> list[Path]:
    """Of folders that hold the same weights the one that an evaluation has left, else the first."""
    evaluated_first = sorted(models, key=lambda model: (not (model / DECISION_FILE).is_file(), model))
    by_weights = {read_sums(model).get(WEIGHTS_FILE): model for model in reversed(evaluated_first)}
    return sorted(by_weights.values())
