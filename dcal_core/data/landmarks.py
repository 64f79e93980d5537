"""Where the five landmarks of a face lie: left eye, right eye, nose tip, left and right mouth corner.

Left and right are those of the image. TEMPLATE is InsightFace's, which AdaFace uses too (ArcFace, Deng et al., 2019,
arXiv 1801.07698). Elsewhere landmarks are [5, 2], (x, y) as shares of the image's side.
"""

import numpy as np

from dcal_core.data.drawn.genomes import EYE_V, MOUTH_V, TWIN_SHAPE

TEMPLATE_SIDE = 112  # px
TEMPLATE = np.array(  # [5, 2] (x, y) in px
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
ARCFACE = TEMPLATE / TEMPLATE_SIDE  # of an aligned photograph
_EYE = np.mean(TWIN_SHAPE["eye_spacing"])
_NOSE = np.mean(TWIN_SHAPE["nose_length"])
_MOUTH = np.mean(TWIN_SHAPE["mouth_width"])
# The middle of what is drawn; face coordinates are [-1, 1].
DRAWN = (1 + np.array([[-_EYE, EYE_V], [_EYE, EYE_V], [0, EYE_V + _NOSE], [-_MOUTH, MOUTH_V], [_MOUTH, MOUTH_V]])) / 2


def face_frame(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face's own frame: its origin [2], the middle of the eyes, and its axes [2, 2], a column each: x runs along
    the eyes, in eye distances; y from the eyes (0) to the mouth (1). ValueError for landmarks that span no face."""
    left, right, _, *mouth = landmarks
    origin = (left + right) / 2
    axes = np.stack([right - left, np.mean(mouth, axis=0) - origin], axis=1)
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-6:
        raise ValueError("these landmarks span no face: the eyes and the mouth must be finite and not in one line")
    return origin, axes
