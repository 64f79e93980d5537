"""How a training begins: whatever can be refused is refused before any data is drawn, read or decoded."""

import contextlib
import io
from pathlib import Path

import torch

from dcal_core.commands.chosen import title_of
from dcal_core.commands.new_run import begins_anew, run_to_train
from dcal_core.commands.session import Session
from dcal_core.config.shared import Config
from dcal_core.distributed import launched, rank
from dcal_core.environment import banner, fit_precision, gpu_verdict, input_roots
from dcal_core.errors import ConfigError
from dcal_core.recipes.catalogue import new_model
from dcal_core.runs import RunFolder, attached_runs, find_source, move_aside
from dcal_core.storage import check_room, disk_errors
from dcal_core.training.resume import weights_of
from dcal_core.training.transfer import refuse_stranger, shapes_of

HIGHEST_LR = 0.1  # above it, nothing has been seen to learn
COPIES = 4  # of a model's weights in a new run: the best model, and a checkpoint with AdamW's two moments


def begin_training(title: str, given: dict, params_dir: Path) -> Session:
    """Describe the machine, read the parameters of a run to train, refuse what cannot end well, and lock the run's
    folder; raises ConfigError, LockedError, DataError, DamagedError, StorageError."""
    preset, config, folder = run_to_train(given, params_dir)
    print(banner(title_of(title, given, preset)))
    print(f"Preset {Path(preset).name}, seed {config.seed}, time budget {config.time_budget_hours:g} h")
    if not (folder.exists or config.resume_from or attached_runs(input_roots())):
        print(f"A new run in {folder}")
    check_machine(config, Path(preset).name)
    if not (config.nproc or launched()):
        config = config.replace(nproc=gpus_for(config))
        if config.nproc > 1:
            print(f"{config.nproc} GPUs train together (nproc=1 takes one)")
    if not rank():
        check_model(config, folder)
        folder.lock()
        if not config.resume:
            move_aside(folder)
    if config.lr > HIGHEST_LR:
        print(f"Warning: lr={config.lr:g} is above {HIGHEST_LR:g}, where AdamW learns nothing: 1e-5 to 1e-2 are usual.")
    return Session(config, folder)


def check_machine(config: Config, preset: str) -> None:
    """Raise ConfigError where the machine lacks a precision or a GPU that is asked for."""
    usable, verdict = gpu_verdict()
    if config.gpu == "needed" and not usable:
        raise ConfigError(
            f"preset {preset} is for a GPU ({verdict}): without one its {config.epochs} epochs take weeks. Take "
            "--preset demo, which is for a CPU, or give gpu=optional to train it here all the same."
        )
    fit_precision(config.precision)


def gpus_for(config: Config) -> int:
    """The largest number of the GPUs here that a batch can be dealt out to in equal parts; 1 without GPUs."""
    usable, _ = gpu_verdict()
    for count in range(torch.cuda.device_count() if usable else 1, 1, -1):
        with contextlib.suppress(ConfigError):
            return config.replace(nproc=count).nproc
    return 1


def check_model(config: Config, folder: RunFolder) -> None:
    """Make the model that training will begin with, to raise now what would be raised after the data is read: weights
    are missing, a backbone is unknown, an earlier run has another model, or the disk has no room."""
    with contextlib.redirect_stdout(io.StringIO()):  # said when training starts
        source = find_source(config.resume_from, folder, agrees=True)
        pretrained = begins_anew(config, folder)
        # Without weights to read, the shapes are enough; torch asks for a temporary folder where it is imported.
        with disk_errors(folder.path), torch.device("cpu" if pretrained else "meta"):
            model = new_model(config, input_roots(), pretrained)
        if source:
            refuse_stranger(shapes_of(model), weights_of(source))
    if not (folder.saved and config.resume):
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        check_room(folder.path, COPIES * size, "a run takes at least", "give another run_dir")
