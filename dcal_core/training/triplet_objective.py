"""What fine-tuning a face model on triplets minimises: `objective(model, batch) -> (loss, logs)`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_core.models.margins import MarginSoftmax


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos of embeddings [T, E], in 0 to 2, [T]."""
    return 1 - F.cosine_similarity(a, b, dim=-1)


def euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of embeddings [T, E] scaled to unit length, in 0 to 2, [T]."""
    return (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).norm(dim=-1)


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


class TwinTriplets(nn.Module):
    """relu(d(a, p) - d(a, n) + margin) averaged over given triplets, with the cosine or the Euclidean distance d
    (FaceNet, Schroff et al., CVPR 2015, arXiv 1503.03832, equation 3, there of squared distances)."""

    def __init__(self, margin: float, distance: str):
        super().__init__()
        self.margin = margin
        self.distance = DISTANCES[distance]

    def forward(self, embedding: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of embeddings [3 T, E], anchor, positive and negative in turn, and for the log the mean distances
        d_ap and d_an and the share of the triplets that are active, whose loss is above 0."""
        anchor, positive, negative = embedding.unflatten(0, (-1, 3)).unbind(1)  # [T, E] each
        d_ap = self.distance(anchor, positive)  # [T]
        d_an = self.distance(anchor, negative)  # [T]
        violation = (d_ap - d_an + self.margin).relu()
        return violation.mean(), {"d_ap": d_ap.mean(), "d_an": d_an.mean(), "active": (violation > 0).float().mean()}


class TripletObjective(nn.Module):
    """The triplet loss, plus softmax_weight x a margin softmax over all people, which a weight of 0 leaves out.

    width: of the model's embedding. margin_softmax: options of `MarginSoftmax`.
    """

    def __init__(
        self,
        *,
        width: int,
        people: int,
        twin_margin: float,
        triplet_distance: str,
        margin_softmax: dict,
        softmax_weight: float,
    ):
        super().__init__()
        self.triplets = TwinTriplets(twin_margin, triplet_distance)
        self.softmax_weight = softmax_weight
        self.identity = None
        if softmax_weight:
            self.identity = MarginSoftmax(width, people, **margin_softmax)

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images [b, 3, S, S], this process's, anchor, positive and negative in turn, with person [B] of
        those of all processes; the model gives "embedding" of all processes, [B, width]."""
        embedding = model(batch["images"])["embedding"]
        with torch.autocast(batch["images"].device.type, enabled=False):  # cosines times 30 need fp32
            loss, logs = self.triplets(embedding.float())
            logs["embedding/twin"] = loss
            if self.identity is not None:
                logs["embedding/identity"] = self.identity(embedding.float(), batch["person"])
                loss = loss + self.softmax_weight * logs["embedding/identity"]
        return loss, {name: value.detach() for name, value in logs.items()} | {"loss": loss.detach()}
