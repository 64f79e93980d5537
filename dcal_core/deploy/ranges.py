"""The validated range: the measures of a face within which the errors of validation hold.

P comparisons; each counts by the worse of its two faces.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

BINS = 8  # of as many comparisons each, from the worst face to the best
DRAWS = 1000  # of families, for the interval of a difference
SEEN = "the validation images hold none beyond it"
RISES = "beyond it errors rise on the validation families"


class Measure(NamedTuple):
    """What a measure is called, and what is said of a face with a value that is too low or too high: both take the
    value and the limit; "" where that is not bad."""

    words: str
    low: str = ""
    high: str = ""


MEASURES = {
    "confidence": Measure(
        "confidence of the face detector", low="is hardly a face to the detector (confidence {}, validated from {})"
    ),
    "face_px": Measure("px of the picture across the face", low="shows a face of {} px (validated from {})"),
    "turn_deg": Measure("degrees turned to the side", high="is turned {} degrees to the side (validated to {})"),
    "sharpness": Measure("sharpness", low="is blurred (sharpness {}, validated from {})"),
    "light": Measure(
        "mean grey value",
        low="is dark (mean grey value {}, validated from {})",
        high="is bright (mean grey value {}, validated to {})",
    ),
    "contrast": Measure("spread of grey values", low="has little contrast (spread {}, validated from {})"),
}


def outside(measures: Mapping[str, float], limits: Mapping[str, dict]) -> list[str]:
    """How a face lies outside the validated range, as ends of sentences that begin with its name."""
    found = []
    for name, limit in limits.items():
        value = measures.get(name)
        if value is None:
            continue
        for end, sign in (("low", -1), ("high", 1)):
            if end in limit and sign * (value - limit[end]) > 0:
                found.append(getattr(MEASURES[name], end).format(*told_apart(value, limit[end])))
    return found


def told_apart(value: float, limit: float) -> tuple[str, str]:
    """Two numbers that differ, with 3 digits, or as many more as they need to differ in text."""
    texts = ((f"{value:.{digits}g}", f"{limit:.{digits}g}") for digits in range(3, 18))
    return next(pair for pair in texts if pair[0] != pair[1])


def range_in_words(limits: Mapping[str, dict]) -> str:
    """The limits of every measure, "sharpness at least 0.308, …"."""
    ends = (("low", "at least"), ("high", "at most"))
    return ", ".join(
        f"{MEASURES[name].words} {words} {limit[end]:.3g}"
        for name, limit in limits.items()
        for end, words in ends
        if end in limit
    )


def fit_range(
    faces: Sequence[Mapping[str, float]], a: np.ndarray, b: np.ndarray, wrong: np.ndarray, family: np.ndarray
) -> dict[str, dict]:
    """The limits of each measure, as `outside` takes them, from validation comparisons of faces a and b [P].

    faces: their measures. wrong: whether the verdict of equal errors is wrong, [P]; family: of each comparison, [P].
    A limit is where errors begin to rise; where the comparisons do not show that they do, it is the worst value seen.
    """
    found = {}
    for name, measure in MEASURES.items():
        if any(name not in face for face in faces):
            continue
        values = np.array([face[name] for face in faces])
        limit = {}
        for end, sign in (("low", 1), ("high", -1)):
            if getattr(measure, end):
                worse = np.minimum(sign * values[a], sign * values[b])
                rise = rising(worse, wrong, family)
                limit[end] = float(sign * (worse.min() if rise is None else rise))
                limit[f"{end}_because"] = SEEN if rise is None else RISES
        found[name] = limit
    return found


def rising(worse: np.ndarray, wrong: np.ndarray, family: np.ndarray, seed: int = 0) -> float | None:
    """The value [P] below which the rate of errors is higher than above it, None if that is not shown.

    From the lowest bin upwards, each bin's rate is compared with that of all higher bins, by a 95 % bootstrap over
    families, for as long as it is higher.
    """
    edges = np.unique(np.quantile(worse, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, worse, side="right")
    _, member = np.unique(family, return_inverse=True)
    families = member.max() + 1
    counts = np.random.default_rng(seed).multinomial(families, np.full(families, 1 / families), DRAWS)  # [R, F]
    cells = member * (len(edges) + 1) + bins
    shape = families, len(edges) + 1
    errors = np.bincount(cells, wrong, shape[0] * shape[1]).reshape(shape)
    total = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    limit = None
    for number, edge in enumerate(edges):
        with np.errstate(invalid="ignore"):
            here = counts @ errors[:, number] / (counts @ total[:, number])
            above = counts @ errors[:, number + 1 :].sum(1) / (counts @ total[:, number + 1 :].sum(1))
        if not np.nanquantile(here - above, 0.025) > 0:
            break
        limit = float(edge)
    return limit
