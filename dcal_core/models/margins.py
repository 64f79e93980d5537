"""Margin softmax over identities: the cosine to the own class centre must win by a margin.

Our own lines rather than a library's: they take label smoothing, keep the centres in fp32 under mixed precision and
never wait for the device; the tests hold them against pytorch-metric-learning.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cosface(cosine: Tensor, margin: float) -> Tensor:
    """cos θ - m (Wang et al., CVPR 2018, arXiv 1801.09414, equation 4)."""
    return cosine - margin


def arcface(cosine: Tensor, margin: float) -> Tensor:
    """cos(θ + m), m in radians; past θ = π - m, where that would rise again, cos θ - m sin m (Deng et al., arXiv
    1801.07698)."""
    sine = (1 - cosine**2).clamp(min=1e-7).sqrt()
    shifted = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), shifted, cosine - margin * math.sin(margin))


MARGINS = {"cosface": cosface, "arcface": arcface}


class MarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines to `people` learnt class centres, with a margin on the true one."""

    def __init__(self, width: int, people: int, kind: str, margin: float, scale: float, label_smoothing: float):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, width))
        self.add_margin, self.margin, self.scale = MARGINS[kind], margin, scale
        self.label_smoothing = label_smoothing

    def forward(self, embeddings: Tensor, person: Tensor) -> Tensor:
        """The loss of embeddings [B, width] of the people [B]."""
        cosine = F.normalize(embeddings, dim=-1) @ F.normalize(self.centres, dim=-1).T  # [B, people]
        own = cosine.gather(1, person[:, None])  # [B, 1]
        logits = self.scale * cosine.scatter(1, person[:, None], self.add_margin(own, self.margin))
        return F.cross_entropy(logits, person, label_smoothing=self.label_smoothing)
