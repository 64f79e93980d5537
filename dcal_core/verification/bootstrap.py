"""Every reported metric of a system, of its sample and of bootstrap draws of its families, and differences of two.

Letters as in metrics.py; D bootstrap draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dcal_core.verification import metrics
from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.folds import Folds
from dcal_core.verification.intervals import effective_families, family_counts, share_estimate, share_interval
from dcal_core.verification.metrics import REPORTED_FMR, ROUNDING, crossing

_CHUNK = 500_000  # operating points held at once, 4 MB an array: what a cache can hold


def resolvable_fmr(impostors: int, clusters: int) -> float:
    """Smallest FMR at which a TAR is reported, from the impostor comparisons and the clusters that hold them.

    At least 30 false matches must be expected (rule of 30, Doddington et al. 2000), and at least one cluster's share:
    below 1 / clusters one pair of look-alikes can set the threshold alone, and the bootstrap is too optimistic because
    it cannot draw look-alikes that the sample lacks.
    """
    return max(30 / impostors, 1 / clusters)


class Sample(Comparisons):
    """The comparisons of one system, and the draws of their families that hold both classes.

    sizes: weight of impostors and of genuine ones in each cluster, [C, 2]; counts: how often each family is drawn,
    [D, F].
    """

    def __init__(self, scores, genuine, family, draws: int, seed: int, weights=None):
        super().__init__(scores, genuine, family, weights)
        self.sizes = np.stack([self.by_cluster(part) for part in (~self.genuine, self.genuine)], axis=1)
        weights = [self.by_family(part) for part in (~self.genuine, self.genuine)]
        self.clusters = min(map(effective_families, weights))
        self.counts = family_counts(self.families, draws, seed)[1:]
        several = min(map(np.count_nonzero, weights)) > 1  # one family shows no spread
        self.counts = self.counts[(self.totals(self.counts, self.sizes) > 0).all(1) & several]
        thresholds = metrics.corners(self.scores, self.genuine)
        self.held = [self.binned(thresholds, part, self.weights) for part in (self.genuine, ~self.genuine)]

    def chunks(self) -> Iterator[np.ndarray]:
        """How often clusters count, [d, C]: once each in the sample itself, then the draws."""
        counts = np.concatenate([np.ones((1, self.families)), self.counts])
        step = max(1, _CHUNK // max(self.held[0].shape))
        return (self.spread(counts[start : start + step]) for start in range(0, len(counts), step))

    def curves(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fmr, fnmr), each [d, K]."""
        return metrics.curves(*((held @ counts.T).T for held in self.held))

    def unresolved(self) -> dict[str, dict]:
        """The metrics that so few families or comparisons cannot tell, and why."""
        clusters = int((self.sizes[:, 0] > 0).sum())
        limit = resolvable_fmr(int((~self.genuine).sum()), clusters)
        names = [f"{rate}_at_fmr_{fmr:g}" for fmr in REPORTED_FMR if fmr < limit for rate in ("tar", "fnmr")]
        if self.families < 2:
            names.append("accuracy_folds")
        a, b = self.ends
        few = f"{self.families:,} people" if (a != b).any() else f"{clusters} families"
        return {name: {"value": None, "reason": f"not resolvable with {few}"} for name in names}


@dataclass(frozen=True, eq=False)
class Replicates:
    """Metrics of one system by name, [1 + D]: the sample's own value and one for each draw of its families."""

    values: dict[str, np.ndarray]
    sample: Sample


def replicate(scores, genuine, family, threshold: float, draws=1000, seed=0, weights=None) -> Replicates:
    """Return every reported metric of the sample and of `draws` bootstrap draws of its families.

    scores, genuine, family, weights: [P], or family [P, 2]. Accuracy, fmr and fnmr are taken at the threshold, frozen
    on other families. Equal families, draws and seed give the same draws for every system. A class from a single family
    gives no draws.
    """
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    sample = Sample(scores, genuine, family, draws, seed, weights)
    wrong = (sample.scores >= threshold) != sample.genuine
    errors = np.stack([sample.by_cluster(wrong & part) for part in (~sample.genuine, sample.genuine)], axis=1)
    folds = Folds(sample) if sample.families > 1 else None
    chunks = [_metrics(sample, errors, folds, counts) for counts in sample.chunks()]
    return Replicates({name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}, sample)


