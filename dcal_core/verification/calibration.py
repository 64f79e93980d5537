"""Calibration: from scores to log likelihood ratios (LLR). `calibrating.py` fits it.

LLR: ln of p(score | same person) / p(score | co-twins), which at equal priors is the log-odds. Source: Morrison,
Australian Journal of Forensic Sciences 45 (2013). Letters: P comparisons, F families.
"""

from dataclasses import asdict, dataclass, fields
from sys import float_info

import numpy as np

from dcal_core.errors import quoted


class Calibration:
    """From scores to LLRs within ln(families); ValueError for values that no fit gives."""

    kind: str
    families: int

    def llr(self, scores) -> np.ndarray:
        """Return the natural-log likelihood ratio same : twins of each score, [P]; ValueError if not finite."""
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite numbers [P], got shape {scores.shape}")
        # F independent families cannot show an event rarer than 1 in F, so no ratio beyond F: anything larger is
        # extrapolation (Vergeer et al., Science & Justice 56, 2016).
        return np.clip(self._fitted(scores), -np.log(self.families), np.log(self.families))

    def as_dict(self) -> dict:
        """Return plain JSON values that `from_dict` reads back."""
        return {"kind": self.kind, **asdict(self)}

    def _check(self, **numbers: list[float]) -> None:
        for name, values in numbers.items():
            plain = isinstance(values, list) and values and all(type(value) in (int, float) for value in values)
            if not plain or not all(abs(value) <= float_info.max for value in values):
                raise ValueError(f"calibration: {name} must be finite numbers, got {quoted(values)}")
        if type(self.families) is not int or self.families < 2:
            raise ValueError(f"calibration: families must be a whole number of at least 2, got {quoted(self.families)}")


@dataclass(frozen=True)
class Logistic(Calibration):
    """LLR = slope * score + intercept: logistic regression at equal priors (Morrison 2013)."""

    slope: float
    intercept: float
    families: int
    kind = "logistic"

    def __post_init__(self):
        self._check(slope=[self.slope], intercept=[self.intercept])
        if self.slope <= 0:
            raise ValueError(f"calibration: slope must be positive, got {self.slope:g}")

    def _fitted(self, scores: np.ndarray) -> np.ndarray:
        return self.slope * scores + self.intercept


@dataclass(frozen=True)
class Isotonic(Calibration):
    """LLR linear between knots (rising scores, llrs that do not fall), constant beyond: PAV."""

    scores: list[float]
    llrs: list[float]
    families: int
    kind = "isotonic"

    def __post_init__(self):
        self._check(scores=self.scores, llrs=self.llrs)
        if len(self.scores) != len(self.llrs):
            raise ValueError(f"calibration: as many llrs as scores, got {len(self.llrs)} and {len(self.scores)}")
        if (np.diff(self.scores) <= 0).any() or (np.diff(self.llrs) < 0).any():
            raise ValueError("calibration: scores must rise and llrs must not fall")

    def _fitted(self, scores: np.ndarray) -> np.ndarray:
        return np.interp(scores, self.scores, self.llrs)


def from_dict(record: dict) -> Calibration:
    """Return the calibration that `as_dict` wrote; ValueError names the value that is wrong."""
    kinds = {one.kind: one for one in (Logistic, Isotonic)}
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"calibration: kind must be one of {', '.join(kinds)}, got {quoted(kind)}")
    values = {name: value for name, value in record.items() if name != "kind"}
    wanted = [field.name for field in fields(kinds[kind])]
    if set(values) != set(wanted):
        raise ValueError(f"calibration: kind {kind} takes {', '.join(wanted)}, got {quoted(list(values))}")
    return kinds[kind](**values)
