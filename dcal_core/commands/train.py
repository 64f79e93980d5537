"""Where the systems differ in training: a recipe's name to its batches and its objective, and the run that joins
them."""

import json
import re
import sys
import tempfile
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.commands.session import Session, begin_training, command_parser, given_parameters
from dcal_core.config.shared import Config
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.splits import Split, TwinData, open_data
from dcal_core.data.triplets import TripletBatches
from dcal_core.distributed import (
    FAILED,
    LaunchError,
    broadcast,
    join,
    launch,
    launched,
    leave,
    main_first,
    rank,
    world_size,
)
from dcal_core.environment import TimeBudget, gpu_verdict, input_roots
from dcal_core.errors import ConfigError, UserError
from dcal_core.figures import draw_losses, draw_validation
from dcal_core.models.face_weights import write_face_weights
from dcal_core.models.files import load_model, new_model
from dcal_core.storage import disk_errors, read_json, write_text
from dcal_core.training.checkpoints import Progress, Run, bytes_of
from dcal_core.training.history import by_epoch
from dcal_core.training.loop import MemoryShort, start_accelerator, train
from dcal_core.training.objectives import DCALObjective
from dcal_core.training.resume import open_run, people_behind, shapes_of, take_over
from dcal_core.training.triplet_objective import TripletObjective
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.protocol import score_pairs, twin_pairs


def dcal_batches(config: Config, split: Split) -> FamilyBatches:
    """Families x two siblings x images, with partners for the pair-wise branch."""
    return FamilyBatches(
        split.index,
        split.images,
        families_per_batch=config.families_per_batch,
        images_per_person=config.images_per_person,
        steps_per_epoch=config.steps_per_epoch,
        seed=config.seed,
        pwca_prob=config.pwca_prob if config.pwca_first else 0.0,
        pwca_partner=config.pwca_partner,
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        parts=config.accumulation,
        rank=rank(),
        world=world_size(),
    )


def dcal_objective(config: Config, model: nn.Module, people: int) -> DCALObjective:
    """Identity margin softmax and twin loss on each branch, weighted against one another."""
    names = (
        "margin_softmax softmax_margin softmax_scale softmax_weight label_smoothing adaface_h "
        "twin_loss twin_margin twin_temperature twin_weight "
        "positive_ratio hard_negative_ratio soft_negative_ratio loss_weighting"
    )
    options = {name: getattr(config, name) for name in names.split()}
    learned = config.similarity == "learned"
    return DCALObjective(widths=model.widths, people=people, learned_similarity=learned, **options)


def triplet_batches(config: Config, split: Split) -> TripletBatches:
    """Triplets of two images of a person and one of the co-twin, a share of all that each family has."""
    return TripletBatches(
        split.index,
        split.images,
        triplets_per_batch=config.triplets_per_batch,
        train_percentage=config.train_percentage,
        steps_per_epoch=config.steps_per_epoch,
        seed=config.seed,
        parts=config.accumulation,
        rank=rank(),
        world=world_size(),
    )


def triplet_objective(config: Config, model: nn.Module, people: int) -> TripletObjective:
    """The triplet loss on the model's embedding, plus an identity margin softmax where it has a weight."""
    names = (
        "twin_margin triplet_distance "
        "margin_softmax softmax_margin softmax_scale softmax_weight label_smoothing adaface_h"
    )
    options = {name: getattr(config, name) for name in names.split()}
    return TripletObjective(width=model.widths["embedding"], people=people, **options)


def start_centres(config: Config, model: nn.Module, objective: TripletObjective, split: Split) -> None:
    """Begin with each person's class centre at the mean of their unit embeddings, where there are centres: random ones
    would at first undo what the model has learnt."""
    if objective.identity is None:
        return
    device = next(model.parameters()).device
    embeddings = F.normalize(encode_images(model, split.images, config.encode_batch, device).parts["embedding"], dim=-1)
    means = torch.zeros_like(objective.identity.centres, device="cpu")
    objective.identity.start_from(means.index_add(0, torch.as_tensor(split.index.person_of), embeddings))


def export_face_weights(config: Config, run: Run) -> list[Path]:
    """Write the best model as AdaFace's own loader (.ckpt) and CVLFace's (.pt) take it, into `models`, by a name that
    tells how it was trained; raises StorageError."""
    best = run.checkpoints / "best"
    model, epoch = load_model(best), read_json(best / "facts.json")["epoch"]
    mode = "frozen" if config.frozen_backbone else "full"
    about = f"{mode}_{config.train_percentage:g}pct_margin{config.twin_margin:g}_epoch{epoch}"
    name = f"twin_tuned_{config.backbone.replace('_', '')}_{about}"
    state, folder = model.face_weights(), run.folder / "models"
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
    files = []
    for form, ending in (("adaface", "ckpt"), ("cvlface", "pt")):
        run.make_room(bytes_of(state))
        files.append(folder / f"{name}.{ending}")
        write_face_weights(files[-1], state, form, model.colour_order)
    return files


BATCHES = {"dcal": dcal_batches, "adaface": triplet_batches}
OBJECTIVES = {"dcal": dcal_objective, "adaface": triplet_objective}
STARTS = {"adaface": start_centres}  # of a new run whose model has learnt before
EXPORTS = {"adaface": export_face_weights}  # to what other projects read


