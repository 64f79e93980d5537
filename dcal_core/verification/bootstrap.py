"""Every reported metric of a system, of its sample and of bootstrap draws of its families, and differences of two.

Letters as in metrics.py; D bootstrap draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from dcal_core.verification.intervals import (
    class_sizes,
    effective_families,
    family_counts,
    share_estimate,
    share_interval,
)
from dcal_core.verification.metrics import (
    REPORTED_FMR,
    ROUNDING,
    Folds,
    area,
    binned,
    checked,
    checked_threshold,
    corners,
    crossing,
    curves,
    hull_crossing,
    lowest_fnmr,
    numbered,
)

_CHUNK = 500_000  # operating points held at once, 4 MB an array: what a cache can hold


def resolvable_fmr(impostors: int, families: int) -> float:
    """Smallest FMR at which a TAR is reported, from the impostor comparisons and the families that hold them.

    At least 30 false matches must be expected (rule of 30, Doddington et al. 2000), and at least one family's share:
    below 1 / families one pair of look-alikes can set the threshold alone, and the bootstrap is too optimistic because
    it cannot draw look-alikes that the sample lacks.
    """
    return max(30 / impostors, 1 / families)


class _Sample:
    """The comparisons of one system by family, and the draws that hold both classes."""

    def __init__(self, scores, genuine, family, draws: int, seed: int, weights=None):
        self.scores, self.genuine, self.weights = checked(scores, genuine, weights)
        self.member, self.families = numbered(family, self.scores)
        same, twins = class_sizes(self.genuine, self.member, self.weights, self.families)
        self.sizes = np.stack([twins, same], axis=1)  # [F, 2]
        self.clusters = min(map(effective_families, self.sizes.T))
        self.counts = family_counts(self.families, draws, seed)[1:]
        several = ((self.sizes > 0).sum(0) > 1).all()  # one family shows no spread
        self.counts = self.counts[(self.counts @ self.sizes > 0).all(1) & several]
        thresholds = corners(self.scores, self.genuine)
        self.held = [
            binned(thresholds, self.scores[part], self.weights[part], self.member[part], self.families)
            for part in (self.genuine, ~self.genuine)
        ]

    def by_family(self, part: np.ndarray) -> np.ndarray:
        """Weight of some comparisons [P] in each family [F]."""
        return np.bincount(self.member, self.weights * part, self.families)

    def chunks(self) -> Iterator[np.ndarray]:
        """How often families count, [d, F]: once each in the sample itself, then the draws."""
        counts = np.concatenate([np.ones((1, self.families)), self.counts])
        step = max(1, _CHUNK // max(self.held[0].shape[0], len(self.scores) // 2))
        return (counts[start : start + step] for start in range(0, len(counts), step))

    def curves(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fmr, fnmr), each [d, K]."""
        return curves(*((held @ counts.T).T for held in self.held))


@dataclass(frozen=True, eq=False)
class Replicates:
    """Metrics of one system: the sample's own value and one for each bootstrap draw of families.

    values: by name [1 + D]. genuine, impostor: comparisons; families, impostor_families: those in either class, in the
    second; clusters: `effective_families`; draws: D, those that held both classes; source: what was drawn from.
    """

    values: dict[str, np.ndarray]
    genuine: int
    impostor: int
    families: int
    impostor_families: int
    clusters: float
    draws: int
    source: str

    def unresolved(self) -> dict[str, str]:
        """Why, for each metric that so few families or comparisons cannot tell."""
        reason = f"not resolvable with {self.impostor_families} families"
        limit = resolvable_fmr(self.impostor, self.impostor_families)
        names = [f"{rate}_at_fmr_{fmr:g}" for fmr in REPORTED_FMR if fmr < limit for rate in ("tar", "fnmr")]
        return dict.fromkeys(names + ["accuracy_folds"] * (self.families < 2), reason)


def replicate(scores, genuine, family, threshold: float, draws=1000, seed=0, weights=None) -> Replicates:
    """Return every reported metric of the sample and of `draws` bootstrap draws of its families.

    scores, genuine, family, weights: [P]. The threshold was frozen on other families; accuracy, fmr and fnmr are taken
    there. Equal families, draws and seed give the same draws for every system. A class from a single family gives no
    draws. Raises ValueError as `error_rates`, for a threshold that is not finite and for draws < 1.
    """
    sample = _Sample(scores, genuine, family, draws, seed, weights)
    measures = _measures(sample, checked_threshold(threshold))
    chunks = [measures(counts) for counts in sample.chunks()]
    source = (sample.genuine, sample.member, sample.weights, np.array([draws, seed]))
    return Replicates(
        values={name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]},
        genuine=int(sample.genuine.sum()),
        impostor=int((~sample.genuine).sum()),
        families=sample.families,
        impostor_families=int((sample.sizes[:, 0] > 0).sum()),
        clusters=sample.clusters,
        draws=len(sample.counts),
        source=sha256(b"".join(part.tobytes() for part in source)).hexdigest(),
    )


