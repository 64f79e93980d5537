"""What train.ipynb and `python -m dcal_core train` do: train a recipe, in one process or several."""

import json
import math
import re
import shlex
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcal_core.commands.options import given_parameters, read_options
from dcal_core.commands.session import Session, scratch_size
from dcal_core.commands.start import begin_training
from dcal_core.config.shared import Config
from dcal_core.data.benchmarks.packed_pairs import pair_files
from dcal_core.data.enough import Needs
from dcal_core.data.splits import Split, TwinData, open_data
from dcal_core.distributed import (
    LaunchError,
    broadcast,
    join,
    launch,
    launched,
    launched_by_us,
    leave,
    leave_outcome,
    main_first,
    rank,
)
from dcal_core.environment import TimeBudget, gpu_verdict, input_roots, is_interactive, on_kaggle, scratch_root
from dcal_core.errors import ConfigError, UserError
from dcal_core.installation import program_name
from dcal_core.recipes.catalogue import new_model, recipe_of
from dcal_core.runs import RunFolder
from dcal_core.storage import write_text
from dcal_core.training.checkpoints import Progress, Run
from dcal_core.training.curves import by_epoch, draw_losses, draw_validation
from dcal_core.training.learning import at_chance
from dcal_core.training.loop import Diverged, MemoryShort, Trainer
from dcal_core.training.recipe import Recipe
from dcal_core.training.resume import counted, open_run, people_behind
from dcal_core.training.task import start_accelerator
from dcal_core.training.transfer import load_matching, shapes_of
from dcal_core.verification.benchmarks.ten_folds import accuracies, open_pair_sets
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.jackknife import eer_low
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.protocol import pairs_of, score_pairs


class Unfinished(UserError):
    """Training that has stopped before its end; nothing is lost, and the next session goes on."""


def validator(recipe: Recipe, split: Split):
    """A callable model -> EER, the lower end of its interval, and ROC-AUC, over all pairs within a split's families;
    the accuracy on the benchmarks of pairs that are there; and what the recipe tells of what it settles in the model
    before."""
    config = recipe.config
    pairs = pairs_of(split.index)
    files = pair_files(config)
    sets = open_pair_sets(files, config.image_size, scratch_root() / "decoded") if files else None

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        features = encode_images(model, split.images, config.encode_batch, device, progress=False)

        def score(reading: str | None = None) -> np.ndarray:
            return score_pairs(model, features, pairs, device=device, reading=reading)

        settled = recipe.settle(model, score, pairs.genuine, pairs.family)
        scores = score()
        benchmarks = accuracies(model, sets, config.encode_batch, device) if sets else {}
        return (
            settled
            | benchmarks
            | {
                "eer": equal_error_rate(scores, pairs.genuine)[0],
                "eer_low": eer_low(scores, pairs.genuine, pairs.family),
                "auc": roc_auc(scores, pairs.genuine),
            }
        )

    return validate


def open_training_data(config: Config) -> TwinData:
    """The data to train and validate on; DataError, before an image is decoded, where a split is too small."""
    return open_data(config, ("train", "validation"), Needs.of(config))


def train_run(
    config: Config, folder: RunFolder, data: TwinData, budget: TimeBudget | None = None
) -> tuple[Run, Progress]:
    """Train the config's recipe in a folder, going on where an earlier session stopped; with nproc > 1 in several
    processes, which torchrun starts."""
    if config.nproc > 1 and not launched():
        return train_in_processes(config, folder, data)
    index = data["train"].index
    recipe = recipe_of(config)
    accelerator = start_accelerator(recipe)
    with torch.device("meta"):  # where tensors have shapes and no values
        shapes = shapes_of(new_model(config, input_roots(), pretrained=False))
    check_source = partial(trained_people, validation=data["validation"])
    run = None
    if not rank():
        run = open_run(folder, config, index.fingerprint(), input_roots(), shapes, check_source)
    run = broadcast(run)
    people = list(index.people)
    torch.manual_seed(config.seed)  # the initialisation
    model = new_model(config, input_roots(), pretrained=not (run.weights_from or folder.saved))
    if run.weights_from:
        people = sorted({*people, *trained_people(run.weights_from, data["validation"])})
        load_matching(model, run.weights_from)
    run.remember(data.label, people, data.aligned)  # now that nothing has been refused
    batches = recipe.batches(data["train"])
    objective = recipe.objective(model, people=len(index.people))
    if not folder.saved and (run.weights_from or config.weights):
        recipe.start(model.to(accelerator.device), objective, data["train"])
    with main_first():  # it decodes the benchmarks, the others find them
        validate = validator(recipe, data["validation"])
    budget = budget or TimeBudget(config.time_budget_hours)
    try:
        return run, Trainer(recipe, accelerator, model, objective, batches, validate, run, budget).train()
    except Diverged as error:  # its curves are of use
        return diverged(run, error)


def diverged(run: Run, error: UserError) -> tuple[Run, Progress]:
    """A run whose training has diverged, as its last checkpoint stands."""
    run.diverged = str(error)
    return run, run.progress() if run.folder.saved else Progress()


def trained_people(weights: Path, validation: Split) -> list[str]:
    """The people that the model in a folder was trained on; raises ConfigError where one of them is validated on."""
    people = people_behind(weights)
    if both := sorted(set(people) & set(validation.index.people)):
        raise ConfigError(
            f"resume_from={weights}: {len(both)} of the people to validate on, first {both[0]}, were trained on there: "
            "give the seed and validation_share of that run."
        )
    return people


