"""Draws a genome under a nuisance; shapes are signed distances in face coordinates, so any size shows the same face."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dcal_core.data.drawn.genomes import EYE_V, HAIR_STYLES, MOUTH_V, Genome, Mark, Nuisance, hairline, head_radius

YAW_WIDTH = 0.8  # the |u|, just outside the head, beyond which yaw moves nothing
PITCH_HEIGHT = 1.1  # the |v|, just outside the head, beyond which pitch moves nothing
WHOLE = (slice(None), slice(None))


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in [-1, 1]: x [1, size] and y [size, 1]."""
    x = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1)[None]
    return x, x.reshape(size, 1)


def _turned(place: float, movement: float, width: float) -> float:
    """Where a turn of the head by `movement` takes a place: the inverse of the one in `Canvas`, two steps of a
    contraction."""
    moved = place + movement * (1 - (place / width) ** 2)
    return place + movement * (1 - (moved / width) ** 2)


class Canvas:
    """Colour planes [3, size, size] and the face coordinates u, v [size, size] of their pixels."""

    def __init__(self, pose: Nuisance, size: int):
        self.pose = pose
        self.size = size
        self.image = np.empty((3, size, size), np.float32)
        self.softness = 1.5 * 2 / (size * pose.scale)  # one and a half pixels, in face coordinates
        self.cos = float(np.cos(pose.rotation))
        self.sin = float(np.sin(pose.rotation))
        x, y = (axis - shift for axis, shift in zip(_grid(size), pose.shift, strict=True))
        cos = self.cos / pose.scale
        sin = self.sin / pose.scale
        across = (cos * x + sin * y) / pose.narrowing[0]
        down = (cos * y - sin * x) / pose.narrowing[1]
        self.u = across - pose.yaw * np.maximum(1 - np.square(across / YAW_WIDTH), 0)
        self.v = down - pose.pitch * np.maximum(1 - np.square(down / PITCH_HEIGHT), 0)

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Where a place of the face lies in the image, px from its left and upper edges."""
        pose = self.pose
        x = _turned(u, pose.yaw, YAW_WIDTH) * pose.narrowing[0]
        y = _turned(v, pose.pitch, PITCH_HEIGHT) * pose.narrowing[1]
        half = self.size * pose.scale / 2
        return (
            (x * self.cos - y * self.sin) * half + (1 + pose.shift[0]) * self.size / 2,
            (x * self.sin + y * self.cos) * half + (1 + pose.shift[1]) * self.size / 2,
        )

    def box(self, u: float, v: float, ru: float, rv: float):
        """The pixels (rows, columns) that hold u ± ru, v ± rv, and their offsets from the middle."""
        middle_x, middle_y = self.at(u, v)
        half = self.size * self.pose.scale / 2
        ru = 1.3 * ru  # yaw stretches one side of the face by up to 1.3
        rv = (1 + 2 * abs(self.pose.pitch) / PITCH_HEIGHT) * rv  # and pitch its upper or lower part
        reach_x = (ru * self.cos + rv * abs(self.sin)) * half + 2
        reach_y = (rv * self.cos + ru * abs(self.sin)) * half + 2
        rows = slice(max(int(middle_y - reach_y), 0), max(int(middle_y + reach_y) + 1, 0))
        columns = slice(max(int(middle_x - reach_x), 0), max(int(middle_x + reach_x) + 1, 0))
        return (rows, columns), self.u[rows, columns] - u, self.v[rows, columns] - v

    def coverage(self, distance):
        """The share of each pixel that lies inside (distance < 0), by a smoothstep."""
        a = np.minimum(np.maximum(0.5 - distance * (1 / self.softness), 0), 1)
        return a * a * (3 - 2 * a)

    def paint(self, box, coverage, colour):
        """Lay a colour, RGB or planes [3, h, w], over the pixels of a box."""
        part = self.image[:, *box]
        colour = np.asarray(colour, np.float32)
        part += coverage * ((colour if colour.ndim == 3 else colour[:, None, None]) - part)

    def disc(self, mark: Mark):
        """The box of a mark and its coverage there."""
        box, du, dv = self.box(mark.u, mark.v, mark.radius, mark.radius)
        return box, self.coverage(np.sqrt(du * du + dv * dv) - mark.radius)

    def ellipse(self, u, v, ru, rv, colour):
        box, du, dv = self.box(u, v, ru, rv)
        distance = (np.sqrt(np.square(du / ru) + np.square(dv / rv)) - 1) * min(ru, rv)
        self.paint(box, self.coverage(distance), colour)

    def shade(self, u, v, ru, rv, colour, strength):
        """A soft elliptic spot: full strength in the middle, none at the edge."""
        box, du, dv = self.box(u, v, ru, rv)
        a = np.maximum(1 - np.square(du / ru) - np.square(dv / rv), 0)
        self.paint(box, strength * a * a, colour)

    def lens(self, u, v, half_width, up, down, colour, rise=0.0, tilt=0.0):
        """The shape between two arcs that meet at u ± half_width; `rise` lifts its ends, `tilt` slants it."""
        box, du, dv = self.box(u, v, half_width, max(up, down) + abs(rise) + abs(tilt) * half_width)
        s = np.square(du / half_width)
        dv = dv + tilt * du + rise * s
        coverage = self.coverage(np.maximum(-dv - up * (1 - s), dv - down * (1 - s)))
        self.paint(box, coverage, colour)
        return box, coverage


def _draw_head(canvas: Canvas, face: Genome, pose: Nuisance, head) -> None:
    """Background, back hair, neck, clothes, ears and the shaded skin of the face."""
    u = canvas.u
    v = canvas.v
    skin = np.array(face.skin, np.float32)
    *_, hair_end = HAIR_STYLES[face.hair_style]
    canvas.image[:] = np.array(pose.background, np.float32)[:, None, None]
    if hair_end > -1:
        back = np.sqrt(u * u + np.square(np.minimum(v + 0.2, 0))) - face.face_width - 0.15
        canvas.paint(WHOLE, canvas.coverage(np.maximum(back, v - hair_end)), 0.7 * np.array(face.hair))
    canvas.paint(WHOLE, canvas.coverage(np.maximum(abs(u) - 0.34, 0.3 - v)), 0.72 * skin)
    collar = 0.90 + 0.5 * np.square(np.minimum(abs(u) - 0.5, 0))
    canvas.paint(WHOLE, canvas.coverage(collar - v), pose.shirt)
    for side in (-1, 1):
        ear = side * (face.face_width + 0.02)
        size = face.ear_size
        canvas.ellipse(ear, 0.0, 0.075 * size, 0.15 * size, 0.86 * skin)
        canvas.ellipse(ear, 0.0, 0.035 * size, 0.09 * size, 0.68 * skin)
    lit = 1.04 - 0.34 * np.square(np.square(head))  # darker towards the outline
    canvas.paint(WHOLE, canvas.coverage((head - 1) * (0.9 * face.face_width)), skin[:, None, None] * lit)
    for side in (-1, 1):
        canvas.shade(side * 0.36, 0.22, 0.24, 0.22, skin * (1.0, 0.74, 0.72), 0.4)  # cheek
        canvas.shade(side * face.eye_spacing, EYE_V - 0.05, 0.22, 0.17, 0.66 * skin, 0.6)  # eye socket


def _draw_eye(canvas: Canvas, face: Genome, pose: Nuisance, side: int) -> None:
    """Eyeball, iris, pupil, glint, lids and brow; side -1 is the left of the image."""
    skin = np.array(face.skin)
    u = side * face.eye_spacing
    w = face.eye_size
    tilt = side * face.eye_tilt
    up = 0.56 * w * pose.eye_open
    down = 0.36 * w * pose.eye_open
    box, ball = canvas.lens(u, EYE_V, w, up, down, (0.93, 0.92, 0.90), tilt=tilt)
    r = np.sqrt(np.square(canvas.u[box] - u) + np.square(canvas.v[box] - (EYE_V - 0.08 * w)))
    canvas.paint(box, ball * canvas.coverage(r - 0.50 * w), 0.55 * np.array(face.iris))
    canvas.paint(box, ball * canvas.coverage(r - 0.43 * w), face.iris)
    canvas.paint(box, ball * canvas.coverage(r - 0.20 * w), (0.04, 0.04, 0.05))
    canvas.ellipse(u - 0.14 * w, EYE_V - 0.2 * w, 0.09 * w, 0.09 * w, (0.97, 0.97, 0.97))
    canvas.lens(u, EYE_V - up, 1.06 * w, 0.016, 0.012, 0.25 * skin, rise=-up, tilt=tilt)  # lashes
    canvas.lens(u, EYE_V - up - 0.035, w, 0.010, 0.006, 0.6 * skin, rise=-up, tilt=tilt)  # crease
    canvas.lens(u, EYE_V + down, 0.9 * w, 0.004, 0.008, 0.5 * skin, rise=down, tilt=tilt)  # lower lid
    v = EYE_V - face.brow_height - pose.brow_raise
    brow = 0.7 * np.array(face.hair)
    thick = face.brow_thickness
    canvas.lens(1.03 * u, v, 0.155, thick, thick, brow, rise=-face.brow_arch, tilt=0.7 * tilt)


def _draw_nose(canvas: Canvas, face: Genome) -> None:
    skin = np.array(face.skin)
    w = face.nose_width
    length = face.nose_length
    tip = EYE_V + length
    dark = skin * (0.6, 0.55, 0.52)
    bright = 0.35 + 0.68 * skin
    for side in (-1, 1):
        canvas.shade(side * 0.6 * w, tip - 0.6 * length, 0.06, 0.6 * length, dark, 0.35)  # side of the bridge
        canvas.shade(side * 0.95 * w, tip - 0.01, 0.55 * w, 0.07, dark, 0.8)  # wing
    canvas.shade(0.0, tip - 0.5 * length, 0.35 * w, 0.55 * length, bright, 0.35)
    canvas.shade(0.0, tip - 0.03, 0.55 * w, 0.06, bright, 0.5)
    canvas.shade(0.0, tip + 0.05, 1.1 * w, 0.06, dark, 0.6)
    for side in (-1, 1):
        canvas.lens(side * 0.48 * w, tip + 0.022, 0.30 * w, 0.018, 0.014, 0.28 * skin)  # nostril


def _draw_mouth(canvas: Canvas, face: Genome, pose: Nuisance) -> None:
    w = face.mouth_width
    thick = face.lip_thickness
    gap = pose.mouth_open
    rise = pose.smile
    skin = np.array(face.skin)
    lip = 0.55 * skin * (0.85, 0.6, 0.6) + 0.45 * np.array((0.62, 0.26, 0.27))
    canvas.lens(0.0, MOUTH_V, w, thick, 0.0, 0.86 * lip, rise=rise)
    canvas.lens(0.0, MOUTH_V, 0.96 * w, 0.0, gap + 1.25 * thick, lip, rise=rise)
    canvas.lens(0.0, MOUTH_V, w, 0.009, 0.009 + gap, (0.24, 0.08, 0.08), rise=rise)
    if gap > 0:
        canvas.lens(0.0, MOUTH_V, 0.8 * w, 0.0, 0.45 * gap, (0.9, 0.88, 0.84), rise=rise)  # teeth
    canvas.shade(0.0, MOUTH_V + gap + 1.25 * thick + 0.05, 0.16, 0.05, 0.6 * skin, 0.5)


def _draw_hair(canvas: Canvas, face: Genome, head) -> None:
    *_, volume, curl, _ = HAIR_STYLES[face.hair_style]
    u = canvas.u
    v = canvas.v
    strands = np.sin(19 * u) * np.sin(11 * v + 3 * u)
    outer = (head - 1) * (0.9 * face.face_width) - volume
    distance = np.maximum(outer, 0.6 * (v - hairline(face, u))) + curl * strands
    gloss = 0.82 + 0.16 * strands - 0.25 * v
    canvas.paint(WHOLE, canvas.coverage(distance), np.array(face.hair, np.float32)[:, None, None] * gloss)


def _photograph(image: np.ndarray, pose: Nuisance) -> np.ndarray:
    """Light, contrast, blur and noise: planes [3, size, size] to RGB uint8 [size, size, 3]."""
    size = image.shape[-1]
    x, y = _grid(size)
    image *= pose.brightness * pose.contrast * (1 + pose.light[0] * x + pose.light[1] * y)
    image += 0.5 * (1 - pose.contrast)
    sigma = pose.blur * size
    reach = int(2 * sigma + 0.5)
    if reach:
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).tolist()
        for _ in range(2):  # along the rows, transpose, and again: both passes read rows
            padded = np.pad(image, ((0, 0), (reach, reach), (0, 0)), mode="edge")
            image = sum(tap * padded[:, i : i + size] for i, tap in enumerate(taps)).transpose(0, 2, 1)
    image = image.transpose(1, 2, 0)
    if pose.noise:
        rng = np.random.default_rng(pose.noise_seed)
        image = image + pose.noise * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8, order="C")


def draw(genome: Genome, nuisance: Nuisance, size: int) -> np.ndarray:
    """The image of one person under one nuisance, RGB uint8 [size, size, 3]."""
    canvas = Canvas(nuisance, size)
    head = head_radius(genome, canvas.u, canvas.v)
    _draw_head(canvas, genome, nuisance, head)
    for mark in genome.marks:
        box, coverage = canvas.disc(mark)
        canvas.paint(box, mark.darkness * coverage, np.array(genome.skin) * (0.36, 0.29, 0.27))
    _draw_eye(canvas, genome, nuisance, -1)
    _draw_eye(canvas, genome, nuisance, 1)
    _draw_nose(canvas, genome)
    _draw_mouth(canvas, genome, nuisance)
    _draw_hair(canvas, genome, head)
    return _photograph(canvas.image, nuisance)


def difference_mask(genome: Genome, siblings: Sequence[Genome], nuisance: Nuisance, size: int) -> np.ndarray:
    """The marks of all siblings, uint8 [size, size]: 255 on marks of `genome`, 128 on the others', else 0."""
    canvas = Canvas(nuisance, size)
    mask = np.zeros((size, size), np.uint8)
    for person, value in (*((sibling, 128) for sibling in siblings), (genome, 255)):
        for mark in person.marks:
            box, coverage = canvas.disc(mark)
            mask[box][coverage > 0] = value
    return mask
