"""From a picture to the face that a model compares, and what speaks against comparing it.

The detector looks for faces where its packages are installed; a picture whose face does not lie as the model knows
faces is aligned. S is the side of the model's input, px.
"""

import threading
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dcal_core.audit.alignment import Face, FaceAligner, NoFace, cut, similarity_transform
from dcal_core.audit.gate import LEAST_SIDE, OFF, SQUARE, blank, least_side
from dcal_core.audit.measures import inner_grey, sharpness, spanned, turned
from dcal_core.data.decoding import Unreadable, squared
from dcal_core.data.landmarks import TEMPLATE_SIDE
from dcal_core.deploy.inputs import Source
from dcal_core.errors import ConfigError

NO_DETECTOR = (
    "whether each picture shows one face, and whether that is aligned (the packages that find faces are missing)"
)
NOT_LOOKED = "whether each picture shows one face, and whether that is aligned (pictures were taken as aligned faces)"
UNSOUGHT = "faces were not looked for"
NOT_ALIGNED = "whether faces lie as in training (the model was trained on images that were not aligned)"


@dataclass(frozen=True, eq=False)
class ReadFace:
    """A face as a model takes it: pixels [S, S, 3], RGB uint8; its measures by name (ranges.py); doubts, as ends of
    sentences that begin with its name."""

    pixels: np.ndarray
    measures: dict[str, float]
    doubts: list[str] = field(default_factory=list)


class FaceReader:
    """Reads faces for a model; safe to use from several threads.

    size: S. fit: how a picture becomes square. landmarks: where the model's faces have eyes, nose and mouth, [5, 2]
    shares of the side; None if they were not aligned. find: whether to look for faces; None: where that is possible.
    unchecked: what is not looked at in any picture. Raises ConfigError where faces are to be found and a package is
    missing.
    """

    def __init__(self, size: int, fit: str, landmarks: list | None, find: bool | None = None):
        self.size = size
        self.fit = fit
        self.landmarks = None if landmarks is None else np.array(landmarks, dtype=float)
        self.unchecked = [] if landmarks is not None or find is False else [NOT_ALIGNED]
        self._own = threading.local()  # OpenCV's detectors are not to be shared between threads
        self.finds = find is not False
        if self.finds:
            try:
                self._own.aligner = FaceAligner()
            except ConfigError:
                if find:
                    raise
                self.finds = False
        if not self.finds:
            self.unchecked = [NOT_LOOKED if find is False else NO_DETECTOR]

    def read(self, source: Source) -> ReadFace:
        """The face of a picture; raises Unreadable with the reason, also where the picture shows no face."""
        face, doubts = None, []
        if self.finds:
            picture = source.open(None)
            face = self._find(picture)
            if face.faces > 1:
                doubts.append(f"shows {face.faces} faces, and the largest and most central one was taken")
        if face is not None and self.landmarks is not None and not self._lies_well(face, picture):
            place = similarity_transform(face.landmarks, self.landmarks * self.size)
            pixels = cut(np.asarray(picture), place, self.size)
        else:
            picture = source.open(2 * self.size)
            pixels = squared(picture, self.size, self.fit)
            doubts += self._shape(picture, source)
        if reason := blank(pixels.transpose(2, 0, 1)):
            raise Unreadable(f"it {reason}, so it shows no face")
        measures = self._measures(pixels, face)
        if face is not None and measures["face_px"] < least_side(self.size):
            doubts.append(
                f"is small: {measures['face_px']:.0f} px of the picture for a face, where the model takes {self.size}"
            )
        return ReadFace(pixels, measures, doubts)

    def _find(self, picture: Image.Image) -> Face:
        if not hasattr(self._own, "aligner"):
            self._own.aligner = FaceAligner()
        try:
            return self._own.aligner.locate(np.asarray(picture))
        except NoFace as reason:
            raise Unreadable(str(reason)) from None

    def _lies_well(self, face: Face, picture: Image.Image) -> bool:
        seen = (face.landmarks + 0.5) / picture.size
        return np.linalg.norm(seen - self.landmarks, axis=1).max() <= OFF

    def _shape(self, picture: Image.Image, source: Source) -> list[str]:
        short, long = sorted(picture.size)
        found = []
        if not self.finds and short < max(LEAST_SIDE, self.size // 2):
            found.append(f"is small: {picture.width} x {picture.height} px, where the model takes {self.size}")
        if long > SQUARE * short:
            width, height = source.size()
            found.append(f"is not square: {width} x {height} px (fit={self.fit})")
        return found

    def _measures(self, pixels: np.ndarray, face: Face | None) -> dict[str, float]:
        aligned = np.asarray(Image.fromarray(pixels).resize((TEMPLATE_SIDE, TEMPLATE_SIDE), Image.Resampling.BICUBIC))
        grey = inner_grey(aligned)
        found = {"sharpness": sharpness(aligned), "light": float(grey.mean()), "contrast": float(grey.std())}
        if face is not None:
            found |= {"confidence": face.score, "face_px": spanned(face.landmarks), "turn_deg": turned(face.landmarks)}
        return found
