"""The parameters of Dual Cross-Attention Learning."""

from typing import ClassVar, Literal

from dcal_core.config.adaface import IR_BACKBONES
from dcal_core.config.parameters import parameter, run_option, run_path
from dcal_core.config.shared import AdamWCosine, MarginSoftmaxAndTriplets, PairRatios
from dcal_core.errors import ConfigError


class DCALConfig(AdamWCosine, MarginSoftmaxAndTriplets, PairRatios):
    """The parameters of `recipe: dcal`."""

    needs_co_twins: ClassVar[bool] = True

    recipe: Literal["dcal"] = parameter("dcal", "which of the systems is trained")
    backbone: str = parameter("vit_base_patch16_224", "a timm vision transformer, or hybrid_tiny (the demo's)")
    weights: str = run_path("file of pretrained weights; empty: attached model, then timm's hub")

    # augmentation
    mixup_alpha: float = parameter(0.0, "blends two people, with shares from Beta(alpha, alpha); 0: off", ge=0, le=10)
    cutmix_alpha: float = parameter(0.0, "pastes a rectangle of another person, as mixup_alpha; 0: off", ge=0, le=10)

    # model
    local_ratio: float = parameter(0.3, "R: share of patches that GLCA selects", ge=0, le=1)
    glca_blocks: int = parameter(1, "M: global-local blocks", ge=0, le=12)
    pwca_first: int = parameter(1, "first block with pair-wise attention, counted from 1; 0: none", ge=0, le=64)
    pwca_last: int = parameter(0, "last block with pair-wise attention; 0: the last of the backbone", ge=0, le=64)
    pwca_prob: float = parameter(1.0, "share of the training steps with the pair-wise branch", ge=0, le=1)
    pwca_partner: Literal["random", "twin", "mix"] = parameter("random", "whose tokens distract")
    dropout: float = parameter(0.0, "dropout of projections and FFN", ge=0, le=0.9)
    attention_dropout: float = parameter(0.0, "dropout of attention weights", ge=0, le=0.9)
    drop_path: float = parameter(0.1, "stochastic depth of the deepest block", ge=0, le=0.9)
    readout: Literal["cls", "local_tokens", "tokens", "cls_alone"] = parameter(
        "cls",
        "cls: the paper's; for aligned faces patches are also read by place: local_tokens in GLCA, tokens in every "
        "branch; cls_alone: GLCA without its patches, to show that its selection then has no effect",
    )
    neck: Literal["bn", "none"] = parameter("bn", "batch norm between a branch and its losses")
    similarity: Literal["cosine", "euclidean", "learned"] = parameter(
        "cosine", "how two embeddings are compared; learned: by heads that the pair itself weighs"
    )
    similarity_temperature: float = parameter(0.07, "temperature of the learned similarity's weights", ge=0.001, le=10)
    gradient_checkpointing: bool = run_option(False, "less memory, about a third more time")

    # losses, one set per branch (SA, GLCA, PWCA)
    twin_loss: Literal["triplet", "supcon", "verification"] = parameter(
        "triplet", "metric loss on pairs of images; supcon: supervised contrastive; verification: same person or not"
    )
    twin_temperature: float = parameter(0.1, "temperature of the contrastive loss", ge=0.001, le=10)
    twin_weight: float = parameter(1.0, "weight of the twin loss", ge=0, le=100)
    loss_weighting: Literal["uncertainty", "fixed"] = parameter("uncertainty", "weights of the branches")

    # optimisation
    families_per_batch: int = parameter(4, "families in a batch, over all processes; two siblings each", ge=1, le=4096)
    images_per_person: int = parameter(4, "images of each sibling in a batch", ge=2, le=1024)

    @property
    def families_in_batch(self) -> int:
        return self.families_per_batch

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        self.check_parts("families_per_batch")
        if self.backbone in IR_BACKBONES:
            raise ConfigError(
                f"backbone={self.backbone} is a face network, and recipe=dcal takes a vision transformer: give one, "
                "or recipe=adaface."
            )
        if self.pwca_last and self.pwca_last < self.pwca_first:
            raise ConfigError(
                f"pwca_last={self.pwca_last} lies before pwca_first={self.pwca_first}: raise it, or set 0."
            )
        if self.softmax_weight == 0 and self.twin_weight == 0:
            raise ConfigError("softmax_weight and twin_weight are both 0, so nothing would be learnt: raise one.")
        self.check_mixing()

    def check_mixing(self) -> None:
        """Raise ConfigError where two people are blended and something needs to know which person it sees."""
        mixing = [f"{name}={getattr(self, name):g}" for name in ("mixup_alpha", "cutmix_alpha") if getattr(self, name)]
        if not mixing:
            return
        blends = f"{' and '.join(mixing)} blends two people into one image"
        if self.twin_weight:
            raise ConfigError(f"{blends}, so twin_loss={self.twin_loss} has no identity to use: set twin_weight=0.")
        if self.pwca_first and self.pwca_prob:
            raise ConfigError(f"{blends}, and one of them may be the person in its PWCA partner: set pwca_prob=0.")
        if self.similarity == "learned":
            raise ConfigError(f"{blends}, and similarity=learned is trained on pairs: take cosine or euclidean.")
