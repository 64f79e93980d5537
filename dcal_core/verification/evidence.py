"""What likelihood ratios of test families are worth to an examiner: ratios that mislead, devPAV, and cross-entropy.

Sources: Meuwly, Ramos & Haraksim, Forensic Science International 276 (2017); Vergeer et al., Forensic Science
International 321 (2021), of devPAV; Ramos et al., Entropy 20 (2018), of the empirical cross-entropy (ECE). Letters: P
comparisons, K levels.
"""

import numpy as np
from scipy.special import expit, logit
from sklearn.isotonic import isotonic_regression

from dcal_core.verification.comparisons import Comparisons, balanced
from dcal_core.verification.intervals import family_counts, rate_estimate
from dcal_core.verification.verdict_rates import verdict_rates
from dcal_core.verification.verdicts import Thresholds

DECIMALS = 3  # of log10 LRs, to which devPAV and its curve are computed
PRIORS = np.round(np.arange(-3, 3.01, 0.25), 2)  # log10 of the prior odds of one person


def misleading(llr, genuine, family, draws=1000, seed=0, weights=None) -> dict:
    """Return how often a ratio supports the wrong proposition, as estimates: `one_person`, the share of genuine pairs
    with an LR below 1, and `impostors`, of the others with an LR of 1 or more. All arrays [P]."""
    rates = verdict_rates(llr, genuine, family, Thresholds(0.0, 0.0), draws, seed, weights)
    return {"one_person": rates["genuine"]["different"], "impostors": rates["impostor"]["same"]}


def pav_curve(levels: np.ndarray, genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (log10 LR, log10 LR after PAV), each at most [K], where the second is finite: the best rising calibration.

    levels: distinct log10 LRs, rising, [K]; genuine, impostor: the weight of each class there, [K].
    """
    same = genuine / genuine.sum()
    both = same + impostor / impostor.sum()
    levels, same, both = levels[both > 0], same[both > 0], both[both > 0]
    posterior = isotonic_regression(same / both, sample_weight=both)
    finite = (posterior > 1e-12) & (posterior < 1 - 1e-12)
    return levels[finite], logit(posterior[finite]) / np.log(10)


def deviation(levels: np.ndarray, calibrated: np.ndarray) -> float:
    """Return devPAV: the mean distance of a `pav_curve`, [K] each, from the diagonal, in log10; NaN without a point."""
    if len(levels) < 2:
        return float(np.abs(calibrated - levels).mean()) if len(levels) else np.nan
    off = calibrated - levels
    first, second = off[:-1], off[1:]
    size = np.abs(first) + np.abs(second)
    crossed = np.divide(first**2 + second**2, size, out=np.zeros_like(size), where=size > 0)
    area = np.where(first * second >= 0, size, crossed) / 2 * np.diff(levels)
    return float(area.sum() / (levels[-1] - levels[0]))


def bold_share(levels: np.ndarray, calibrated: np.ndarray) -> float:
    """Return the share of the area behind devPAV where ratios are too bold, further from 1 than calibrated ones."""
    middle = np.stack([levels, calibrated])
    middle = (middle[:, 1:] + middle[:, :-1]) / 2
    area = np.abs(middle[1] - middle[0]) * np.diff(levels)
    bold = (middle[1] - middle[0]) * np.sign(middle[0]) < 0
    return float(area[bold].sum() / area.sum()) if area.sum() > 0 else 0.0


def levels_of(llr) -> np.ndarray:
    """log10 LRs of LLRs [P], to DECIMALS."""
    return np.round(np.asarray(llr) / np.log(10), DECIMALS)


def devpav_estimate(llr, genuine, family, draws=1000, seed=0, weights=None) -> dict:
    """Return devPAV with its 95 % bootstrap interval over families; {"value": None, "reason": ...} where PAV separates
    the classes. `bold`: see `bold_share`. All arrays [P]."""
    sample = Comparisons(levels_of(llr), genuine, family, weights)
    levels = np.unique(sample.scores)
    edges = np.append(levels, np.inf)
    held = [sample.binned(edges, part, sample.weights) for part in (sample.genuine, ~sample.genuine)]
    counts = family_counts(sample.families, draws, seed)
    found = []
    for count in counts:
        drawn = [one @ sample.spread(count[None])[0] for one in held]
        found.append(deviation(*pav_curve(levels, *drawn)) if all(map(np.any, drawn)) else np.nan)
    found = np.array(found)
    if np.isnan(found[0]):
        return {"value": None, "reason": "not defined where one person and two are told apart without an error"}
    share = rate_estimate(found / (1 + found), sample.by_family(sample.weights > 0), counts)
    ends = {end: None if share[end] is None else share[end] / (1 - share[end]) for end in ("value", "low", "high")}
    whole = [one @ np.ones(one.shape[1]) for one in held]
    return ends | {"bold": bold_share(*pav_curve(levels, *whole))}


def cross_entropy(llr, genuine, weights=None) -> dict[str, list[float]]:
    """Return the ECE in bits at each of PRIORS, as lists: `ratios` of these LLRs, `best` of the best rising calibration
    of them, `none` of the prior odds alone. All arrays [P]."""
    llr = np.asarray(llr, dtype=np.float64)
    genuine = np.asarray(genuine, dtype=bool)
    weights = balanced(genuine, np.ones(len(llr)) if weights is None else weights)
    _, at = np.unique(levels_of(llr), return_inverse=True)
    both = np.bincount(at, weights)
    posterior = isotonic_regression(np.bincount(at, weights * genuine) / both, sample_weight=both)
    best = logit(np.clip(posterior, 1e-15, 1 - 1e-15))[at]
    found = {"prior": PRIORS.tolist()}
    for name, one in (("ratios", llr), ("best", best), ("none", np.zeros(len(llr)))):
        found[name] = [_entropy(one, genuine, weights, prior) for prior in PRIORS * np.log(10)]
    return found


def _entropy(llr: np.ndarray, genuine: np.ndarray, weights: np.ndarray, prior: float) -> float:
    """The ECE in bits at a prior's natural-log odds; weights: 1 in each class."""
    cost = np.logaddexp(0, np.where(genuine, -1, 1) * (llr + prior)) / np.log(2)
    return float((np.where(genuine, expit(prior), expit(-prior)) * weights * cost).sum())
