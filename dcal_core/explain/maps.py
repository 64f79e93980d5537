"""Where a model looks in one image, as maps over the patch grid [g, g], from traced features.

The trace holds q and k after their norms and rotary positions, and the attention they give, so the maps are exact for
any backbone. They show where information flows, not why two faces differ: for that, `pair_maps.py` uses the score.
B images, H heads, T tokens (the last g x g are patches), L selected patches, M blocks of GLCA.
"""

import torch
from torch import Tensor, nn

from dcal_core.models.attention import attention_weights, rollout_row
from dcal_core.models.verifier import Features, Verifier


def layers_of(features: Features, name: str) -> list[Tensor]:
    """The traced tensors `q`, `k`, `x`, `map` or `glca` of all blocks, first to last; ValueError if there are none."""
    layers = [features.trace[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in features.trace))]
    if not layers:
        raise ValueError(f"these features hold no {name} of any block: encode with trace=True")
    return layers


def selected_of(features: Features) -> Tensor:
    """The indices [B, L], among all T tokens, that GLCA selected; ValueError if no GLCA was traced."""
    if "selected" not in features.trace:
        raise ValueError("these features hold no selection: the model has no GLCA, or encode with trace=True")
    return features.trace["selected"]


def on_grid(tokens: Tensor, grid: int) -> Tensor:
    """The patches of a row over all tokens [..., T] at their places, [..., g, g]; ValueError for more than T."""
    if tokens.shape[-1] < grid * grid:
        raise ValueError(f"a grid of {grid} x {grid} does not fit {tokens.shape[-1]} tokens: give the backbone's own")
    return tokens[..., -grid * grid :].unflatten(-1, (grid, grid))


def rollout_map(features: Features, grid: int, depth: int | None = None) -> Tensor:
    """How much of each patch reaches the CLS token in the first `depth` blocks, by default all: attention rollout
    (Abnar & Zuidema, 2020, arXiv 2005.00928), [B, g, g], each summing to 1; ValueError for a depth without a block."""
    maps = layers_of(features, "map")[:depth]
    if depth is not None and len(maps) != depth or not maps:
        raise ValueError(f"depth={depth}: give 1 to {len(layers_of(features, 'map'))}, the number of blocks")
    row = on_grid(rollout_row(maps), grid)
    return row / row.sum((-2, -1), keepdim=True)


@torch.no_grad()
def cls_attention(features: Features, grid: int) -> Tensor:
    """What CLS attends to in every block and head, fp32 [B, blocks, H, g, g]."""
    layers = zip(layers_of(features, "q"), layers_of(features, "k"), strict=True)
    rows = [attention_weights(q[:, :, :1], k)[:, :, 0] for q, k in layers]
    return on_grid(torch.stack(rows, 1), grid)


def selection_map(features: Features, grid: int) -> Tensor:
    """1 where GLCA selected the patch, else 0, [B, g, g]."""
    chosen = selected_of(features)
    row = torch.zeros(len(chosen), features.trace["x.0"].shape[1], device=chosen.device).scatter(1, chosen, 1.0)
    return on_grid(row, grid)


def glca_attention(features: Features) -> Tensor:
    """What CLS and the selected patches attend to in each GLCA block, fp32 [B, M, H, 1 + L, T]."""
    selected_of(features)
    return torch.stack(layers_of(features, "glca"), 1)


def pair_saliency(model: Verifier, a: Tensor, b: Tensor, grid: int) -> Tensor:
    """How strongly each patch of a and of b affects the score of the pair, |gradient x input|, [2, B, g, g].

    a, b: RGB images [B, 3, S, S], uint8 or float in [0, 1]; row i of a is compared with row i of b.
    """
    with torch.inference_mode(False), torch.enable_grad():
        sides = [(x / 255 if x.dtype == torch.uint8 else x).detach().clone().requires_grad_() for x in (a, b)]
        scores = model.compare_pairs(*(model.encode(side) for side in sides))
        gradients = torch.stack(torch.autograd.grad(scores.sum(), sides))  # [2, B, 3, S, S]
    effects = gradients * (torch.stack(sides).detach() - model.blank)
    return nn.functional.adaptive_avg_pool2d(effects.sum(2).abs(), grid)
