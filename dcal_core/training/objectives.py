"""What training minimises: `objective(model, batch) -> (loss, logs)`; the loop knows nothing else."""

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from torch import Tensor, nn

from dcal_core.models.margins import MarginSoftmax


class UncertaintyWeighting(nn.Module):
    """½ Σ (e^(-w) L + w) over branches with learnt w, the total of which may be negative (Kendall et al., 2018; DCAL
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
    """Per branch an identity margin softmax plus a twin loss, whose negatives are images of the co-twin only.

    widths: branch -> width of its embedding. twin_loss "triplet": cosine triplets (anchor, same person, co-twin) with
    twin_margin. "softmax": each anchor must pick its person's images among its family's, at twin_temperature.
    """

    def __init__(
        self,
        *,
        widths: dict[str, int],
        people: int,
        margin_softmax: str,
        softmax_margin: float,
        softmax_scale: float,
        softmax_weight: float,
        label_smoothing: float,
        twin_loss: str,
        twin_margin: float,
        twin_temperature: float,
        twin_weight: float,
        loss_weighting: str,
    ):
        super().__init__()
        self.identity = nn.ModuleDict(
            {
                branch: MarginSoftmax(width, people, margin_softmax, softmax_margin, softmax_scale, label_smoothing)
                for branch, width in widths.items()
            }
        )
        if twin_loss == "triplet":
            self.twin = TripletMarginLoss(margin=twin_margin, distance=CosineSimilarity())
        else:
            self.twin = SupConLoss(temperature=twin_temperature)
        self.softmax_weight, self.twin_weight = softmax_weight, twin_weight
        self.weighting = WEIGHTINGS[loss_weighting](widths)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images [B, 3, S, S], with person [B], triplets [3, T] (rows of the batch) and perhaps partner
        [B]."""
        embeddings = model(batch["images"], batch.get("partner"))
        losses, logs = {}, {}
        with torch.autocast(batch["images"].device.type, enabled=False):  # cosines times 30 need fp32
            for branch, embedding in embeddings.items():
                embedding = embedding.float()
                identity = self.identity[branch](embedding, batch["person"])
                twin = self.twin(embedding, batch["person"], tuple(batch["triplets"]))
                losses[branch] = self.softmax_weight * identity + self.twin_weight * twin
                logs |= {f"{branch}/identity": identity.detach(), f"{branch}/twin": twin.detach()}
            loss = self.weighting(losses)
        return loss, logs | {"loss": loss.detach()}
