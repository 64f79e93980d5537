"""Images of templates, aligned as they are read, and the features of templates from those of their images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dcal_core.audit.alignment import cut, similarity_transform
from dcal_core.audit.detector import opencv
from dcal_core.data.benchmarks.template_sets import TemplateSet
from dcal_core.data.decoding import Unreadable, decode, open_upright, read_file
from dcal_core.data.images import LazyImages
from dcal_core.data.landmarks import TEMPLATE, TEMPLATE_SIDE
from dcal_core.data.twins import DataError
from dcal_core.models.verifier import Features, Verifier

BLOCK = 4096  # entries pooled at once


@dataclass(frozen=True, eq=False)
class FaceFiles(LazyImages):
    """Images that are decoded as they are asked for, since a benchmark of templates encodes each of them once.

    landmarks: [N, 5, 2] px, by which images are aligned; None: they are.
    """

    landmarks: np.ndarray | None = None

    def __post_init__(self):
        if self.landmarks is not None:
            opencv()  # refuses before anything is encoded

    def batch(self, indices: np.ndarray) -> Tensor:
        """Images [B, 3, size, size] uint8; raises DataError."""
        with ThreadPoolExecutor() as pool:
            return torch.from_numpy(np.stack(list(pool.map(self.read, indices))))

    def read(self, index: int) -> np.ndarray:
        """One image, [3, size, size] uint8."""
        file = self.paths[index]
        try:
            if self.landmarks is None:
                return decode(read_file(file), self.size)
            image = np.asarray(open_upright(read_file(file)))
            transform = similarity_transform(self.landmarks[index], TEMPLATE * self.size / TEMPLATE_SIDE)
            return np.ascontiguousarray(cut(image, transform, self.size).transpose(2, 0, 1))  # [3, S, S]
        except (Unreadable, ValueError) as reason:
            raise DataError(f"{file}: {reason}: restore it, since a benchmark is read whole.") from None


def pool(model: Verifier, features: Features, templates: TemplateSet, norms: bool, detections: bool) -> Features:
    """The features of templates [T, ...]: of each part the mean over media of weighted means over a medium's images.

    norms: the longer a branch's embedding, the more its image counts (N1), or all are of unit length (N0). detections:
    images count by their detector's confidence (D1), or all the same (D0). Parts with a vector for each place, [B, C,
    P], are of unit length at each place again. A template without images is all zeros.
    """
    _, group, sizes = np.unique(
        np.stack([templates.template, templates.medium]), axis=1, return_inverse=True, return_counts=True
    )
    weight = (templates.weight if detections else 1.0) / sizes[group]
    share = torch.from_numpy(weight / np.bincount(templates.template, weight)[templates.template]).float()
    template, image = (torch.from_numpy(np.asarray(of, np.int64)) for of in (templates.template, templates.image))
    pooled = {}
    for name, part in features.parts.items():
        total = torch.zeros(templates.templates, *part.shape[1:])
        for rows in torch.arange(len(image)).split(BLOCK):
            some = part[image[rows]].float()
            if name in model.widths and not norms:
                some = F.normalize(some, dim=-1)
            total.index_add_(0, template[rows], some * share[rows].view(-1, *[1] * (part.ndim - 1)))
        pooled[name] = F.normalize(total, dim=1) if part.ndim > 2 else total
    return Features(pooled)
