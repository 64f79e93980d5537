"""Images that show the same shot, re-encoded, resized or brightened.

Aligned faces look alike, and those of twins even more, so two images count as one shot only if two tests agree: a
perceptual hash of the coarse structure (the 8 x 8 lowest frequencies of the discrete cosine transform, each above or
below their median) and the correlation of all finer structure, which is not part of the hash.

Measured on drawn twins, whose pose, light, expression and clothes vary from image to image. False alarms: none in the
29.6 million pairs of the demo's 7,696 images, where the highest correlation is 0.927; in 6 x 44,850 pairs of 6 x 300
images at 64 and 224 px and difficulties 0, 0.5 and 1, once in each of the six, two images of one person in one pose.
Found, of the 496 images of the demo's test split (64 px): all in grey, with JPEG quality 30 to 95, or at half to double
size; of 6 x 60 images also all with 0.7 times the brightness or contrast; 355 with 1.3 times the brightness; with JPEG
quality 20, 175 of 180 at 64 px and all at 224 px; at half size with quality 30, none at 64 px and all at 224 px; 3 of
360 with 2 % cropped off each side. Bursts are the limit: with a quarter of the rotation, shift and zoom, 4 to 6 of 600
pairs of one person and at most 3 of 750 co-twin pairs count as one shot; if only the expression changes, most pairs of
one person and a fifth (difficulty 0) to four fifths (difficulty 1) of co-twins. Photographs were not measured.
"""

import numpy as np
import scipy  # imports its parts when they are used: `thumbnail` needs none
from PIL import Image

SIDE = 32  # px, of the thumbnails that are compared
COARSE = 8  # frequencies in each direction that make the hash of 64 bits
RADIUS = 12  # the largest difference between the hashes of one shot, bits
ALIKE = 0.94  # the smallest correlation of the finer structure of one shot
ROWS = 256  # images compared with all others at once; bounds the memory


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A decoded image [3, S, S] uint8 in grey, [SIDE, SIDE] uint8."""
    grey = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).convert("L")  # as a copy in grey is made
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))


def frequencies(thumbnails: np.ndarray) -> np.ndarray:
    """The cosine transform of each thumbnail [N, SIDE, SIDE]; the coarse structure comes first in both directions."""
    return scipy.fft.dctn(thumbnails.astype(float), axes=(1, 2), norm="ortho")


def perceptual_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each thumbnail, uint64 [N]; imagehash, which takes one image at a time, is not on Kaggle."""
    coarse = frequencies(thumbnails)[:, :COARSE, :COARSE].reshape(-1, COARSE * COARSE)  # [N, 64]
    median = np.median(coarse[:, 1:], axis=1, keepdims=True)  # without the mean, which is the brightness
    return np.packbits(coarse > median, axis=1).view(np.uint64)[:, 0]


def fine_structure(thumbnails: np.ndarray) -> np.ndarray:
    """The frequencies that the hash leaves out, [N, SIDE * SIDE], of length 1, so that dot products are correlations;
    0 for a plain image."""
    fine = frequencies(thumbnails)
    fine[:, :COARSE, :COARSE] = 0
    fine = fine.reshape(-1, SIDE * SIDE)
    length = np.linalg.norm(fine, axis=1, keepdims=True)
    return np.where(length > 1, fine / np.maximum(length, 1), 0).astype(np.float32)  # below: rounding, no structure


def same_shots(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of thumbnails [N, SIDE, SIDE] that show one shot: first < second [pairs] and their correlation [pairs]."""
    hashes = perceptual_hashes(thumbnails)
    fine = fine_structure(thumbnails)
    found = [(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))]
    for start in range(0, len(hashes), ROWS):
        rows = slice(start, start + ROWS)
        apart = np.bitwise_count(hashes[rows, None] ^ hashes[start:])  # [rows, N - start] bits
        alike = fine[rows] @ fine[start:].T
        first, second = np.nonzero(np.triu((apart <= RADIUS) & (alike >= ALIKE), k=1))
        found.append((start + first, start + second, alike[first, second]))
    first, second, alike = map(np.concatenate, zip(*found, strict=True))
    return first, second, alike
