"""Training steps as a recipe takes them, augmentation and optimiser included, on one batch of random faces."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.speed.subjects import PEOPLE, PRECISIONS, random_store, twin_index
from dcal_core.config.shared import Config
from dcal_core.data.splits import Split
from dcal_core.environment import fit_precision
from dcal_core.recipes.catalogue import recipe_of
from dcal_core.training.task import Task

FAMILIES, IMAGES = 8, 4  # images of each person; enough for a batch of any preset


class Stepper:
    """A config's model and optimiser on a device; `compiler` names a backend of torch.compile, "" for none."""

    def __init__(self, config: Config, device: str, compiler: str = ""):
        torch.manual_seed(0)
        self.recipe = recipe_of(config)
        model = self.recipe.new_model([], pretrained=False)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        if compiler:
            model.compile(backend=compiler)
        self.task = Task(model, self.recipe.objective(model, PEOPLE)).to(device)
        self.optimizer = self.recipe.optimizer(self.task)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * config.lr
        index = twin_index(FAMILIES, IMAGES)
        split = Split(index, random_store(len(index.paths), config.image_size))
        self.part = {name: tensor.to(device) for name, tensor in self.recipe.batches(split)[0][0].items()}
        precision = fit_precision(config.precision)
        self.autocast = partial(torch.autocast, device, PRECISIONS[precision], enabled=precision != "fp32")
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    @property
    def images(self) -> int:
        """Images in the batch."""
        return len(self.part["images"])

    def loss(self) -> Tensor:
        """The loss of the batch, []: augmentation, forward and objective."""
        torch.manual_seed(0)  # of stochastic depth
        with self.autocast():
            return self.task(self.recipe.augment(self.part, seed=0))[0]

    def train(self) -> None:
        """One training step: the loss, backward, optimiser."""
        self.scaler.scale(self.loss()).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
