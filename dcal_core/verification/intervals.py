"""Figures with 95 % intervals over families: comparisons within a family depend on each other, families do not.

An estimate is {"value", "low", "high"}; low and high are None where there is no interval. Source: Fogliato, Patil &
Perona, arXiv 2306.01198. Letters: n values, P comparisons, F families, D bootstrap draws, R = 1 + D rows: the sample,
then its draws.
"""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from dcal_core.verification.comparisons import numbered

# Chosen by the coverage of 95 % intervals of the EER on 31 families, 1,000 draws each (benchmarks/speed/coverage.py).
UNSEEN = 2  # families
EDGE = 0.1  # the share of the way to 0 or 1 that such families leave, at least
FEWEST_BOUND = 12  # families; with fewer a bound beyond one half tells nothing

# Families


def families_of_rarer_class(genuine: np.ndarray, family: np.ndarray, weights: np.ndarray | None = None) -> int:
    """Return how many families have comparisons [P] of any weight in the class that fewer families have."""
    present = np.ones(len(genuine), dtype=bool) if weights is None else weights > 0
    return min(len(np.unique(family[present & part])) for part in (genuine, ~genuine))


def family_means(values, family) -> np.ndarray:
    """Return the mean of values [n] in each family, [F]; family [n] names it. ValueError if a value is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
    member, families = numbered(family, values)
    return np.bincount(member, values, families) / np.bincount(member, minlength=families)


def effective_families(sizes) -> float:
    """Return how many families of one size are worth as much as families of these sizes [F] (Kish 1965)."""
    sizes = np.asarray(sizes, dtype=np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


# Bootstrap


def family_counts(families: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each family counts, float [R, F]: once in the sample, then as drawn with replacement."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    drawn = np.random.default_rng(seed).multinomial(families, np.full(families, 1 / families), size=draws)
    return np.vstack([np.ones(families), drawn])


def shares(rows: np.ndarray) -> np.ndarray:
    """Return rows [R, n] over their sums; NaN where a draw holds nothing."""
    with np.errstate(invalid="ignore"):
        return rows / rows.sum(1, keepdims=True)


def share_interval(drawn, clusters: float, counts: np.ndarray | None = None) -> np.ndarray:
    """95 % interval [2, ...] of shares between 0 and 1 from bootstrap draws [D, ...]: Student's t on their log-odds.

    clusters: `effective_families`. counts: how often each draw holds each family, [D, F]; with them either end goes
    further by what UNSEEN more families would change like the one that pulls the share furthest that way: where a few
    families are much harder than the rest, a sample may hold too few of them. Percentiles are too narrow for tens of
    families (Hesterberg, arXiv 1411.5279), and log-odds keep an interval within [0, 1] and longer on the side of the
    rarer errors.
    """
    clusters = max(clusters, 2.0)
    drawn = np.asarray(drawn, dtype=np.float64)
    mean = drawn.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = logit(mean)
        # Draws without any error are infinitely far off: none counts for more than e^2, 7 times the odds.
        odds = np.nan_to_num(np.clip(logit(drawn) - centre, -2, 2))
    # n / (n - 1), as the jackknife: a large family pulls the figure towards itself. Half of the degrees of freedom: a
    # few families make most of the errors, so that the spread is as uncertain as with 2 n / (kurtosis - 1), kurtosis 5.
    reach = clusters / (clusters - 1) * student.ppf(0.975, (clusters - 1) / 2) * odds.std(axis=0)
    below = above = 0.0
    if counts is not None:
        # What a family changes by counting once more is its covariance with the draws (Efron, JASA 109, 2014).
        pull = UNSEEN * np.tensordot(counts - counts.mean(0), drawn - mean, (0, 0)) / len(drawn)
        ends = np.clip(mean + np.stack([pull.min(axis=0), pull.max(axis=0)]), EDGE * mean, 1 - EDGE * (1 - mean))
        with np.errstate(divide="ignore", invalid="ignore"):
            below, above = np.nan_to_num(logit(ends) - centre)
    return expit(np.stack([centre - reach + below, centre + reach + above]))


def share_estimate(
    value: float, drawn: np.ndarray, clusters: float, families: int, counts: np.ndarray | None = None
) -> dict:
    """Return the estimate of a share by `share_interval` of its draws [D]; one family, or no draw, gives no interval.

    A share of 0 or 1 in all draws gets the bound that so many families without an error allow, about 3 / families (rule
    of three): the bootstrap cannot see beyond its sample. Fewer than FEWEST_BOUND families set no bound beyond one
    half: `open` names the end, "low" or "high", that says nothing.
    """
    if families < 2 or len(drawn) == 0:
        return {"value": value, "low": None, "high": None}
    low, high = share_interval(drawn, clusters, counts).tolist()
    if low == high and value in (0, 1):
        bound = 1 - 0.05 ** (1 / families)
        low, high = (0.0, bound) if value == 0 else (1 - bound, 1.0)
    estimate = {"value": value, "low": low, "high": high}
    if families < FEWEST_BOUND and value < 0.5 < high:
        estimate["open"] = "high"
    if families < FEWEST_BOUND and low < 0.5 < value:
        estimate["open"] = "low"
    return estimate


def rate_estimate(rates: np.ndarray, sizes: np.ndarray, counts: np.ndarray | None = None) -> dict:
    """Return the `share_estimate` of a rate [R], from the draws that are not NaN; sizes: each family's weight, [F];
    counts: how often each family counts, [R, F]."""
    kept = ~np.isnan(rates[1:])
    counts = None if counts is None else counts[1:][kept]
    return share_estimate(float(rates[0]), rates[1:][kept], effective_families(sizes), np.count_nonzero(sizes), counts)


# Means over families that all count the same


def mean_share(values, family, draws: int = 1000, seed: int = 0) -> dict:
    """Return the mean of values between 0 and 1 [n], by bootstrap over families."""
    means = family_means(values, family)
    counts = family_counts(len(means), draws, seed)
    return rate_estimate(counts @ means / len(means), np.ones(len(means)), counts)


def mean_by_t(values, family) -> dict:
    """Return the mean of values of any range [n], by Student's t over families; one family has no interval."""
    means = family_means(values, family)
    value = float(means.mean())
    if len(means) < 2:
        return {"value": value, "low": None, "high": None}
    reach = float(student.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means)))
    return {"value": value, "low": value - reach, "high": value + reach}


def paired_difference(values, family, other_values, other_family) -> dict:
    """Return the mean of values less other values in the families that have both, by `mean_by_t`; None without any."""
    common, own, other = np.intersect1d(np.unique(family), np.unique(other_family), return_indices=True)
    if not len(common):
        return {"value": None, "low": None, "high": None}
    return mean_by_t(family_means(values, family)[own] - family_means(other_values, other_family)[other], common)
