"""The contract of a model: all that evaluation, explanation and prediction know about it.

A new system is a subclass of `Verifier` in a file of its own, and one line in `files.py`. Code outside `models/` reads
only what stands here, so a system is free to name and arrange its layers as its paper does.

B images; N pairs; H heads of width d; T tokens of width C; the last P = g x g tokens are the patches, row by row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def square(images: Tensor, side: int) -> Tensor:
    """RGB images [B, 3, h, w], uint8 or float in [0, 1], resized to floats in [0, 1], [B, 3, side, side]."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return images


@dataclass(frozen=True)
class Features:
    """Named parts of B encoded images, each [B, ...]; `trace` holds the intermediates of `encode(trace=True)`."""

    parts: dict[str, Tensor]
    trace: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index) -> "Features":
        """The features of some images: a slice, a mask or indices along the batch."""
        return self.map(lambda part: part[index])

    def to(self, device) -> "Features":
        return self.map(lambda part: part.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """The features with a function applied to every tensor."""
        return Features(*({k: change(v) for k, v in group.items()} for group in (self.parts, self.trace)))

    def only(self, names: Collection[str]) -> "Features":
        """The features with these parts alone, or with all for ()."""
        return Features({k: v for k, v in self.parts.items() if k in names}, self.trace) if names else self

    @staticmethod
    def cat(batches: Iterable["Features"]) -> "Features":
        """The features of several batches as one."""
        batches = list(batches)
        return Features(
            {k: torch.cat([b.parts[k] for b in batches]) for k in batches[0].parts},
            {k: torch.cat([b.trace[k] for b in batches]) for k in batches[0].trace},
        )


class Verifier(nn.Module, ABC):
    """A model that tells whether two face images show the same person.

    image_size: side of the model's input, px; callers may give images of any size.
    grid: g, cells along a side of the model's maps.
    widths: the width of each branch that `forward` returns, by name; what the training losses are built from.
    blank: an RGB value in [0, 1], a number or [1, 3, 1, 1], that the model's normalisation turns into 0: no input.
    readings: names of the ways in which the model compares, its own answer first.
    architecture: plain values that rebuild the model without its weights; `files.py` saves them.
    """

    image_size: int
    grid: int
    widths: dict[str, int]
    blank: Tensor | float = 0.5
    readings: tuple[str, ...] = ("whole",)
    architecture: dict

    @abstractmethod
    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """Features of RGB images [B, 3, h, w], uint8 or float in [0, 1]; resizing, colour order and normalisation
        happen here.

        `trace` adds the intermediates that maps are made from, all without gradient. A model gives those it has; a map
        whose names are missing is not offered.

            q.i, k.i         queries and keys of block i, after norms and rotary positions, [B, H, T, d]
            x.i              the tokens that block i returns, [B, T, C]
            map.i            attention of block i, mean of the heads, [B, T, T]; of the last block CLS alone, [B, 1, T]
            selected         the L tokens that global-local attention (GLCA) looks at again, indices [B, L]
            local            GLCA's output for CLS and these tokens, [B, 1 + L, C]
            visible          how visible each place is, 0 to 1, [B, P]; given only if places are matched
            glca.m           attention of GLCA's block m, fp32 [B, H, 1 + L, T]
            place.<branch>   what each patch adds to the last w numbers of a branch's unit embedding, [B, P, w]; given
                             only if the score is the cosine of all branches, joined at equal weight
        """

    @abstractmethod
    def compare(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Scores [Na, Nb] of all images of a with all of b, higher = more alike; symmetric in a and b.

        reading: one of `readings`; None is the first.
        """

    @abstractmethod
    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Scores [N] of image i of a with image i of b: the diagonal of `compare`, without the rest of the matrix."""

    def vectors(self, features: Features) -> Tensor | None:
        """Vectors [B, D] whose dot products are the scores of the model's own answer; None if it compares otherwise."""
        return None

    def match_places(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """For a model that traces `visible`: what each place of a and of b adds to the score of image i of a with image
        i of b by its match in the other, and which place that is, [N, 2, P] each."""
        raise NotImplementedError(f"{type(self).__name__} does not match places")

    def check_reading(self, reading: str | None) -> None:
        """Refuse a reading that the model does not offer; ValueError."""
        if reading is not None and reading not in self.readings:
            raise ValueError(f"reading={reading!r}: {type(self).__name__} offers {', '.join(self.readings)}.")
