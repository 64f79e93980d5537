"""What a diagnosis measures on a run: its log, its weights before and after, gradients of a few batches, and scores of
the people that it was trained on and of others."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dcal_core.data.splits import Split, TwinData
from dcal_core.diagnosis.copies import copies_in
from dcal_core.diagnosis.samples import (
    Change,
    Sample,
    Scores,
    cosines,
    embeddings_of,
    encode_changed,
    encode_sample,
    sample_of,
    score,
)
from dcal_core.diagnosis.separation import (
    Separation,
    groups_of,
    linear_separation,
    mean_of,
    ranks_of_families,
    small_images,
)
from dcal_core.errors import UserError
from dcal_core.models.verifier import Verifier
from dcal_core.storage import read_json
from dcal_core.training.checkpoints import Progress, Run, read_tensors
from dcal_core.training.learning import settled
from dcal_core.training.recipe import Recipe
from dcal_core.training.task import Task
from dcal_core.training.transfer import load_matching

BATCHES = 4  # whose gradients are taken
CHANGES: dict[str, Change] = {  # of images in [0, 1], by what they add
    "exchanged colours": lambda images: images.flip(1),
    "normalisation": lambda images: (images - 0.5) / 0.5,
    "one normalisation less": lambda images: images * 0.5 + 0.5,
}


@dataclass(frozen=True, eq=False)
class Gradients:
    """What some batches give: the largest gradient norm of each parameter that learns, None where it got none; the
    people and the families of each part."""

    norms: dict[str, float | None]
    people: list[np.ndarray]
    families: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that the checks look at.

    model: as its newest checkpoint has it. before: as training began, or None. pretrained: whether it had learnt before
    that. scores: by split, and by reading or branch. embeddings: of validation, by branch. settled: whether training
    has gone on for long enough to judge what is learnt. unchecked: what could not be looked at, and why.
    """

    recipe: Recipe
    history: list[dict]
    progress: Progress
    data: TwinData
    samples: dict[str, Sample]
    model: Verifier
    objective: nn.Module
    before: Verifier | None
    pretrained: bool
    scores: dict[str, dict[str, Scores]]
    embeddings: dict[str, np.ndarray]
    gradients: Gradients
    settled: bool
    device: str
    unchecked: list[str] = field(default_factory=list)

    def logged(self, name: str) -> np.ndarray:
        """A figure of the log, over the batches."""
        return np.array([line[name] for line in self.history if name in line])

    def own(self, split: str) -> Scores:
        """The scores of the model's own answer."""
        return self.scores[split][self.model.readings[0]]

    @cached_property
    def moved(self) -> dict[str, float]:
        """How far each part of the model has moved since training began, relative to its size; {} if unknown."""
        return {} if self.before is None else movement(self.before, self.model)

    @cached_property
    def moved_in_all(self) -> float:
        """The same of the whole model; 0 if unknown."""
        if self.before is None:
            return 0.0
        names = [name for name, _ in self.model.named_parameters()]
        return relative_distance(self.before, self.model, names)

    @cached_property
    def dead_parts(self) -> list[str]:
        """The parts of the model that should learn and that no gradient reaches."""
        norms = {name.removeprefix("model."): norm for name, norm in self.gradients.norms.items()}
        own = [name for name, _ in self.model.named_parameters() if name in norms]
        found = []
        for part, names in parts_of(own).items():
            in_other_steps = self.moved.get(part) and all(norms[name] is None for name in names)
            if not any(norms[name] for name in names) and not in_other_steps:
                found.append(part)
        return found

    @cached_property
    def gains(self) -> dict[str, Separation]:
        """What each of `CHANGES` of the images adds to the ROC-AUC of one person against strangers, by the model as
        training began; {} for one that had not learnt before."""
        if self.before is None or not self.pretrained:
            return {}
        plain = self.families_before(lambda images: images)
        return {name: mean_of(self.families_before(change) - plain) for name, change in CHANGES.items()}

    def families_before(self, change: Change) -> np.ndarray:
        """For each family, how well the model as training began tells one person from strangers, by changed images."""
        sample = self.samples["train"]
        model = self.before.to(self.device)
        features = encode_changed(model, sample, self.recipe.config.encode_batch, self.device, change)
        found = score(model, features, sample, self.device)
        return ranks_of_families(found.scores[found.genuine], groups_of(sample.pairs)[found.genuine], found.strangers)

    @cached_property
    def likeness(self) -> dict[str, Separation]:
        """How much more alike one person, and co-twins, are than strangers, by measures that these labels have not
        trained: pixels, and the network before training."""
        sample = self.samples["train"]
        found = {"pixels": cosines(self.small, sample)}
        if self.before is not None:
            model = self.before.to(self.device)
            features = encode_sample(model, sample, self.recipe.config.encode_batch, self.device)
            found["network before training"] = score(model, features, sample, self.device)
        likeness = {f"one person, by {by}": one.people for by, one in found.items()}
        if sample.index.co_twins:
            groups = groups_of(sample.pairs)
            for by, one in found.items():
                ranks = ranks_of_families(one.scores[~one.genuine], groups[~one.genuine], one.strangers)
                likeness[f"co-twins, by {by}"] = mean_of(ranks)
        return likeness

    @cached_property
    def copies(self) -> np.ndarray:
        """For each validation image looked at, the training image that shows the same shot, or -1, [N]."""
        return copies_in(self.samples["validation"].pixels, self.data["train"])

    @cached_property
    def small(self) -> np.ndarray:
        """The training images looked at, small, [N, D]."""
        return small_images(self.samples["train"].pixels)

    @cached_property
    def linear(self) -> Separation:
        """How well a linear comparison tells co-twins apart, in families that it has not learnt from."""
        sample = self.samples["train"]
        return linear_separation(self.small, sample.index, sample.pairs)


