"""Every map by name, with what it means; and one pair with all its maps, as figures, files and the browser show it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from dcal_core.explain.maps import cls_attention, glca_attention, on_grid, rollout_map, selection_map
from dcal_core.explain.pair_maps import EncodedPairs, encode_pairs, match_map, matches, place_map, tells_apart
from dcal_core.models.verifier import Verifier

MARKED = "Outlined in white on the maps: the marks that this face has and the other has not."


@dataclass(frozen=True)
class Map:
    """A kind of map: `make(pairs)` gives fp32 [2, B, g, g], for the faces of a and of b.

    unit: of its values, in words. signed: + speaks for one person, - for two; else higher is more.
    quick: costs at most 4 encodings of the pair, and not one for each patch.
    by: 0-based keyword arguments that `make` takes too, "layer" or "head".
    needs: the start of the traced names that it is made from; "" if any model has the map.
    """

    make: Callable[..., Tensor]
    title: str
    meaning: str
    unit: str = "points of score"
    signed: bool = False
    quick: bool = True
    by: tuple[str, ...] = ()
    needs: str = ""

    @property
    def file_name(self) -> str:
        """The title as a part of a file's name."""
        return self.title.lower().replace(",", "").replace(" ", "_")

    def fits(self, pairs: EncodedPairs) -> bool:
        """Whether the model of these pairs has what the map shows."""
        return not self.needs or any(name.startswith(self.needs) for name in pairs.features.trace)


def _thorough(pairs: EncodedPairs) -> Tensor:
    """The geometric mean of the occlusion map and of `distinctive`, whose errors lie in different places."""
    both = tells_apart(pairs, *pairs.occluded).clamp(min=0) * pairs.distinctive.clamp(min=0)
    return both.sqrt()


def _rollout(pairs: EncodedPairs, layer: int | None = None) -> Tensor:
    depth = None if layer is None else layer + 1
    return rollout_map(pairs.features, pairs.grid, depth).unflatten(0, (2, -1))


def _cls_attention(pairs: EncodedPairs, layer: int = -1, head: int | None = None) -> Tensor:
    heads = cls_attention(pairs.features, pairs.grid)[:, layer]  # [G, H, g, g]
    return (heads.mean(1) if head is None else heads[:, head]).unflatten(0, (2, -1))


def _glca_attention(pairs: EncodedPairs) -> Tensor:
    weights = glca_attention(pairs.features)[:, -1, :, 1:]  # [G, H, L, T]: last block, without CLS
    return on_grid(weights.mean((1, 2)), pairs.grid).unflatten(0, (2, -1))


MAPS = {
    "distinctive": Map(
        make=lambda pairs: pairs.distinctive.clamp(min=0),
        title="What tells them apart",
        meaning="Patches that make this face like itself and not like the other one.",
    ),
    "occlusion": Map(
        make=_thorough,
        title="What tells them apart, thorough",
        meaning="What tells them apart, found by covering one patch after the other.",
        quick=False,
    ),
    "contribution": Map(
        make=lambda pairs: pairs.occluded[1],
        title="For and against one person",
        meaning="How far the score falls (+) or rises (-) when the patch is covered.",
        quick=False,
        signed=True,
    ),
    "place": Map(
        make=place_map,
        title="Score by place",
        meaning="How much each place adds to the score (+) or takes from it (-).",
        signed=True,
        needs="place.",
    ),
    "match": Map(
        make=match_map,
        title="Matching patches",
        meaning="Whether a patch has a better (+) or worse (-) match in the other face than most patches have.",
        unit="in cosine",
        signed=True,
        needs="q.",
    ),
    "local": Map(
        make=lambda pairs: on_grid(pairs.places[0], pairs.grid).unflatten(0, (2, -1)),
        title="Local matches",
        meaning="How far the match of each place in the other face speaks for one person (+) or for two (-).",
        unit="points of local score",
        signed=True,
        needs="visible",
    ),
    "visible": Map(
        make=lambda pairs: on_grid(pairs.features.trace["visible"], pairs.grid).unflatten(0, (2, -1)),
        title="What is visible",
        meaning="How sure the model is that nothing covers the place.",
        unit="(visible)",
        needs="visible",
    ),
    "rollout": Map(
        make=_rollout,
        title="Attention rollout",
        meaning="How much of each patch reaches the summary token through all layers. GLCA selects its patches by it.",
        by=("layer",),
        unit="of all attention",
        needs="q.",
    ),
    "cls_attention": Map(
        make=_cls_attention,
        title="CLS attention",
        meaning="What the summary token attends to in the last layer, on average over the heads.",
        by=("layer", "head"),
        unit="of all attention",
        needs="q.",
    ),
    "selection": Map(
        make=lambda pairs: selection_map(pairs.features, pairs.grid).unflatten(0, (2, -1)),
        title="GLCA selection",
        meaning="The patches that global-local attention looks at again.",
        unit="(selected)",
        needs="selected",
    ),
    "glca_attention": Map(
        make=_glca_attention,
        title="GLCA attention",
        meaning="What the selected patches attend to in their second look, on average over the heads.",
        unit="of all attention",
        needs="selected",
    ),
}


class PairView:
    """Two faces uint8 [2, 3, S, S] with their score and maps, as arrays on the CPU; each is computed once.

    names: how the two are called. marks: where drawn faces truly differ, bool [2, S, S], or None. P = g x g patches.
    """

    def __init__(self, model: Verifier, faces: Tensor, names: tuple[str, str], marks: np.ndarray | None = None):
        self.names = names
        self.marks = marks
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
        """For each patch of each face its match in the other, [2, P]: the model's own, or the most similar one nearby;
        None without tokens."""
        if MAPS["local"].fits(self.pairs):
            return self.pairs.places[1].cpu().numpy()
        return matches(self.pairs)[1].cpu().numpy() if MAPS["match"].fits(self.pairs) else None

    def _map(self, name: str, **choice: int) -> np.ndarray:
        """A map of MAPS, fp32 [2, g, g]; choice: `layer` and `head`, for maps that take them."""
        return MAPS[name].make(self.pairs, **choice)[:, 0].cpu().numpy()
