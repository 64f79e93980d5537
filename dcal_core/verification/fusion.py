"""Fusion of several systems' scores by logistic regression (Brümmer et al., 2007, doi 10.1109/TASL.2007.902870).

P comparisons, M systems.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dcal_core.verification.comparisons import Comparisons, balanced


@dataclass(frozen=True, eq=False)
class Fusion:
    """A weighted sum of M standardised scores: `weight` >= 0, `mean` and `scale`, each [M], and `offset`."""

    weight: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    offset: float

    def fuse(self, scores) -> np.ndarray:
        """Scores [P, M] -> fused scores [P], higher = more alike: log-odds at equal priors, shrunk towards 0, so
        they need calibration like any other score; ValueError on another shape."""
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] != len(self.weight):
            raise ValueError(f"scores must be [P, {len(self.weight)}], got {scores.shape}")
        return self.offset + (scores - self.mean) / self.scale @ self.weight


def fit_fusion(scores, genuine, family, weights=None) -> Fusion:
    """Fit the fusion of M systems on validation comparisons: scores [P, M], genuine, family, weights [P].

    Both classes weigh the same. No system's weight is negative: each scores genuine pairs higher, so a negative weight
    would be noise of few families. ValueError as `Comparisons`, and if no system separates the classes.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores must be [P, M], got {scores.shape}")
    samples = [Comparisons(column, genuine, family, weights) for column in scores.T]  # which checks every system
    sample = samples[0]
    # Comparisons within a family are not independent: against the penalty, a family counts as one comparison.
    weights = sample.families * balanced(sample.genuine, sample.weights) / 2
    standard = StandardScaler().fit(scores, sample_weight=weights)
    scaled = standard.transform(scores)
    used = np.arange(scores.shape[1])
    while len(used):
        model = LogisticRegression().fit(scaled[:, used], sample.genuine, weights)
        if model.coef_.min() >= 0:
            weight = np.zeros(scores.shape[1])
            weight[used] = model.coef_[0]
            return Fusion(weight, standard.mean_, standard.scale_, float(model.intercept_[0]))
        used = np.delete(used, model.coef_.argmin())
    raise ValueError("no system scores genuine comparisons higher than impostor ones: there is nothing to fuse")
