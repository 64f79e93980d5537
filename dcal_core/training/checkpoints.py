"""A run's folder: its checkpoints, its figures, and how training is put back to where it stood.

    <run>/config.json                 every parameter, with the fingerprint of those that can change the weights
    <run>/trained_on.json             the people trained on, on whom nobody may evaluate the model
    <run>/metrics.jsonl               a line for every logged step and every validation
    <run>/checkpoints/last/00000300/  the newest two, by batches done: all that going on needs
    <run>/checkpoints/best/           the model with the lowest validation EER
    <run>/checkpoints/epoch_5/        the model every few epochs

Weights and the optimiser's state are safetensors and the rest is JSON, so that reading a run executes nothing. What is
random in training follows from the seed and the number of the batch: there is no generator's state to keep.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dcal_core.config.shared import Config
from dcal_core.distributed import main_only
from dcal_core.errors import ConfigError
from dcal_core.models.files import save_model, save_state
from dcal_core.storage import (
    CURE,
    DamagedError,
    StorageError,
    check_seal,
    disk_errors,
    free_name,
    read_json,
    sealed_folder,
    size_of,
    write_text,
)

STARTED_FROM = "started_from.json"  # in a run that began with the weights of another: of which
KEPT = 2  # checkpoints to go on from: should the newest be damaged, there is the one before it


@dataclass
class Progress:
    """Where a run stands: batches done, best validation EER so far and validations since, parts that a batch is worked
    through in, seconds of training, whether it is finished, steps skipped in all and just now in a row, and the figures
    since the last logged line."""

    batch: int = 0
    best_eer: float = float("inf")
    stale: int = 0
    parts: int = 1
    seconds: float = 0.0
    tracker_run: str = ""
    finished: bool = False
    skipped: int = 0
    skipped_in_row: int = 0
    recent: list = field(default_factory=list)

    @classmethod
    def read(cls, facts: dict, file: Path) -> "Progress":
        """The progress that a file holds; raises DamagedError."""
        values = {}
        for f in dataclasses.fields(cls):
            value = values[f.name] = facts.get(f.name)
            number = f.type in (int, float) and type(value) in (int, f.type)  # True is no number here
            if not (value >= 0 if number else type(value) is f.type not in (int, float)):
                wrong = f"{f.name} is {value!r:.40}, where a {f.type.__name__} belongs"
                raise DamagedError(f"{file} is damaged: {wrong}; {CURE}.")
        for row in values["recent"]:
            if not isinstance(row, dict) or not {int, float}.issuperset(map(type, row.values())):
                raise DamagedError(f"{file} is damaged: recent holds {row!r:.40}, where figures belong; {CURE}.")
        return cls(**values)


class Run:
    """One run's folder: writes checkpoints and figures into it, and restores training from it.

    data: a fingerprint of what is trained on. weights_from: the folder of a model that a new run starts from, or None.
    """

    def __init__(self, folder: Path, config: Config, data: str, weights_from: Path | None = None):
        self.folder, self.config, self.data, self.weights_from = Path(folder), config, data, weights_from
        self.checkpoints = self.folder / "checkpoints"
        self.metrics = self.folder / "metrics.jsonl"

    @main_only
    def remember(self, label: str, people: list[str]) -> None:
        """Write down on which data and people the model is trained, so that nobody evaluates it on them; whoever an
        earlier session of this run has written down, such as those behind the weights it started from, stays."""
        self.create()
        file = self.folder / "trained_on.json"
        if self.saved and file.is_file():
            people = sorted({*people, *people_in(file)})
        write_text(file, json.dumps({"data": label, "people": people}))

    @main_only
    def create(self) -> None:
        """Make the folder, with the parameters in it; raises StorageError."""
        with disk_errors(self.folder):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        described = {"fingerprint": self.config.fingerprint()} | self.config.as_dict()
        write_text(self.folder / "config.json", json.dumps(described, indent=1))
        if self.weights_from:
            write_text(self.folder / STARTED_FROM, json.dumps({"weights": str(self.weights_from)}))
        elif not self.saved:  # an interrupted start may have had another
            (self.folder / STARTED_FROM).unlink(missing_ok=True)

    @property
    def saved(self) -> list[Path]:
        """The checkpoints that training can go on from, newest first."""
        return saved_in(self.folder)

    def progress(self) -> Progress:
        """Where the newest checkpoint stands; raises DamagedError."""
        file = self.saved[0] / "progress.json"
        return Progress.read(read_json(file), file)

    @main_only
    def log(self, **figures) -> None:
        """Append a line of figures to metrics.jsonl; raises StorageError."""
        with disk_errors(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    @main_only
    def save_model(self, name: str, model: nn.Module, **facts) -> None:
        """Keep the model under a name, with facts such as its epoch and validation EER; raises StorageError."""
        self.make_room(bytes_of(model.state_dict()))
        with sealed_folder(self.checkpoints / name) as folder:
            save_model(folder, model)
            (folder / "facts.json").write_text(json.dumps(facts))

    @main_only
    def save_last(self, model: nn.Module, objective: nn.Module, optimizer, scaler, progress: Progress, average) -> None:
        """Keep all that going on needs, and the checkpoint before it; average: the moving average of the model, or
        None. Raises StorageError."""
        modules = {"objective": objective} | ({"average": average.module} if average else {})
        state = {
            f"{number}.{name}": value
            for number, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        self.make_room(sum(map(bytes_of, [state, model.state_dict(), *(m.state_dict() for m in modules.values())])))
        with sealed_folder(self.checkpoints / "last" / f"{progress.batch:08d}") as folder:
            save_model(folder, model)
            for name, module in modules.items():
                save_state(folder / f"{name}.safetensors", module)
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "optimizer.safetensors")
            (folder / "scaler.json").write_text(json.dumps(scaler.state_dict() if scaler else {}))
            facts = identity(self.config, self.data) | dataclasses.asdict(progress)
            (folder / "progress.json").write_text(json.dumps(facts))
        self.drop_older()

    @main_only
    def drop_older(self) -> None:
        """Remove the checkpoints before the newest ones; a kill may have kept the last session from it."""
        for folder in self.saved[KEPT:]:
            shutil.rmtree(folder)

    def make_room(self, needed: int) -> None:
        """Keep the folder within the disk budget when so many bytes are added: models kept for their epoch go first,
        then the older checkpoint; raises StorageError where nothing may go any more or the disk itself is full."""
        if shutil.disk_usage(self.folder).free < needed:
            raise StorageError(
                f"{self.folder} is on a disk with {shutil.disk_usage(self.folder).free / 1e9:.2f} GB free, and the "
                f"next checkpoint takes {needed / 1e9:.2f}: free some, or give another run_dir, and run again to go on "
                "from the last one."
            )
        budget, epochs = self.config.disk_budget_gb * 1e9, sorted(self.checkpoints.glob("epoch_*"), key=epoch_of)
        expendable = [*epochs, *reversed(self.saved[1:])]
        while size_of(self.folder) + needed > budget:
            if not expendable:
                raise StorageError(
                    f"{self.folder} takes {size_of(self.folder) / 1e9:.2f} GB and the next checkpoint "
                    f"{needed / 1e9:.2f}, more than disk_budget_gb={self.config.disk_budget_gb:g}: raise it, and run "
                    "again to go on from the last checkpoint."
                )
            print(f"Removed {expendable[0]}, to keep within disk_budget_gb={self.config.disk_budget_gb:g}.")
            shutil.rmtree(expendable.pop(0))

    def restore(self, model: nn.Module, objective: nn.Module, optimizer, scaler, average) -> Progress:
        """Put the newest checkpoint into the given objects and drop figures logged after it; a new run starts at 0;
        raises ConfigError, DamagedError."""
        self.create()
        if not self.saved:
            self.forget_after(0)
            return Progress()
        newest, progress = self.saved[0], self.progress()
        modules = {"model": model, "objective": objective} | ({"average": average.module} if average else {})
        try:
            for name, module in modules.items():
                module.load_state_dict(read_tensors(newest / f"{name}.safetensors"))
            load_optimizer(optimizer, read_tensors(newest / "optimizer.safetensors"))
            if scaler and (kept := read_json(newest / "scaler.json")):
                scaler.load_state_dict(kept)
        except DamagedError:
            raise
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:  # losses of other shapes
            best = self.checkpoints / "best"
            anew = f", or another run_dir and resume_from={best} to start from its weights" if best.is_dir() else ""
            raise ConfigError(
                f"{newest} does not fit this training ({' '.join(str(error).split())[:200]}): give resume=false to "
                f"start fresh (nothing is deleted){anew}."
            ) from error
        self.forget_after(progress.batch)
        self.drop_older()
        return progress

    @main_only
    def forget_after(self, batch: int) -> None:
        """Drop the figures of batches that will be done again."""
        kept = [line for line in self.history() if line["batch"] <= batch]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def history(self) -> list[dict]:
        """All figures logged so far; raises DamagedError."""
        try:
            text = self.metrics.read_bytes() if self.metrics.exists() else b""
        except OSError as error:
            raise DamagedError(f"{self.metrics} cannot be read ({error.strerror}): remove it.") from None
        found, (*lines, _) = [], text.split(b"\n")  # a kill may have cut the last one short
        for number, line in enumerate(lines, 1):
            try:
                found += [json.loads(line)] if line else []
                if line and not (type(found[-1]["batch"]) is int and found[-1]["batch"] >= 0):
                    raise ValueError
            except (ValueError, RecursionError, LookupError, TypeError):
                raise DamagedError(
                    f"{self.metrics} is damaged in line {number} ({line[:40]!r}): remove that line, or the file."
                ) from None
        return found


def load_optimizer(optimizer, kept: dict[str, Tensor]) -> None:
    """Put the kept state, by number of the parameter and name, into an optimiser, whose groups follow from the config;
    raises ValueError."""
    fresh, state = optimizer.state_dict(), {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in kept.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        if value.shape not in (parameter.shape, torch.Size()):
            raise ValueError(f"the optimiser's {key} has the shape {list(value.shape)}, not {list(parameter.shape)}")
        if value.ndim:  # in its parameter's layout, which a fused step takes for granted
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a file; raises DamagedError."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} is damaged: {error}; {CURE}.") from None


def people_in(file: Path) -> list[str]:
    """The people whom a trained_on.json names; raises DamagedError."""
    people = read_json(file).get("people")
    if not isinstance(people, list) or not people or not all(isinstance(person, str) and person for person in people):
        raise DamagedError(f"{file} is damaged: it names no people; {CURE}.")
    return people


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Bytes that tensors take in a file."""
    return sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, torch.Tensor))


