"""How well scores tell people apart, with the spread over families; and a linear comparison of small images, which
shows whether labels have anything to do with what the images show.

Letters: N images, P pairs.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.linalg import solve_triangular
from sklearn.decomposition import PCA

from dcal_core.data.twins import TwinIndex
from dcal_core.verification.metrics import roc_auc
from dcal_core.verification.protocol import Pairs

SIDE = 16  # px, of small images: at 32, pose and light count for more
COMPONENTS = 100  # principal ones that the linear comparison weighs
SHRINKAGE = 0.1  # of the scatter within people towards a multiple of the identity


@dataclass(frozen=True)
class Separation:
    """The mean of families' ROC-AUC, its standard error, and their number; 0.5 is chance."""

    auc: float
    error: float
    families: int

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.auc - 2 * self.error

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.auc + 2 * self.error


def mean_of(values: np.ndarray) -> Separation:
    """The mean of a figure of each family; of fewer than two families, without an end to its interval."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
    return Separation(float(np.mean(values)) if len(values) else 0.5, error, len(values))


def groups_of(pairs: Pairs) -> np.ndarray:
    """The family of each pair, or that of its first person where impostors are unrelated people, [P]."""
    return pairs.family if pairs.family.ndim == 1 else pairs.family[:, 0]


def within_families(scores: np.ndarray, pairs: Pairs) -> Separation:
    """How well scores [P] tell pairs of one person from the others of their family."""
    found = []
    groups = groups_of(pairs)
    for group in np.unique(groups):
        chosen = groups == group
        genuine = pairs.genuine[chosen]
        if genuine.any() and not genuine.all():
            found.append(roc_auc(scores[chosen], genuine))
    return mean_of(np.array(found))


def ranks_of_families(scores: np.ndarray, groups: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each family, the chance that one of its scores [P] beats one of the others, ties half."""
    ordered = np.sort(others)
    rank = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2 * len(ordered))
    _, place = np.unique(groups, return_inverse=True)
    return np.bincount(place, rank) / np.bincount(place)


def small_images(pixels: np.ndarray) -> np.ndarray:
    """Images [N, 3, S, S] uint8 as rows of SIDE x SIDE colours around their mean image, [N, 3 SIDE^2]."""
    rows = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64).ravel()
        for image in np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    ]
    return np.stack(rows) - np.mean(rows, axis=0)


def linear_separation(rows: np.ndarray, index: TwinIndex, pairs: Pairs) -> Separation:
    """How well a linear comparison, learnt from the labels of one half of the families, tells the people of each family
    of the other half apart.

    rows [N, D] are reduced to principal components and whitened by the scatter within people (WCCN, Hatch et al.,
    Interspeech 2006). Labels that have nothing to do with the images give 0.5.
    """
    family = index.family_of[index.person_of]
    groups = groups_of(pairs)
    scores = np.zeros(len(pairs))
    for half in (0, 1):
        learnt = family % 2 != half
        mapped = whitened(rows[learnt], index.person_of[learnt], rows)
        judged = groups % 2 == half
        scores[judged] = (mapped[pairs.a[judged]] * mapped[pairs.b[judged]]).sum(1)
    return within_families(scores, pairs)


def whitened(learnt: np.ndarray, person: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] as unit vectors, whitened by the scatter of other rows around their people's means."""
    reduction = PCA(min(COMPONENTS, *learnt.shape), svd_solver="full").fit(learnt)
    reduced = reduction.transform(learnt)
    _, place = np.unique(person, return_inverse=True)
    means = np.stack([np.bincount(place, column) for column in reduced.T], 1) / np.bincount(place)[:, None]
    within = (reduced - means[place]).T @ (reduced - means[place]) / len(reduced)
    within += (SHRINKAGE * np.trace(within) / len(within) + 1e-12) * np.eye(len(within))
    mapped = solve_triangular(np.linalg.cholesky(within), reduction.transform(rows).T, lower=True).T
    return mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
