"""Where the systems differ in training: a recipe's name to its batches and its objective, and the run that joins
them."""

from pathlib import Path

import torch
from torch import nn

from dcal_core.config import Config
from dcal_core.data.batches import FamilyBatches
from dcal_core.data.splits import Split, TwinData
from dcal_core.environment import TimeBudget, input_roots
from dcal_core.models.build import new_model
from dcal_core.training.checkpoints import Progress, Run, open_run
from dcal_core.training.loop import train
from dcal_core.training.objectives import DCALObjective
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.protocol import encode_images, score_pairs, twin_pairs


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
    )


def dcal_objective(config: Config, model: nn.Module, people: int) -> DCALObjective:
    """Identity margin softmax and twin loss on each branch, weighted against one another."""
    names = (
        "margin_softmax softmax_margin softmax_scale softmax_weight label_smoothing "
        "twin_loss twin_margin twin_temperature twin_weight loss_weighting"
    )
    return DCALObjective(widths=model.widths, people=people, **{name: getattr(config, name) for name in names.split()})


BATCHES = {"dcal": dcal_batches}
OBJECTIVES = {"dcal": dcal_objective}


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
    """Train the config's recipe in a folder, going on where an earlier session stopped."""
    index = data["train"].index
    run = open_run(folder, config, index.fingerprint(), input_roots())
    torch.manual_seed(config.seed)  # the initialisation
    model = new_model(config, input_roots(), pretrained=not run.has_checkpoint)
    run.remember(data.label, list(index.people))
    batches = BATCHES[config.recipe](config, data["train"])
    objective = OBJECTIVES[config.recipe](config, model, people=len(index.people))
    budget = TimeBudget(config.time_budget_hours)
    return run, train(config, model, objective, batches, validator(config, data["validation"]), run, budget)