def epoch_of(folder: Path) -> int:
    """The epoch after which `epoch_<n>` was kept; others count as the last."""
    number = folder.name.removeprefix("epoch_")
    return int(number) if number.isdecimal() else 2**31


def identity(config: Config, data: str) -> dict[str, str]:
    """What two sessions must agree in to be one run: the decisive parameters and the people and images trained on."""
    return {"fingerprint": config.fingerprint(), "data": data}


def saved_in(folder: Path) -> list[Path]:
    """The checkpoints of the run in a folder, newest first."""
    found = (path for path in (Path(folder) / "checkpoints" / "last").glob("*") if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def newest_whole(folder: Path, own: bool) -> tuple[Path, dict] | None:
    """The newest checkpoint of a run that is as it was sealed, with its progress; None where there is none.

    A damaged one is named and, in a folder of one's own, set aside. Raises DamagedError where all are damaged, and
    then leaves them where they are, since what has no checkpoint is taken for a new run.
    """
    damaged = []
    for checkpoint in saved_in(folder):
        try:
            check_seal(checkpoint)
            facts = read_json(checkpoint / "progress.json")
            Progress.read(facts, checkpoint / "progress.json")
        except DamagedError as error:
            damaged.append((checkpoint, error))
            continue
        for odd, error in damaged:
            print(f"{error} The checkpoint before it is used.")
            if own:
                odd.rename(free_name(odd.with_name(f"{odd.name}.damaged")))
        return checkpoint, facts
    for _, error in damaged:
        print(error)
    if damaged:
        raise DamagedError(
            f"no checkpoint in {folder} is whole: resume=false starts fresh (the run is moved aside), or restore one."
        )
    return None
