"""The loss of DCAL: `objective(model, batch) -> (loss, logs)`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_core.models.margins import MarginSoftmax
from dcal_core.models.verifier import Features
from dcal_core.training.pair_losses import SupConLoss, TripletLoss, VerificationLoss


class UncertaintyWeighting(nn.Module):
    """½ Σ (e^(-w) L + w) over branches with learnt w; the total may be negative (Kendall et al., 2018; DCAL
    3.4).

    w is held at or above -3, since its optimum e^(-w) = 1/L would let an overfitted branch drown the others.
    """

    def __init__(self, branches):
        super().__init__()
        self.w = nn.ParameterDict({branch: nn.Parameter(torch.zeros(())) for branch in branches})

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        w = {branch: w + (w.clamp(min=-3) - w).detach() for branch, w in self.w.items() if branch in losses}
        return sum((-w[branch]).exp() * loss + w[branch] for branch, loss in losses.items()) / 2


class FixedWeighting(nn.Module):
    """The mean of the branches' losses."""

    def __init__(self, branches):
        super().__init__()

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(losses.values()) / len(losses)


WEIGHTINGS = {"uncertainty": UncertaintyWeighting, "fixed": FixedWeighting}


class DCALObjective(nn.Module):
    """Per branch an identity margin softmax plus a loss on the pairs of images; a part of weight 0 does not exist.

    widths: branch -> width of its embedding. margin_softmax: options of `MarginSoftmax`. The ratios weigh genuine,
    co-twin and unrelated pairs against one another. learned_similarity: the similarity that the model compares by is
    trained too, to verify pairs.
    """

    def __init__(
        self,
        *,
        widths: dict[str, int],
        people: int,
        margin_softmax: dict,
        softmax_weight: float,
        twin_loss: str,
        twin_margin: float,
        twin_temperature: float,
        twin_weight: float,
        positive_ratio: float,
        hard_negative_ratio: float,
        soft_negative_ratio: float,
        loss_weighting: str,
        learned_similarity: bool = False,
    ):
        super().__init__()
        negatives = hard_negative_ratio, soft_negative_ratio
        new_twin_loss = {
            "triplet": lambda: TripletLoss(twin_margin, *negatives),
            "supcon": lambda: SupConLoss(twin_temperature, *negatives),
            "verification": lambda: VerificationLoss(positive_ratio, *negatives),
        }[twin_loss]
        self.identity = nn.ModuleDict()
        self.twin = nn.ModuleDict()
        for branch, width in widths.items():
            if softmax_weight:
                self.identity[branch] = MarginSoftmax(width, people, **margin_softmax)
            if twin_weight:
                self.twin[branch] = new_twin_loss()
        self.similarity = VerificationLoss(positive_ratio, *negatives) if learned_similarity else None
        self.weights = {"identity": softmax_weight, "twin": twin_weight}
        self.weighting = WEIGHTINGS[loss_weighting]([*widths, "similarity"] if learned_similarity else widths)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images [b, 3, S, S], this process's, with person and family [B] of those of all processes.

        Optional: partner [b]; with mixup or cutmix, other [B] (the blended-in person) and share [] (its weight).
        The model gives each branch's embeddings of all processes, [B, width].
        """
        embeddings = model(batch["images"], batch.get("partner"))
        losses = {}
        logs = {}
        with torch.autocast(batch["images"].device.type, enabled=False):  # cosines times 30 need fp32
            embeddings = {branch: embedding.float() for branch, embedding in embeddings.items()}
            for branch, embedding in embeddings.items():
                parts = self.parts(branch, embedding, batch)
                losses[branch] = sum(self.weights[name] * part for name, part in parts.items())
                logs |= {f"{branch}/{name}": part for name, part in parts.items()}
            if self.similarity is not None:
                # Outside training images have no partners, so PWCA takes no part in the comparison.
                compared = Features({branch: part for branch, part in embeddings.items() if branch != "pwca"})
                score = model.compare(compared, compared)
                losses["similarity"] = self.similarity(score, batch["person"], batch["family"])
                logs["similarity/verification"] = losses["similarity"]
            loss = self.weighting(losses)
        return loss, {name: value.detach() for name, value in logs.items()} | {"loss": loss.detach()}

    def parts(self, branch: str, embedding: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The unweighted losses of a branch's embedding [B, width]; of two blended people, the identity loss counts
        each by their share (mixup, Zhang et al., ICLR 2018, arXiv 1710.09412)."""
        parts = {}
        if branch in self.identity:
            parts["identity"] = self.identity[branch](embedding, batch["person"])
            if "other" in batch:
                of_other = self.identity[branch](embedding, batch["other"])
                parts["identity"] = (1 - batch["share"]) * parts["identity"] + batch["share"] * of_other
        if branch in self.twin:
            unit = F.normalize(embedding, dim=-1)
            parts["twin"] = self.twin[branch](unit @ unit.T, batch["person"], batch["family"])
        return parts
