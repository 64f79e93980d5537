"""Accuracy over folds that share no family. Letters as in metrics.py."""

import numpy as np

from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.metrics import ROUNDING, corners

FOLDS = 10


class Folds:
    """The LFW protocol (Huang et al. 2007) on folds that share no family, for many weightings of the families."""

    def __init__(self, sample: Comparisons, folds=FOLDS):
        if sample.families < 2 or folds < 2:
            raise ValueError(
                f"accuracy over folds needs 2 families and 2 folds or more, got {sample.families} and {folds}"
            )
        from sklearn.model_selection import GroupKFold  # takes a second to import

        self.sample = sample
        self.parts = []
        gains = np.where(sample.genuine, -sample.weights, sample.weights)  # what rejecting adds to what is right
        for train, test in GroupKFold(min(folds, sample.families)).split(sample.scores, groups=sample.member):
            thresholds = corners(sample.scores[train], sample.genuine[train])
            self.parts.append((thresholds, sample.binned(thresholds, train, gains), test))

    def accuracy(self, counts: np.ndarray) -> np.ndarray:
        """Share of comparisons [D] that are right on the folds left out, families counting `counts` [D, F] times."""
        sample = self.sample
        right = np.zeros(len(counts))
        for thresholds, gains, test in self.parts:
            gained = np.cumsum((gains @ counts.T).T, axis=1)
            best = np.maximum(gained.max(1), 0) - ROUNDING * sample.weights.sum()
            first = np.where(best <= 0, 0, 1 + np.argmax(gained >= best[:, None], axis=1))
            matched = sample.scores[test] >= thresholds[first, None]
            drawn = counts[:, sample.member[test]] * sample.weights[test]
            right += np.where(matched == sample.genuine[test], drawn, 0).sum(1)
        return right / (counts @ np.bincount(sample.member, sample.weights))
