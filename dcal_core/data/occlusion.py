"""Occluders drawn over aligned faces: masks, sunglasses, scarves, hands and blocks, each with what stays visible.

Shapes are drawn in the face's own frame (`face_frame`): x in eye distances from the middle of the eyes, y from the
eyes, 0, to the mouth, 1; the chin is near 1.65. An occluder is a function of a generator alone, the same at any size.
S pixels a side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dcal_core.data.images import ImageStore
from dcal_core.data.landmarks import ARCFACE, face_frame

FINE = 2  # drawn so many times finer than the image, for smooth edges
SHIFT, SCALE, TURN = 0.05, 0.05, 0.05  # standard deviations of the jitter: eye distances, share, radians
CLOTHS = ("accee2", "e8eaec", "242428", "a4ccb8", "e2b2c0", "80848a", "2c3a68", "962830", "c4a070", "5c7048")
LENSES = ("121216", "342216", "101c34", "222e22", "687886")
FRAMES = ("0c0c0e", "4a2e1c", "a88c54", "841c24", "ced0d4")
MASKS = {  # right half of an outline, from the middle of its upper edge to the chin
    "surgical": ((0, 0.24), (0.5, 0.34), (1.02, 0.36), (1.0, 1.2), (0.62, 1.68), (0, 1.84)),
    "respirator": ((0, 0.14), (0.42, 0.4), (0.96, 0.62), (1.0, 1.0), (0.6, 1.6), (0, 1.96)),
    "cloth": ((0, 0.3), (0.55, 0.32), (1.14, 0.5), (1.06, 1.2), (0.5, 1.74), (0, 1.82)),
    "below the nose": ((0, 0.68), (0.5, 0.66), (1.02, 0.66), (0.98, 1.3), (0.58, 1.7), (0, 1.86)),
}
PALM = ((-0.6, -0.8), (-0.66, 0.4), (-0.2, 0.66), (0.3, 0.64), (0.64, 0.36), (0.54, -0.8))
FINGERS = ((-0.47, 0.95), (-0.16, 1.12), (0.16, 1.05), (0.46, 0.8))  # place across the palm, length
TARGETS = ((0, 0.9), (0, 0.4), (-0.55, 0.75), (0.55, 0.75), (-0.5, 0), (0.5, 0), (0, -0.55))  # of a hand
SKIN = np.array([(-0.5, 0.55), (0, 0.25), (0.5, 0.55)])  # where a hand takes its colour from
_STEPS = np.arange(6)[:, None] / 6
_SPLINE = (_STEPS ** np.arange(4)) @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2


def _closed(points: np.ndarray) -> np.ndarray:
    """A smooth closed line (Catmull-Rom) through points [n, 2], [6 n, 2]."""
    neighbours = np.stack([np.roll(points, turn, axis=0) for turn in (1, 0, -1, -2)], axis=1)  # [n, 4, 2]
    return (_SPLINE @ neighbours).reshape(-1, 2)  # [6 n, 2]


def _both_sides(half: np.ndarray) -> np.ndarray:
    """A closed outline from its right half, whose ends lie on the middle line."""
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


def _ink(colour: np.ndarray, light: float = 1, alpha: int = 255) -> tuple[int, ...]:
    return (*np.clip(light * colour, 0, 255).astype(int).tolist(), alpha)


class _Sheet:
    """A transparent sheet over a face [3, S, S], to draw on in the face's frame, which lies a little beside it."""

    def __init__(self, face: np.ndarray, random: np.random.Generator, landmarks: np.ndarray):
        self.face = face
        self.random = random
        self.side = FINE * face.shape[-1]
        origin, axes = face_frame(landmarks)
        right, down, zoom, angle = random.normal((0, 0, 1, 0), (SHIFT, SHIFT, SCALE, TURN)).tolist()
        cos, sin = math.cos(angle), math.sin(angle)
        self.origin = self.side * (origin + axes @ (right, down))
        self.axes = self.side * zoom * np.array([[cos, -sin], [sin, cos]]) @ axes
        self.unit = math.hypot(*self.axes[:, 0])  # an eye distance, px
        self.picture = Image.new("RGBA", (self.side, self.side))
        self.pen = ImageDraw.Draw(self.picture)

    def places(self, points) -> list[float]:
        return (self.origin + np.asarray(points) @ self.axes.T).ravel().tolist()

    def area(self, points, colour) -> None:
        self.pen.polygon(self.places(points), colour)

    def line(self, points, colour, width: float, ends: bool = False) -> None:
        """ends: round ones."""
        places = self.places(points)
        width = max(1, round(width * self.unit))
        self.pen.line(places, colour, width)
        for x, y in (places[:2], places[-2:]) if ends else ():
            self.pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), colour)

    def one_of(self, choices: Sequence):
        return choices[self.random.integers(len(choices))]

    def tone(self, colours: Sequence[str]) -> np.ndarray:
        """One of some colours, changed a little, [3]."""
        colour = np.array(list(bytes.fromhex(self.one_of(colours))))
        return colour * self.random.uniform(0.85, 1.1) + self.random.normal(0, 6, 3)


