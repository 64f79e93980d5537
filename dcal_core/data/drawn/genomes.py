"""The drawn twins: the genomes of a family, and the nuisances that change from image to image.

Siblings share colours, hair and proportions, seven of them up to some percent. Each has 2-4 round dark marks of
their own at fixed places on visible skin.

Face coordinates: u to the right, v down; the crop is [-1, 1] x [-1, 1] under the neutral pose.
"""

from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any

import numpy as np

SPLITS = ("train", "test")
EYE_V = -0.10
MOUTH_V = 0.48
HEAD_TOP = 0.84

Colour = tuple[float, float, float]  # RGB in [0, 1]

SKINS = ["f8dac6", "ecc09e", "d4a27a", "b07c56", "8a5e42", "6a4835"]  # fair to dark, mixed between neighbours
HAIRS = ["1c1818", "3e2a1e", "684226", "863a1e", "b65c2c", "d6b070", "969492"]
IRISES = ["3a2416", "68401e", "786834", "46744c", "4276b0", "7a8c98"]
# hairline (v in the middle), slant, drop at the temples, volume, curl, v at which the back hair ends
HAIR_STYLES = {
    "cropped": (-0.62, 0.0, 0.45, 0.015, 0.0, -1.0),
    "short": (-0.56, 0.0, 0.50, 0.07, 0.004, -1.0),
    "side part": (-0.56, 0.22, 0.55, 0.10, 0.0, -1.0),
    "fringe": (-0.46, 0.05, 0.45, 0.10, 0.008, -1.0),
    "long": (-0.60, -0.16, 0.9, 0.12, 0.0, 1.2),
    "bob": (-0.47, -0.04, 0.8, 0.13, 0.004, 0.62),
    "curly": (-0.54, 0.0, 0.60, 0.17, 0.035, 0.05),
    "receding": (-0.74, 0.0, 0.55, 0.04, 0.004, -1.0),
}


@dataclass(frozen=True)
class Mark:
    """A round dark mark: centre and radius in face coordinates (the image is 2 wide), darkness in [0, 1]."""

    u: float
    v: float
    radius: float
    darkness: float


def _between(low: float, high: float, differs: bool = False) -> Any:
    """A proportion that is drawn from a range for a family; `differs`: it differs by some percent between siblings."""
    return field(metadata={"range": (low, high), "differs": differs})


@dataclass(frozen=True, kw_only=True)
class Genome:
    """All of a person that is the same in each image; lengths in face coordinates."""

    eye_spacing: float = _between(0.255, 0.315, differs=True)
    eye_size: float = _between(0.105, 0.145, differs=True)
    brow_height: float = _between(0.19, 0.25, differs=True)
    nose_length: float = _between(0.30, 0.40, differs=True)
    nose_width: float = _between(0.095, 0.145, differs=True)
    mouth_width: float = _between(0.19, 0.28, differs=True)
    jaw_width: float = _between(0.75, 1.12, differs=True)  # relative to the face width
    face_width: float = _between(0.59, 0.70)
    chin: float = _between(0.80, 0.92)
    eye_tilt: float = _between(-0.06, 0.16)
    brow_thickness: float = _between(0.022, 0.048)
    brow_arch: float = _between(0.0, 0.06)
    lip_thickness: float = _between(0.035, 0.075)
    ear_size: float = _between(0.85, 1.2)
    skin: Colour
    hair: Colour
    iris: Colour
    hair_style: str
    marks: tuple[Mark, ...] = ()


SHAPE = {shape.name: shape.metadata["range"] for shape in fields(Genome) if shape.metadata}
TWIN_SHAPE = {shape.name: SHAPE[shape.name] for shape in fields(Genome) if shape.metadata.get("differs")}


@dataclass(frozen=True)
class Nuisance:
    """All that changes between images of one person; the defaults give a neutral image, sharp and clean."""

    rotation: float = 0.0  # radians
    shift: tuple[float, float] = (0.0, 0.0)  # face coordinates
    scale: float = 1.0
    yaw: float = 0.0  # sideways movement of the middle of the face, face coordinates
    pitch: float = 0.0  # its movement downwards, face coordinates
    narrowing: tuple[float, float] = (1.0, 1.0)  # width and height of the turned head, of the frontal one's
    light: tuple[float, float] = (0.0, 0.0)  # relative gain at the right and at the lower edge
    brightness: float = 1.0
    contrast: float = 1.0
    smile: float = 0.01  # rise of the corners of the mouth, face coordinates
    mouth_open: float = 0.0  # face coordinates
    brow_raise: float = 0.0  # face coordinates
    eye_open: float = 1.0
    blur: float = 0.0  # standard deviation, fraction of the image width
    noise: float = 0.0  # standard deviation, fraction of full white
    noise_seed: int = 0
    background: Colour = (0.62, 0.65, 0.68)
    shirt: Colour = (0.25, 0.32, 0.45)


def _colour(rgb) -> Colour:
    return tuple(float(c) for c in np.clip(rgb, 0, 1))


def _rgb(code: str) -> np.ndarray:
    return np.array(list(bytes.fromhex(code))) / 255


def head_radius(face: Genome, u, v):
    """1 on the outline of the head, less inside: an egg with a lower half that the jaw decides."""
    down = np.maximum(v, 0) / face.chin
    width = face.face_width * (1 + (face.jaw_width - 1) * down * down)
    height = np.where(v < 0, np.float32(HEAD_TOP), np.float32(face.chin))
    return np.sqrt(np.square(u / width) + np.square(v / height))


