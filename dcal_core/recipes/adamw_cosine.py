"""AdamW under a warm-up and a cosine: the optimiser and schedule that several recipes share."""

import math

import torch
from torch import nn

from dcal_core.config.shared import AdamWCosine
from dcal_core.training.recipe import Recipe


class AdamWCosineRecipe(Recipe):
    """A recipe whose config has the fields of `AdamWCosine`."""

    config: AdamWCosine

    def optimizer(self, task: nn.Module) -> torch.optim.AdamW:
        """Fused AdamW, which can skip a step on the device without waiting for it."""
        config = self.config
        return torch.optim.AdamW(
            parameter_groups(task, config.layer_decay, config.head_lr_factor, config.weight_decay), fused=True
        )

    def lr_at(self, step: int, steps: int) -> float:
        """Linear warm-up to lr, then a cosine down to min_lr."""
        lr = self.config.lr
        min_lr = self.config.min_lr
        warmup = self.config.warmup_share * steps
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        share = (step - warmup) / max(1.0, steps - warmup)
        return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(task: nn.Module, layer_decay: float, head_lr_factor: float, weight_decay: float) -> list[dict]:
    """AdamW groups: a pretrained layer learns at layer_decay ^ (layers above it), new layers at head_lr_factor; only
    matrices decay, and no embedding or class centre."""
    depths = {f"model.{name}": depth for name, depth in task.model.pretrained_depths().items()}
    groups = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = layer_decay ** depths[name] if name in depths else head_lr_factor
        decays = parameter.ndim >= 2 and not name.endswith(("pos_embed", "_token", "centres"))
        groups.setdefault((factor, decays), []).append(parameter)
    return [
        {"params": parameters, "lr": 0.0, "factor": factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]
