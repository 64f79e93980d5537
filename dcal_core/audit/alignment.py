"""Face alignment: the face of a photograph, moved onto the ArcFace template by a similarity transform.

YuNet was trained on upright faces, and its landmarks are biased towards them: they are 5 px (of 112) off on a face
tilted by 15 degrees, and an inverted face is detected as an upright one. So the photograph is turned until the detector
is confident; then the detector sees a close-up several times, each time set upright by the landmarks found before.

Points are (x, y) in px, with (0, 0) at the centre of the first pixel; transforms are [3, 3], homogeneous. Photographs
are RGB uint8 [H, W, 3].
"""

import math
from dataclasses import dataclass

import numpy as np

from dcal_core.audit.detector import opencv, yunet
from dcal_core.data.landmarks import TEMPLATE, TEMPLATE_SIDE

LONGEST = 32_766  # px; OpenCV warps nothing longer

VIEWS = (320, 960)  # px, sides of the views of a whole photograph; the second is for faces too small in the first
FILLED = 0.8  # share of a view that the photograph takes, because YuNet needs room around a face
TURNS = (0, 90, 270, 45, 315, 180, 135, 225)  # degrees, the likely ones first
SURE = 0.9  # YuNet's confidence that ends the turning
SEEN = 0.6  # YuNet's confidence in a face of a whole photograph
CERTAIN = 0.8  # YuNet's confidence in a face of a close-up
RELAXED = (0.3, 0.5)  # the same two for hard faces
CONTRAST = 4.0  # limit of the local contrast (CLAHE) that hard faces are given
CLOSE = 256  # px, side of a close-up
ENLARGED = 2.0  # how much larger than 112 px the template is in a close-up
LOOKS = 6  # close-ups
AVERAGED = 4  # the last close-ups, whose landmarks are averaged, because they jump with the detector's grid
GREY = 127


