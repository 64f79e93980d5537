"""The parameters of occlusion-aware metric learning."""

from typing import Literal

from dcal_core.config.adaface import FaceNetwork
from dcal_core.config.parameters import parameter
from dcal_core.config.shared import OCCLUDERS, MarginSoftmaxLoss, PairRatios, SGDMilestones, kinds_of_occluders
from dcal_core.errors import ConfigError


class OAMLConfig(FaceNetwork, SGDMilestones, MarginSoftmaxLoss, PairRatios):
    """The parameters of `recipe: oaml`."""

    recipe: Literal["oaml"] = parameter("oaml", "which of the systems is trained")
    lr: float = parameter(0.1, "peak learning rate of the backbone", ge=0, le=10)

    # occluders
    occlusion_prob: float = parameter(0.5, "share of the training images behind an occluder", ge=0, le=1)
    occlusion_kinds: str = parameter(",".join(OCCLUDERS), f"kinds of them, of {', '.join(OCCLUDERS)}")

    # model
    joint: bool = parameter(False, "the matcher weighs the places of both faces by a layer each, as OAML's weights do")
    visibility: bool = parameter(True, "local matches count as far as both places are visible")
    local_finer: bool = parameter(False, "match the places of the finer map before the last, 14 x 14 at 112 px")
    local_window: int = parameter(
        0, "rows and columns around a place within which its match is looked for; 0: anywhere", ge=0, le=64
    )

    # losses
    margin_softmax: Literal["cosface", "arcface", "adaface"] = parameter("adaface", "identity loss over all people")
    softmax_margin: float = parameter(0.4, "cosface: cosine; arcface: radians; adaface: both", ge=0, le=1.5)
    softmax_scale: float = parameter(64.0, "scale of the cosines", ge=1, le=128)
    softmax_weight: float = parameter(0.1, "weight of the identity loss", ge=0, le=100)
    label_smoothing: float = parameter(0.0, "label smoothing of the identity loss", ge=0, le=0.9)
    local_weight: float = parameter(0.7, "weight of the local losses: matching, triplets, class memory", ge=0, le=100)
    local_triplet_weight: float = parameter(0.5, "weight of the local triplets over that of matching", ge=0, le=100)
    local_margin: float = parameter(1.0, "margin of the local triplets, logits; QAConv 2.1 takes 16", ge=0, le=100)
    occlusion_weight: float = parameter(0.3, "weight of the occlusion loss", ge=0, le=100)
    hard_negative_ratio: float = parameter(0.25, "co-twin share of the pairs", ge=0, le=0.99)
    soft_negative_ratio: float = parameter(0.25, "share of pairs of unrelated people", ge=0, le=0.99)
    class_share: float = parameter(
        1.0,
        "share of the people that a step of the identity loss is over; less for tens of thousands",
        ge=0.0001,
        le=1,
    )
    class_memory: bool = parameter(False, "match with the last features of every person too, as QAConv 1 does")

    # batches
    sampler: Literal["graph", "random"] = parameter(
        "graph", "who is in a batch; graph: people that look alike to the model, random: any; co-twins come together"
    )
    graph_reading: Literal["local", "global", "fused"] = parameter(
        "local", "by which of its readings the model finds people alike; global for tens of thousands"
    )
    pairs_per_batch: int = parameter(16, "pairs of people in a batch, over all processes", ge=1, le=4096)
    images_per_person: int = parameter(4, "images of each person in a batch", ge=2, le=1024)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The occluders in training."""
        return kinds_of_occluders("occlusion_kinds", self.occlusion_kinds)

    @property
    def people_in_batch(self) -> int:
        return 2 * self.pairs_per_batch

    def check(self) -> None:
        """Raise ConfigError where parameters do not agree with one another."""
        super().check()
        self.check_parts("pairs_per_batch")
        kinds_of_occluders("occlusion_kinds", self.occlusion_kinds)
        if self.visibility and not self.occlusion_weight:
            raise ConfigError(
                "visibility=true weighs matches by what occlusion_weight=0 leaves untrained: raise it, or set "
                "visibility=false."
            )
        if self.softmax_weight == 0 and self.local_weight == 0:
            raise ConfigError("softmax_weight and local_weight are both 0, so nothing would be learnt: raise one.")
