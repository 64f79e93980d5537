"""Parts of an aligned face, so that a map can be told in words: "the left cheek holds 2.5 times its area".

They are cut in the face's own frame, which five landmarks span: x runs along the eyes, in eye distances from their
middle; y from the eyes (0) to the mouth (1). So they turn, shift and scale with a face, but do not follow its outline:
they are what an aligned face usually has there, and hair or a turned head can cover it.
Left and right are those of the image. Cheeks have sides, since a mole on one of them is what tells twins apart; brows
and eyes lie so close that a patch often holds parts of both.
Landmarks are [5, 2], (x, y) as shares of the image's side: left eye, right eye, nose tip, left and right mouth corner.
"""

import numpy as np

from dcal_core.data.drawn.genomes import EYE_V, MOUTH_V, TWIN_SHAPE
from dcal_core.data.landmarks import TEMPLATE, TEMPLATE_SIDE

ARCFACE = TEMPLATE / TEMPLATE_SIDE  # of an aligned photograph
_EYE, _NOSE, _MOUTH = (np.mean(TWIN_SHAPE[name]) for name in ("eye_spacing", "nose_length", "mouth_width"))
# The middle of what is drawn; face coordinates are [-1, 1].
DRAWN = (1 + np.array([[-_EYE, EYE_V], [_EYE, EYE_V], [0, EYE_V + _NOSE], [-_MOUTH, MOUTH_V], [_MOUTH, MOUTH_V]])) / 2


def _in_frame(landmarks: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [..., 2] of the image as (x, y) in the frame of the face."""
    left, right, _, *mouth = landmarks
    axes = np.stack([right - left, np.mean(mouth, axis=0) - (left + right) / 2], axis=1)  # [2, 2], a column each
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-6:
        raise ValueError("these landmarks span no face: the eyes and the mouth must be finite and not in one line")
    return (points - (left + right) / 2) @ np.linalg.inv(axes).T


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low <= values) & (values < high)


def face_regions(landmarks: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Which pixels of an aligned face belong to which part, name -> bool [size, size]; each pixel is in exactly one.

    "forehead" may lie under a fringe; "elsewhere" is hair, ears, temples, neck, clothes, background. ValueError for
    landmarks that are not [5, 2] or lie on one line.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (5, 2):
        raise ValueError(f"landmarks must be [5, 2], shares of the image's side, got {[*landmarks.shape]}")
    middles = (np.arange(size) + 0.5) / size
    x, y = np.moveaxis(_in_frame(landmarks, np.stack(np.meshgrid(middles, middles), axis=-1)), -1, 0)
    _, _, nose, *mouth = _in_frame(landmarks, landmarks)
    across, nose_end, lips = abs(x), nose[1] + 0.2, (mouth[1][0] - mouth[0][0]) / 2 + 0.13
    face = (x / 1.15) ** 2 + (np.maximum(y - 0.2, 0) / 1.45) ** 2 < 1  # the chin is at 1.65
    parts = {  # a pixel belongs to the first that holds it
        "brows": _within(across, 0.1, 0.85) & _within(y, -0.6, -0.22),
        "eyes": _within(across, 0.15, 0.85) & _within(y, -0.22, 0.2),
        "nose": (across < 0.15 + 0.2 * np.clip(y / nose_end, 0, 1)) & _within(y, -0.22, nose_end),
        "mouth": (across < lips) & _within(y, nose_end, 1.3),
        "left cheek": face & (x < 0) & _within(y, 0.2, 1),
        "right cheek": face & (x >= 0) & _within(y, 0.2, 1),
        "jaw": face & (y >= 1),
        "forehead": (across < 0.9) & _within(y, -1, -0.22),
        "elsewhere": np.ones_like(face),
    }
    first = np.argmax([*parts.values()], axis=0)
    return {name: first == number for number, name in enumerate(parts)}


def coverage(region: np.ndarray, grid: int) -> np.ndarray:
    """The share of each patch that lies in a region bool [S, S], [g, g]; exact where patches cut through pixels."""
    patches, pixels = (np.linspace(0, 1, n + 1) for n in (grid, len(region)))
    ends = np.minimum(patches[1:, None], pixels[None, 1:]) - np.maximum(patches[:-1, None], pixels[None, :-1])
    shared = np.maximum(ends, 0) * grid  # [g, S], of a patch's side
    return shared @ region @ shared.T
