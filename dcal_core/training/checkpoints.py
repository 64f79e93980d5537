"""A run's folder: its checkpoints, its figures and how to find and go on with it.

    <run>/config.json           every parameter, with the fingerprint of those that can change the weights
    <run>/metrics.jsonl         a line for every logged step and every validation
    <run>/checkpoints/last/     model, losses, optimiser and progress: enough to go on
    <run>/checkpoints/best/     the model with the lowest validation EER
    <run>/checkpoints/epoch_5/  the model every few epochs

Every folder is written under another name and then renamed, so that an interruption leaves the one before it whole.
"""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from dcal_core.config import Config, ConfigError
from dcal_core.distributed import main_only
from dcal_core.models.build import save_model, save_state


@dataclass
class Progress:
    """Where a run stands: batches done, best validation EER so far and validations since, parts that a batch is worked
    through in, seconds of training, and whether it is finished."""

    batch: int = 0
    best_eer: float = float("inf")
    stale: int = 0
    parts: int = 1
    seconds: float = 0.0
    tracker_run: str = ""
    finished: bool = False


class Run:
    """One run's folder: writes checkpoints and figures into it, and restores training from it."""

    def __init__(self, folder: Path, config: Config, data: str):
        self.folder, self.config, self.data = Path(folder), config, data
        self.metrics = self.folder / "metrics.jsonl"

    @main_only
    def remember(self, label: str, people: list[str]) -> None:
        """Write down on which data and people the model is trained, so that nobody evaluates it on them."""
        self.create()
        (self.folder / "trained_on.json").write_text(json.dumps({"data": label, "people": people}))

    @main_only
    def create(self) -> None:
        """Make the folder, with the parameters in it."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        described = {"fingerprint": self.config.fingerprint()} | self.config.as_dict()
        (self.folder / "config.json").write_text(json.dumps(described, indent=1))

    def progress(self) -> Progress:
        """Where the last checkpoint stands."""
        facts = json.loads((self.checkpoints / "last" / "progress.json").read_text())
        return Progress(**{field.name: facts[field.name] for field in dataclasses.fields(Progress)})

    @property
    def has_checkpoint(self) -> bool:
        return (self.checkpoints / "last").is_dir()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @main_only
    def log(self, **figures) -> None:
        """Append a line of figures to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(figures) + "\n")

    @main_only
    def save_model(self, name: str, model: nn.Module, **facts) -> None:
        """Keep the model under a name, with facts such as its epoch and validation EER."""
        with replaced_folder(self.checkpoints / name) as folder:
            save_model(folder, model)
            (folder / "facts.json").write_text(json.dumps(facts))

    @main_only
    def save_last(self, model: nn.Module, objective: nn.Module, optimizer, scaler, progress: Progress, average) -> None:
        """Keep all that going on needs; average: the moving average of the model, or None."""
        with replaced_folder(self.checkpoints / "last") as folder:
            save_model(folder, model)
            save_state(folder / "objective.safetensors", objective)
            if average:
                save_state(folder / "average.safetensors", average.module)
            state = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
            torch.save(state, folder / "optimizer.pt")
            facts = identity(self.config, self.data) | dataclasses.asdict(progress)
            (folder / "progress.json").write_text(json.dumps(facts))

    def restore(self, model: nn.Module, objective: nn.Module, optimizer, scaler, average) -> Progress:
        """Put the last checkpoint into the given objects and drop figures logged after it; a new run starts at 0."""
        self.create()
        last = self.checkpoints / "last"
        if not self.has_checkpoint:
            self.forget_after(0)
            return Progress()
        progress = self.progress()
        model.load_state_dict(load_file(last / "model.safetensors"))
        objective.load_state_dict(load_file(last / "objective.safetensors"))
        if average:
            average.module.load_state_dict(load_file(last / "average.safetensors"))
        state = torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        if scaler and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        self.forget_after(progress.batch)
        return progress

    @main_only
    def forget_after(self, batch: int) -> None:
        """Drop the figures of batches that will be done again."""
        kept = [line for line in self.history() if line["batch"] <= batch]
        self.metrics.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def history(self) -> list[dict]:
        """All figures logged so far."""
        lines = self.metrics.read_text().splitlines() if self.metrics.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]  # a kill may cut the last one short


class replaced_folder:
    """A context that fills a folder beside the given one and, if nothing failed, puts it in its place."""

    def __init__(self, folder: Path):
        self.folder, self.new, self.old = (folder.with_name(folder.name + end) for end in ("", ".new", ".old"))

    def __enter__(self) -> Path:
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir(parents=True)
        return self.new

    def __exit__(self, failure, *_):
        if failure:
            return
        shutil.rmtree(self.old, ignore_errors=True)
        if self.folder.exists():
            os.replace(self.folder, self.old)
        os.replace(self.new, self.folder)
        shutil.rmtree(self.old, ignore_errors=True)


