"""Accuracy over folds that share no family. Letters as in metrics.py."""

import numpy as np

from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.metrics import ROUNDING, corners

FOLDS = 10


class Folds:
    """The LFW protocol (Huang et al. 2007) on folds that share no family, for many weightings of the clusters.

    A comparison of two families is in the fold of the first, and teaches no threshold that is tried on either.
    """

    def __init__(self, sample: Comparisons, folds=FOLDS):
        if sample.families < 2 or folds < 2:
            raise ValueError(
                f"accuracy over folds needs 2 families and 2 folds or more, got {sample.families} and {folds}"
            )
        from sklearn.model_selection import GroupKFold  # takes a second to import

        self.rounding = ROUNDING * sample.weights.sum()
        self.matching = sample.by_cluster(sample.genuine)  # what is right where all match
        self.total = sample.by_cluster(sample.weights > 0)
        self.parts = []
        gains = np.where(sample.genuine, -sample.weights, sample.weights)  # what rejecting adds to what is right
        first, second = sample.ends[:, sample.member]
        for train, test in GroupKFold(min(folds, len(np.unique(first)))).split(sample.scores, groups=first):
            train = train[~np.isin(second[train], first[test])]
            thresholds = corners(sample.scores[train], sample.genuine[train])
            self.parts.append((train, test, *(sample.binned(thresholds, part, gains) for part in (train, test))))

    def accuracy(self, counts: np.ndarray) -> np.ndarray:
        """Share of comparisons [D] that are right on the folds left out, clusters counting `counts` [D, C] times."""
        right = counts @ self.matching
        for _, _, others, own in self.parts:
            gained, found = (np.cumsum((part @ counts.T).T, axis=1) for part in (others, own))
            best = np.maximum(gained.max(1), 0) - self.rounding
            first = np.where(best <= 0, 0, 1 + np.argmax(gained >= best[:, None], axis=1))
            right += np.where(first > 0, found[np.arange(len(counts)), first - 1], 0)
        return right / (counts @ self.total)
