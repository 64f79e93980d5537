"""How far each map of a trained model can be believed, on pairs of co-twins that it has not seen."""

import numpy as np
import torch
from torch import nn

from dcal_core.data.drawn.synthetic import masks_of
from dcal_core.data.splits import TwinData
from dcal_core.explain.faithfulness import OWN_MARK, faithfulness
from dcal_core.verification.protocol import some_of_each_family, twin_pairs


def measure_maps(model: nn.Module, data: TwinData, pairs_per_family: int = 1, batch: int = 16, seed: int = 0) -> dict:
    """`faithfulness` of every map that the model has, on co-twin pairs of the test split, drawn evenly over families.

    model: in eval mode; data: with its test split. Returns for JSON `data`, the label; `pairs` and `families`, how many
    were measured; `left_out`, how many pairs were not, since one of the two drawn faces shows no mark of its own; and
    `maps`, the figures by name. It takes about 2 P + 180 encodings of each pair, P patches. ValueError where no family
    has a pair to measure.
    """
    index, images = data["test"].index, data["test"].images
    pairs, masks, left_out = twin_pairs(index), None, 0
    chosen = some_of_each_family(pairs, genuine=False, most=pairs_per_family, seed=seed)
    if data.synthetic and len(chosen):
        masks = np.stack([masks_of(data.root, [index.paths[i] for i in side[chosen]]) for side in (pairs.a, pairs.b)])
        marked = (masks == OWN_MARK).any((2, 3)).all(0)  # [B]
        chosen, masks, left_out = chosen[marked], torch.from_numpy(masks[:, marked]), int((~marked).sum())
    if not len(chosen):
        raise ValueError(f"maps are measured on pairs of co-twins: there are none, and {left_out} without marks")
    a, b = (images.batch(side[chosen]).to(next(model.parameters()).device) for side in (pairs.a, pairs.b))
    family = pairs.family[chosen]
    return {
        "data": data.label,
        "pairs": len(chosen),
        "families": len(np.unique(family)),
        "left_out": left_out,
        "maps": faithfulness(model, a, b, model.grid, family, masks, batch=batch, seed=seed),
    }
