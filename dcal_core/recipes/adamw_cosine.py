"""AdamW under a warm-up and a cosine: the optimiser and schedule that several recipes share."""

import torch
from torch import nn

from dcal_core.config.shared import AdamWCosine
from dcal_core.training.optimisation import parameter_groups, warmup_cosine
from dcal_core.training.recipe import Recipe


class AdamWCosineRecipe(Recipe):
    """A recipe whose config has the fields of `AdamWCosine`."""

    config: AdamWCosine

    def optimizer(self, task: nn.Module) -> torch.optim.AdamW:
        """Fused AdamW, which can skip a step on the device without waiting for it."""
        groups = parameter_groups(
            task,
            layer_decay=self.config.layer_decay,
            head_lr_factor=self.config.head_lr_factor,
            weight_decay=self.config.weight_decay,
        )
        return torch.optim.AdamW(groups, fused=True)

    def lr_at(self, step: int, steps: int) -> float:
        """Linear warm-up to lr, then a cosine down to min_lr."""
        config = self.config
        return warmup_cosine(step, steps, lr=config.lr, min_lr=config.min_lr, warmup_share=config.warmup_share)
