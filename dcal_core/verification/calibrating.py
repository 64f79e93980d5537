"""Fitting a calibration on validation families, and its cost on others.

Sources: Brümmer & du Preez, Computer Speech and Language 20 (2006); Morrison, Australian Journal of Forensic Sciences
45 (2013). Letters: P comparisons, F families, B bins.
"""

import numpy as np
from scipy.special import expit, logit, xlogy
from sklearn.isotonic import IsotonicRegression, isotonic_regression
from sklearn.linear_model import LogisticRegression

from dcal_core.verification.calibration import Isotonic, Logistic
from dcal_core.verification.comparisons import Comparisons, balanced
from dcal_core.verification.intervals import families_of_rarer_class, family_counts, rate_estimate, shares
from dcal_core.verification.metrics import ROUNDING, corners

FEWEST_FAMILIES = 5  # in a bin of the reliability plot: fewer show no spread
_RIDGE = 100  # prior variance of the slope on standardised scores: matters only for separable scores


def _evidence(scores, genuine, family, weights) -> tuple[Comparisons, np.ndarray, int]:
    """Return the comparisons, their balanced weights [P], and the number of families that support an LLR."""
    sample = Comparisons(scores, genuine, family, weights)
    families = families_of_rarer_class(sample.genuine, np.asarray(family), sample.weights)
    if families < 2:
        raise ValueError(f"calibration needs each class from at least 2 families, got {families}: validate on more")
    return sample, balanced(sample.genuine, sample.weights), families


def fit_logistic(scores, genuine, family, weights=None) -> Logistic:
    """Return the affine calibration by logistic regression with classes of equal weight (Brümmer & du Preez 2006).

    All arrays [P]. ValueError if genuine scores are not the higher ones on average, or on fewer than 2 families.
    """
    sample, weights, families = _evidence(scores, genuine, family, weights)
    scores = sample.scores
    genuine = sample.genuine
    same, impostors = (np.average(scores[part], weights=weights[part]) for part in (genuine, ~genuine))
    if same - impostors <= ROUNDING * np.abs(scores).max():  # the slope would have the sign of this difference
        raise ValueError(
            f"scores do not separate in the right direction: their mean is {same:.4g} for genuine and {impostors:.4g} "
            "for impostor comparisons: higher must mean more alike"
        )
    mean = (same + impostors) / 2
    spread = np.sqrt(np.average((scores - mean) ** 2, weights=weights))
    # Separable scores have no finite optimum: a wide prior gives them one and hardly changes the others. Each class
    # weighs F, since the comparisons within a family are not independent evidence.
    regression = LogisticRegression(C=_RIDGE, solver="newton-cholesky", tol=1e-8)
    regression.fit(((scores - mean) / spread)[:, None], genuine, families * weights)
    slope = float(regression.coef_[0, 0] / spread)
    return Logistic(slope, float(regression.intercept_[0] - slope * mean), families)


def fit_isotonic(scores, genuine, family, weights=None) -> Isotonic:
    """Return the best rising calibration by pooling adjacent violators (PAV; Zadrozny & Elkan, KDD 2002).

    All arrays [P]. ValueError on fewer than 2 families.
    """
    sample, weights, families = _evidence(scores, genuine, family, weights)
    pav = IsotonicRegression().fit(sample.scores, sample.genuine.astype(np.float64), weights)
    posterior = pav.y_thresholds_.clip(1 / (1 + families), families / (1 + families))
    return Isotonic(pav.X_thresholds_.tolist(), logit(posterior).tolist(), families)


def cllr_estimate(llr, genuine, family, draws=1000, seed=0, weights=None) -> dict:
    """Return Cllr, the cost of LLRs in bits, as {"value", "low", "high"}: 95 % bootstrap over families.

    0 is perfect, 1 as good as LLR 0 (Brümmer & du Preez). All arrays [P].
    """
    sample = Comparisons(llr, genuine, family, weights)
    counts = family_counts(sample.families, draws, seed)
    return _cost_estimate(_costs(sample, counts), sample, counts)


def _costs(sample: Comparisons, counts: np.ndarray) -> np.ndarray:
    """Cllr in bits where families count `counts` [R, F], [R]; NaN in a draw without one of the classes."""
    cost = np.logaddexp(0, np.where(sample.genuine, -sample.scores, sample.scores)) / np.log(2)
    by_class = sample.genuine.astype(int)
    costs = sample.totals(counts, sample.tabulate(by_class, 2, sample.weights * cost))
    totals = sample.totals(counts, sample.tabulate(by_class, 2, sample.weights))
    with np.errstate(invalid="ignore"):
        return (costs / totals).mean(1)