def validator(config: Config, split: Split):
    """A callable model -> EER and ROC-AUC over all genuine and all co-twin pairs of a split."""
    pairs = twin_pairs(split.index)

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        features = encode_images(model, split.images, config.encode_batch, device, progress=False)
        scores = score_pairs(model, features, pairs, device=device)
        return {"eer": equal_error_rate(scores, pairs.genuine)[0], "auc": roc_auc(scores, pairs.genuine)}

    return validate


def train_run(config: Config, folder: Path, data: TwinData) -> tuple[Run, Progress]:
    """Train the config's recipe in a folder, going on where an earlier session stopped; with nproc > 1 in several
    processes, which torchrun starts."""
    if config.nproc > 1 and not launched():
        return train_in_processes(config, folder, data)
    index = data["train"].index
    accelerator = start_accelerator(config)
    torch.manual_seed(config.seed)  # the initialisation
    model = new_model(config, input_roots(), pretrained=False)
    shapes = shapes_of(model)
    unseen = partial(seen_before, validation=data["validation"])
    run = broadcast(None if rank() else open_run(folder, config, index.fingerprint(), input_roots(), shapes, unseen))
    people = list(index.people)
    if run.weights_from:
        people = sorted({*people, *seen_before(run.weights_from, data["validation"])})
        take_over(model, run.weights_from)
    elif not run.saved:
        torch.manual_seed(config.seed)
        model = new_model(config, input_roots())
    run.remember(data.label, people)  # now that nothing has been refused
    batches = BATCHES[config.recipe](config, data["train"])
    objective = OBJECTIVES[config.recipe](config, model, people=len(index.people))
    if config.recipe in STARTS and not run.saved and (run.weights_from or config.weights):
        STARTS[config.recipe](config, model.to(accelerator.device), objective, data["train"])
    validate = validator(config, data["validation"])
    budget = TimeBudget(config.time_budget_hours)
    return run, train(config, accelerator, model, objective, batches, validate, run, budget)


def seen_before(weights: Path, validation: Split) -> list[str]:
    """The people on whom the model in a folder was trained; raises ConfigError where one of them is validated on."""
    people = people_behind(weights)
    if both := sorted(set(people) & set(validation.index.people)):
        raise ConfigError(
            f"resume_from={weights}: {len(both)} of the people to validate on, first {both[0]}, were trained on there: "
            "give the seed and validation_share of that run."
        )
    return people


def train_in_processes(config: Config, folder: Path, data: TwinData) -> tuple[Run, Progress]:
    """Train in config.nproc processes, anew in smaller parts where the memory of one ran out; raises ConfigError,
    LaunchError."""
    usable, verdict = gpu_verdict()
    if usable and torch.cuda.device_count() < config.nproc:
        raise ConfigError(f"nproc={config.nproc}, one GPU each, but here is {verdict}: lower it.")
    config = replace(config, run_dir=str(folder))
    run = Run(folder, config, data["train"].index.fingerprint())
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "parameters.yaml"
        while True:
            file.write_text(json.dumps(config.as_dict()))  # JSON is YAML
            try:
                launch(["train", "-f", str(file)], config.nproc)
                break
            except LaunchError as error:
                cure = re.search(rf"{MemoryShort.__name__}.* accumulation=(\d+)", str(error))
                if not cure:
                    raise
                # With resume=false no attached run is gone on with, but what these processes themselves have kept is.
                resume = config.resume or bool(run.saved)
                config = replace(config, accumulation=int(cure[1]), resume=resume)
                print(f"Out of memory, so all processes begin again with accumulation={config.accumulation}.")
    return run, run.progress()


def leave_results(session: Session, run: Run, label: str) -> dict[str, Path | list[Path]]:
    """Leave, and return by name, what a finished run is looked at and used elsewhere by: the log by epoch, its curves,
    and the best model as other projects read it; raises StorageError, DamagedError."""
    history, log = run.history(), run.folder / "training_log.json"
    write_text(log, json.dumps({"data": label, "epochs": by_epoch(history)}, indent=1))
    export = EXPORTS.get(session.config.recipe)
    return {
        "training_log": log,
        "loss_curves": session.keep(draw_losses(history, label), "loss_curves"),
        "validation_curves": session.keep(draw_validation(history, label), "validation_curves"),
        "exported": export(session.config, run) if export else [],
    }


def main(arguments: list[str]) -> int:
    """What train.ipynb does: `python -m dcal_core train`, alone or started by torchrun."""
    options = command_parser("train", "Train a preset's model.").parse_args(arguments)
    try:
        given, params_dir = given_parameters(options)
        join()
        session = begin_training("Train a twin verifier", given, params_dir)
        with main_first():  # it draws or decodes the images, the others find them
            data = open_data(session.config, ("train", "validation"))
        run, progress = train_run(session.config, session.folder, data)
        if progress.finished and not rank():
            leave_results(session, run, data.label)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        reason = f"{FAILED if launched() else ''}{type(error).__name__}: {error}\n"
        print(reason, end="", file=sys.stderr, flush=True)  # in one piece, since the other processes write too
        return 1
    if launched() or session.config.nproc == 1:  # else the first of the launched processes has said it
        best, done = f"{progress.best_eer:.1%} ({data.label})", f"{progress.batch} batches"
        print(f"Best validation EER {best}, {done}, in {run.checkpoints}")
    leave()
    return 0
