"""What is known against pictures before a model compares them: any picture has a score, not every score a meaning.

The detector looks for faces where its packages are installed. Plain checks are made in any case.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from dcal_core.audit.alignment import FaceAligner, NoFace
from dcal_core.audit.detector import CURE
from dcal_core.audit.duplicates import same_shots, thumbnail
from dcal_core.data.decoding import Unreadable, decode, open_upright, read_file
from dcal_core.data.twins import DataError
from dcal_core.errors import ConfigError
from dcal_core.progress import progress_line
from dcal_core.storage import digest

LEAST_SIDE = 32  # px; a smaller face shows nothing that tells twins apart
FLAT = 12  # of 255; a picture shows nothing if its grey values span less, from the 1st to the 99th percentile
SQUARE = 1.02  # the largest ratio of the longer side to the shorter that counts as square
OFF = 0.15  # of the side; 46 drawn and 2 aligned photographed faces lay at most 0.136 from their template
NO_DETECTOR = (
    "Not checked, because the packages that find faces are missing: whether each picture shows one face, and whether "
    f"that is aligned ({CURE})."
)
NO_TRAINING_IMAGES = "Not checked, because the training images are not here: whether a picture is one of them."


@dataclass(frozen=True, eq=False)
class Picture:
    """An image file as a person sees it and as the model does."""

    name: str
    file: Path
    shape: tuple[int, int]  # height and width, px
    pixels: np.ndarray  # [3, S, S] uint8, the model's input
    fit: str  # how it became square
    blank: str  # why it shows nothing, "" where it shows something
    thumbnail: np.ndarray  # [32, 32] uint8

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return digest(self.file)

    def whole(self) -> np.ndarray:
        """All that the file shows, [H, W, 3] uint8, decoded anew: a list of photographs does not fit into memory."""
        return np.asarray(open_upright(read_file(self.file)))


def open_picture(file: Path, size: int, fit: str = "stretch") -> Picture:
    """Read an image file, `size` px the side of the model's input, made square by `fit`; DataError if that is not
    possible."""
    try:
        data = read_file(file)
        width, height = open_upright(data).size
        pixels = decode(data, size, fit)
        bare = decode_bare(data, size, fit)
    except Unreadable as error:
        raise DataError(f"{file}: {error}: give a face image.") from None
    return Picture(str(file), Path(file), (height, width), pixels, fit, blank(bare), thumbnail(bare))


@dataclass(frozen=True)
class Findings:
    """Sentences on pictures. stops: why they cannot be compared; doubts: why a comparison deserves less trust;
    unchecked: what was not looked at."""

    stops: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def sentences(self) -> list[str]:
        """All of them, the gravest first."""
        return [*self.stops, *self.doubts, *self.unchecked]


class Gate:
    """Looks at pictures before they are compared.

    template: the landmarks of the aligned faces that the model was trained on, [5, 2], shares of the side. people: the
    ids of the people it was trained on. files: their images; None where they are not here. fit: how pictures become
    square.
    """

    def __init__(self, template: np.ndarray, people: set[str], files: list[Path] | None, fit: str = "stretch"):
        self.template = template
        self.people = people
        self.files = files
        self.fit = fit
        try:
            self.aligner = FaceAligner()
        except ConfigError:  # a package is missing
            self.aligner = None

    def look(self, pairs: Sequence[tuple[Picture, Picture]]) -> Findings:
        """What is known against a comparison of these pairs; a picture of several pairs is looked at once."""
        found = Findings()
        for first, second in pairs:
            both = f"{first.name} and {second.name}"
            if reason := same_content(first, second):
                found.stops.append(f"{both} {reason}: give two pictures.")
            elif one_shot(first, second):
                found.doubts.append(
                    f"{both} look like the same photograph saved twice: if they are, their score says nothing."
                )
        pictures = list(dict.fromkeys(chain.from_iterable(pairs)))
        for picture in progress_line(pictures, desc="looking for faces", unit="picture"):
            if picture.blank:
                found.stops.append(f"{picture.name} {picture.blank}: it shows no face.")
                continue
            found.doubts.extend(_shape(picture))
            found.doubts.extend(self._training(picture))
            if self.aligner is not None:
                self._face(picture, found)
        if self.aligner is None:
            found.unchecked.append(NO_DETECTOR)
        if self.files is None:
            found.unchecked.append(NO_TRAINING_IMAGES)
        return found

    def _face(self, picture: Picture, found: Findings) -> None:
        try:
            face = self.aligner.locate(picture.whole())
        except NoFace as reason:
            found.stops.append(f"{picture.name}: {reason}.")
            return
        if face.faces > 1:
            found.doubts.append(
                f"{picture.name} shows {face.faces} faces: crop it to one, or all of them are compared."
            )
        height, width = picture.shape
        seen = (face.landmarks + 0.5) / (width, height)
        off = np.linalg.norm(seen - self.template, axis=1).max()
        if off > OFF:
            found.doubts.append(
                f"{picture.name} is not aligned as the images that the model knows: its eyes, nose and mouth lie up to "
                f"{off:.0%} of the side from where they should be, so the score says little; align it first."
            )

    @cached_property
    def _by_size(self) -> dict[int, list[Path]]:
        """The training images that are here, by the size of the file in bytes."""
        found = defaultdict(list)
        for file in filter(Path.is_file, self.files or ()):
            found[file.stat().st_size].append(file)
        return found

    def _training(self, picture: Picture) -> list[str]:
        person = picture.file.absolute().parent.name
        same_size = self._by_size[picture.file.stat().st_size]
        if any(digest(file) == picture.digest for file in same_size):
            return [f"{picture.name} is an image that the model was trained on: its score is better than on others."]
        if person in self.people:
            return [
                f"{picture.name} lies in a folder named {person!r}, like a person that the model was trained on: if it "
                "is that person, the score is better than on others."
            ]
        return []


def same_content(first: Picture, second: Picture) -> str:
    """Why two pictures count as one, as the end of a sentence; "" where they differ."""
    if first.digest == second.digest:
        return "are one file or its copy"
    if np.array_equal(first.pixels, second.pixels):
        return "have the same pixels"
    if np.array_equal(first.pixels, second.pixels[:, :, ::-1]):
        return "have the same pixels, mirrored"
    return ""


def one_shot(first: Picture, second: Picture) -> bool:
    """Whether two pictures look like one photograph, also where one of them is mirrored."""
    other = second.thumbnail
    return 0 in same_shots(np.stack([first.thumbnail, other, other[:, ::-1]]))[0]


def decode_bare(data: bytes, size: int, fit: str) -> np.ndarray:
    """As `decode`, but without grey bars, which are not part of what an image shows."""
    return decode(data, size, "stretch" if fit == "pad" else fit)


def blank(pixels: np.ndarray) -> str:
    """Why a picture [3, S, S] shows nothing at all, as the end of a sentence; "" where it shows something."""
    if np.ptp(pixels, axis=(1, 2)).max() == 0:
        return "is of one colour"
    low, high = np.percentile(pixels.mean(0), (1, 99))
    return f"has almost no contrast (grey values span {high - low:.0f} of 255)" if high - low < FLAT else ""


def least_side(image_size: int) -> int:
    """The shorter side, px, below which a picture is small for a model's input of this side."""
    return max(LEAST_SIDE, image_size // 2)


def _shape(picture: Picture) -> list[str]:
    height, width = picture.shape
    size = len(picture.pixels[0])
    found = []
    if min(height, width) < least_side(size):
        found.append(
            f"{picture.name} is small: {width} x {height} px, where the model looks at {size} x {size}; what tells "
            "twins apart may be lost."
        )
    if max(height, width) > SQUARE * min(height, width):
        how = {"stretch": "squeezed into", "pad": "set between bars in", "crop": "cut to fit"}[picture.fit]
        found.append(f"{picture.name} is not square: {width} x {height} px are {how} {size} x {size}.")
    return found