def train_in_processes(config: Config, folder: RunFolder, data: TwinData) -> tuple[Run, Progress]:
    """Train in config.nproc processes: anew in smaller parts where the memory of one ran out, and in this process alone
    where they end before they have saved anything and do not say why, as where GPUs cannot reach one another. Raises
    ConfigError, LaunchError."""
    usable, verdict = gpu_verdict()
    if usable and torch.cuda.device_count() < config.nproc:
        raise ConfigError(f"nproc={config.nproc}, one GPU each, but here is {verdict}: lower it.")
    config = config.replace(run_dir=str(folder))
    run = Run(folder, config, data["train"].index.fingerprint())
    saved = folder.saved
    folder.unlock()  # the first of the launched processes locks it
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{folder.path.name}.yaml"
        while True:
            file.write_text(json.dumps(config.as_dict()))  # JSON is YAML
            try:
                launch(["train", "-f", str(file)], config.nproc)
                break
            except LaunchError as error:
                if error.kind == Diverged.__name__:
                    return diverged(run, error)
                if not error.expected and folder.saved == saved:
                    print(f"{error}\n{config.nproc} processes could not begin together, so one trains alone.")
                    folder.lock()
                    return train_run(config.replace(nproc=1), folder, data)
                if error.kind != MemoryShort.__name__:
                    raise
                # resume=false ignores attached runs, but these processes' own checkpoints are gone on from.
                resume = config.resume or bool(folder.saved)
                config = config.replace(accumulation=error.values["accumulation"], resume=resume)
                print(f"Out of memory, so all processes begin again with accumulation={config.accumulation}.")
    return run, run.progress()


def leave_results(session: Session, run: Run, label: str) -> dict[str, Path | list[Path]]:
    """Leave the results of a run so far, and return them by name: the log by epoch, its curves, and, once it is
    finished, the best model in other projects' formats; raises StorageError, DamagedError."""
    finished = run.progress().finished
    history = run.history()
    recipe = recipe_of(session.config)
    label = label if finished else f"{label}, unfinished"
    log = run.folder.training_log
    write_text(log, json.dumps({"data": label, "epochs": by_epoch(history)}, indent=1))
    return {
        "training_log": log,
        "loss_curves": session.keep(draw_losses(history, recipe.curves, label), "loss_curves"),
        "validation_curves": session.keep(draw_validation(history, label), "validation_curves"),
        "exported": recipe.export(run) if finished else [],
    }


def outcome(run: Run, progress: Progress, label: str, again: str = "run all again") -> str:
    """What training has come to, in a sentence or two; above them, in a line, where it has learnt nothing. again: how
    to go on."""
    warning = f"{at_chance(recipe_of(run.config), progress)}\n" if progress.at_chance else ""
    eer = f"{progress.best_eer:.1%} ({label})" if math.isfinite(progress.best_eer) else "none yet"
    done = counted(progress.batch)
    if progress.finished:
        minutes = progress.seconds / 60
        return f"{warning}Best validation EER {eer}, {done}, {minutes:.1f} min of training, in {run.folder}"
    attach = "attach this notebook's output to the next session (Add Input > Notebook Output), then "
    return (
        f"{warning}Training is NOT finished: {done} done, best validation EER so far: {eer}. All of it is saved in "
        f"{run.folder}: {attach if on_kaggle() else ''}{again} to go on."
    )


def tell_outcome(run: Run, progress: Progress, label: str) -> None:
    """Print what training has come to, below a notebook's cell; raises Unfinished or Diverged instead under papermill,
    whose last line and exit status then say it."""
    sentence = run.diverged or outcome(run, progress, label)
    if not (progress.finished or is_interactive() or on_kaggle()):  # Kaggle would keep no output of a failed notebook
        raise (Diverged if run.diverged else Unfinished)(sentence)
    print(sentence)


def command_line(arguments: list[str]) -> str:
    """This command as it was typed, but for resume=false, which would start afresh."""
    typed = shlex.join([*program_name().split(), "train", *arguments])
    return re.sub(r" (-p resume[ =]|--resume[ =])(?i:false|no|off|0)(?= |$)", "", typed)


def main(arguments: list[str]) -> int:
    """What train.ipynb does: `python -m dcal_core train`, alone or started by torchrun."""
    try:
        given, params_dir = given_parameters(read_options("train", arguments))
        join()
        session = begin_training("Train a twin verifier", given, params_dir)
        with main_first():  # it draws or decodes the images, the others find them
            data = open_training_data(session.config)
        run, progress = train_run(session.config, session.folder, data)
        if (progress.finished or run.diverged) and not rank():
            left = leave_results(session, run, data.label)
            if run.diverged:
                print("Curves so far:", left["loss_curves"], left["validation_curves"], flush=True)
        if run.diverged:
            raise Diverged(run.diverged)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        leave_outcome(error)
        if not launched():
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if not launched_by_us():
        print(scratch_size())
        again = "give the same command again" if launched() else f"repeat {command_line(arguments)}"
        print(outcome(run, progress, data.label, again), flush=True)
    leave()
    leave_outcome()
    return 0
