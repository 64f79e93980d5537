"""How alike two images are, from embeddings of unit length: higher = more alike.

Each similarity is called with a [Na, W] and b [Nb, W] for scores of all with all, [Na, Nb]; its `pairs` takes a and b
[N, W] and scores row i with row i, [N], without a matrix.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cosine(nn.Module):
    """The cosine, in [-1, 1]; nothing to learn."""

    def __init__(self, width: int, temperature: float):
        super().__init__()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1)


def negative_distance(cosines: Tensor) -> Tensor:
    """Minus the Euclidean distance between unit vectors of these cosines, of the same shape."""
    return -(2 - 2 * cosines).clamp(min=1e-12).sqrt()  # the gradient of a root at 0 is infinite


class Euclidean(Cosine):
    """Minus the Euclidean distance, in [-2, 0]: the cosine's order on another scale."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return negative_distance(super().forward(a, b))

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return negative_distance(super().pairs(a, b))


def all_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products [Na, Nb, heads] of all a [Na, heads, d] with all b [Nb, heads, d], head by head."""
    return torch.einsum("ahd,bhd->abh", a, b)


def pair_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products [N, heads] of each a [N, heads, d] with its b [N, heads, d], head by head."""
    return (a * b).sum(-1)


class Learned(nn.Module):
    """The mean of cosines in `heads` learnt projections, weighted by attention over the heads, in [-1, 1].

    The better a pair's queries and keys agree in a head, the larger its weight (dot-product attention, Vaswani et al.,
    2017, arXiv 1706.03762, over heads instead of tokens). The lower the temperature, the more one head decides.
    """

    def __init__(self, width: int, temperature: float, heads: int = 8, hidden: int = 512):
        super().__init__()
        self.temperature = temperature
        self.heads = heads
        self.query = nn.Linear(width, hidden, bias=False)
        self.key = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(width, hidden, bias=False)
        nn.init.orthogonal_(self.value.weight)  # keeps angles: before training this is nearly the plain cosine ...
        nn.init.zeros_(self.key.weight)  # ... with equal weights for all heads

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self._attend(a, b, all_dots)

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return self._attend(a, b, pair_dots)

    def _attend(self, a: Tensor, b: Tensor, dots: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Cosines of the values, weighted by softmax((q_a k_b + k_a q_b) / 2 temperature) over the heads."""
        layers = (self.query, self.key, self.value)
        query_a, key_a, value_a = (layer(a).unflatten(1, (self.heads, -1)) for layer in layers)  # [N, heads, .]
        query_b, key_b, value_b = (layer(b).unflatten(1, (self.heads, -1)) for layer in layers)
        agreement = (dots(query_a, key_b) + dots(key_a, query_b)) / 2  # [..., heads]
        cosines = dots(F.normalize(value_a, dim=-1), F.normalize(value_b, dim=-1))  # [..., heads]
        return (cosines * (agreement / self.temperature).softmax(-1)).sum(-1)


SIMILARITIES = {"cosine": Cosine, "euclidean": Euclidean, "learned": Learned}
