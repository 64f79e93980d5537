"""Which images are the same shot as one of a split, in the sense of `audit.duplicates`."""

import numpy as np

from dcal_core.audit.duplicates import ALIKE, RADIUS, fine_structure, perceptual_hashes, thumbnail
from dcal_core.data.splits import Split

ROWS = 256  # images of the split that are read at once


def copies_in(pixels: np.ndarray, split: Split) -> np.ndarray:
    """For each image [N, 3, S, S] uint8 the first image of the split that shows the same shot, or -1, [N]."""
    thumbnails = np.stack([thumbnail(image) for image in pixels])
    hashes, fine = perceptual_hashes(thumbnails), fine_structure(thumbnails)
    found = np.full(len(pixels), -1)
    count = len(split.index.person_of)
    for start in range(0, count, ROWS):
        batch = split.images.batch(range(start, min(start + ROWS, count))).numpy()
        theirs = np.stack([thumbnail(image) for image in batch])
        near = np.bitwise_count(hashes[:, None] ^ perceptual_hashes(theirs)) <= RADIUS
        alike = near & (fine @ fine_structure(theirs).T >= ALIKE)
        found = np.where((found < 0) & alike.any(1), start + alike.argmax(1), found)
    return found
