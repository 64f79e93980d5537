"""Parameters, twins, models and runs as small as they can be, for the tests of several folders."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.config.dcal import DCALConfig
from dcal_core.config.oaml import OAMLConfig
from dcal_core.config.shared import Config
from dcal_core.data.drawn.synthetic import generate
from dcal_core.data.images import ImageStore
from dcal_core.data.splits import Split
from dcal_core.data.twins import TwinIndex
from dcal_core.recipes.catalogue import new_model, recipe_of
from dcal_core.runs import RunFolder
from dcal_core.training.checkpoints import Progress, Run

SIZE = 32  # the side of an image
DATA = "the people and images"  # the fingerprint of the data that `new_run` is of
VALUES = {  # a run of DCAL that takes seconds, as given to a command
    "backbone": "hybrid_tiny",
    "allow_random_init": True,
    "image_size": SIZE,
    "families_per_batch": 2,
    "images_per_person": 2,
    "precision": "fp32",
    "loader_workers": 0,
}
ADAFACE_VALUES = {  # the same of AdaFace
    "recipe": "adaface",
    "backbone": "ir_18",
    "width": 8,
    "embedding_dropout": 0.0,
    "allow_random_init": True,
    "image_size": SIZE,
    "triplets_per_batch": 4,
    "precision": "fp32",
    "loader_workers": 0,
}
OAML_VALUES = {  # the same of OAML
    "recipe": "oaml",
    "backbone": "ir_18",
    "width": 8,
    "embedding_dropout": 0.0,
    "allow_random_init": True,
    "image_size": SIZE,
    "pairs_per_batch": 2,
    "images_per_person": 2,
    "precision": "fp32",
    "loader_workers": 0,
}


def dcal_config(**changes) -> DCALConfig:
    """The parameters of a small run of DCAL."""
    return DCALConfig(**VALUES | changes)


def adaface_config(**changes) -> AdaFaceConfig:
    """The parameters of a small run of AdaFace."""
    return AdaFaceConfig(**ADAFACE_VALUES | changes)


def oaml_config(**changes) -> OAMLConfig:
    """The parameters of a small run of OAML."""
    return OAMLConfig(**OAML_VALUES | changes)


def twins(families: int, images: int = 3, size: int = SIZE) -> Split:
    """Pairs of twins without names, with random images in memory."""
    people = tuple(f"{number:02d}" for number in range(2 * families))
    index = TwinIndex(
        name="train",
        people=people,
        families=tuple(zip(people[::2], people[1::2], strict=True)),
        paths=tuple(f"{person}/{n}.png" for person in people for n in range(images)),
        person_of=np.repeat(np.arange(len(people)), images),
        family_of=np.repeat(np.arange(families), 2),
    )
    shape = (len(index.paths), 3, size, size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Split(index, ImageStore(pixels, np.arange(len(pixels)), []))


def drawn_twins(folder: Path, train: int = 8, test: int = 2, images: int = 2, size: int = SIZE) -> Path:
    """A dataset of drawn families on the disk, as a command reads it; returns its folder."""
    for split, families in (("train", train), ("test", test)):
        shared = {"size": size, "difficulty": 0.5, "seed": 0, "workers": 1}
        generate(folder, split=split, families=families, images_per_person=images, **shared)
    return folder


def model_of(config: Config) -> nn.Module:
    """A new model without pretrained weights, the same one for the same seed."""
    torch.manual_seed(config.seed)
    return new_model(config, [])


def parts_of(config: Config, people: int) -> tuple[nn.Module, nn.Module]:
    """A new model and its recipe's objective, the same ones for the same seed."""
    model = model_of(config)
    return model, recipe_of(config).objective(model, people=people)


# ---- runs of two linear layers, for what is written and read


RUN_CONFIG = DCALConfig(seed=3)  # the parameters of `new_run`
ARCHITECTURE = {"backbone": "two linear layers"}


def linear_model(head: int = 2, **more: nn.Module) -> nn.Module:
    """A trunk of 72 weights, a head, and what else is wanted."""
    model = nn.ModuleDict({"trunk": nn.Linear(8, 8), "head": nn.Linear(8, head)} | more)
    model.architecture = ARCHITECTURE
    return model


class Parts:
    """A linear model, an objective and an optimiser that has taken steps; the objective's last parameter has never had
    a gradient."""

    def __init__(self, seed: int, steps: int = 2, head: int = 2):
        torch.manual_seed(seed)
        self.model = linear_model(head)
        self.objective = nn.ModuleDict({"weight": nn.Linear(head, 1), "idle": nn.Linear(1, 1, bias=False)})
        groups = [{"params": list(module.parameters())} for module in (self.model, self.objective)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        output = self.model["head"](self.model["trunk"](torch.randn(4, 8)))
        self.objective["weight"](output).square().sum().backward()
        self.optimizer.step()

    def modules(self, average=None) -> dict[str, nn.Module]:
        """The modules of a checkpoint."""
        modules = {"model": self.model, "objective": self.objective}
        return modules | ({"average": average.module} if average else {})

    def save(self, run: Run, average=None, scaler=None, sampling=None, **progress) -> None:
        """Write a checkpoint of them into a run."""
        run.save_last(self.modules(average), self.optimizer, scaler, Progress(**progress), sampling or {})

    def restore(self, run: Run, average=None, scaler=None) -> Progress:
        """Put a run's newest checkpoint into them; what the recipe had decided is left in `sampling`."""
        progress, self.sampling = run.restore(self.modules(average), self.optimizer, scaler)
        return progress

    def state(self) -> dict[str, torch.Tensor]:
        """All tensors, of the optimiser too."""
        state = self.optimizer.state_dict()["state"]
        moments = {f"{number}.{name}": value for number, kept in state.items() for name, value in kept.items()}
        return {**self.model.state_dict(), **self.objective.state_dict(prefix="objective."), **moments}


def new_run(folder: Path, config: Config = RUN_CONFIG, seed: int = 0, data: str = DATA, **progress) -> Run:
    """A run in a folder; with any progress given, a checkpoint of `Parts(seed)` too."""
    run = Run(RunFolder(folder), config, data)
    run.remember("faces", ["1", "2"])
    if progress:
        run.log(batch=progress["batch"], loss=1.0)
        Parts(seed).save(run, **progress)
    return run


def damage(checkpoint: Path) -> None:
    """Cut a file of a checkpoint short."""
    os.truncate(checkpoint / "optimizer.safetensors", 100)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states hold the same tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def files(folder: Path) -> dict[Path, bytes]:
    """The content of every file below a folder."""
    return {file: file.read_bytes() for file in sorted(Path(folder).rglob("*")) if file.is_file()}


def names(folder: Path) -> list[str]:
    """The names of what lies in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())
