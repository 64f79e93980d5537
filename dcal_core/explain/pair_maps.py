"""Why a model finds two faces alike or not, as maps over the patch grid of each face, from the pair's own score.

Two numbers are measured for each patch: how much it adds to the score of its face with itself (`own`), and how much to
the score with the other face (`shared`). Their difference tells the faces apart. A patch is measured by removing it,
that is, by showing the local mean in its place.
B pairs, G = 2 B faces: those of a, then those of b; P = g x g patches. Maps are fp32 [2, B, g, g].
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dcal_core.explain.maps import layers_of, on_grid
from dcal_core.models.verifier import Features, Verifier

REACH = 0.75  # patches from a patch's middle to the edges of its window: marks rarely fit the grid
SPARING = 4  # power of `alike`; with 1 so much was subtracted on marks that other places were hottest (drawn twins)


def local_mean(faces: Tensor, grid: int) -> Tensor:
    """The mean of the 1.5 x 1.5 patches around each pixel of faces [G, 3, S, S]: what replaces a removed patch."""
    reach = max(1, round(REACH * faces.shape[-1] / grid))
    across = F.avg_pool2d(faces, (1, 2 * reach + 1), 1, (0, reach), count_include_pad=False)
    return F.avg_pool2d(across, (2 * reach + 1, 1), 1, (reach, 0), count_include_pad=False)


def _inside(size: int, grid: int, device=None) -> Tensor:
    """Which of `size` pixels along a side lie in the window of each of `grid` patches, 1 inside and else 0, [g, S]."""
    middles = (torch.arange(grid, device=device) + 0.5) * size / grid
    pixels = torch.arange(size, device=device) + 0.5
    return ((pixels - middles[:, None]).abs() <= REACH * size / grid).float()


def windows(size: int, grid: int, device=None) -> Tensor:
    """The 1.5 x 1.5 patches around each patch of a face of `size` pixels, 1 inside and else 0, [P, 1, S, S]."""
    inside = _inside(size, grid, device)
    return (inside[:, None, :, None] * inside[None, :, None, :]).flatten(0, 1).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """B pairs of faces, encoded once for all their maps; what several maps need is computed on first use.

    faces: float RGB in [0, 1], [G, 3, S, S]; features: traced, [G]; grid: g.
    """

    model: Verifier
    faces: Tensor
    features: Features
    grid: int

    @cached_property
    def partner(self) -> Tensor:
        """The face that each face is compared with, [G]."""
        return torch.arange(len(self.faces), device=self.faces.device).roll(len(self.faces) // 2)

    @cached_property
    def itself(self) -> Features:
        """The features of each face, without the trace, [G]."""
        return Features(self.features.parts)

    @cached_property
    def other(self) -> Features:
        """The features of the other face of the pair, [G]."""
        return self.itself[self.partner]

    @cached_property
    def alike(self) -> Tensor:
        """The score with the other face as a share of the score with itself, clipped to 0 to 1, [G]."""
        with torch.inference_mode(False), torch.no_grad():
            own = self.model.compare_pairs(self.itself, self.itself).float()
            shared = self.model.compare_pairs(self.itself, self.other).float()
            return (shared / own).clamp(0, 1)

    @cached_property
    def taken_off(self) -> Tensor:
        """How much of `shared` is subtracted from `own`, 0 to 1, [G]: all if both faces are the same, else far less."""
        return self.alike**SPARING

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """What each place of both faces adds to the score, and the place of the other face that it matches, [G, P]."""
        with torch.inference_mode(False), torch.no_grad():
            half = len(self.faces) // 2
            found = self.model.match_places(self.itself[:half], self.itself[half:])  # [B, 2, P] each
            return tuple(one.transpose(0, 1).flatten(0, 1) for one in found)

    @cached_property
    def distinctive(self) -> Tensor:
        """`tells_apart` to first order, all windows at once and signed, [2, B, g, g].

        Integrated gradients (Sundararajan et al., 2017, arXiv 1703.01365) from the local mean to the face, by the
        midpoint rule: at the face itself the score with itself is at its maximum, where its gradient is zero.
        """
        with torch.inference_mode(False), torch.enable_grad():
            change = self.faces - local_mean(self.faces, self.grid)
            halfway = (self.faces - change / 2).requires_grad_()
            seen = self.model.encode(halfway)
            own = self.model.compare_pairs(seen, self.itself)
            shared = self.model.compare_pairs(seen, self.other)
            (gradient,) = torch.autograd.grad((own - self.taken_off * shared).sum(), halfway)
        inside = _inside(self.faces.shape[-1], self.grid, self.faces.device)
        effect = (gradient * change).sum(1)  # [G, S, S]
        return torch.einsum("gyx,iy,jx->gij", effect, inside, inside).unflatten(0, (2, -1))

    @cached_property
    def occluded(self) -> tuple[Tensor, Tensor]:
        """`own` and `shared`, each [2, B, g, g]: what the scores lose when a window is occluded (Zeiler & Fergus, 2014,
        arXiv 1311.2901). P encodings of each pair."""
        with torch.inference_mode(False), torch.no_grad():
            masks = windows(self.faces.shape[-1], self.grid, self.faces.device)
            means = local_mean(self.faces, self.grid)
            lost = []
            for i, (face, mean) in enumerate(zip(self.faces, means, strict=True)):
                both = Features.cat([self.itself[i : i + 1], self.other[i : i + 1]])
                rest = [self.model.encode(torch.lerp(face, mean, some)) for some in masks.split(64)]
                lost.append(self.model.compare(both[:1], both) - self.model.compare(Features.cat(rest), both))  # [P, 2]
        own, shared = on_grid(torch.stack(lost, 1).float().permute(2, 1, 0), self.grid).unflatten(1, (2, -1))
        return own, shared


def encode_pairs(model: Verifier, a: Tensor, b: Tensor, grid: int) -> EncodedPairs:
    """Encode pairs once for all their maps; row i of a is compared with row i of b.

    a, b: RGB images [B, 3, S, S], uint8 or float in [0, 1], on the model's device. grid: g, the model's own to map
    attention.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or a.shape[2] != a.shape[3] or not len(a):
        raise ValueError(f"a and b must both be [B, 3, S, S] with B at least 1, got {[*a.shape]} and {[*b.shape]}")
    if not 1 <= grid <= a.shape[-1]:
        raise ValueError(f"grid={grid}: give 1 to {a.shape[-1]}, the size of the images")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode, where maps would change its statistics: call model.eval()")
    with torch.inference_mode(False), torch.no_grad():
        faces = torch.cat([x / 255 if x.dtype == torch.uint8 else x.float() for x in (a, b)]).clone()
        return EncodedPairs(model, faces, model.encode(faces, trace=True), grid)


