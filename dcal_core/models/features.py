"""Encoded images: what evaluation, explanation and prediction pass around."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Named parts of B encoded images, each [B, ...]; `trace` holds the intermediates of `encode(trace=True)`."""

    parts: dict[str, Tensor]
    trace: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self):
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index):
        """The features of some images: a slice, a mask or indices along the batch."""
        return self.map(lambda part: part[index])

    def to(self, device):
        """The features on another device."""
        return self.map(lambda part: part.to(device))

    def map(self, change):
        """The features with a function applied to every tensor."""
        return Features(*({k: change(v) for k, v in group.items()} for group in (self.parts, self.trace)))

    @staticmethod
    def cat(batches):
        """The features of several batches as one."""
        batches = list(batches)
        return Features(
            {k: torch.cat([b.parts[k] for b in batches]) for k in batches[0].parts},
            {k: torch.cat([b.trace[k] for b in batches]) for k in batches[0].trace},
        )
