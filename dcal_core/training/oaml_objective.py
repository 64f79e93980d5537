"""What occlusion-aware metric learning minimises: `objective(model, batch) -> (loss, logs)`.

W images over all processes; P places of C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcal_core.distributed import gather
from dcal_core.models.margins import MarginSoftmax
from dcal_core.models.verifier import Features
from dcal_core.training.pair_losses import weighed_pairs

FOCUS = 2  # gamma of the focal loss


class ClassMemory(nn.Module):
    """The last features of each person seen, which a batch is matched with as with other images: focal cross-entropy
    over all of them (QAConv, Liao and Shao, ECCV 2020, arXiv 1904.10424, section 3.4)."""

    def __init__(self, people: int, channels: int, places: int, images_per_person: int):
        super().__init__()
        self.images_per_person = images_per_person
        self.register_buffer("local", torch.zeros(people, channels, places))
        self.register_buffer("visible", torch.ones(people, places))
        self.register_buffer("seen", torch.zeros(people))

    def forward(self, model: nn.Module, features: Features, person: Tensor) -> Tensor:
        """The loss of features of W images, person by person; their last ones are then remembered."""
        remembered = Features({"local": self.local.clone(), "visible": self.visible.clone()})  # for the way back
        logits = model.compare(features, remembered, reading="local")  # [W, people]
        own = F.one_hot(person, len(self.seen)).float()
        surprise = (own - logits.detach().sigmoid()).abs() ** FOCUS
        losses = F.binary_cross_entropy_with_logits(logits, own, surprise * self.seen, reduction="none")
        last = slice(self.images_per_person - 1, None, self.images_per_person)
        for name in ("local", "visible"):
            getattr(self, name)[person[last]] = features.parts[name][last].detach()
        self.seen[person[last]] = 1.0
        return losses.sum(1).mean()


def hardest(logits: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
    """The least logit of each image with another one of the same person, and the greatest with one of another person,
    [W] each."""
    same = person[:, None] == person
    other = same & ~torch.eye(len(person), dtype=torch.bool, device=person.device)
    return logits.masked_fill(~other, torch.inf).amin(1), logits.masked_fill(same, -torch.inf).amax(1)


class OAMLObjective(nn.Module):
    """softmax_weight x a margin softmax over all people + local_weight x (matching + triplet_weight x triplets, with a
    class memory + its loss) + occlusion_weight x occlusion; a part of weight 0 does not exist.

    Matching is the cross-entropy of the local logits of all pairs of a batch, in which same-person, co-twin and
    unrelated pairs together count as `ratios`. Triplets are batch-hard, relu(margin - (least logit of the same person
    - greatest of another)) averaged over images (QAConv 2.1; Hermans et al., arXiv 1703.07737, equation 5). Occlusion
    is the cross-entropy with the visible share of each place.

    width: of the model's embedding. margin_softmax: options of `MarginSoftmax`.
    """

    def __init__(
        self,
        *,
        width: int,
        people: int,
        margin_softmax: dict,
        softmax_weight: float,
        local_weight: float,
        triplet_weight: float,
        local_margin: float,
        occlusion_weight: float,
        ratios: tuple[float, float, float],
        memory: ClassMemory | None = None,
    ):
        super().__init__()
        self.identity = MarginSoftmax(width, people, **margin_softmax) if softmax_weight else None
        self.memory = memory
        self.weights = {
            "embedding/identity": softmax_weight,
            "local/matching": local_weight,
            "local/triplet": local_weight * triplet_weight,
            "local/memory": local_weight,
            "visible/occlusion": occlusion_weight,
        }
        self.margin = local_margin
        self.ratios = ratios

    def forward(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images [b, 3, S, S] of this process, visible [b, 1, S, S], with person and family [W] of those of
        all processes; the model gives "embedding" [W, width] and "local" [W, C, P] of all, and of this process's
        images "visible_logits" [b, P]."""
        found = model(batch["images"])
        with torch.autocast(batch["images"].device.type, enabled=False):  # cosines times 64 need fp32
            losses = self.parts(model, {name: part.float() for name, part in found.items()}, batch)
            loss = sum(self.weights[name] * part for name, part in losses.items() if name in self.weights)
        return loss, {name: value.detach() for name, value in losses.items()} | {"loss": loss.detach()}

    def parts(self, model: nn.Module, found: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The unweighted losses by name, and figures for the log."""
        person = batch["person"]
        losses = {}
        if self.identity is not None:
            losses["embedding/identity"] = self.identity(found["embedding"], person)
        visible_logits = gather(found["visible_logits"])  # [W, P]
        if self.weights["visible/occlusion"]:
            grid = model.grid
            shares = gather(F.adaptive_avg_pool2d(batch["visible"].float(), grid).flatten(1))  # [W, P]
            losses["visible/occlusion"] = F.binary_cross_entropy_with_logits(visible_logits, shares)
        if self.weights["local/matching"]:
            # Where a match counts follows from occlusion alone: its own gradient would hide what it cannot match.
            features = Features({"local": found["local"], "visible": visible_logits.detach().sigmoid()})
            logits = model.compare(features, features, reading="local")  # [W, W]
            genuine, weights = weighed_pairs(person, batch["family"], self.ratios)
            losses["local/matching"] = F.binary_cross_entropy_with_logits(logits, genuine, weights, reduction="sum")
            positive, negative = hardest(logits, person)
            violation = (self.margin - positive + negative).relu()
            losses["local/triplet"] = violation.mean()
            figures = {"positive": positive, "negative": negative, "active": (violation > 0).float()}
            losses |= {f"local/{name}": value.mean() for name, value in figures.items()}
            if self.memory is not None:
                losses["local/memory"] = self.memory(model, features, person)
        return losses
