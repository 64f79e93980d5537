"""The parameters of the toy system."""

from typing import Literal

from dcal_core.config.parameters import parameter
from dcal_core.config.shared import Config


class ToyConfig(Config):
    """The parameters of `recipe: toy`."""

    recipe: Literal["toy"] = parameter("toy", "which of the systems is trained")
    backbone: Literal["pixels"] = parameter("pixels", "the mean colours of a grid of cells")
    momentum: float = parameter(0.9, "momentum of SGD", ge=0.0, le=1.0)
    milestone: float = parameter(0.5, "share of the steps after which the learning rate falls tenfold", ge=0.0, le=1.0)
    toy_batch: int = parameter(4, "families in a batch", ge=1, le=100)
