"""Short runs of every recipe that learn, and faults to plant in them, each with the name by which it must be found."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from dcal_core.commands.train import train_run
from dcal_core.config.shared import Config
from dcal_core.data.batches import Batches
from dcal_core.data.images import ImageStore
from dcal_core.data.splits import Split, TwinData
from dcal_core.diagnosis.checks import diagnose
from dcal_core.diagnosis.evidence import Evidence, gather
from dcal_core.diagnosis.finding import Finding
from dcal_core.models import adaface, dcal
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.runs import RunFolder
from dcal_core.training.checkpoints import Run
from dcal_core.training.recipe import Recipe

STEPS = 120  # after which each of the runs below learns
CLEAR = dict.fromkeys(("rotation_deg", "shift", "scale", "brightness", "contrast"), 0.0) | {
    "margin_softmax": "cosface",
    "softmax_margin": 0.2,
    "softmax_scale": 16.0,
    "softmax_weight": 0.2,
    "label_smoothing": 0.0,
    "head_lr_factor": 1.0,
    "steps_per_epoch": STEPS // 3,
    "epochs": 3,
}
HEALTHY = {
    "dcal": tiny.dcal_config(
        **CLEAR,
        readout="local_tokens",
        pwca_first=0,
        twin_loss="supcon",
        families_per_batch=4,
        images_per_person=4,
        lr=2e-3,
        drop_path=0.0,
    ),
    "adaface": tiny.adaface_config(**CLEAR, twin_margin=0.3, triplets_per_batch=8, lr=2e-3),
    "oaml": tiny.oaml_config(**CLEAR, sampler="random", pairs_per_batch=4, lr=0.05, milestones=""),
}


class StopAfter:
    """A time budget that is used up after so many batches."""

    def __init__(self, batches: int):
        self.left = batches

    def need(self, seconds: float) -> None:
        """A validation takes none of it."""

    def used_up(self) -> bool:
        self.left -= 1
        return self.left <= 0


def train(config: Config, folder: Path, data: TwinData, batches: int = STEPS) -> Run:
    """Train a run, or go on with it, for so many batches at most; without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return train_run(config, RunFolder(folder), data, StopAfter(batches))[0]


