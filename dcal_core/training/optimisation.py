"""How fast each parameter learns, and when."""

import math

from torch import nn


def parameter_groups(task: nn.Module, *, layer_decay: float, head_lr_factor: float, weight_decay: float) -> list[dict]:
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
        {"params": parameters, "lr": 0.0, "factor": factor, "weight_decay": weight_decay * decays}
        for (factor, decays), parameters in groups.items()
    ]


def warmup_cosine(step: int, steps: int, *, lr: float, min_lr: float, warmup_share: float) -> float:
    """The learning rate at a step of so many: linear warm-up to lr, then a cosine down to min_lr."""
    warmup = warmup_share * steps
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2
