"""What is written into a run's folder while it trains, and how training is put back to where it stood.

Weights and the optimiser's state are safetensors and the rest is JSON, so that reading a run executes nothing. All
that is random in training follows from the seed and the number of the batch: there is no generator's state to keep.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dcal_core.config.shared import Config
from dcal_core.distributed import main_only
from dcal_core.errors import ConfigError, quoted
from dcal_core.models.files import save_model, save_tensors
from dcal_core.runs import RunFolder, more_epochs
from dcal_core.storage import (
    CURE,
    DamagedError,
    StorageError,
    disk_errors,
    read_json,
    sealed_folder,
    size_of,
    write_text,
)

KEPT = 2  # checkpoints to resume from: should the newest be damaged, there is the one before it


class Progress(BaseModel):
    """Where a run stands: batches done, the best model's validation EER and its error by what marks the best, the
    validations since (`stale`), the parts that a batch is cut into, the batch at which the schedule began (0, unless
    the run was extended), seconds of training, steps without a finite loss (in all, and now in a row), the `recent`
    figures since the last logged line, and whether validations have stayed `at_chance`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    batch: int = Field(0, ge=0)
    best_eer: float = Field(float("inf"), ge=0)
    best_error: float = Field(float("inf"), ge=0)
    stale: int = Field(0, ge=0)
    parts: int = Field(1, ge=1)
    schedule_from: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)
    tracker_run: str = ""
    finished: bool = False
    skipped: int = Field(0, ge=0)
    skipped_in_row: int = Field(0, ge=0)
    recent: list[dict[str, float]] = []
    at_chance: bool = False

    @classmethod
    def read(cls, facts: dict, file: Path) -> "Progress":
        """The progress that a file holds; raises DamagedError."""
        if "batch" not in facts:
            raise DamagedError(f"{file} is damaged: it names no batch; {CURE}.")
        try:
            before = {"best_error": facts.get("best_eer", math.inf)}  # of runs before there was another mark
            return cls.model_validate(before | facts)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DamagedError(
                f"{file} is damaged: {place} is {quoted(first['input'])} ({first['msg']}); {CURE}."
            ) from None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is as it was sealed, with what its progress.json holds."""

    path: Path
    facts: dict

    @property
    def run(self) -> RunFolder:
        return RunFolder.around(self.path)

    def differences(self, config: Config) -> dict[str, tuple]:
        """The decisive parameters in which it differs from a config; raises DamagedError.

        Checkpoints from before version 0.2 do not hold their parameters; those of their run are taken.
        """
        return config.differences(
            self.facts["parameters"] if "parameters" in self.facts else read_json(self.run.config)
        )

    def agrees(self, config: Config, data: str) -> bool:
        """Whether training can go on from it with these parameters and this data."""
        return self.facts.get("data") == data and not self.differences(config)

    def extends(self, config: Config, data: str) -> bool:
        """Whether it ends a run that can be trained for more epochs as the config asks."""
        asked = config.extend and self.facts["finished"] and self.facts.get("data") == data
        return asked and more_epochs(self.differences(config))


class Run:
    """One run's folder: writes checkpoints and figures into it, and restores training from it.

    data: a fingerprint of what is trained on. weights_from: the folder of a model that a new run starts from, or None.
    """

    def __init__(self, folder: RunFolder, config: Config, data: str, weights_from: Path | None = None):
        self.folder = folder
        self.config = config
        self.data = data
        self.weights_from = weights_from
        self.extending = False  # its checkpoint is the end of a shorter schedule
        self.diverged = ""  # how training has diverged, in a sentence

    @main_only
    def remember(self, label: str, people: list[str], aligned: bool = False) -> None:
        """Write down the data and the people that the model is trained on, beside those of earlier sessions; aligned:
        whether it is a copy that prepare aligned."""
        self.create()
        if self.folder.saved and self.folder.trained_on.is_file():
            people = sorted({*people, *self.folder.people()})
        write_text(self.folder.trained_on, json.dumps({"data": label, "people": people, "aligned": aligned}))

    @main_only
    def create(self) -> None:
        """Make the folder, with the parameters in it; raises StorageError."""
        with disk_errors(self.folder):
            self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        described = {"fingerprint": self.config.fingerprint()} | self.config.as_dict()
        write_text(self.folder.config, json.dumps(described, indent=1))
        if self.weights_from:
            write_text(self.folder.started_from, json.dumps({"weights": str(self.weights_from)}))
        elif not self.folder.saved:  # an interrupted start may have had another
            self.folder.started_from.unlink(missing_ok=True)

    def progress(self) -> Progress:
        """Where the newest checkpoint stands; raises DamagedError."""
        file = self.folder.saved[0] / "progress.json"
        return Progress.read(read_json(file), file)

    @main_only
    def log(self, **figures) -> None:
        """Append a line of figures to metrics.jsonl; raises StorageError."""
        with disk_errors(self.folder.metrics), self.folder.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    @main_only
    def save_model(self, folder: Path, model: nn.Module, **facts) -> None:
        """Keep the model in a folder, with facts such as its epoch and validation EER; raises StorageError."""
        self.make_room(bytes_of(model.state_dict()))
        with sealed_folder(folder) as new:
            save_model(new, model)
            (new / "facts.json").write_text(json.dumps(facts))

    @main_only
    def save_last(self, modules: dict[str, nn.Module], optimizer, scaler, progress: Progress, sampling: dict) -> None:
        """Keep all that resuming needs, and the checkpoint before it. modules: "model", "objective" and, if there is
        one, the "average" of the model. sampling: what the recipe decided before this epoch."""
        tensors = {name: module.state_dict() for name, module in modules.items()}
        tensors["optimizer"] = optimizer_tensors(optimizer)
        if sampling:
            tensors["sampling"] = sampling
        self.make_room(sum(map(bytes_of, tensors.values())))
        with sealed_folder(self.folder.checkpoint(progress.batch)) as folder:
            save_model(folder, modules["model"])
            for name, values in tensors.items():
                if name != "model":
                    save_tensors(folder / f"{name}.safetensors", values)
            (folder / "scaler.json").write_text(json.dumps(scaler.state_dict() if scaler else {}))
            parameters = {name: getattr(self.config, name) for name in self.config.decisive()}
            facts = {"fingerprint": self.config.fingerprint(), "data": self.data, "parameters": parameters}
            (folder / "progress.json").write_text(json.dumps(facts | progress.model_dump()))
        self.drop_older()

    @main_only
    def drop_older(self) -> None:
        """Remove the checkpoints before the newest ones."""
        for folder in self.folder.saved[KEPT:]:
            shutil.rmtree(folder)

    def make_room(self, needed: int) -> None:
        """Keep the folder within the disk budget when so many bytes are added: models kept for their epoch go first,
        then the older checkpoint; raises StorageError."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StorageError(
                f"{self.folder} is on a disk with {free / 1e9:.2f} GB free, and the "
                f"next checkpoint takes {needed / 1e9:.2f}: free some, or give another run_dir, and run again to go on "
                "from the last one."
            )
        expendable = [*self.folder.kept_epochs, *reversed(self.folder.saved[1:])]
        while size_of(self.folder.path) + needed > self.config.disk_budget_gb * 1e9:
            if not expendable:
                raise StorageError(
                    f"{self.folder} takes {size_of(self.folder.path) / 1e9:.2f} GB and the next checkpoint "
                    f"{needed / 1e9:.2f}, more than disk_budget_gb={self.config.disk_budget_gb:g}: raise it, and run "
                    "again to go on from the last checkpoint."
                )
            print(f"Removed {expendable[0]}, to keep within disk_budget_gb={self.config.disk_budget_gb:g}.")
            shutil.rmtree(expendable.pop(0))

    def restore(self, modules: dict[str, nn.Module], optimizer, scaler) -> tuple[Progress, dict]:
        """Put the newest checkpoint, if there is one, into the given objects and drop figures logged after it; returns
        the progress and what the recipe had decided before the epoch."""
        self.create()
        if not self.folder.saved:
            self.forget_after(0)
            return Progress(), {}
        newest = self.folder.saved[0]
        progress = self.progress()
        try:
            for name, module in modules.items():
                module.load_state_dict(read_tensors(newest / f"{name}.safetensors"))
            load_optimizer(optimizer, read_tensors(newest / "optimizer.safetensors"))
            if scaler and (kept := read_json(newest / "scaler.json")):
                scaler.load_state_dict(kept)
        except DamagedError:
            raise
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:  # losses of other shapes
            best = self.folder.best
            anew = f", or another run_dir and resume_from={best} to start from its weights" if best.is_dir() else ""
            raise ConfigError(
                f"{newest} does not fit this training ({' '.join(str(error).split())[:200]}): give resume=false to "
                f"start fresh (nothing is deleted){anew}."
            ) from error
        sampling = newest / "sampling.safetensors"
        self.forget_after(progress.batch)
        self.drop_older()
        if self.extending:
            progress = progress.model_copy(update={"finished": False, "stale": 0, "schedule_from": progress.batch})
        return progress, read_tensors(sampling) if sampling.is_file() else {}

    @main_only
    def forget_after(self, batch: int) -> None:
        """Drop the figures of batches that will be done again."""
        kept = [line for line in self.history() if line["batch"] <= batch]
        write_text(self.folder.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def history(self) -> list[dict]:
        """All figures logged so far; raises DamagedError."""
        file = self.folder.metrics
        found = []
        try:
            text = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise DamagedError(f"{file} cannot be read ({error.strerror}): remove it.") from None
        *lines, _ = text.split(b"\n")  # a kill may have cut the last one short
        for number, line in enumerate(lines, 1):
            try:
                found += [json.loads(line)] if line else []
                if line and not (type(found[-1]["batch"]) is int and found[-1]["batch"] >= 0):
                    raise ValueError
            except (ValueError, RecursionError, LookupError, TypeError):
                raise DamagedError(
                    f"{file} is damaged in line {number} ({line[:40]!r}): remove that line, or the file."
                ) from None
        return found


def optimizer_tensors(optimizer) -> dict[str, Tensor]:
    """An optimiser's state, by number of the parameter and name."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer, kept: dict[str, Tensor]) -> None:
    """Put what `optimizer_tensors` kept into an optimiser, whose groups follow from the config; raises ValueError."""
    state = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in kept.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        if value.shape not in (parameter.shape, torch.Size()):
            raise ValueError(f"the optimiser's {key} has the shape {list(value.shape)}, not {list(parameter.shape)}")
        if value.ndim:  # in its parameter's layout, which a fused step takes for granted
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a file; raises DamagedError."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file} is damaged: {error}; {CURE}.") from None


def bytes_of(tensors: dict[str, Tensor]) -> int:
    """Bytes that tensors take in a file."""
    return sum(tensor.nbytes for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