def replicate_eer(scores, genuine, family, draws=1000, seed=0) -> np.ndarray:
    """Return the EER alone, [1 + D], of the same draws as `replicate`; ValueError as `error_rates`."""
    sample = _Sample(scores, genuine, family, draws, seed)
    return np.concatenate([crossing(*sample.curves(counts))[0] for counts in sample.chunks()])


def _measures(sample: _Sample, threshold: float):
    """A function from counts [d, F] to every metric [d]."""
    wrong = (sample.scores >= threshold) != sample.genuine
    errors = np.stack([sample.by_family(wrong & ~sample.genuine), sample.by_family(wrong & sample.genuine)], axis=1)
    folds = None
    if sample.families > 1:
        folds = Folds(sample.scores, sample.genuine, sample.member, sample.weights, sample.families)

    def measures(counts: np.ndarray) -> dict[str, np.ndarray]:
        made = counts @ errors
        compared = counts @ sample.sizes  # [d, 2]
        fmr, fnmr = sample.curves(counts)
        missed = {limit: lowest_fnmr(fmr, fnmr, limit) for limit in REPORTED_FMR}
        return {
            "eer": crossing(fmr, fnmr)[0],
            "eer_hull": hull_crossing(fmr, fnmr),
            "roc_auc": area(fmr, fnmr),
            "accuracy": 1 - made.sum(1) / compared.sum(1),
            "accuracy_folds": folds.accuracy(counts) if folds else np.full(len(counts), np.nan),
            "fmr": made[:, 0] / compared[:, 0],
            "fnmr": made[:, 1] / compared[:, 1],
            **{f"tar_at_fmr_{limit:g}": 1 - rate for limit, rate in missed.items()},
            **{f"fnmr_at_fmr_{limit:g}": rate for limit, rate in missed.items()},
        }

    return measures


def _none_resolved(replicates: Replicates) -> dict[str, dict]:
    return {name: {"value": None, "reason": reason} for name, reason in replicates.unresolved().items()}


def summarise(replicates: Replicates) -> dict:
    """Return each metric as {"value", "low", "high"} with its 95 % `share_interval`, and `counts`.

    A TAR or FNMR below `resolvable_fmr` is {"value": None, "reason": ...}. Without draws low and high are None. A rate
    that is 0 or 1 in all draws gets the bound that so many families without an error allow, about 3 / families (rule
    of three). counts: genuine, impostor, families, draws.
    """
    result = {
        name: share_estimate(float(value), drawn, replicates.clusters, replicates.families)
        for name, (value, *drawn) in replicates.values.items()
    }
    counts = {name: getattr(replicates, name) for name in ("genuine", "impostor", "families", "draws")}
    return result | _none_resolved(replicates) | {"counts": counts}


def differences(a: Replicates, b: Replicates) -> dict:
    """Return each metric's paired difference a - b as {"value", "low", "high", "better"}, by `share_interval`.

    better: "a" or "b" where the interval excludes zero, or None; errors are better low, AUC, TAR and accuracy high.
    A difference that cannot be resolved is {"value": None, "reason": ...}. Raises ValueError unless both compared the
    same pairs with the same draws.
    """
    if a.source != b.source:
        raise ValueError("differences need two systems replicated on the same pairs, in one order, with the same draws")
    result = {}
    for name in a.values:
        value, *drawn = a.values[name] - b.values[name]
        # Half of 1 + difference is a share: near one half log-odds are straight, and the interval symmetric.
        low, high = (2 * share_interval((1 + np.array(drawn)) / 2, a.clusters) - 1).tolist() if drawn else (None, None)
        better = None
        if drawn and (low > ROUNDING or high < -ROUNDING):
            lower_is_better = name.startswith(("eer", "fmr", "fnmr"))
            better = "a" if (low > 0) != lower_is_better else "b"
        result[name] = {"value": float(value), "low": low, "high": high, "better": better}
    return result | _none_resolved(a)


def roc_band(scores, genuine, family, fmr, draws=1000, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) TAR, each like `fmr` [M]: pointwise 95 % band of the ROC, by `share_interval`.

    Both are NaN if a class comes from a single family. Raises ValueError as `error_rates` and for draws < 1.
    """
    sample = _Sample(scores, genuine, family, draws, seed)
    limits = np.asarray(fmr, dtype=np.float64) + ROUNDING
    tar = [
        1 - reject[np.searchsorted(-accept, -limits, side="left")]
        for counts in sample.chunks()
        for accept, reject in zip(*sample.curves(counts), strict=True)  # accept falls from 1 to 0
    ]
    low, high = share_interval(tar[1:], sample.clusters) if tar[1:] else np.full((2, *limits.shape), np.nan)
    return low, high
