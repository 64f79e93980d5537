"""AdaFace fine-tuned on triplets of twins: a person, the same person, the co-twin."""

from torch import nn

from dcal_core.config.adaface import AdaFaceConfig
from dcal_core.data.splits import Split
from dcal_core.data.triplets import TripletBatches
from dcal_core.models.adaface import ARCHITECTURE, AdaFace, rebuild
from dcal_core.recipes.adamw_cosine import AdamWCosineRecipe
from dcal_core.recipes.face_network import FaceNetworkRecipe
from dcal_core.training.curves import Line, Panel
from dcal_core.training.recipe import Cure
from dcal_core.training.triplet_objective import TripletObjective


class AdaFaceRecipe(FaceNetworkRecipe, AdamWCosineRecipe):
    """Fine-tunes a face network, whole or with the backbone frozen."""

    config: AdaFaceConfig
    curves = (
        Panel("Identity loss", "loss", (Line("embedding/identity", "identity", 3),)),
        Panel(
            "Triplets",
            "distance, share, loss",
            (
                Line("d_ap", "distance to the same person", 0),
                Line("d_an", "distance to the co-twin", 1),
                Line("active", "share of triplets with a loss", 2),
                Line("embedding/twin", "mean loss of all triplets", 3),
            ),
        ),
    )

    cures = (
        Cure("weights", "a face network's file", lambda config: not config.weights),
        Cure("frozen_backbone", "false", lambda config: config.frozen_backbone),
        Cure("lr", "5e-4", lambda config: config.lr < 2e-4),
        Cure("lr", "1e-3", lambda config: config.lr > 5e-3),
        Cure("softmax_weight", "0.1", lambda config: config.softmax_weight == 0),
    )

    @property
    def needs_weights(self) -> str:
        return "a frozen backbone needs them" if self.config.frozen_backbone else super().needs_weights

    def untrained(self) -> AdaFace:
        config = self.config
        architecture = {name: getattr(config, name) for name in ARCHITECTURE}
        return rebuild(architecture, dropout=config.embedding_dropout, frozen=config.frozen_backbone)

    def batches(self, split: Split) -> TripletBatches:
        """Triplets of two images of a person and one of the co-twin, a share of all that each family has."""
        return self.batches_of(
            TripletBatches,
            split,
            triplets_per_batch=self.config.triplets_per_batch,
            train_percentage=self.config.train_percentage,
        )

    def objective(self, model: nn.Module, people: int) -> TripletObjective:
        """The triplet loss on the model's embedding, plus an identity margin softmax where it has a weight."""
        config = self.config
        return TripletObjective(
            width=model.widths["embedding"],
            people=people,
            twin_margin=config.twin_margin,
            triplet_distance=config.triplet_distance,
            margin_softmax=config.margin_softmax_options(),
            softmax_weight=config.softmax_weight,
        )

    def export_name(self, epoch: int) -> str:
        config = self.config
        mode = "frozen" if config.frozen_backbone else "full"
        about = f"{mode}_{config.train_percentage:g}pct_margin{config.twin_margin:g}_epoch{epoch}"
        return f"twin_tuned_{config.backbone.replace('_', '')}_{about}"