def hairline(face: Genome, u):
    """The v at which the skin below the hair begins, at horizontal position u."""
    line, slant, drop, *_ = HAIR_STYLES[face.hair_style]
    return line + slant * u + drop * np.square(np.square(u / 0.62))


def _place_marks(rng, face: Genome, enlarge: float, siblings: int) -> list[tuple[Mark, ...]]:
    """2-4 marks per sibling, on skin that neither hair nor an expression covers, none touching another."""
    counts = rng.integers(2, 5, siblings)
    n = 600  # places that are tried at once
    turns = [sibling for i in range(4) for sibling in range(siblings) if i < counts[sibling]]
    brow = EYE_V - face.brow_height
    eye_end = face.eye_spacing + 0.17
    boxes = (  # middle and half extent of where the features move: eyes with brows, nose, mouth
        (0.0, (brow + EYE_V + 0.04) / 2, eye_end, (EYE_V - brow + 0.20) / 2),
        (0.0, EYE_V + face.nose_length - 0.10, face.nose_width + 0.03, 0.16),
        (0.0, MOUTH_V + 0.02, face.mouth_width + 0.04, 0.13),
    )
    while True:
        u = rng.uniform(-0.62, 0.62, n)
        v = rng.uniform(-0.7, 0.85, n)
        r = rng.uniform(0.06, 0.10, n) * enlarge
        darkness = rng.uniform(0.75, 0.95, n)
        free = (head_radius(face, u, v) - 1) * 0.9 * face.face_width < -0.03 - r
        for edge in (-1, 0, 1):  # at both edges of the mark too, because the hairline is steep at the temples
            free &= v - r - 0.04 > hairline(face, u + edge * r)
        for cu, cv, hu, hv in boxes:
            free &= np.hypot(np.maximum(abs(u - cu) - hu, 0), np.maximum(abs(v - cv) - hv, 0)) > r
        placed = [[] for _ in range(siblings)]
        for dart in zip(u[free], v[free], r[free], darkness[free], strict=True):
            mark = Mark(*map(float, dart))
            others = list(chain(*placed))
            if len(others) == len(turns):
                break
            if all(np.hypot(m.u - mark.u, m.v - mark.v) > m.radius + mark.radius + 0.03 for m in others):
                placed[turns[len(others)]].append(mark)
        if min(map(len, placed)) >= 2:
            return list(map(tuple, placed))
        enlarge *= 0.97  # no room (a fringe, a small face): try again with smaller marks


def family(seed: int, split: str, k: int, difficulty: float, siblings: int = 2) -> tuple[Genome, ...]:
    """The siblings of family `k`; they do not depend on the number of families."""
    rng = np.random.default_rng([seed, SPLITS.index(split), k])
    shape = {name: float(rng.uniform(*limits)) for name, limits in SHAPE.items()}
    tone = rng.uniform(0, len(SKINS) - 1)
    darker = tone % 1
    fair = tone < 2.5  # only fair skin gets light hair and eyes
    skin = (1 - darker) * _rgb(SKINS[int(tone)]) + darker * _rgb(SKINS[int(tone) + 1])
    hair, iris = (_rgb(colours[rng.integers(len(colours) if fair else 2)]) for colours in (HAIRS, IRISES))
    face = Genome(
        **shape,
        skin=_colour(skin * rng.uniform(0.96, 1.04, 3)),
        hair=_colour(hair * rng.uniform(0.85, 1.15)),
        iris=_colour(iris * rng.uniform(0.85, 1.15)),
        hair_style=list(HAIR_STYLES)[rng.integers(len(HAIR_STYLES))],
    )
    spread = np.interp(difficulty, [0, 0.5, 1], [0.20, 0.15, 0.04])  # largest difference between siblings
    changes = 1 + spread / 2 * rng.uniform(-1, 1, (siblings, len(TWIN_SHAPE)))
    marks = _place_marks(rng, face, float(np.interp(difficulty, [0, 0.5, 1], [1.25, 1, 1 / 3])), siblings)
    genomes = []
    for own_marks, own_changes in zip(marks, changes, strict=True):
        own = {name: shape[name] * float(change) for name, change in zip(TWIN_SHAPE, own_changes, strict=True)}
        genomes.append(replace(face, marks=own_marks, **own))
    return tuple(genomes)


def nuisance(seed: int, split: str, k: int, sibling: int, image: int) -> Nuisance:
    """The pose, light, expression, clothes and camera of one image; the same at every difficulty."""
    rng = np.random.default_rng([seed, SPLITS.index(split), k, 1 + sibling, image])
    (rotation, yaw, x, y, light_x, light_y, open_, brow, blur, noise, grey) = rng.uniform(-1, 1, 11).tolist()
    scale, brightness, contrast, smile, eye = rng.uniform(-1, 1, 5).tolist()
    return Nuisance(
        rotation=0.14 * rotation,
        shift=(0.06 * x, 0.06 * y),
        scale=1 + 0.06 * scale,
        yaw=0.09 * yaw,
        light=(0.25 * light_x, 0.15 * light_y),
        brightness=1 + 0.1 * brightness,
        contrast=1 + 0.12 * contrast,
        smile=0.025 + 0.045 * smile,
        mouth_open=max(0.0, 0.08 * open_),
        brow_raise=0.01 + 0.025 * brow,
        eye_open=0.94 + 0.18 * eye,
        blur=0.004 + 0.004 * blur,
        noise=0.012 + 0.007 * noise,
        noise_seed=int(rng.integers(2**32)),
        background=_colour(0.6 + 0.25 * grey + rng.uniform(-0.05, 0.05, 3)),
        shirt=_colour(rng.uniform(0.1, 0.85, 3)),
    )
