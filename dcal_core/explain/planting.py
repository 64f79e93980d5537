"""Marks of known size and contrast, planted on the skin of an aligned face.

Lengths are shares of the distance between the eyes, so that they mean the same at every image size: on an adult's face
it is about 63 mm. Images are RGB uint8 [3, S, S]; landmarks as in `landmarks.py`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter

from dcal_core.explain.regions import face_regions

CHEEKS = ("left cheek", "right cheek")
LIKE_SKIN = 0.35  # in the logarithm of each colour, from the median of the cheeks: light and shade, but no hair
AROUND = 0.16  # of a place that must be skin, the side of a square
MOSTLY = 0.9  # of that square
EDGE = 0.3  # of the diameter over which a mark fades
FINE = 4  # points along the side of a pixel, over which the mark is averaged


def eye_distance(landmarks: np.ndarray, size: int) -> float:
    """The distance between the eyes in an image of `size` pixels, px."""
    return float(np.linalg.norm(landmarks[1] - landmarks[0]) * size)


def skin(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Which pixels are of the cheeks' colour, bool [S, S]; marks, hair, eyes and lips are not."""
    regions = face_regions(landmarks, image.shape[-1])
    colour = np.log(image + 1.0)
    cheeks = np.median(colour[:, regions[CHEEKS[0]] | regions[CHEEKS[1]]], axis=1)
    return (abs(colour - cheeks[:, None, None]) < LIKE_SKIN).all(0)


def places(image: np.ndarray, landmarks: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray | None]:
    """A place (x, y) on the skin of each part of the face, px, drawn at random; None where hair, say, leaves none."""
    size = image.shape[-1]
    side = max(1, round(AROUND * eye_distance(landmarks, size)))
    bare = uniform_filter(skin(image, landmarks).astype(float), side, mode="constant") >= MOSTLY
    found = {}
    for name, region in face_regions(landmarks, size).items():
        if name == "elsewhere":
            continue
        rows, columns = np.nonzero(region & bare)
        turn = int(random.random() * len(rows))
        found[name] = np.array([columns[turn], rows[turn]]) + 0.5 if len(rows) else None
    return found


def cover(place: np.ndarray, diameters: Sequence[float], size: int) -> np.ndarray:
    """How far round marks cover each pixel, 0 to 1, [D, S, S]; diameters: px, where a mark covers half.

    A mark fades over EDGE of its diameter, and each pixel has its mean, so that a mark smaller than a pixel is faint.
    """
    at = (np.arange(FINE * size) + 0.5) / FINE
    distance = np.hypot(at - place[0], at[:, None] - place[1])
    across = np.asarray(diameters, dtype=float)[:, None, None]
    fine = np.clip((across / 2 - distance) / (EDGE * across) + 0.5, 0, 1)
    return fine.reshape(len(across), size, FINE, size, FINE).mean((2, 4))


def planted(image: np.ndarray, covers: np.ndarray, contrasts: Sequence[float]) -> np.ndarray:
    """The image under each mark at each contrast, uint8 [C, D, 3, S, S]; covers: [D, S, S].

    contrast: of the pixel values in the middle of a mark, against the skin that is there: -0.6 is 60 % darker. What
    would be lighter than white is white.
    """
    change = 1 + np.asarray(contrasts, dtype=float)[:, None, None, None, None] * covers[:, None]
    return np.clip(np.rint(image * change), 0, 255).astype(np.uint8)