def identity(config: Config, data: str) -> dict[str, str]:
    """What two sessions must agree in to be one run: the decisive parameters and the people and images trained on."""
    return {"fingerprint": config.fingerprint(), "data": data}


@main_only
def move_aside(folder: Path) -> None:
    """Give the run in a folder another name, if there is one: starting fresh never deletes."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        aside = next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.old{n}")).exists())
        folder.rename(aside)
        print(f"Fresh start: the run that was in {folder} is now in {aside}.")


def open_run(folder: Path, config: Config, data: str, input_roots: list[Path]) -> Run:
    """The run to train in: the one in `folder`, or an attached one that is further, or a new one; raises ConfigError.

    data: a fingerprint of what is trained on. With resume=false what is there is neither continued nor overwritten. A
    run with other decisive parameters or other data is never continued.
    """
    folder, wanted = Path(folder), identity(config, data)
    if not config.resume:
        move_aside(folder)
        return Run(folder, config, data)
    own = refuse_other_parameters(folder, config)
    if own and own["data"] != wanted["data"]:
        raise ConfigError(
            f"the run in {folder} was trained on other people or images: attach those again to go on, or give "
            "resume=false to start fresh (the old run is moved aside), or another run_dir."
        )
    attached = [(p["batch"], run) for run, p in attached_runs(input_roots) if wanted.items() <= p.items()]
    if attached and max(attached)[0] > (own["batch"] if own else -1):
        batch, source = max(attached)
        print(f"Going on from the attached run {source}, {batch} batches done.")
        copy_run(source, folder)
    elif own and own["finished"]:
        print(f"The run in {folder} is finished: nothing is left to train (resume=false starts fresh).")
    elif own:
        print(f"Going on from {folder}, {own['batch']} batches done.")
    else:
        print(f"No earlier run in {folder} or attached: starting fresh.")
    return Run(folder, config, data)


def refuse_other_parameters(folder: Path, config: Config) -> dict | None:
    """The progress of the run in a folder, or None; raises ConfigError where it had other decisive parameters."""
    own = read_progress(folder)
    if own and own["fingerprint"] != config.fingerprint():
        raise ConfigError(
            f"the run in {folder} was trained with other parameters ({differences(folder, config)}): give those again "
            "to go on, resume=false to start fresh (the old run is moved aside), or another run_dir."
        )
    return own


@main_only
def copy_run(source: Path, folder: Path) -> None:
    """Copy a run to where it can be written, its last checkpoint after the rest: whole, or not there."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("last"))
    with replaced_folder(folder / "checkpoints" / "last") as last:
        shutil.copytree(source / "checkpoints" / "last", last, dirs_exist_ok=True)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)  # inputs are read-only


def read_progress(folder: Path) -> dict | None:
    """The progress of the run in a folder, or None where there is none; finishes a replacement that was cut short."""
    last = Path(folder) / "checkpoints" / "last"
    finish_replacement(last)
    file = last / "progress.json"
    return json.loads(file.read_text()) if file.is_file() else None


def finish_replacement(folder: Path) -> None:
    """Put the old folder back where a replacement was cut short between its two renames."""
    old = folder.with_name(folder.name + ".old")
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)


def attached_runs(input_roots: list[Path]) -> list[tuple[Path, dict]]:
    """Runs below the inputs, such as the output of an earlier notebook version, each with its progress."""
    files = [file for root in input_roots for file in sorted(Path(root).glob("**/checkpoints/last/progress.json"))]
    return [(file.parents[2], json.loads(file.read_text())) for file in files]


def differences(folder: Path, config: Config) -> str:
    """The decisive parameters in which the run in a folder differs from the config, in words."""
    before, now = json.loads((folder / "config.json").read_text()), config.as_dict()
    decisive = [f.name for f in dataclasses.fields(Config) if f.metadata["result"]]
    return ", ".join(f"{n}: {before.get(n)!r} then, {now[n]!r} now" for n in decisive if before.get(n) != now[n])


def find_trained(folder: Path, input_roots: list[Path]) -> Path:
    """The folder of the best model of this run, or of the one attached run; raises ConfigError."""
    finish_replacement(Path(folder) / "checkpoints" / "best")
    if (Path(folder) / "checkpoints" / "best" / "model.json").is_file():
        return Path(folder) / "checkpoints" / "best"
    found = [best for run, _ in attached_runs(input_roots) if (best := run / "checkpoints" / "best").is_dir()]
    if len(found) > 1:
        raise ConfigError(f"{len(found)} trained runs are attached: choose one by run_dir={found[0].parents[1]}, …")
    if not found:
        raise ConfigError(
            f"no trained model in {folder} and none attached: run train.ipynb first, for an epoch at least, attach its "
            "output (Add Input > Notebook Output), or give run_dir."
        )
    return found[0]