def _mask(sheet: _Sheet) -> None:
    kind = sheet.one_of([*MASKS])
    cloth = sheet.tone(CLOTHS)
    half = np.array(MASKS[kind]) + sheet.random.normal(0, 0.03, (6, 2)) * [[0, 1], *[[1, 1]] * 4, [0, 1]]
    for side in (-1, 1):  # the bands go first, so that the mask lies over them
        for corner, ear in ((half[2], 0.1), (half[3], 0.7)):
            sheet.line([corner * (side, 1), (1.3 * side, ear)], _ink(cloth, 0.92), 0.035)
    sheet.area(_closed(_both_sides(half)), _ink(cloth))
    if kind == "respirator":
        sheet.line([half[0], half[-1]], _ink(cloth, 0.8), 0.03)
    elif kind != "cloth":
        for x, y in half[2] + np.array([[0.25], [0.5], [0.75]]) * (half[3] - half[2]):  # pleats
            sheet.line([(-x, y), (0, y + 0.06), (x, y)], _ink(cloth, 0.82), 0.025)


def _glasses(sheet: _Sheet) -> None:
    lens = sheet.tone(LENSES)
    frame = _ink(sheet.tone(FRAMES))
    width, height = sheet.random.uniform((0.34, 0.24), (0.45, 0.38))
    roundness = sheet.random.uniform(1, 2.5)  # 1: an ellipse; more: a rectangle
    drop = sheet.one_of((0, 0.45))  # of an aviator's lower half
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    x, y = (np.sign(wave) * abs(wave) ** (1 / roundness) for wave in (np.cos(angle), np.sin(angle)))
    outline = np.stack([width * x * (1 - 0.3 * drop * y), height * y * (1 + drop * (y > 0))], axis=1)
    sheet.line([(-0.5 + width, -0.04), (0, -0.08), (0.5 - width, -0.04)], frame, 0.06)
    for side in (-1, 1):
        middle = np.array([0.5 * side, 0.04])
        sheet.line([middle + (width * side, -0.08), (1.3 * side, -0.06)], frame, 0.06)
        sheet.area(middle + 1.16 * outline, frame)
        sheet.area(middle + outline, _ink(lens, alpha=240))
        sheet.line(middle + height * np.array([[-0.5, 0.3], [0.3, -0.5]]), _ink(lens + 50, alpha=240), 0.05)  # a glint


def _scarf(sheet: _Sheet) -> None:
    cloth, stripe = sheet.tone(CLOTHS), sheet.tone(CLOTHS)
    if sheet.random.random() < 0.3:  # round the head too
        opening = np.array([(0, -0.75), (0.8, -0.5), (1.0, 0.4), (0.8, 1.6), (0, 2)])
        sheet.area([(-9, -9), (9, -9), (9, 9), (-9, 9)], _ink(cloth, 0.9))
        sheet.area(_closed(_both_sides(opening)), (0, 0, 0, 0))
    top = sheet.random.uniform(0.25, 0.8)
    across = np.linspace(-1.5, 1.5, 9)
    edge = np.stack([across, top + 0.1 * across**2 + sheet.random.normal(0, 0.03, 9)], axis=1)
    sheet.area([*edge, (2.2, 4), (-2.2, 4)], _ink(cloth))
    if sheet.random.random() < 0.5:
        for down in np.arange(0.15, 2, sheet.random.uniform(0.2, 0.4)):
            sheet.line(edge + (0, down), _ink(stripe), 0.08)
    else:  # folds
        for down, slant in zip(np.linspace(0.15, 1.5, 6), sheet.random.normal(0, 0.12, 6), strict=True):
            sheet.line(edge + np.stack([0 * across, down + slant * across], axis=1), _ink(cloth, 0.8), 0.04)


def _hand(sheet: _Sheet) -> None:
    random = sheet.random
    cheeks = np.clip((sheet.origin + SKIN @ sheet.axes.T) / FINE, 0, sheet.face.shape[-1] - 1).astype(int)
    skin = np.median(sheet.face[:, cheeks[:, 1], cheeks[:, 0]], axis=1) * random.uniform(0.85, 1.12)
    target = np.array(sheet.one_of(TARGETS)) + random.normal(0, 0.12, 2)
    angle = random.uniform(-1.2, 1.2)  # of the fingers from upwards
    zoom = random.uniform(0.9, 1.1)
    across, up = (np.cos(angle), np.sin(angle)), (np.sin(angle), -np.cos(angle))
    axes = zoom * np.stack([random.choice((-1, 1)) * np.array(across), up], axis=1)

    def at(points) -> np.ndarray:
        return target + (np.asarray(points) - (0, 0.6)) @ axes.T

    def limb(*points, width: float) -> None:
        sheet.line(at(points), _ink(skin, 0.6), zoom * width + 0.06, ends=True)
        sheet.line(at(points), _ink(skin), zoom * width, ends=True)

    limb((0, -0.6), (0, -4), width=0.9)
    palm = _closed(np.array(PALM))
    sheet.area(at(1.05 * palm), _ink(skin, 0.6))
    sheet.area(at(palm), _ink(skin))
    limb((-0.45, -0.3), (-1.0, 0.4), width=0.32)
    leans = random.uniform(0.1, 0.5, 4).tolist()
    for (place, length), lean in zip(FINGERS, leans, strict=True):
        tip = (place * (1 + lean), 0.45 + length)
        limb((place, 0.35), tip, width=0.29)
        sheet.line(at([tip, tip]), _ink(skin + 25), 0.14, ends=True)  # the nail


