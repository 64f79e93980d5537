"""Margin softmax over identities: the cosine to the own class centre must win by a margin.

Unlike pytorch-metric-learning's, these losses take label smoothing, keep the centres in fp32 under mixed precision and
never wait for the device; the tests compare them with that library.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_core.distributed import gather, rank, world_size


class Margin(nn.Module):
    """Called with cosines to the own centre and norms, of one shape, a margin gives the logits before scaling."""

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin


class CosFaceMargin(Margin):
    """cos θ - m (Wang et al., CVPR 2018, arXiv 1801.09414, equation 4)."""

    def forward(self, cosine: Tensor, norms: Tensor) -> Tensor:
        return cosine - self.margin


class ArcFaceMargin(Margin):
    """cos(θ + m), m in radians; past θ = π - m, where that would rise again, cos θ - m sin m (Deng et al., arXiv
    1801.07698)."""

    def forward(self, cosine: Tensor, norms: Tensor) -> Tensor:
        sine = (1 - cosine**2).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        straight = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, straight)


class AdaFaceMargin(Margin):
    """cos(θ - m u) - (m + m u), where u, in -1 to 1, is how far an embedding's norm lies above the mean: the image's
    quality (Kim et al., CVPR 2022, arXiv 2204.00964).

    u = h (norm - mean) / std, with a mean and standard deviation of the norms that move in training only. A poor image
    (u = -1) gets ArcFace's margin, an average one CosFace's; h = 0 gives CosFace for all, with a warning.
    """

    def __init__(self, margin: float, h: float, momentum: float = 0.01):
        super().__init__(margin)
        if h == 0:
            warnings.warn("adaface_h=0 makes AdaFace's margin that of CosFace: its authors take 0.333.", stacklevel=2)
        self.h = h
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def forward(self, cosine: Tensor, norms: Tensor) -> Tensor:
        shift = self.margin * self.quality(norms.detach().clamp(1e-3, 100))
        angle = cosine.clamp(-1 + 1e-3, 1 - 1e-3).acos()
        return (angle - shift).clamp(1e-3, math.pi - 1e-3).cos() - (self.margin + shift)

    def quality(self, norms: Tensor) -> Tensor:
        """u of the norms, in -1 to 1; in training they first move the mean and the standard deviation."""
        if self.training:
            self.mean.lerp_(norms.mean(), self.momentum)
            if norms.numel() > 1:  # one norm has no spread
                self.std.lerp_(norms.std(), self.momentum)
        return (self.h * (norms - self.mean) / (self.std + 1e-3)).clamp(-1, 1)


class MarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines to `people` learnt class centres, with a margin on the true one.

    kind: "cosface", "arcface" or "adaface"; adaface_h is for the last only. sample_share: of the classes, a random part
    in each step, those of the batch always among them; 1 takes all (Partial FC, An et al., 2021, arXiv 2010.05222).
    Several processes share out the classes: each compares the embeddings of all with its own share of the centres.
    """

    def __init__(
        self,
        width: int,
        people: int,
        kind: str,
        margin: float,
        scale: float,
        label_smoothing: float,
        adaface_h: float = 0.333,
        sample_share: float = 1.0,
    ):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, width))
        plain = {"cosface": CosFaceMargin, "arcface": ArcFaceMargin}
        self.add_margin = AdaFaceMargin(margin, adaface_h) if kind == "adaface" else plain[kind](margin)
        self.scale = scale
        self.label_smoothing = label_smoothing
        self.sample_share = sample_share

    def start_from(self, means: Tensor) -> None:
        """Turn the class centres to the people's mean embeddings [people, width], so that fine-tuning starts near them;
        ValueError if one is missing, not finite or 0."""
        if means.shape != self.centres.shape or not (means.isfinite().all(1) & means.any(1)).all():
            raise ValueError(
                f"means [{' x '.join(map(str, means.shape))}] for {len(self.centres)} class centres of width "
                f"{self.centres.shape[1]}: give every person a finite mean embedding other than 0."
            )
        with torch.no_grad():  # their lengths stay: they decide how far a step turns them
            lengths = self.centres.norm(dim=-1, keepdim=True)
            self.centres.copy_(lengths * F.normalize(means.to(self.centres), dim=-1))

    def forward(self, embeddings: Tensor, person: Tensor) -> Tensor:
        """The loss of embeddings [W, width] of the people [W], those of all processes."""
        if self.sample_share == 1 and world_size() == 1:
            return self.dense(embeddings, person)
        unit = F.normalize(embeddings, dim=-1)
        cosine = (unit * F.normalize(self.centres[person], dim=-1)).sum(-1)  # [W], to the own centres
        own = self.scale * self.add_margin(cosine, embeddings.norm(dim=-1))
        classes, centres = self.classes(person)
        others = self.scale * unit @ F.normalize(centres, dim=-1).T  # [W, K]
        itself = classes == person[:, None]
        totals = others.masked_fill(itself, torch.finfo(others.dtype).min).logsumexp(1)  # [W], of this share
        total = torch.cat([own[None], gather(totals[None])]).logsumexp(0)  # [W]
        smoothed = own
        if self.label_smoothing:  # the target is partly the mean over all classes, as in `F.cross_entropy`
            sums = torch.stack([others.masked_fill(itself, 0).sum(1), others.new_full(own.shape, len(classes))])
            summed, count = gather(sums[None]).sum(0)  # [W]
            smoothed = own.lerp((own + summed) / count, self.label_smoothing)
        return (total - smoothed).mean()

    def dense(self, embeddings: Tensor, person: Tensor) -> Tensor:
        """The same over all classes in one process, in the order of operations that runs of all versions share."""
        cosine = F.normalize(embeddings, dim=-1) @ F.normalize(self.centres, dim=-1).T  # [B, people]
        own = self.add_margin(cosine.gather(1, person[:, None]), embeddings.norm(dim=-1, keepdim=True))  # [B, 1]
        logits = self.scale * cosine.scatter(1, person[:, None], own)
        return F.cross_entropy(logits, person, label_smoothing=self.label_smoothing)

    def classes(self, person: Tensor) -> tuple[Tensor, Tensor]:
        """The classes [K] of this process's share that are compared in this step, and their centres [K, width]."""
        share = torch.arange(len(self.centres), device=person.device).tensor_split(world_size())[rank()]
        count = max(math.ceil(self.sample_share * len(share)), min(len(share), len(person)))
        if count == len(share):
            return share, self.centres.tensor_split(world_size())[rank()]
        order = torch.rand(len(self.centres), device=person.device)
        order[person] = 2.0  # before all others
        chosen = share[order[share].topk(count).indices]
        return chosen, self.centres[chosen]
