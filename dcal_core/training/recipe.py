"""What a system brings to training: the one thing that the training loop knows of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dcal_core.config.shared import Config
from dcal_core.data.augmentation import Augmentation
from dcal_core.data.batches import Batches, Part
from dcal_core.data.splits import Split
from dcal_core.distributed import rank, world_size
from dcal_core.models.verifier import Verifier
from dcal_core.training.checkpoints import Run
from dcal_core.training.curves import Panel


@dataclass(frozen=True)
class Cure:
    """A value of one parameter that may let a run learn which stays at chance; fits(config): where to try it."""

    parameter: str
    value: str
    fits: Callable[[Config], bool]


class Recipe(ABC):
    """One system's side of training; subclasses stand in `dcal_core.recipes`, one file each.

    `new_model` comes before anything is decoded. Then the loop calls, in this order: `batches` and
    `objective`; `start` in a new run whose model has learnt before; before each epoch `refresh`; for each part of a
    batch `augment` and the objective; for each batch `lr_at` and a step of the `optimizer`; in each validation
    `settle`. A run that stays at chance names its `cures`; a finished one is drawn by `curves`, and `export` writes it
    for other projects.
    """

    curves: tuple[Panel, ...]
    cures: tuple[Cure, ...] = ()  # the most likely first
    skips_layers = False  # whether some parameters get no gradient in some of the steps

    def __init__(self, config: Config):
        self.config = config
        self.augmentation = Augmentation(**{one.name: getattr(config, one.name) for one in fields(Augmentation)})

    @abstractmethod
    def new_model(self, input_roots: list[Path], pretrained: bool = True) -> Verifier:
        """A model to train, with its `architecture`; raises ConfigError. pretrained=False if a checkpoint brings all
        weights anyway; input_roots: where weights may be attached."""

    @abstractmethod
    def batches(self, split: Split) -> Batches:
        """Training batches by step, each a pure function of the seed, the step and the batches' own state."""

    def batches_of(self, kind: type[Batches], split: Split, **options) -> Batches:
        """Batches of a kind, with its own options and what all kinds take."""
        return kind(
            split.index,
            split.images,
            steps_per_epoch=self.config.steps_per_epoch,
            seed=self.config.seed,
            parts=self.config.accumulation,
            rank=rank(),
            world=world_size(),
            **options,
        )

    @abstractmethod
    def objective(self, model: nn.Module, people: int) -> nn.Module:
        """A module: objective(model, part) -> (loss, figures for the log)."""

    @abstractmethod
    def optimizer(self, task: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a module with `model` and `objective`; each parameter group has a `factor` of the learning
        rate. It must skip a step where its `found_inf` is 1, as PyTorch's fused optimisers do."""

    @abstractmethod
    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate at a step of so many, before each group's factor."""

    def augment(self, part: Part, seed: int) -> Part:
        """A part on its device with images in [0, 1], randomly changed, and with them whatever must turn too; a pure
        function of (part, seed)."""
        return part | {"images": self.augmentation(part["images"].float() / 255, seed=seed)}

    def refresh(self, model: nn.Module, batches: Batches, epoch: int) -> bool:
        """Let the batches of the coming epoch depend on the model; returns whether they have changed.

        epoch: counted from 0. What is decided belongs into the batches' `state_dict`, which is saved with every
        checkpoint, so that resuming stays exact. Of several processes, process 0 decides for all.
        """
        return False

    def start(self, model: nn.Module, objective: nn.Module, split: Split) -> None:  # noqa: B027  most need nothing
        """Prepare the objective of a new run for a model that has learnt before."""

    def settle(
        self, model: Verifier, score: Callable[[str], np.ndarray], genuine: np.ndarray, family: np.ndarray
    ) -> dict[str, float]:
        """Let a model that is being validated choose what follows from validation scores alone, such as how its
        readings are fused, and keep it in its buffers; returns figures for the log.

        score(reading): scores [P] of the validation pairs, which are `genuine` [P] or of co-twins, of families [P].
        """
        return {}

    def export(self, run: Run) -> list[Path]:
        """Write the best model as other projects read it, into the run's `exports`; returns the files."""
        return []