def replicate_eer(scores, genuine, family, draws=1000, seed=0) -> Replicates:
    """Return the EER alone, of the same draws as `replicate`."""
    sample = Sample(scores, genuine, family, draws, seed)
    values = np.concatenate([crossing(*sample.curves(counts))[0] for counts in sample.chunks()])
    return Replicates({"eer": values}, sample)


def _metrics(sample: Sample, errors: np.ndarray, folds: Folds | None, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric [d] where clusters count `counts` [d, C] times; errors: false matches and non-matches [C, 2]."""
    made = counts @ errors
    compared = counts @ sample.sizes  # [d, 2]
    fmr, fnmr = sample.curves(counts)
    missed = {limit: metrics.lowest_fnmr(fmr, fnmr, limit) for limit in REPORTED_FMR}
    return {
        "eer": crossing(fmr, fnmr)[0],
        "eer_hull": metrics.hull_crossing(fmr, fnmr),
        "roc_auc": metrics.area(fmr, fnmr),
        "accuracy": 1 - made.sum(1) / compared.sum(1),
        "accuracy_folds": folds.accuracy(counts) if folds else np.full(len(counts), np.nan),
        "fmr": made[:, 0] / compared[:, 0],
        "fnmr": made[:, 1] / compared[:, 1],
        **{f"tar_at_fmr_{limit:g}": 1 - rate for limit, rate in missed.items()},
        **{f"fnmr_at_fmr_{limit:g}": rate for limit, rate in missed.items()},
    }


def summarise(replicates: Replicates) -> dict:
    """Return each metric as a `share_estimate`, or {"value": None, "reason": ...} below `resolvable_fmr`; and `counts`.

    Without draws low and high are None.
    """
    sample = replicates.sample
    result = {
        name: share_estimate(float(value), drawn, sample.clusters, sample.families, sample.counts)
        for name, (value, *drawn) in replicates.values.items()
    }
    counts = {
        "genuine": int(sample.genuine.sum()),
        "impostor": int((~sample.genuine).sum()),
        "families": sample.families,
        "draws": len(sample.counts),
    }
    return result | sample.unresolved() | {"counts": counts}


def differences(a: Replicates, b: Replicates) -> dict:
    """Return each metric's paired difference a - b as {"value", "low", "high", "better"}, by `share_interval`.

    better: "a" or "b" where the interval excludes zero, or None. What cannot be resolved is {"value": None, "reason":
    ...}. ValueError unless both compared the same pairs with the same draws.
    """
    drawn_from = ("genuine", "member", "weights", "counts")
    if not all(np.array_equal(getattr(a.sample, name), getattr(b.sample, name)) for name in drawn_from):
        raise ValueError("differences need two systems replicated on the same pairs, in one order, with the same draws")
    result = {}
    for name in a.values:
        value, *drawn = a.values[name] - b.values[name]
        low = high = better = None
        if drawn:
            # Half of 1 + difference is a share: near one half log-odds are straight, and the interval symmetric.
            low, high = (2 * share_interval((1 + np.array(drawn)) / 2, a.sample.clusters) - 1).tolist()
            if low > ROUNDING or high < -ROUNDING:
                lower_is_better = name.startswith(("eer", "fmr", "fnmr"))
                better = "a" if (low > 0) != lower_is_better else "b"
        result[name] = {"value": float(value), "low": low, "high": high, "better": better}
    return result | a.sample.unresolved()


def roc_band(scores, genuine, family, fmr, draws=1000, seed=0) -> np.ndarray:
    """Return the low and the high TAR, each like `fmr` [M]: pointwise 95 % band of the ROC, by `share_interval`.

    Both are NaN if a class comes from a single family.
    """
    sample = Sample(scores, genuine, family, draws, seed)
    limits = np.asarray(fmr, dtype=np.float64) + ROUNDING
    tar = [
        1 - reject[np.searchsorted(-accept, -limits, side="left")]
        for counts in sample.chunks()
        for accept, reject in zip(*sample.curves(counts), strict=True)  # accept falls from 1 to 0
    ]
    if not tar[1:]:
        return np.full((2, *limits.shape), np.nan)
    return share_interval(tar[1:], sample.clusters, sample.counts)