def evidence_of(run: Run, data: TwinData) -> Evidence:
    """What a diagnosis measures on a run; without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return gather(run, recipe_of(run.config), data, [], "cpu")


def findings_of(run: Run, data: TwinData) -> list[Finding]:
    """The diagnosis of a run."""
    return diagnose(evidence_of(run, data))


# ---- data


def painted_twins(families: int, seed: int = 0, images: int = 4, size: int = tiny.SIZE) -> Split:
    """Families of coarse patterns in the colours of skin, with a small pattern of each twin's own, under changing light
    and noise, made in no time."""
    split = tiny.twins(families, images, size)
    random = np.random.default_rng(seed)

    def pattern(count: int, cells: int, strength: float) -> np.ndarray:
        coarse = torch.from_numpy(random.normal(0, strength, (count, 3, cells, cells)))
        return F.interpolate(coarse, (size, size), mode="bilinear").numpy()

    index = split.index
    family, person = pattern(families, 4, 25), pattern(2 * families, 8, 15)
    faces = family[index.family_of[index.person_of]] + person[index.person_of]
    light = random.normal(0, 10, (len(faces), 1, 1, 1))
    noise = random.normal(0, 8, faces.shape)
    skin = np.array([190, 140, 100]).reshape(3, 1, 1)
    pixels = (skin + faces + light + noise).clip(0, 255).astype(np.uint8)
    return Split(index, ImageStore(pixels, np.arange(len(pixels)), []))


def renamed(split: Split, name: str) -> Split:
    """A split of other people."""
    index = split.index
    names = {person: f"{name}{person}" for person in index.people}
    return replace(
        split,
        index=replace(
            index,
            name=name,
            people=tuple(names.values()),
            families=tuple(tuple(names[person] for person in family) for family in index.families),
            paths=tuple(f"{name}{path}" for path in index.paths),
        ),
    )


def painted(train: int = 24, validation: int = 12) -> TwinData:
    """Both splits of painted twins."""
    splits = {"train": painted_twins(train), "validation": renamed(painted_twins(validation, seed=1), "validation")}
    return TwinData(Path("painted"), "SYNTHETIC", splits)


def with_pixels(split: Split, change: Callable[[np.ndarray], np.ndarray]) -> Split:
    """A split whose images [N, 3, S, S] are changed."""
    pixels = change(np.asarray(split.images.images))
    return replace(split, images=ImageStore(pixels.astype(np.uint8), split.images.kept, []))


def every_pixel(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[TwinData], TwinData]:
    """A change of all images."""
    return lambda data: replace(data, splits={n: with_pixels(split, change) for n, split in data.splits.items()})


def relabelled(data: TwinData, person_of: np.ndarray) -> TwinData:
    """The data with the training images given to other people, sorted by person as an index is."""
    train = data["train"]
    order = np.argsort(person_of, kind="stable")
    index = replace(train.index, person_of=person_of[order], paths=tuple(train.index.paths[n] for n in order))
    images = ImageStore(np.asarray(train.images.images)[order], np.arange(len(order)), [])
    return replace(data, splits=data.splits | {"train": replace(train, index=index, images=images)})


def people_mixed(data: TwinData) -> TwinData:
    return relabelled(data, np.random.default_rng(0).permutation(data["train"].index.person_of))


def twins_mixed(data: TwinData) -> TwinData:
    index = data["train"].index
    person_of = index.person_of.copy()
    random = np.random.default_rng(0)
    for family in range(len(index.families)):
        places = np.flatnonzero(index.family_of[person_of] == family)
        person_of[places] = random.permutation(person_of[places])
    return relabelled(data, person_of)


def strangers_paired(data: TwinData) -> TwinData:
    """Each family's first twin with the next one's second."""
    train = data["train"]
    index = train.index
    firsts, seconds = np.array([[index.people.index(person) for person in family] for family in index.families]).T
    family_of = np.empty(len(index.people), int)
    family_of[firsts] = np.arange(len(firsts))
    family_of[np.roll(seconds, 1)] = np.arange(len(firsts))
    families = tuple(tuple(index.people[p] for p in np.flatnonzero(family_of == f)) for f in range(len(firsts)))
    index = replace(index, family_of=family_of, families=families)
    return replace(data, splits=data.splits | {"train": replace(train, index=index)})


def copied(data: TwinData) -> TwinData:
    """A sixth of the validation images are training images, a little darker."""
    theirs = np.asarray(data["train"].images.images)

    def change(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.copy()
        pixels[::6] = 0.9 * theirs[: len(pixels[::6])]
        return pixels

    return replace(data, splits=data.splits | {"validation": with_pixels(data["validation"], change)})


def few_families(data: TwinData) -> TwinData:
    """Six of the families to train on, too few to learn from."""
    train = data["train"]
    index = train.index.select_families(np.arange(6))
    images = train.images.batch(np.flatnonzero(np.isin(train.index.family_of[train.index.person_of], range(6)))).numpy()
    few = Split(index, ImageStore(images, np.arange(len(images)), []))
    return replace(data, splits=data.splits | {"train": few})


# ---- code


def frozen(patch: pytest.MonkeyPatch, recipe: type[Recipe]) -> None:
    """A recipe whose models take no gradient."""
    new_model = recipe.new_model
    patch.setattr(recipe, "new_model", lambda *given, **options: new_model(*given, **options).requires_grad_(False))


def normalised_twice(patch: pytest.MonkeyPatch, recipe: type[Recipe]) -> None:
    """Models that normalise what is normalised already."""
    for module in (adaface, dcal):
        square = module.square
        patch.setattr(module, "square", lambda images, side, square=square: (square(images, side) - 0.5) / 0.5)


def detached(patch: pytest.MonkeyPatch, recipe: type[Recipe]) -> None:
    """A recipe whose models have their first layers behind a detach."""
    new_model = recipe.new_model

    def behind_a_detach(*given, **options):
        model = new_model(*given, **options)
        first = model.backbone.input_layer if hasattr(model, "backbone") else model.vit.patch_embed
        first.register_forward_hook(lambda module, given, output: output.detach())
        return model

    patch.setattr(recipe, "new_model", behind_a_detach)


def pulled_together(patch: pytest.MonkeyPatch, recipe: type[Recipe]) -> None:
    """An objective that wants all embeddings on one line."""
    objective = recipe.objective

    def collapsing(self, model, people):
        real = objective(self, model, people)

        class Collapsing(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.real = real

            def forward(self, model, batch):
                _, logs = self.real(model, batch)
                found = model(batch["images"])
                rows = [F.normalize(found[branch].float(), dim=-1) for branch in model.widths if branch in found]
                loss = sum(1 - (unit @ unit.T).square().mean() for unit in rows)
                return loss, logs | {"loss": loss.detach()}

        return Collapsing()

    patch.setattr(recipe, "objective", collapsing)


def without_co_twins(patch: pytest.MonkeyPatch, recipe: type[Recipe]) -> None:
    """Batches of nobody but the first twin of each family, as an index without its pairs would give."""
    make = recipe.batches

    class Alone(Batches):
        def __init__(self, inner: Batches, family_of: np.ndarray):
            self.__dict__ |= inner.__dict__
            self.inner = inner
            self.first = torch.from_numpy(np.searchsorted(np.sort(family_of), np.arange(family_of.max() + 1)))
            self.family_of = torch.from_numpy(family_of)

        def __getitem__(self, step):
            return [part | {"person": self.first[self.family_of[part["person"]]]} for part in self.inner[step]]

    patch.setattr(recipe, "batches", lambda self, split: Alone(make(self, split), split.index.family_of))


@dataclass(frozen=True)
class Fault:
    """A fault: what is changed in the config of a run that learns, in its data or its code; after how many batches it
    must be found, and under which name; whether the run starts from the weights of one that has learnt."""

    name: str
    batches: int
    data: Callable[[TwinData], TwinData] = lambda data: data
    code: Callable[[pytest.MonkeyPatch, type[Recipe]], None] = lambda patch, recipe: None
    config: Callable[[Config], dict] = lambda config: {}
    from_trained: bool = False
    recipes: tuple[str, ...] = field(default_factory=lambda: tuple(HEALTHY))


def much_lower(config: Config) -> dict:
    return {"lr": 1e-4 * config.lr} | ({"min_lr": 0.0} if hasattr(config, "min_lr") else {})


UNRECOGNISABLE = {
    "rotation_deg": 180.0,
    "shift": 0.5,
    "scale": 0.5,
    "brightness": 1.0,
    "contrast": 1.0,
    "erase_prob": 1.0,
}
FAULTS = {
    "people mixed": Fault("labels of people mixed up", 4, people_mixed),
    "twins mixed": Fault("labels of co-twins mixed up", STEPS, twins_mixed),
    "strangers paired": Fault("strangers listed as co-twins", 4, strangers_paired),
    "blank": Fault("blank images", 4, every_pixel(np.zeros_like)),
    "blue files": Fault("colours exchanged in the files", 4, every_pixel(lambda pixels: pixels[:, ::-1])),
    "duplicates": Fault("duplicates across training and validation", 4, copied),
    "bgr": Fault("colour order against the weights", 4, every_pixel(lambda pixels: pixels[:, ::-1]), from_trained=True),
    "not normalised": Fault(
        "normalisation missing", 4, every_pixel(lambda pixels: 0.5 * pixels + 127), from_trained=True
    ),
    "normalised twice": Fault("normalisation doubled", 4, code=normalised_twice, from_trained=True),
    "lr too high": Fault("learning rate too high", 40, config=lambda config: {"lr": min(10.0, 100 * config.lr)}),
    "lr too low": Fault("learning rate too low", 50, config=much_lower),
    "frozen": Fault("everything frozen", 50, code=frozen),
    "detached": Fault("dead part", 4, code=detached),
    "no matching": Fault("dead part qaconv", 4, config=lambda config: {"local_weight": 0.0}, recipes=("oaml",)),
    "collapse": Fault("embeddings collapsed", STEPS, code=pulled_together),
    "no co-twins": Fault("batches without co-twins", 4, code=without_co_twins),
    "unrecognisable": Fault("underfitted", STEPS, config=lambda config: UNRECOGNISABLE),
    "six families": Fault("overfitted", STEPS, few_families),
}


def from_weights(config: Config, trained: Path) -> Config:
    """The parameters of a new run that starts from the weights of another one."""
    return config.replace(resume_from=str(trained), lr=0.5 * config.lr)  # with the same lr it would go on with that run


def plant(
    fault: Fault, recipe: str, folder: Path, data: TwinData, patch: pytest.MonkeyPatch, trained: Path | None = None
) -> list[Finding]:
    """Train a run with a fault in it and return its diagnosis. trained: a run that has learnt."""
    config = HEALTHY[recipe]
    config = config.replace(**fault.config(config))
    if fault.from_trained:
        config = from_weights(config, trained)
    fault.code(patch, type(recipe_of(config)))
    data = fault.data(data)
    return findings_of(train(config, folder, data, fault.batches), data)