def _block(sheet: _Sheet) -> None:
    random = sheet.random
    middle = random.uniform((-1.1, -0.8), (1.1, 1.6))
    half = random.uniform(0.3, 0.95, 2)
    corners = sheet.one_of((3, 4, 4, 24))  # the last is an ellipse
    angle = random.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    sheet.area(middle + 1.2 * half * np.stack([np.cos(angle), np.sin(angle)], axis=1), (0, 0, 0, 255))
    cells = sheet.one_of((1, 2, 5, 12))
    fill = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(sheet.picture.size)
    fill.putalpha(sheet.picture.getchannel("A"))
    sheet.picture = fill


_DRAW = {"mask": _mask, "glasses": _glasses, "scarf": _scarf, "hand": _hand, "block": _block}
KINDS = tuple(_DRAW)


def occlude(
    image: np.ndarray, kind: str, random: np.random.Generator, landmarks: np.ndarray = ARCFACE
) -> tuple[np.ndarray, np.ndarray]:
    """An aligned face uint8 [3, S, S] behind an occluder of one of KINDS, and which of its pixels stay visible, bool
    [S, S]. landmarks: where the face has its eyes, nose and mouth."""
    sheet = _Sheet(image, random, landmarks)
    _DRAW[kind](sheet)
    left, top, right, bottom = (FINE * (edge // FINE) for edge in sheet.picture.getbbox())
    box = (left, top, min(right + FINE, sheet.side), min(bottom + FINE, sheet.side))
    *colours, cover = np.asarray(sheet.picture.reduce(FINE, box), dtype=np.float32).transpose(2, 0, 1)  # [h, w] each
    where = np.s_[top // FINE : box[3] // FINE, left // FINE : box[2] // FINE]
    y, x = (axis / np.float32(image.shape[-1]) for axis in np.ogrid[where])
    across, down, fold, *wave = random.random(6).tolist()
    light = 0.8 + 0.4 * across * x + 0.3 * down * y
    light += 0.08 * fold * np.sin(18 * wave[0] * x + 18 * wave[1] * y + 6 * wave[2])  # [h, w]
    behind = image[:, *where]
    cover /= 255
    image = image.copy()
    image[:, *where] = behind + cover * (np.clip(light * np.stack(colours), 0, 255) - behind)
    visible = np.ones(image.shape[1:], dtype=bool)
    visible[where] = cover < 0.5
    return image, visible


def _chosen(random: np.random.Generator, share: float, kinds: Sequence[str]) -> str:
    """One of the kinds with a probability of `share`, else ""."""
    return kinds[random.integers(len(kinds))] if random.random() < share else ""


def occlude_some(
    image: np.ndarray, share: float, kinds: Sequence[str], key: Sequence[int], landmarks: np.ndarray = ARCFACE
) -> tuple[np.ndarray, np.ndarray]:
    """The same with a probability of `share`, behind one of the kinds: a pure function of its arguments. key: whole
    numbers, such as seed, step and image."""
    random = np.random.default_rng(key)
    kind = _chosen(random, share, kinds)
    return occlude(image, kind, random, landmarks) if kind else (image, np.ones(image.shape[1:], dtype=bool))


@dataclass(frozen=True, eq=False)
class OccludedImages:
    """The images of a store, about a share of them occluded, each image the same way each time.

    seed, with the number of an image, decides whether and how. landmarks: as `occlude`.
    """

    store: ImageStore
    share: float
    kinds: Sequence[str]
    landmarks: np.ndarray
    seed: int = 0

    @property
    def size(self) -> int:
        """The side of an image, px."""
        return self.store.size

    @property
    def images(self) -> np.ndarray:
        """The images as they are, without occluders, [N, 3, S, S] uint8."""
        return self.store.images

    @cached_property
    def kind_of(self) -> np.ndarray:
        """The kind of occluder on each image, "" without one, [N]."""
        random = (np.random.default_rng((self.seed, number)) for number in range(len(self.images)))
        return np.array([_chosen(one, self.share, self.kinds) for one in random])

    def _drawn(self, indices) -> list[tuple[np.ndarray, np.ndarray]]:
        numbers = np.asarray(indices, dtype=np.int64).tolist()
        faces = zip(self.store.batch(numbers).numpy(), numbers, strict=True)
        return [
            occlude_some(face, self.share, self.kinds, (self.seed, number), self.landmarks) for face, number in faces
        ]

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Images [B, 3, S, S] uint8."""
        return torch.from_numpy(np.stack([image for image, _ in self._drawn(indices)]))

    def visible(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """Which of their pixels no occluder hides, bool [B, S, S]."""
        return torch.from_numpy(np.stack([visible for _, visible in self._drawn(indices)]))
