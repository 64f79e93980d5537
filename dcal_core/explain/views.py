"""One pair as it is shown: folder, notebook and browser draw from it, and what they ask for is computed once."""

from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from dcal_core.explain.pair_maps import encode_pairs, matches
from dcal_core.explain.registry import MAPS


class PairView:
    """Two faces of uint8 [2, 3, S, S] and all that a model has to say about them, as arrays on the CPU.

    names: how the two are called. marks: where drawn faces truly differ, bool [2, S, S], or None. P = g x g patches.
    """

    def __init__(self, model: nn.Module, faces: Tensor, names: tuple[str, str], marks: np.ndarray | None = None):
        self.names, self.marks = names, marks
        self.faces = faces.permute(0, 2, 3, 1).numpy()  # [2, S, S, 3]
        faces = faces.to(next(model.parameters()).device)
        self.pairs = encode_pairs(model, faces[:1], faces[1:], model.grid)
        self.map = lru_cache(maxsize=None)(self._map)

    @cached_property
    def score(self) -> float:
        """How alike the model finds the two."""
        with torch.no_grad():
            return self.pairs.model.compare(self.pairs.features[:1], self.pairs.features[1:]).item()

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The names of the maps that this model has."""
        return tuple(name for name, kind in MAPS.items() if kind.fits(self.pairs))

    @cached_property
    def depth(self) -> tuple[int, int]:
        """How many layers and heads the model's attention has; 0 and 0 without any."""
        queries = [tensor for name, tensor in self.pairs.features.trace.items() if name.startswith("q.")]
        return (len(queries), queries[0].shape[1]) if queries else (0, 0)

    @cached_property
    def matches(self) -> np.ndarray | None:
        """For each patch of each face the most alike one nearby in the other, [2, P]; None without tokens."""
        return matches(self.pairs)[1].cpu().numpy() if MAPS["match"].fits(self.pairs) else None

    def _map(self, name: str, **choice: int) -> np.ndarray:
        """A map of MAPS, fp32 [2, g, g]; choice: a `layer`, a `head`, where the kind of map has such."""
        return MAPS[name].make(self.pairs, **choice)[:, 0].cpu().numpy()
