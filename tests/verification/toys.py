"""A verifier by the mean colour of images, an index, and a store of random images."""

import numpy as np
import torch
from torch import nn

from dcal_core.data.images import ImageStore
from dcal_core.data.twins import TwinIndex
from dcal_core.models.verifier import Features, Verifier


def toy_index(families, images_each):
    """An index of families (sizes) whose people have so many images."""
    names = [[f"{f}{chr(97 + p)}" for p in range(size)] for f, size in enumerate(families)]
    person_of = np.repeat(np.arange(sum(families)), images_each)
    return TwinIndex(
        name="toy",
        people=tuple(name for family in names for name in family),
        families=tuple(map(tuple, names)),
        paths=tuple(f"{image}.png" for image in range(len(person_of))),
        person_of=person_of,
        family_of=np.repeat(np.arange(len(families)), families),
    )


class Toy(Verifier):
    """Embeds the mean colour; compares with an asymmetric product, so that a swapped pair shows; in two readings."""

    readings = ("straight", "reversed")

    def __init__(self):
        super().__init__()
        self.part = nn.BatchNorm1d(3, affine=False)
        self.encoded, self.compared, self.largest = [], 0, 0

    def encode(self, images, trace=False):
        assert images.dtype == torch.uint8 and not self.training and torch.is_inference_mode_enabled()
        self.encoded.append(len(images))
        return Features({"mean": self.part(images.float().mean((2, 3)))})

    def compare(self, a, b, reading=None):
        self.count(len(a) * len(b), max(len(a), len(b)))
        sign = self.sign_of(reading)
        return sign * (2 * a.parts["mean"][:, None, 0] - b.parts["mean"][None, :, 1])

    def compare_pairs(self, a, b, reading=None):
        assert len(a) == len(b)
        self.count(len(a), len(a))
        return self.sign_of(reading) * (2 * a.parts["mean"][:, 0] - b.parts["mean"][:, 1])

    def count(self, compared, largest):
        assert not self.part.training and torch.is_inference_mode_enabled()
        self.compared += compared
        self.largest = max(self.largest, largest)

    def sign_of(self, reading):
        self.check_reading(reading)
        return -1 if reading == "reversed" else 1


def toy_store(count, size=4):
    images = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    return ImageStore(images=images, kept=np.arange(count), rejected=[])