def parts_of(names: list[str]) -> dict[str, list[str]]:
    """Parameters by the part of the model that they belong to: the first two names of their modules."""
    parts = {}
    for name in names:
        parts.setdefault(".".join(name.split(".")[:-1][:2]) or name, []).append(name)
    return parts


def relative_distance(before: nn.Module, after: nn.Module, names: list[str]) -> float:
    """The distance of some parameters of two models, relative to their size in the first."""
    then, now = ({name: one.detach().cpu().double() for name, one in m.named_parameters()} for m in (before, after))

    def norm(tensors: list[Tensor]) -> float:
        return float(torch.stack([tensor.norm() for tensor in tensors]).norm())

    return norm([now[name] - then[name] for name in names]) / max(norm([then[name] for name in names]), 1e-12)


def movement(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """How far each part of a model has moved, relative to its size."""
    parts = parts_of([name for name, _ in after.named_parameters()])
    return {part: relative_distance(before, after, names) for part, names in parts.items()}


def trained_model(run: Run, recipe: Recipe) -> Verifier:
    """The model of the newest checkpoint, with those parameters frozen that training freezes."""
    model = recipe.new_model([], pretrained=False)
    model.load_state_dict(read_tensors(run.folder.saved[0] / "model.safetensors"))
    return model


def model_before(run: Run, recipe: Recipe, roots: list[Path]) -> tuple[Verifier, bool]:
    """The model as training began, and whether it had learnt before; raises UserError where its weights are gone."""
    config = recipe.config
    note = run.folder.started_from
    started = str(read_json(note).get("weights")) if note.is_file() else ""
    if started and not Path(started).is_dir():
        raise UserError(f"{started}, which the run started from, is gone.")
    torch.manual_seed(config.seed)  # the initialisation, as in training
    model = recipe.new_model(roots, pretrained=not started)
    if started:
        load_matching(model, Path(started))
    return model, bool(started or config.weights or not config.allow_random_init)


def gradients_of(
    recipe: Recipe, run: Run, model: Verifier, objective: nn.Module, split: Split, first: int, device: str
) -> Gradients:
    """Forward and backward through the next batches, as in training; no weight of the model changes."""
    batches = recipe.batches(split)
    sampling = run.folder.saved[0] / "sampling.safetensors"
    if sampling.is_file():
        batches.load_state_dict(read_tensors(sampling))
    task = Task(model.train(), objective.train()).to(device)
    norms = {name: None for name, parameter in task.named_parameters() if parameter.requires_grad}
    people = []
    for step in range(first, first + BATCHES):
        for part in batches[step]:
            people.append(part["person"].numpy())
            torch.manual_seed(step)
            part = {name: value.to(device) for name, value in part.items()}
            task(recipe.augment(part, step))[0].backward()
            for name, parameter in task.named_parameters():
                if parameter.grad is not None:
                    norms[name] = max(norms[name] or 0.0, float(parameter.grad.norm()))
            task.zero_grad(set_to_none=True)
    return Gradients(norms, people, [split.index.family_of[some] for some in people])


def gather(run: Run, recipe: Recipe, data: TwinData, roots: list[Path], device: str) -> Evidence:
    """Measure a run that has a checkpoint. roots: where pretrained weights may be attached. Raises UserError where the
    checkpoint does not fit."""
    config = recipe.config
    progress = run.progress()
    unchecked = []
    try:
        before, pretrained = model_before(run, recipe, roots)
    except UserError as error:
        before, pretrained = None, False
        unchecked.append(f"How far the weights have moved, colour order and normalisation: {error}")
    if before is not None and not pretrained:
        unchecked.append("Colour order and normalisation against the weights: the run began with random ones.")
    model = trained_model(run, recipe).to(device).eval()
    samples = {name: sample_of(data[name], config.seed) for name in ("train", "validation")}
    scores = {}
    for name, sample in samples.items():
        features = encode_sample(model, sample, config.encode_batch, device)
        embeddings = embeddings_of(model, features)
        scores[name] = {reading: score(model, features, sample, device, reading) for reading in model.readings}
        if len(embeddings) > 1:
            scores[name] |= {branch: cosines(rows, sample) for branch, rows in embeddings.items()}
    learning = trained_model(run, recipe)
    objective = recipe.objective(learning, people=len(data["train"].index.people))
    objective.load_state_dict(read_tensors(run.folder.saved[0] / "objective.safetensors"))
    gradients = gradients_of(recipe, run, learning, objective, data["train"], progress.batch, device)
    steps = config.epochs * recipe.batches(data["train"]).steps_per_epoch - progress.schedule_from
    return Evidence(
        recipe=recipe,
        history=run.history(),
        progress=progress,
        data=data,
        samples=samples,
        model=model,
        objective=objective.cpu(),
        before=before,
        pretrained=pretrained,
        scores=scores,
        embeddings=embeddings,
        gradients=gradients,
        settled=settled(recipe, progress.batch - progress.schedule_from, steps),
        device=device,
        unchecked=unchecked,
    )
