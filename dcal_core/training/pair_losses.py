"""Losses on all pairs of a batch's images: `loss(score, person, family)` with the images' similarities [B, B], and the
person and family [B] of each.

Our own dense lines rather than a library's: they weigh co-twins against unrelated people and never wait for the
device; the tests hold them against pytorch-metric-learning. B: images of the batch, over all processes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relations(person: Tensor, family: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether two images are genuine (of one person), of co-twins, or of unrelated people, each [B, B] of 0 and 1;
    an image and itself are none of these."""
    same_person = person[:, None] == person
    same_family = family[:, None] == family
    itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
    return (same_person & ~itself).float(), (same_family & ~same_person).float(), (~same_family).float()


def negative_weights(twin: Tensor, unrelated: Tensor, hard: float, soft: float) -> Tensor:
    """How much each image counts as an anchor's negative, [B, B]: as if as many negatives had been drawn for the anchor
    as it has co-twin images, co-twins to unrelated people as hard to soft."""
    twins = twin.sum(1, keepdim=True)  # [B, 1]
    others = unrelated.sum(1, keepdim=True)  # [B, 1]
    # A kind that the batch lacks leaves its share to the other, lest some anchors have no negatives: with one family
    # alone each co-twin image weighs 1, and where there is no co-twin each unrelated image does.
    hard_share = (twins > 0) * (1 - (others > 0) * (soft / (hard + soft)))
    drawn = twins + (twins == 0) * others
    return drawn * (hard_share * twin / twins.clamp(min=1) + (1 - hard_share) * unrelated / others.clamp(min=1))


class TripletLoss(nn.Module):
    """relu(S_an - S_ap + margin) for all anchors, positives and negatives, averaged over those above 0 (FaceNet,
    Schroff et al., CVPR 2015, arXiv 1503.03832, equation 3, on cosines)."""

    def __init__(self, margin: float, hard: float, soft: float):
        super().__init__()
        self.margin = margin
        self.negatives = hard, soft  # the weights of co-twins and of unrelated people

    def forward(self, score: Tensor, person: Tensor, family: Tensor) -> Tensor:
        genuine, twin, unrelated = relations(person, family)
        negatives = negative_weights(twin, unrelated, *self.negatives)
        weights = genuine[:, :, None] * negatives[:, None, :]  # [B anchors, B positives, B negatives]
        violation = (score[:, None, :] - score[:, :, None] + self.margin).relu()
        return (weights * violation).sum() / (weights * (violation > 0)).sum().clamp(min=1e-12)


class SupConLoss(nn.Module):
    """-log of the share that a positive has among an anchor's positives and weighted negatives, at a temperature,
    averaged over positives, then over anchors (Khosla et al., NeurIPS 2020, arXiv 2004.11362, equation 2)."""

    def __init__(self, temperature: float, hard: float, soft: float):
        super().__init__()
        self.temperature = temperature
        self.negatives = hard, soft  # the weights of co-twins and of unrelated people

    def forward(self, score: Tensor, person: Tensor, family: Tensor) -> Tensor:
        genuine, twin, unrelated = relations(person, family)
        weights = genuine + negative_weights(twin, unrelated, *self.negatives)
        logits = score / self.temperature
        log_weights = weights.log().clamp(min=-1e30)  # finite, since a row of -inf alone has NaN gradients
        log_shares = logits - (logits + log_weights).logsumexp(1, keepdim=True)
        positives = genuine.sum(1)  # [B]
        of_anchors = -(genuine * log_shares).sum(1) / positives.clamp(min=1)
        return of_anchors.sum() / (positives > 0).sum().clamp(min=1)


def weighed_pairs(person: Tensor, family: Tensor, ratios: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Whether two images are of one person, [B, B] of 0 and 1, and how much each pair counts, [B, B] of sum 1: genuine,
    co-twin and unrelated pairs together as the ratios; a kind that the batch lacks leaves its share to the others."""
    kinds = relations(person, family)
    weights = sum(ratio * kind / kind.sum().clamp(min=1) for ratio, kind in zip(ratios, kinds, strict=True))
    return kinds[0], weights / weights.sum().clamp(min=1e-12)


class VerificationLoss(nn.Module):
    """Cross-entropy of "one person or not" with logits = scale * score + bias, both learnt (SigLIP, Zhai et al., ICCV
    2023, arXiv 2303.15343); genuine, co-twin and unrelated pairs together weigh positive : hard : soft."""

    def __init__(self, positive: float, hard: float, soft: float):
        super().__init__()
        self.ratios = positive, hard, soft
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))  # of the scale, which so stays positive
        self.bias = nn.Parameter(torch.tensor(-5.0))  # undecided at a score of 0.5

    def forward(self, score: Tensor, person: Tensor, family: Tensor) -> Tensor:
        genuine, weights = weighed_pairs(person, family, self.ratios)
        logits = self.log_scale.exp() * score + self.bias
        return F.binary_cross_entropy_with_logits(logits, genuine, weights, reduction="sum")
