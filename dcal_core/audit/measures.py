"""How good a face is, in numbers: how sharp, how bright, how large and how far turned it is.

Faces are aligned, RGB uint8 [112, 112, 3]; landmarks are [5, 2], (x, y) in px of the photograph.
"""

import numpy as np
from PIL import Image

from dcal_core.audit.alignment import similarity_transform
from dcal_core.data.landmarks import TEMPLATE, TEMPLATE_SIDE

DEPTH = np.array([0, 0, 20, 4, 4])  # px of the template: how far each landmark lies in front of the eyes
INNER = np.s_[32:104, 24:88]  # of an aligned face: little of what lies around it


def inner_grey(face: np.ndarray) -> np.ndarray:
    """The grey values of an aligned face between eyes and mouth, [72, 64] float."""
    return np.asarray(Image.fromarray(face).convert("L"))[INNER].astype(float)


def sharpness(face: np.ndarray) -> float:
    """How sharp an aligned face is: the standard deviation of the Laplacian of its grey values over their own. Sharp
    photographs have 0.3 to 1, those blurred by 2 px 0.1 to 0.2; noise raises it."""
    grey = inner_grey(face)
    around = np.pad(grey, 1, mode="reflect")
    sides = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    return float((sides - 4 * grey).std() / max(grey.std(), 1))


def turned(landmarks: np.ndarray) -> float:
    """How far a face looks past the camera, degrees, by its landmarks [5, 2]; in-plane rotation does not count.

    Of all scaled orthographic views of the template, with DEPTH, the one nearest to them by least squares. That all
    faces are as deep, and landmarks that are 3 px off, make it uncertain by about 10 degrees.
    """
    solid = np.column_stack([TEMPLATE, -DEPTH])
    view = np.linalg.lstsq(solid - solid.mean(0), landmarks - landmarks.mean(0), rcond=None)[0].T  # [2, 3]
    u, _, vt = np.linalg.svd(view, full_matrices=False)
    towards = np.cross(*(u @ vt))[2]  # the last number of the rotation matrix
    return float(np.degrees(np.arccos(np.clip(towards, -1, 1))))


def spanned(landmarks: np.ndarray) -> float:
    """Px of the photograph along a side of the aligned face, by its landmarks [5, 2]."""
    return TEMPLATE_SIDE / float(np.hypot(*similarity_transform(landmarks, TEMPLATE)[0, :2]))
