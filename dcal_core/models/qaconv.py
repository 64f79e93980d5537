"""Query-adaptive convolution (QAConv): two faces are alike where the places of each find their match in the other.

Liao & Shao, ECCV 2020, arXiv 1904.10424. The names are those of the authors and of OAML, so that their weights fit.
N and M images; P places of C channels, each place of unit length.
"""

import math

import torch
from torch import Tensor, nn

BLOCK = 48  # images that are compared with as many others at once: 22 MB of correlations of 49 places
HIDDEN = 1e-3  # the least visibility: matches are divided by it


def blocks(features: Tensor, visible: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Features [N, C, P] and their visibility [N, P], BLOCK images at a time."""
    parts = features.split(BLOCK)
    return list(zip(parts, [None] * len(parts) if visible is None else visible.split(BLOCK), strict=True))


def places_of(features: Tensor, visible: Tensor | None) -> Tensor:
    """Features [N, C, P] place by place, [N, P, C]; with visibility v [N, P] one number longer, so that the product of
    two places is v_a v_b (1 + their correlation)."""
    places = features.mT
    if visible is None:
        return places
    longer = torch.cat([places, torch.ones_like(places[..., :1])], -1)  # [N, P, C + 1]
    return longer * visible.clamp(min=HIDDEN).unsqueeze(-1)


def seen(visible_a: Tensor | None, visible_b: Tensor | None) -> Tensor | None:
    """Visibility of the places of both faces of each pair, [N, P] twice -> [N, 2, P]."""
    return None if visible_a is None else torch.stack([visible_a, visible_b], 1).clamp(min=HIDDEN)


def seen_by_all(visible_a: Tensor | None, visible_b: Tensor | None) -> Tensor | None:
    """The same of all pairs, [N, P] and [M, P] -> [N, M, 2, P]."""
    if visible_a is None:
        return None
    return torch.stack(torch.broadcast_tensors(visible_a[:, None], visible_b), 2).clamp(min=HIDDEN)


def best(correlations: Tensor, dim: int) -> Tensor:
    """The maximum along a dimension; for its gradient the place is kept, and not all correlations."""
    return correlations.max(dim).values if correlations.requires_grad else correlations.amax(dim)


def neighbourhoods(places: int, window: int) -> Tensor:
    """The places at most `window` rows and columns away from each place of a square map, [P, K]; outside the map the
    nearest inside it stand in."""
    side = math.isqrt(places)
    steps = torch.arange(-window, window + 1)
    lines = (torch.arange(side)[:, None] + steps).clamp(0, side - 1)  # [side, 2 window + 1]
    return (lines[:, None, :, None] * side + lines[None, :, None, :]).reshape(places, -1)


def best_near(a: Tensor, b: Tensor, near: Tensor) -> Tensor:
    """The best match of each place of all a [N, P, C] among the places `near` [P, K] it of all b [M, P, C], [N, M,
    P]."""
    around = b[:, near].permute(1, 3, 0, 2).flatten(2)  # [P, C, M K]
    found = a.transpose(0, 1) @ around  # [P, N, M K]
    return best(found.unflatten(2, (len(b), -1)), 3).permute(1, 2, 0)


def pair_matches(
    a: Tensor, b: Tensor, visible_a: Tensor | None, visible_b: Tensor | None, near: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best match of each place of a and of b in the other image of pair i, and its place, [N, 2, P] each; near [P,
    K]: the places that are looked at for each, None for all."""
    correlations = places_of(a, visible_a) @ places_of(b, visible_b).mT  # [N, P, P]
    if near is not None:
        far = torch.ones_like(correlations[0], dtype=torch.bool).scatter_(1, near, False)
        correlations = correlations.masked_fill(far, -torch.inf)
    (of_a, in_b), (of_b, in_a) = correlations.max(2), correlations.max(1)  # [N, P] each
    return torch.stack([of_a, of_b], 1), torch.stack([in_b, in_a], 1)


class QAConv(nn.Module):
    """logit = BN(Σ_p w_p (BN(max_r S_pr) + BN(max_r S_rp)) + bias) of the correlations S of the places p of one face
    with the places r of the other; before training, twice the mean match.

    With the visibility v of both faces, 0 to 1, place p counts v_p of one face times v_p of the other: of aligned
    faces, what one hides says nothing in either. Where a match is looked for anywhere, it counts (1 + S_pr) v_r - 1
    too: however poorly the others match, a hidden place is the last choice.

    window: rows and columns around a place within which its match is looked for, which the papers do not have: aligned
    faces show the same place there; 0: anywhere.

    joint: the weights are in OAML's layout, 2 P of them, a's places first. Its logits depend on the order of a and b;
    these are their means over both orders, so that they do not.
    """

    def __init__(self, places: int = 49, joint: bool = False, window: int = 0):
        super().__init__()
        self.register_buffer("near", neighbourhoods(places, window) if window else None, persistent=False)
        self.bn = nn.BatchNorm1d(1)
        self.fc = nn.Linear(2 * places if joint else places, 1)
        self.logit_bn = nn.BatchNorm1d(1)
        self.biases = 1 if joint else 2  # in a logit: a layer of P weights is applied to both faces
        nn.init.constant_(self.fc.weight, 1 / places)
        nn.init.zeros_(self.fc.bias)

    def forward(self, a: Tensor, b: Tensor, visible_a: Tensor | None = None, visible_b: Tensor | None = None) -> Tensor:
        """Logits [N, M] of all a [N, C, P] with all b [M, C, P]; visible_a [N, P], visible_b [M, P]: both or neither.

        In training the batch norms see all pairs at once; else no more than the logits and a block is held.
        """
        rows = []
        for x, seen_x in blocks(a, visible_a):
            row = []
            for y, seen_y in blocks(b, visible_b):
                matches = self.best_matches(places_of(x, self.chosen_by(seen_x)), places_of(y, self.chosen_by(seen_y)))
                row.append(matches if self.training else self.judge(matches, seen_by_all(seen_x, seen_y)))
            rows.append(torch.cat(row, 1))
        found = torch.cat(rows)
        return self.judge(found, seen_by_all(visible_a, visible_b)) if self.training else found

    def chosen_by(self, visible: Tensor | None) -> Tensor | None:
        """The visibility by which matches are chosen: none within a window, where another place is no better answer."""
        return visible if self.near is None else None

    def best_matches(self, x: Tensor, y: Tensor) -> Tensor:
        """The best matches of the places of all x [n, P, C] in all y [m, P, C], and of those of y, [n, m, 2, P]."""
        if self.near is not None:
            return torch.stack([best_near(x, y, self.near), best_near(y, x, self.near).transpose(0, 1)], 2)
        correlations = x.flatten(0, 1) @ y.flatten(0, 1).T
        correlations = correlations.view(len(x), x.shape[1], len(y), y.shape[1])  # [n, P, m, P]
        return torch.stack([best(correlations, 3).mT, best(correlations, 1)], 2)

    def pairs(self, a: Tensor, b: Tensor, visible_a: Tensor | None = None, visible_b: Tensor | None = None) -> Tensor:
        """Logits [N] of image i of a with image i of b, without those of all with all."""
        matches, _ = pair_matches(a, b, self.chosen_by(visible_a), self.chosen_by(visible_b), self.near)
        return self.judge(matches, seen(visible_a, visible_b))

    def parts(
        self, a: Tensor, b: Tensor, visible_a: Tensor | None = None, visible_b: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What each place of a and of b adds to the logit of pair i, but for a constant, and the place of the other
        image that is its match, [N, 2, P] each; in eval mode."""
        matches, where = pair_matches(a, b, self.chosen_by(visible_a), self.chosen_by(visible_b), self.near)
        gain = self.logit_bn.weight / (self.logit_bn.running_var + self.logit_bn.eps).sqrt()
        return gain * self.evidence(matches, seen(visible_a, visible_b)), where

    def judge(self, matches: Tensor, visible: Tensor | None) -> Tensor:
        """Logits [...] of the best matches of all places of a and of b, and how far each is visible, [..., 2, P]."""
        total = self.evidence(matches, visible).sum((-2, -1)) + self.biases * self.fc.bias
        return self.logit_bn(total.reshape(-1, 1)).view_as(total)

    def evidence(self, matches: Tensor, visible: Tensor | None) -> Tensor:
        """What each place of a and of b adds to the sum that becomes the logit, [..., 2, P]."""
        if self.chosen_by(visible) is not None:
            matches = matches / visible - 1
        weight = self.fc.weight.unflatten(1, (-1, matches.shape[-1])).mean(1)  # [1, P]
        evidence = self.bn(matches.reshape(-1, 1, matches.shape[-1])).view_as(matches) * weight
        return evidence if visible is None else evidence * visible.prod(-2, keepdim=True)