class NoFace(Exception):
    """A photograph shows no face; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Face:
    """The place of a face in a photograph, px."""

    score: float | None  # YuNet's confidence in the last close-up, 0 to 1; None for landmarks set by hand
    box: np.ndarray  # [4] x, y, width, height
    landmarks: np.ndarray  # [5, 2] in the order of TEMPLATE
    faces: int  # in the photograph

    def transform(self, size: int) -> np.ndarray:
        """The similarity [3, 3] that moves the landmarks onto the template, scaled to `size` px."""
        return similarity_transform(self.landmarks, TEMPLATE * size / TEMPLATE_SIDE)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift [3, 3], without reflection, that moves points [N, 2] onto others by least squares:
    Umeyama, 1991, doi 10.1109/34.88573, eq. 38 to 43. ValueError if all source points are the same."""
    source_mean = source.mean(0)
    target_mean = target.mean(0)
    variance = ((source - source_mean) ** 2).sum(1).mean()
    if not variance > 0:
        raise ValueError("the points to be aligned are all at one place")
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)  # [2, 2]
    u, d, vt = np.linalg.svd(covariance)
    s = np.array([1.0, -1.0 if np.linalg.det(u @ vt) < 0 else 1.0])
    transform = np.eye(3)
    transform[:2, :2] = (u * s) @ vt * (d @ s) / variance
    transform[:2, 2] = target_mean - transform[:2, :2] @ source_mean
    return transform


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 2] after a transform [3, 3]."""
    return points @ transform[:2, :2].T + transform[:2, 2]


def resize(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """An image at another size, averaged if it shrinks, and the transform [3, 3] of its points."""
    cv2 = opencv()
    across = width / image.shape[1]
    down = height / image.shape[0]
    method = cv2.INTER_AREA if min(across, down) < 1 else cv2.INTER_LINEAR
    transform = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
    return cv2.resize(image, (width, height), interpolation=method), transform


def cut(image: np.ndarray, transform: np.ndarray, size: int, fill: int = 0) -> np.ndarray:
    """The square [size, size, 3] of an image after a similarity transform [3, 3]; `fill` lies around the image.

    Interpolation would pick single pixels of an image that shrinks (aliasing). So such an image is first reduced to two
    to four times the final scale, then drawn k times too large and averaged over k x k px.
    """
    cv2 = opencv()
    reduction = int(0.5 / math.sqrt(np.linalg.det(transform[:2, :2])))
    if reduction > 1:
        height, width = image.shape[:2]
        image, shrunk = resize(image, max(1, width // reduction), max(1, height // reduction))
        transform = transform @ np.linalg.inv(shrunk)
    k = max(1, math.ceil(1 / math.sqrt(np.linalg.det(transform[:2, :2]))))
    larger = np.array([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2], [0, 0, 1]])
    drawn = cv2.warpAffine(image, (larger @ transform)[:2], (k * size, k * size), borderValue=(fill,) * 3)
    return resize(drawn, size, size)[0]


def choose(rows: np.ndarray, side: int) -> np.ndarray:
    """The largest and most central of YuNet's faces [faces, 15] in a square view, [15]: the one with the largest
    difference between its size (the root of the box's area) and its distance from the centre."""
    x, y, width, height = rows[:, :4].T
    off_centre = np.hypot(x + width / 2 - side / 2, y + height / 2 - side / 2)
    return rows[np.argmax(np.sqrt(width * height) - off_centre)]


def _landmarks(row: np.ndarray) -> np.ndarray:
    return row[4:14].reshape(5, 2).astype(float)


def _turned(degrees: float, shape: tuple[int, int], side: int) -> np.ndarray:
    """The transform [3, 3] that turns an image of width and height `shape` counter-clockwise into a square's centre."""
    c = math.cos(math.radians(degrees))
    s = math.sin(math.radians(degrees))
    transform = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    transform[:2, 2] = (side - 1) / 2 - transform[:2, :2] @ ((np.array(shape) - 1) / 2)
    return transform


def _centred_template(side: int) -> np.ndarray:
    return (TEMPLATE - (TEMPLATE_SIDE - 1) / 2) * ENLARGED + (side - 1) / 2


class FaceAligner:
    """Finds and aligns the face of a photograph.

    relaxed: for dark, pale and blurred faces. The contrast is evened out, and YuNet need not be as confident, so it
    takes other things for faces more often.
    """

    def __init__(self, relaxed: bool = False):
        self.cv2 = opencv()
        self.relaxed = relaxed
        seen, self.certain = RELAXED if relaxed else (SEEN, CERTAIN)
        self.detectors = {side: yunet(side, seen) for side in (*VIEWS, CLOSE)}

    def align(self, image: np.ndarray, size: int) -> tuple[np.ndarray, Face]:
        """The aligned face of a photograph, RGB uint8 [size, size, 3], and its place in it; raises NoFace."""
        face = self.locate(image)
        return cut(image, face.transform(size), size), face

    def locate(self, image: np.ndarray) -> Face:
        """The place of the face of a photograph; `choose` picks one of several. Raises NoFace."""
        if max(image.shape) > LONGEST:
            raise NoFace(f"not looked for: {max(image.shape):,} px long, more than {LONGEST:,}")
        if self.relaxed:
            image = self._evened(image)
        for side in VIEWS:
            rows, view = self._turn(image, side)
            if len(rows):
                break
        else:
            raise NoFace("no face found, however it was turned")
        row = choose(rows, side)
        back = np.linalg.inv(view)
        x, y, width, height = row[:4]
        corners = apply(back, np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]]))
        box = np.concatenate([corners.min(0), np.ptp(corners, 0)])
        score, landmarks = self._settle(image, apply(back, _landmarks(row)))
        if score < self.certain:
            raise NoFace(f"no face found: from close by YuNet's confidence is {score:.2f}, below {self.certain}")
        return Face(score, box, landmarks, len(rows))

    def _evened(self, image: np.ndarray) -> np.ndarray:
        """A photograph whose light is stretched place by place (CLAHE), so that dark and pale faces show."""
        light, *colours = self.cv2.split(self.cv2.cvtColor(image, self.cv2.COLOR_RGB2LAB))
        light = self.cv2.createCLAHE(CONTRAST, (8, 8)).apply(light)
        return self.cv2.cvtColor(self.cv2.merge([light, *colours]), self.cv2.COLOR_LAB2RGB)

    def _detect(self, view: np.ndarray) -> np.ndarray:
        """YuNet's rows [faces, 15] of a square BGR view."""
        rows = self.detectors[len(view)].detect(view)[1]
        return np.empty((0, 15)) if rows is None else rows

    def _turn(self, image: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The faces [faces, 15] in the most confident view of a photograph, and the transform [3, 3] to that view."""
        height, width = image.shape[:2]
        ratio = FILLED * side / max(height, width)
        shape = max(1, round(ratio * width)), max(1, round(ratio * height))
        small, shrink = resize(image, *shape)
        small = self.cv2.cvtColor(small, self.cv2.COLOR_RGB2BGR)  # as YuNet wants it
        best = np.empty((0, 15)), np.eye(3)
        confidence = 0.0
        for degrees in TURNS:
            turn = _turned(degrees, shape, side)
            rows = self._detect(cut(small, turn, side, GREY))
            if len(rows) and rows[:, 14].max() > confidence:
                best = rows, turn @ shrink
                confidence = rows[:, 14].max()
            if confidence >= SURE:
                break
        return best

    def _settle(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[float, np.ndarray]:
        """The confidence in a face and its landmarks [5, 2], refined in close-ups from rough ones; raises NoFace."""
        # All close-ups come from one cut with room to turn in, so that the photograph's size no longer matters.
        around = similarity_transform(landmarks, _centred_template(2 * CLOSE))
        region = self.cv2.cvtColor(cut(image, around, 2 * CLOSE, GREY), self.cv2.COLOR_RGB2BGR)
        points = apply(around, landmarks)
        seen = []
        for _ in range(LOOKS):
            upright = similarity_transform(points, _centred_template(CLOSE))
            rows = self._detect(cut(region, upright, CLOSE, GREY))
            if not len(rows):
                raise NoFace("no face found: what seemed one is none from close by")
            row = choose(rows, CLOSE)
            points = apply(np.linalg.inv(upright), _landmarks(row))
            seen.append(points)
        return float(row[14]), apply(np.linalg.inv(around), np.mean(seen[-AVERAGED:], 0))
