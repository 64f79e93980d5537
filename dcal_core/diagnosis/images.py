"""Faults in the images themselves: nothing in them, colours exchanged, the same shot in training and in validation."""

from collections.abc import Iterator

import numpy as np

from dcal_core.audit.gate import blank
from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

COPIES = "duplicates across training and validation"
BLANK = 0.05  # share of images without content
BLUE = 0.8  # share of images whose middle is bluer than red; no skin is, in white light
COPIED = 0.01  # share of the validation images that are a training image too


def share_blank(evidence: Evidence) -> float:
    """The share of the looked-at images that show nothing."""
    return float(np.mean([bool(blank(image)) for sample in evidence.samples.values() for image in sample.pixels]))


def blank_images(evidence: Evidence) -> Iterator[Finding]:
    """Images of one colour or without contrast."""
    if (share := share_blank(evidence)) > BLANK:
        yield Finding(
            "blank images",
            f"{share:.0%} of the images are of one colour or have almost no contrast.",
            share,
            BLANK,
            "h",
            "look at the files and at what wrote them (a second division by 255 leaves them black); run `twins "
            "prepare`, and leave such images out",
        )


def bluer_than_red(pixels: np.ndarray) -> float:
    """The share of coloured images [N, 3, S, S] whose middle has more blue than red; 0 where all are grey."""
    side = pixels.shape[-1]
    middle = pixels[:, :, side // 4 : -(side // 4), side // 4 : -(side // 4)].mean((2, 3), dtype=np.float64)  # [N, 3]
    coloured = np.ptp(middle, axis=1) > 2
    return float((middle[coloured, 2] > middle[coloured, 0]).mean()) if coloured.any() else 0.0


def blue_faces(evidence: Evidence) -> Iterator[Finding]:
    """Faces whose red and blue are exchanged in the files."""
    share = bluer_than_red(evidence.samples["train"].pixels)
    if share > BLUE:
        yield Finding(
            "colours exchanged in the files",
            f"The middle of {share:.0%} of the training images is bluer than it is red, as no face is.",
            share,
            BLUE,
            "h",
            "the files hold BGR as if it were RGB (OpenCV writes BGR): convert with cv2.cvtColor before writing them",
        )


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Shots that stand in training and in validation under two people."""
    found = evidence.copies >= 0
    if (share := float(found.mean())) > COPIED:
        yield Finding(
            COPIES,
            f"{share:.0%} of the validation images ({found.sum()} of {len(found)}) show the same shot as an image to "
            "train on, under another person, so that validation flatters the model.",
            share,
            COPIED,
            "h",
            "one person is listed under two names: run `twins prepare`, and join them or leave one out",
        )
