"""The comparisons of one system as arrays: scores, classes, families and weights.

Letters: P comparisons, K operating points, F families.
"""

import numpy as np
from scipy.sparse import csr_array

SCORE_DECIMALS = 6  # of a cosine or logit in float32, whose last digits depend on the batch and the machine


def rounded(scores: np.ndarray) -> np.ndarray:
    """A model's scores as far as float32 tells them apart, float64; those that are closer become ties."""
    return np.round(np.asarray(scores, dtype=np.float64), SCORE_DECIMALS) + 0.0  # no -0.0


def checked(scores, genuine, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three as arrays [P] of float, bool and float (ones without weights).

    ValueError on unequal shapes, a missing class, scores that are not finite, negative weights.
    """
    scores = np.asarray(scores, dtype=np.float64)
    genuine = np.asarray(genuine)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if scores.ndim != 1 or genuine.shape != scores.shape or weights.shape != scores.shape:
        raise ValueError(f"scores, genuine, weights must be [P], got {scores.shape}, {genuine.shape}, {weights.shape}")
    if bad := int((~np.isfinite(scores)).sum()):
        raise ValueError(f"{bad} of {len(scores)} scores are not finite")
    if not np.isin(genuine, (0, 1)).all():
        raise ValueError("genuine must hold only True and False (or 1 and 0)")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite and not negative")
    genuine = genuine.astype(bool)
    present = weights > 0
    if not (genuine & present).any() or not (~genuine & present).any():
        raise ValueError(
            "both classes are needed, got "
            f"{(genuine & present).sum()} genuine and {(~genuine & present).sum()} impostor comparisons"
        )
    return scores, genuine, weights


def numbered(family, scores: np.ndarray, names=None) -> tuple[np.ndarray, int]:
    """Return (each score's family as its place among all sorted names [P], F); ValueError on unequal shapes."""
    family = np.asarray(family)
    if family.shape != scores.shape:
        raise ValueError(f"family must be [P] like the scores, got {family.shape} and {scores.shape}")
    names = np.unique(family) if names is None else names
    return np.searchsorted(names, family), len(names)


class Comparisons:
    """One system's comparisons: scores, genuine, weights and member, the number of the family, each [P]."""

    def __init__(self, scores, genuine, family, weights=None, names=None):
        self.scores, self.genuine, self.weights = checked(scores, genuine, weights)
        self.member, self.families = numbered(family, self.scores, names)

    def by_family(self, part: np.ndarray) -> np.ndarray:
        """Sum the weight of some comparisons (bool [P]) in each family, [F]."""
        return np.bincount(self.member, self.weights * part, self.families)

    def tabulate(self, cell: np.ndarray, cells: int, weights: np.ndarray) -> np.ndarray:
        """Sum weights [P] by family and cell [P], [F, cells]."""
        return np.bincount(self.member * cells + cell, weights, self.families * cells).reshape(-1, cells)

    def binned(self, thresholds: np.ndarray, part: np.ndarray, weights: np.ndarray) -> csr_array:
        """Sum the weights [P] of some comparisons between thresholds [K] by family, [K - 1, F]."""
        bins = np.searchsorted(thresholds, self.scores[part], side="right") - 1
        return csr_array((weights[part], (bins, self.member[part])), shape=(len(thresholds) - 1, self.families))


def balanced(genuine: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights [P] scaled so that each class holds 1: at such equal priors log-odds are log likelihood ratios."""
    return weights / np.where(genuine, weights[genuine].sum(), weights[~genuine].sum())


def family_weights(family, genuine) -> np.ndarray:
    """Weights [P], of mean 1 in each class, by which every family counts the same within the class.

    Without them a family counts by the square of its number of photographs, which runs from 4 to 68 a person.
    """
    family = np.asarray(family)
    genuine = np.asarray(genuine, dtype=bool)
    if family.ndim != 1 or family.shape != genuine.shape:
        raise ValueError(f"family has shape {family.shape}, genuine {genuine.shape}; both must be [P]")
    weights = np.empty(len(family))
    for part in (genuine, ~genuine):
        _, member, size = np.unique(family[part], return_inverse=True, return_counts=True)
        weights[part] = part.sum() / (len(size) * size[member])
    return weights
