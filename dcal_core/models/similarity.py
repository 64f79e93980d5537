"""How alike two images are, from their embeddings: unit vectors a [Na, W] and b [Nb, W] -> [Na, Nb], higher = more
alike."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cosine(nn.Module):
    """The cosine, in [-1, 1]; nothing to learn."""

    def __init__(self, width: int, temperature: float):
        super().__init__()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [Na, Nb]."""
        return a @ b.T


class Euclidean(Cosine):
    """Minus the Euclidean distance, in [-2, 0]: the cosine's order on another scale."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [Na, Nb]."""
        return -(2 - 2 * super().forward(a, b)).clamp(min=1e-12).sqrt()  # the gradient of a root at 0 is infinite


def dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products [Na, Nb, heads] of a [Na, heads, d] and b [Nb, heads, d], head by head."""
    return torch.einsum("ahd,bhd->abh", a, b)


class Learned(nn.Module):
    """The mean of cosines in `heads` learnt projections, weighed by attention over the heads, in [-1, 1].

    A head weighs the more, the better the pair's queries and keys agree in it (dot-product attention, Vaswani et al.,
    2017, arXiv 1706.03762, over heads instead of tokens); the lower the temperature, the more one head decides.
    """

    def __init__(self, width: int, temperature: float, heads: int = 8, hidden: int = 512):
        super().__init__()
        self.temperature, self.heads = temperature, heads
        self.query, self.key, self.value = (nn.Linear(width, hidden, bias=False) for _ in range(3))
        nn.init.orthogonal_(self.value.weight)  # keeps angles: before training this is nearly the plain cosine ...
        nn.init.zeros_(self.key.weight)  # ... with all heads weighing alike

    def project(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values of embeddings x [N, W], each [N, heads, hidden / heads]."""
        return [linear(x).unflatten(1, (self.heads, -1)) for linear in (self.query, self.key, self.value)]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [Na, Nb]; those of (b, a) are their transpose."""
        (qa, ka, va), (qb, kb, vb) = self.project(a), self.project(b)
        agreement = (dots(qa, kb) + dots(ka, qb)) / 2  # [Na, Nb, heads]
        cosines = dots(F.normalize(va, dim=-1), F.normalize(vb, dim=-1))  # [Na, Nb, heads]
        return (cosines * (agreement / self.temperature).softmax(-1)).sum(-1)


SIMILARITIES = {"cosine": Cosine, "euclidean": Euclidean, "learned": Learned}
