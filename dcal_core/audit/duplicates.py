"""Images that show one and the same shot, re-encoded, resized or made lighter.

Aligned faces are alike, those of twins all the more, so two images count as one shot only where both agree: a
perceptual hash of the coarse structure (the 8 x 8 lowest frequencies of the discrete cosine transform, each above or
below their median) and the correlation of all finer structure, which the hash does not see.

Measured on drawn twins, whose pose, light, expression and clothes vary from image to image, six times 300 images at 64
and 224 px and difficulties 0, 0.5 and 1. False alarms: none in 6 x 44,850 pairs, where the highest correlation is 0.88.
Found, of 6 x 60 images changed in each way: JPEG of quality 90 or 50, half or double size, 0.7 or 1.3 times as light,
0.7 times the contrast: all; grey: 357; JPEG of quality 20: 151 of 180 at 64 px, all at 224 px; 2 % cropped off each
side: 1. Bursts are the limit: with a quarter of the turn, shift and zoom, 4 to 8 of 600 pairs of one person are taken
for one shot and at most 4 of 750 co-twin pairs; with pose, light and clothes held still and only the expression
changing, most pairs of one person and, at difficulty 1 alone, one co-twin pair in ten. Photographs were not measured.
"""

import numpy as np
from PIL import Image

SIDE = 32  # of the thumbnails that are compared, px
COARSE = 8  # frequencies each way that the hash holds, 64 bits
RADIUS = 12  # most bits that the hashes of one shot differ by
ALIKE = 0.95  # least correlation of the finer structure of one shot
ROWS = 256  # images compared with all others at once, which bounds the memory

_frequencies = np.cos(np.pi * (np.arange(SIDE) + 0.5) * np.arange(COARSE)[:, None] / SIDE)  # of the DCT-II
BASIS = _frequencies / np.linalg.norm(_frequencies, axis=1, keepdims=True)  # [COARSE, SIDE], orthonormal


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A decoded image [3, S, S] uint8 in grey, [SIDE, SIDE] uint8."""
    grey = Image.fromarray(image.mean(axis=0).round().astype(np.uint8))
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each thumbnail [N, SIDE, SIDE], uint64 [N].

    These few lines instead of the package imagehash, which Kaggle's image lacks and which takes one image at a time.
    """
    coarse = (BASIS @ thumbnails @ BASIS.T).reshape(-1, COARSE * COARSE)  # [N, 64]
    median = np.median(coarse[:, 1:], axis=1, keepdims=True)  # without the mean, which is the brightness
    return np.packbits(coarse > median, axis=1).view(np.uint64)[:, 0]


def fine_structure(thumbnails: np.ndarray) -> np.ndarray:
    """What the hash leaves out, [N, SIDE * SIDE], of length 1: dot products are correlations; 0 for a plain area."""
    smooth = BASIS.T @ BASIS
    fine = (thumbnails - smooth @ thumbnails @ smooth).reshape(-1, SIDE * SIDE)  # [N, SIDE * SIDE]
    length = np.linalg.norm(fine, axis=1, keepdims=True)
    return np.where(length > 1, fine / np.maximum(length, 1), 0).astype(np.float32)  # below: rounding, no structure


def same_shots(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of thumbnails [N, SIDE, SIDE] that show one shot: first < second [pairs], and their correlation [pairs]."""
    hashes, fine = perceptual_hashes(thumbnails), fine_structure(thumbnails)
    found = [(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))]
    for start in range(0, len(hashes), ROWS):
        rows = slice(start, start + ROWS)
        apart = np.bitwise_count(hashes[rows, None] ^ hashes[start:])  # [rows, N - start] bits
        alike = fine[rows] @ fine[start:].T
        first, second = np.nonzero(np.triu((apart <= RADIUS) & (alike >= ALIKE), k=1))
        found.append((start + first, start + second, alike[first, second]))
    first, second, alike = map(np.concatenate, zip(*found, strict=True))
    return first, second, alike
