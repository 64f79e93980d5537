"""Where a model looks, as maps over the patch grid [g, g]: functions of encoded features, without hooks.

Rollout and selection tell which patches GLCA looks at again; they do not tell why two faces differ. The saliency of the
pair's own score does that better (measured on drawn twins, whose true differences are known).
"""

import torch
from torch import Tensor, nn

from dcal_core.models.attention import attention_map, rollout_row
from dcal_core.models.features import Features


def layers_of(features: Features, name: str) -> list[Tensor]:
    """The traced tensors `q`, `k` or `x` of all blocks, first to last; `features` come from encode(trace=True)."""
    return [features.trace[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in features.trace))]


def rollout_map(features: Features, grid: int) -> Tensor:
    """How much each patch has gone into the CLS token by attention rollout, [B, g, g], each summing to 1."""
    maps = map(attention_map, layers_of(features, "q"), layers_of(features, "k"))
    row = rollout_row(list(maps))[:, -grid * grid :]
    return (row / row.sum(-1, keepdim=True)).unflatten(1, (grid, grid))


def selection_map(features: Features, grid: int) -> Tensor:
    """1 where GLCA selected the patch, else 0, [B, g, g]."""
    chosen = features.trace["selected"]
    tokens = features.trace["x.0"].shape[1]
    row = torch.zeros(len(chosen), tokens, device=chosen.device).scatter(1, chosen, 1.0)
    return row[:, -grid * grid :].unflatten(1, (grid, grid))


def pair_saliency(model: nn.Module, a: Tensor, b: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """How strongly each patch of a and of b bears on the score of the pair, |gradient x input|, each [B, g, g].

    a, b: RGB images [B, 3, S, S], uint8 or float in [0, 1]; row i of a is compared with row i of b.
    """
    with torch.inference_mode(False), torch.enable_grad():
        sides = [(x / 255 if x.dtype == torch.uint8 else x).detach().clone().requires_grad_() for x in (a, b)]
        scores = model.compare(*(model.encode(side) for side in sides)).diagonal()
        gradients = torch.autograd.grad(scores.sum(), sides)
    maps = []
    for side, gradient in zip(sides, gradients, strict=True):
        weight = (gradient * (side.detach() - model.mean)).sum(1, keepdim=True).abs()  # [B, 1, S, S]
        maps.append(nn.functional.adaptive_avg_pool2d(weight, grid)[:, 0])
    return maps[0], maps[1]
