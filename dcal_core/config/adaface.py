"""The parameters of AdaFace fine-tuned on triplets of twins, and of the face network that other recipes train too."""

from typing import Literal, get_args

from dcal_core.config.parameters import parameter, run_path
from dcal_core.config.shared import AdamWCosine, Config, MarginSoftmaxAndTriplets
from dcal_core.errors import ConfigError

IRBackbone = Literal["ir_18", "ir_34", "ir_50", "ir_101"]
IR_BACKBONES = get_args(IRBackbone)


class FaceNetwork(Config):
    """An IR network and the weights that it starts from."""

    backbone: IRBackbone = parameter("ir_50", "an IR network of face recognition")
    image_size: int = parameter(112, "side of the square input, px; a multiple of 16", ge=32, le=1024)
    weights: str = run_path("file of pretrained weights, such as AdaFace's .ckpt")
    width: int = parameter(64, "channels of an IR backbone's first stage; published weights have 64", ge=8, le=128)
    colour_order: Literal["auto", "rgb", "bgr"] = parameter(
        "auto", "what an IR backbone's `weights` take; auto: by their origin"
    )
    embedding_dropout: float = parameter(
        0.4,
        "dropout before an IR backbone's embedding layer, unless frozen; AdaFace was trained with 0.4",
        ge=0,
        le=0.9,
    )

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        if self.image_size % 16:
            raise ConfigError(
                f"image_size={self.image_size}: {self.backbone} halves it four times: take a multiple of 16, as 112."
            )


class AdaFaceConfig(FaceNetwork, AdamWCosine, MarginSoftmaxAndTriplets):
    """The parameters of `recipe: adaface`."""

    recipe: Literal["adaface"] = parameter("adaface", "which of the systems is trained")
    frozen_backbone: bool = parameter(False, "train nothing of an IR backbone but its embedding layer")

    # losses
    triplet_distance: Literal["cosine", "euclidean"] = parameter(
        "cosine", "distance in triplets of (person, same person, co-twin); euclidean: of unit embeddings"
    )

    # optimisation
    triplets_per_batch: int = parameter(16, "triplets in a batch, over all processes; three images each", ge=1, le=4096)
    train_percentage: float = parameter(
        100.0, "share of each family's possible triplets, the same in every epoch, %", ge=0.01, le=100
    )

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        self.check_parts("triplets_per_batch")
