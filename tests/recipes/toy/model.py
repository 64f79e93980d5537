"""The toy system: a linear embedding of mean colours, compared as a whole and by its halves."""

import torch
import torch.nn.functional as F
from torch import nn

from dcal_core.models.verifier import Features, Verifier

GRID = 4
ARCHITECTURE = {"recipe": "recipe", "backbone": "backbone", "image_size": "image_size"}


class Toy(Verifier):
    """An embedding of 16 numbers for the mean colours of 4 x 4 cells."""

    readings = ("whole", "first")

    def __init__(self, image_size: int):
        super().__init__()
        self.image_size = image_size
        self.grid = GRID
        self.widths = {"embedding": 16}
        self.layer = nn.Linear(3 * GRID * GRID, 16)

    def pretrained_depths(self):
        return {}

    def forward(self, images):
        return {"embedding": self.layer(F.adaptive_avg_pool2d(images, GRID).flatten(1))}

    def encode(self, images, trace=False):
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return Features(self.forward(images), {})

    def _unit(self, features, reading):
        self.check_reading(reading)
        embedding = features.parts["embedding"]
        return F.normalize(embedding[:, :8] if reading == "first" else embedding, dim=-1)

    def compare(self, a, b, reading=None):
        return self._unit(a, reading) @ self._unit(b, reading).T

    def compare_pairs(self, a, b, reading=None):
        return (self._unit(a, reading) * self._unit(b, reading)).sum(-1)


def check_architecture(found):
    """Any size will do."""


def rebuild(architecture):
    model = Toy(architecture["image_size"])
    model.architecture = architecture
    return model
