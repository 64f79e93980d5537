"""AdaFace as a twin verifier: a face network, compared by the cosine (Kim et al., CVPR 2022, arXiv 2204.00964)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dcal_core.config.adaface import IR_BACKBONES
from dcal_core.distributed import gather
from dcal_core.errors import ConfigError
from dcal_core.models.face_weights import FaceWeights
from dcal_core.models.iresnet import STRIDE, IResNet
from dcal_core.models.verifier import Features, Verifier, square

ARCHITECTURE = {name: name for name in ("recipe", "backbone", "image_size", "width")}  # of model.json


def unit(features: Features) -> Tensor:
    """The embeddings, scaled to unit length, [B, width]."""
    return F.normalize(features.parts["embedding"].float(), dim=-1)


class AdaFace(Verifier):
    """A twin verifier on an IResNet: `encode` gives an embedding whose norm tells the image's quality, `compare` the
    cosine of two.

    depth, width, dropout: see `iresnet.py`. image_size: side of the network's input, px. colour_order: "rgb" or "bgr",
    the order that the weights take; callers always give RGB. frozen: only the embedding layer is trained.
    """

    def __init__(
        self,
        *,
        depth: int,
        image_size: int = 112,
        width: int = 64,
        dropout: float = 0.4,
        colour_order: str = "rgb",
        frozen: bool = False,
    ):
        super().__init__()
        if colour_order not in ("rgb", "bgr"):
            raise ValueError(f"colour_order={colour_order!r}: takes rgb or bgr.")
        self.backbone = IResNet(depth, width=width, image_size=image_size, dropout=dropout)
        self.image_size = image_size
        self.grid = image_size // STRIDE
        self.frozen = frozen
        self.widths = {"embedding": self.backbone.embedding_layer.out_features}
        # A buffer, so that the colour order goes wherever the weights go.
        self.register_buffer("bgr", torch.tensor(colour_order == "bgr"))
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)
        if frozen:
            self.backbone.requires_grad_(False)
            self.backbone.embedding_layer.requires_grad_(True)
            self.train()

    @property
    def colour_order(self) -> str:
        return "bgr" if self.bgr else "rgb"

    def take_weights(self, found: FaceWeights, colour_order: str) -> list[str]:
        """Take the weights of another project's file, and the order of colours that they were trained on; returns the
        names that are taken of what stands beside the backbone, ValueError if they do not fit."""
        self.backbone.load_state_dict(found.state)
        self.bgr.fill_(colour_order == "bgr")
        return []

    def train(self, mode: bool = True) -> "AdaFace":
        """Set training mode; frozen layers stay in eval mode, without dropout and with fixed batch-norm statistics.

        So does the last batch norm, which has no weights: training then sees the same embeddings as comparing, where
        the statistics of a batch with few families would change them.
        """
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def pretrained_depths(self) -> dict[str, int]:
        """How many blocks lie above each parameter that starts from pretrained weights, by its name."""
        count = len(self.backbone.body)
        depths = {}
        for name, _ in self.backbone.named_parameters():
            part, number, *_ = name.split(".")
            above = {"input_layer": count, "body": count - 1 - int(number), "output_layer": 0}
            depths[f"backbone.{name}"] = above[part]
        return depths

    def face_weights(self) -> dict[str, Tensor]:
        """The network's tensors by AdaFace's names, as `write_face_weights` takes them."""
        return self.backbone.state_dict()

    def prepare(self, images: Tensor) -> Tensor:
        """RGB images [B, 3, h, w], uint8 or float in [0, 1], of any size, as the weights take them, [B, 3, S, S] in
        [-1, 1]."""
        images = square(images, self.image_size)
        return (torch.where(self.bgr, images.flip(1), images) - self.mean) / 0.5

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Training: the embedding [W, width] of the images of all processes, batch-normalised together."""
        return {"embedding": self.embed(self.backbone.features(self.prepare(images)))}

    def embed(self, features: Tensor) -> Tensor:
        """Training: the embedding [W, width] of the maps [B, C, grid, grid] of all processes."""
        *layers, norm = self.backbone.output_layer
        embedding = features
        for layer in layers:
            embedding = layer(embedding)
        return norm(gather(embedding))

    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """Embeddings [B, width], not of unit length, of RGB images [B, 3, h, w]; `trace` adds the last `map` [B, C,
        grid, grid]."""
        features = self.backbone.features(self.prepare(images))
        embedding = self.backbone.output_layer(features)
        return Features({"embedding": embedding}, {"map": features} if trace else {})

    def compare(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Cosines [Na, Nb] of the embeddings."""
        self.check_reading(reading)
        return unit(a) @ unit(b).T

    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        self.check_reading(reading)
        return (unit(a) * unit(b)).sum(-1)

    def vectors(self, features: Features) -> Tensor | None:
        return unit(features)


def network_of(architecture: dict) -> dict[str, int]:
    """The sizes of an architecture's network, as `AdaFace` takes them."""
    sizes = {name: architecture[name] for name in ("image_size", "width")}
    return sizes | {"depth": int(architecture["backbone"].removeprefix("ir_"))}


def rebuild(architecture: dict, **training) -> AdaFace:
    """The model of an architecture, without its trained weights; training: dropout and frozen."""
    model = AdaFace(**network_of(architecture), **training)
    model.architecture = architecture
    return model


def check_architecture(found: dict) -> None:
    """Refuse an unknown backbone, or an image size that it cannot take."""
    if found["backbone"] not in IR_BACKBONES or found["image_size"] % STRIDE:
        raise ConfigError(f"backbone is {found['backbone']!r:.40}, image_size is {found['image_size']}")
