"""SGD or AdamW with milestones: the optimiser and schedule of face recognition, for recipes that share it."""

import torch
from torch import nn

from dcal_core.config.shared import SGDMilestones
from dcal_core.training.recipe import Recipe

NORMS = nn.modules.batchnorm._BatchNorm  # of any number of dimensions


class SGDMilestonesRecipe(Recipe):
    """A recipe whose config has the fields of `SGDMilestones`."""

    config: SGDMilestones

    def optimizer(self, task: nn.Module) -> torch.optim.Optimizer:
        """Fused SGD or AdamW, which can skip a step on the device without waiting for it."""
        config = self.config
        groups = parameter_groups(task, config.head_lr_factor, config.weight_decay)
        if config.optimizer == "adamw":
            return torch.optim.AdamW(groups, fused=True)
        optimizer = torch.optim.SGD(groups, momentum=config.momentum, fused=True)
        if config.momentum:  # PyTorch's first step would leave its momentum without values where it is skipped
            for group in groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def lr_at(self, step: int, steps: int) -> float:
        """Linear warm-up to lr, which is multiplied by lr_gamma after each of the milestones."""
        config = self.config
        warmup = config.warmup_share * steps
        fallen = sum(step * config.epochs >= epoch * steps for epoch in config.falls)
        return config.lr * min(1.0, (step + 1) / (warmup + 1)) * config.lr_gamma**fallen


def parameter_groups(task: nn.Module, head_lr_factor: float, weight_decay: float) -> list[dict]:
    """Groups of parameters: new layers learn at head_lr_factor times the rate of pretrained ones; batch norms do not
    decay."""
    pretrained = {f"model.{name}" for name in task.model.pretrained_depths()}
    of_norms = {
        id(parameter) for module in task.modules() if isinstance(module, NORMS) for parameter in module.parameters()
    }
    groups = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            factor = 1.0 if name in pretrained else head_lr_factor
            groups.setdefault((factor, id(parameter) not in of_norms), []).append(parameter)
    return [
        {"params": parameters, "lr": 0.0, "factor": factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()
    ]
