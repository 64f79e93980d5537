"""How fast each parameter learns, and when."""

import math

from torch import nn

from dcal_core.config.shared import Config


def parameter_groups(task: nn.Module, config: Config) -> list[dict]:
    """AdamW groups: a pretrained layer learns at layer_decay ^ (layers above it), new layers at head_lr_factor; only
    matrices decay, and no embedding or class centre."""
    depths = {f"model.{name}": depth for name, depth in task.model.pretrained_depths().items()}
    groups = {}
    for name, p in task.named_parameters():
        if not p.requires_grad:
            continue
        factor = config.layer_decay ** depths[name] if name in depths else config.head_lr_factor
        decays = p.ndim >= 2 and not name.endswith(("pos_embed", "_token", "centres"))
        groups.setdefault((factor, decays), []).append(p)
    return [
        {"params": params, "lr": 0.0, "factor": factor, "weight_decay": config.weight_decay * decays}
        for (factor, decays), params in groups.items()
    ]


def lr_at(step: int, steps: int, config: Config) -> float:
    """The backbone's learning rate at a step: linear warm-up to lr, then a cosine down to min_lr."""
    warmup = config.warmup_share * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1.0, steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2
