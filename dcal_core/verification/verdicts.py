"""Verdicts of three values: same from one threshold upwards, different below another, undecided between.

Letters: P comparisons.
"""

from dataclasses import dataclass

import numpy as np

VERDICTS = {-1: "different", 0: "undecided", 1: "same"}


@dataclass(frozen=True)
class Thresholds:
    """Scores from `same_from` are called same, below `different_below` different; ValueError if they overlap."""

    different_below: float
    same_from: float

    def __post_init__(self):
        if not -np.inf < self.different_below <= self.same_from < np.inf:
            raise ValueError(f"different_below must not exceed same_from, both finite, got {self!r}")


def verdicts(scores, thresholds: Thresholds) -> np.ndarray:
    """Return -1 different, 0 undecided or 1 same for each score, int8 [P]; ValueError on NaN."""
    scores = np.asarray(scores, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are not a number")
    return (scores >= thresholds.same_from).astype(np.int8) - (scores < thresholds.different_below)
