"""The comparisons of one system as arrays: scores, classes, families and weights.

A comparison is of one family, or of two where impostors are unrelated people. The comparisons of the same family, or of
the same two, are a cluster. It counts as often as its families are drawn: a draw's counts of two are multiplied
(Fogliato et al., arXiv 2306.01198). Letters: P comparisons, K operating points, F families, C clusters, R draws.
"""

import numpy as np
import scipy  # imports its parts when they are used: `rounded` alone needs none

_CHUNK = 4_000_000  # counts held at once
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
    """Return (each score's family, or two, as the place among all sorted names [P] or [P, 2], F); ValueError on unequal
    shapes."""
    family = np.asarray(family)
    if family.shape not in (scores.shape, (*scores.shape, 2)):
        raise ValueError(f"family must be [P] like the scores, or [P, 2], got {family.shape} and {scores.shape}")
    names = np.unique(family) if names is None else names
    return np.searchsorted(names, family), len(names)


def clusters_of(family) -> np.ndarray:
    """A label of the cluster of each comparison, [P]; family: [P], or numbers [P, 2]."""
    family = np.asarray(family)
    return family if family.ndim == 1 else family[:, 0] * (family.max(initial=0) + 1) + family[:, 1]


class Comparisons:
    """One system's comparisons: scores, genuine, weights and member, the number of the cluster, each [P]; and `ends`,
    the numbers of the two families of each cluster, [2, C], twice the same where it is one."""

    def __init__(self, scores, genuine, family, weights=None, names=None):
        self.scores, self.genuine, self.weights = checked(scores, genuine, weights)
        place, self.families = numbered(family, self.scores, names)
        _, first, self.member = np.unique(clusters_of(place), return_index=True, return_inverse=True)
        self.ends = place.reshape(len(place), -1)[first][:, [0, -1]].T

    def by_cluster(self, part: np.ndarray) -> np.ndarray:
        """Sum the weight of some comparisons (bool [P]) in each cluster, [C]."""
        return np.bincount(self.member, self.weights * part)

    def by_family(self, part: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Sum the weight, or other weights, of some comparisons in each family, [F]; those of two count for both."""
        sums = self.by_cluster(part) if weights is None else np.bincount(self.member, weights * part)
        a, b = self.ends
        return np.bincount(a, sums, self.families) + np.bincount(b[a != b], sums[a != b], self.families)

    def spread(self, counts: np.ndarray) -> np.ndarray:
        """How often each cluster counts where families count `counts` [R, F] times, [R, C]."""
        a, b = self.ends
        return counts[:, a] * np.where(a == b, 1, counts[:, b])

    def totals(self, counts: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Sum the rows of a table [C, k] where families count `counts` [R, F] times, [R, k]."""
        parts = -(-len(counts) * len(table) // _CHUNK)
        return np.concatenate([self.spread(some) @ table for some in np.array_split(counts, parts)])

    def tabulate(self, cell: np.ndarray, cells: int, weights: np.ndarray) -> np.ndarray:
        """Sum weights [P] by cluster and cell [P], [C, cells]."""
        return np.bincount(self.member * cells + cell, weights, self.ends.shape[1] * cells).reshape(-1, cells)

    def binned(self, thresholds: np.ndarray, part: np.ndarray, weights: np.ndarray) -> "scipy.sparse.csr_array":
        """Sum the weights [P] of some comparisons between thresholds [K] by cluster, [K - 1, C]."""
        bins = np.searchsorted(thresholds, self.scores[part], side="right") - 1
        return scipy.sparse.csr_array(
            (weights[part], (bins, self.member[part])), shape=(len(thresholds) - 1, self.ends.shape[1])
        )


def balanced(genuine: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights [P] scaled so that each class holds 1: at such equal priors log-odds are log likelihood ratios."""
    return weights / np.where(genuine, weights[genuine].sum(), weights[~genuine].sum())


def family_weights(family, genuine) -> np.ndarray:
    """Weights [P], of mean 1 in each class, by which every family, or two, count the same within the class.

    Without them a family counts by the square of its number of photographs, which runs from 4 to 68 a person.
    """
    family = np.asarray(family)
    genuine = np.asarray(genuine, dtype=bool)
    if genuine.ndim != 1 or family.shape not in (genuine.shape, (*genuine.shape, 2)):
        raise ValueError(
            f"family has shape {family.shape}, genuine {genuine.shape}: they must be [P], or family [P, 2]"
        )
    family = clusters_of(family)
    weights = np.empty(len(family))
    for part in (genuine, ~genuine):
        _, member, size = np.unique(family[part], return_inverse=True, return_counts=True)
        weights[part] = part.sum() / (len(size) * size[member])
    return weights
