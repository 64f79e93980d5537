"""The thresholds of a verdict, set on validation families for an allowed error, and how often it is wrong on test ones.

Letters: P comparisons, as in `metrics`.
"""

import numpy as np
from scipy.stats import t as student

from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.intervals import families_of_rarer_class, family_counts, rate_estimate, shares
from dcal_core.verification.metrics import ROUNDING, equal_error_rate, error_rates
from dcal_core.verification.verdicts import VERDICTS, Thresholds, verdicts


def allowed_share(error: float, families: int) -> float:
    """Share of wrong pairs of the validation families that keeps to `error` even if all pairs of one more family were
    wrong; 0 where they are too few for that."""
    return max(((families + 1) * error - 1) / families, 0.0)


def verdict_thresholds(scores, genuine, family, error: float) -> Thresholds:
    """Return the thresholds that leave the fewest undecided with at most `error` wrong verdicts in each class.

    scores, genuine, family: [P]. same_from is the lowest score with FMR <= `allowed_share`, different_below the highest
    with FNMR <= it; where they cross both are the EER's threshold. Where families are too few to count the error, each
    also lies beyond what the worst pair of another family reaches with a chance of half of `error`, half since so few
    show their spread badly: the fewer they are, the more is undecided. ValueError for an error outside (0, 0.5), or a
    class from fewer than 2 families.
    """
    sample = Comparisons(scores, genuine, family)
    families = families_of_rarer_class(sample.genuine, np.asarray(family))
    if not 0 < error < 0.5:
        raise ValueError(f"error must lie between 0 and 0.5, got {error}")
    if families < 2:
        raise ValueError(f"a verdict needs each class from at least 2 families, got {families}: validate on more")
    allowed = allowed_share(error, families) + ROUNDING
    thresholds, fmr, fnmr = error_rates(scores, genuine)
    thresholds[-1] = np.nextafter(thresholds[-2], np.inf)  # the lowest at which nothing matches
    same_from = thresholds[np.argmax(fmr <= allowed)]
    different_below = thresholds[np.flatnonzero(fnmr <= allowed)[-1]]
    if (families + 1) * error < 1 - ROUNDING:
        same_from = max(same_from, _next_highest(sample, ~sample.genuine, error / 2))
        different_below = min(different_below, -_next_highest(sample, sample.genuine, error / 2, sign=-1))
    if different_below > same_from:  # anywhere between both errors are kept; the EER may be outside by one score
        same_from = different_below = np.clip(equal_error_rate(scores, genuine)[1], same_from, different_below)
    return Thresholds(float(different_below), float(same_from))


def _next_highest(sample: Comparisons, part: np.ndarray, chance: float, sign=1) -> float:
    """What the highest score, times sign, of another family's comparisons of a class exceeds with such a chance:
    Student's prediction bound from those of the families seen."""
    first, second = sample.ends[:, sample.member[part]]
    highest = np.full(sample.families, -np.inf)
    for end in (first, second):
        np.maximum.at(highest, end, sign * sample.scores[part])
    highest = highest[np.isfinite(highest)]
    families = len(highest)
    reach = student.ppf(1 - chance, families - 1) * np.sqrt(1 + 1 / families)
    return highest.mean() + reach * highest.std(ddof=1)


def verdict_rates(scores, genuine, family, thresholds: Thresholds, draws=1000, seed=0, weights=None) -> dict:
    """Return how genuine and impostor comparisons of test families are judged at thresholds frozen beforehand.

    scores, genuine, family, weights: [P]. `genuine` and `impostor` each hold the shares `same`, `undecided` and
    `different`, `wrong` is the wrong share of all pairs that got a verdict, each a `rate_estimate` by bootstrap over
    families. Without any verdict `wrong` is {"value": None, "reason": ...}.
    """
    sample = Comparisons(scores, genuine, family, weights)
    outcome = verdicts(sample.scores, thresholds) + np.where(sample.genuine, 1, 4)  # order of VERDICTS, genuine first
    table = sample.tabulate(outcome, 6, sample.weights)
    counts = family_counts(sample.families, draws, seed)
    rows = sample.totals(counts, table)
    result = {}
    for name, columns, part in (
        ("genuine", slice(3), sample.genuine),
        ("impostor", slice(3, 6), ~sample.genuine),
    ):
        sizes = sample.by_family(part)
        by_verdict = zip(VERDICTS.values(), shares(rows[:, columns]).T, strict=True)
        result[name] = {verdict: rate_estimate(share, sizes, counts) for verdict, share in by_verdict}
    judged = sample.by_family(np.isin(outcome, (0, 2, 3, 5)))
    if not judged.any():
        return result | {"wrong": {"value": None, "reason": "no comparison got a verdict"}}
    wrong = shares(np.stack([rows[:, 0] + rows[:, 5], rows[:, 2] + rows[:, 3]], axis=1))[:, 0]
    return result | {"wrong": rate_estimate(wrong, judged, counts)}