def tells_apart(pairs: EncodedPairs, own: Tensor, shared: Tensor) -> Tensor:
    """`own` less `shared`, which counts the more, the more alike the faces are; all [2, B, g, g].

    As Williford, May & Byrne's triplet (2020, arXiv 2008.00916) with the face as its own mate: 0 for equal images.
    """
    return own - pairs.taken_off.unflatten(0, (2, -1))[..., None, None] * shared


def matches(pairs: EncodedPairs, window: int = 1) -> tuple[Tensor, Tensor]:
    """For each patch of each face the cosine to the most similar patch of the other face at most `window` patches away,
    and that patch, from 0 to P - 1; both [G, P]. The last tokens, less their face's mean, are compared."""
    tokens = layers_of(pairs.features, "x")[-1][:, -(pairs.grid**2) :].float()
    tokens = F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
    place = torch.stack(torch.meshgrid(*[torch.arange(pairs.grid, device=tokens.device)] * 2, indexing="ij"), -1)
    place = place.flatten(0, 1)  # [P, 2]
    far = (place[:, None] - place).abs().amax(-1) > window
    best, where = (tokens @ tokens[pairs.partner].mT).masked_fill(far, -torch.inf).max(-1)
    return best, where


def match_map(pairs: EncodedPairs) -> Tensor:
    """How well each patch matches one nearby in the other face (`matches`), above (+) or below (-) the face's mean."""
    best, _ = matches(pairs)
    return on_grid(best - best.mean(1, keepdim=True), pairs.grid).unflatten(0, (2, -1))


def place_parts(features: Features) -> dict[str, Tensor]:
    """The traced `place.<branch>` by branch, [G, P, w]; empty if the score is no sum over places."""
    return {name.removeprefix("place."): part for name, part in features.trace.items() if name.startswith("place.")}


@torch.no_grad()
def place_map(pairs: EncodedPairs) -> Tensor:
    """What each place subtracts from (-) or adds to (+) a full score of 1, the same for both faces.

    1 - score is half the squared distance of the unit embeddings: a sum over places, CLS and constants.
    """
    by_branch = place_parts(pairs.features)
    if not by_branch:
        raise ValueError("the score has no parts by place: that takes the cosine and a readout by place")
    branches = pairs.features.parts
    maps = 0
    for branch, parts in by_branch.items():
        unit = F.normalize(branches[branch].float(), dim=-1)[:, -parts.shape[-1] :]  # [G, width / 2]
        apart = unit - unit[pairs.partner]
        placed = parts - parts[pairs.partner]
        maps = maps - torch.einsum("bpc,bc->bp", placed, apart) / (2 * len(branches))
    return on_grid(maps, pairs.grid).unflatten(0, (2, -1))