def cllr_min_estimate(scores, genuine, family, draws=1000, seed=0, weights=None) -> dict:
    """Return the lowest Cllr that any rising calibration of these very scores reaches, as `cllr_estimate` does.

    Each draw has its own best calibration. All arrays [P].
    """
    sample = Comparisons(scores, genuine, family, weights)
    counts = family_counts(sample.families, draws, seed)
    return _cost_estimate(_least_costs(sample, counts), sample, counts)


def cllr_cal_estimate(llr, scores, genuine, family, draws=1000, seed=0, weights=None) -> dict:
    """Return Cllr less Cllr min, the cost of the calibration itself, as `cllr_estimate` does. All arrays [P]."""
    sample = Comparisons(scores, genuine, family, weights)
    counts = family_counts(sample.families, draws, seed)
    bits = _costs(Comparisons(llr, genuine, family, weights), counts) - _least_costs(sample, counts)
    return _cost_estimate(np.maximum(bits, 0), sample, counts)


def _least_costs(sample: Comparisons, counts: np.ndarray) -> np.ndarray:
    thresholds = corners(sample.scores, sample.genuine)  # PAV pools all that lies between two of them
    held = [sample.binned(thresholds, part, sample.weights) for part in (sample.genuine, ~sample.genuine)]
    drawn = (sample.spread(count[None])[0] for count in counts)
    return np.array([_least_cost(*(one @ count for one in held)) for count in drawn])


def _cost_estimate(bits: np.ndarray, sample: Comparisons, counts: np.ndarray) -> dict:
    if np.nanmax(bits) - np.nanmin(bits) <= ROUNDING:  # equal costs, such as 0 of separable scores, show no spread
        return {"value": float(bits[0]), "low": None, "high": None}
    # `rate_estimate` knows shares: the log-odds of cost / (1 + cost) are the logarithm of the cost.
    share = rate_estimate(bits / (1 + bits), sample.by_family(sample.weights > 0), counts)
    costs = {key: None if (value := share[key]) is None else value / (1 - value) for key in ("value", "low", "high")}
    return share | costs


def _least_cost(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Return Cllr after PAV, in bits, of each class's weight between rising thresholds; NaN if a class has none."""
    if not (genuine.any() and impostor.any()):
        return np.nan
    same = genuine / genuine.sum()
    both = same + impostor / impostor.sum()
    same = same[both > 0]
    both = both[both > 0]
    posterior = isotonic_regression(same / both, sample_weight=both).clip(0, 1)
    return float(abs(xlogy(same, posterior) + xlogy(both - same, 1 - posterior)).sum() / (2 * np.log(2)))


def reliability(llr, genuine, family, bins=10, draws=1000, seed=0, weights=None) -> list[dict]:
    """Return, for each of the B equal bins of the posterior at equal priors, what was observed: a reliability plot.

    llr, genuine, family, weights: [P]. Each bin: `from` and `to`, its mean `posterior`, `count` of comparisons,
    `families`, and `observed`, the class-balanced share of genuine with its 95 % interval, bootstrap over families.
    In a bin of fewer than FEWEST_FAMILIES families `observed` is None.
    """
    sample = Comparisons(llr, genuine, family, weights)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    posterior = expit(sample.scores)
    bin_of = np.searchsorted(edges[1:-1], posterior, side="right")
    cell = np.where(sample.genuine, bin_of, bins + bin_of)
    counts = family_counts(sample.families, draws, seed)
    rows = sample.totals(counts, sample.tabulate(cell, 2 * bins, sample.weights))
    genuine_share = shares(rows[:, :bins])
    impostor_share = shares(rows[:, bins:])
    with np.errstate(invalid="ignore"):  # a draw that leaves the bin empty: NaN
        observed = genuine_share / (genuine_share + impostor_share)
    weights = balanced(sample.genuine, sample.weights)
    found = []
    for number in range(bins):
        inside = bin_of == number
        sizes = sample.by_family(inside, weights)
        families = int(np.count_nonzero(sizes))
        found.append(
            {
                "from": float(edges[number]),
                "to": float(edges[number + 1]),
                "posterior": float(np.average(posterior[inside], weights=weights[inside])) if families else None,
                "count": int(inside.sum()),
                "families": families,
                "observed": rate_estimate(observed[:, number], sizes, counts) if families >= FEWEST_FAMILIES else None,
            }
        )
    return found
