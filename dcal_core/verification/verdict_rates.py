"""The thresholds of a verdict, set on validation families for an allowed error, and how often it is wrong on test ones.

Letters: P comparisons, as in `metrics`.
"""

from math import ceil

import numpy as np

from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.intervals import families_of_rarer_class, family_counts, rate_estimate, shares
from dcal_core.verification.metrics import ROUNDING, equal_error_rate, error_rates
from dcal_core.verification.verdicts import VERDICTS, Thresholds, verdicts


def verdict_thresholds(scores, genuine, family, error: float) -> Thresholds:
    """Return the thresholds that leave the fewest undecided with at most `error` wrong verdicts in each class.

    scores, genuine, family: [P]. same_from is the lowest score with FMR <= error, different_below the
    highest with FNMR <= error; where they cross both are the EER's threshold. ValueError for an error outside (0, 0.5),
    or below 1 / families: one pair of look-alikes would decide it (see `resolvable_fmr`).
    """
    sample = Comparisons(scores, genuine, family)
    families = families_of_rarer_class(sample.genuine, np.asarray(family))
    if not 0 < error < 0.5:
        raise ValueError(f"error must lie between 0 and 0.5, got {error}")
    if error * families < 1 - ROUNDING:
        raise ValueError(
            f"error={error:g} cannot be resolved with {families} families: allow at least {1 / families:.3g}, or "
            f"validate on {ceil(1 / error - ROUNDING)} families"
        )
    thresholds, fmr, fnmr = error_rates(scores, genuine)
    thresholds[-1] = np.nextafter(thresholds[-2], np.inf)  # the lowest at which nothing matches
    same_from = thresholds[np.argmax(fmr <= error + ROUNDING)]
    different_below = thresholds[np.flatnonzero(fnmr <= error + ROUNDING)[-1]]
    if different_below > same_from:  # anywhere between both errors are kept; the EER may be outside by one score
        same_from = different_below = np.clip(equal_error_rate(scores, genuine)[1], same_from, different_below)
    return Thresholds(float(different_below), float(same_from))


def verdict_rates(scores, genuine, family, thresholds: Thresholds, draws=1000, seed=0, weights=None) -> dict:
    """Return how genuine and impostor comparisons of test families are judged at thresholds frozen beforehand.

    scores, genuine, family, weights: [P]. `genuine` and `impostor` each hold the shares `same`, `undecided` and
    `different`, `wrong` is the wrong share of all pairs that got a verdict, each a `rate_estimate` by bootstrap over
    families. Without any verdict `wrong` is {"value": None, "reason": ...}.
    """
    sample = Comparisons(scores, genuine, family, weights)
    outcome = verdicts(sample.scores, thresholds) + np.where(sample.genuine, 1, 4)  # order of VERDICTS, genuine first
    table = sample.tabulate(outcome, 6, sample.weights)
    rows = sample.totals(family_counts(sample.families, draws, seed), table)
    result = {}
    for name, columns, part in (
        ("genuine", slice(3), sample.genuine),
        ("impostor", slice(3, 6), ~sample.genuine),
    ):
        sizes = sample.by_family(part)
        by_verdict = zip(VERDICTS.values(), shares(rows[:, columns]).T, strict=True)
        result[name] = {verdict: rate_estimate(share, sizes) for verdict, share in by_verdict}
    judged = sample.by_family(np.isin(outcome, (0, 2, 3, 5)))
    if not judged.any():
        return result | {"wrong": {"value": None, "reason": "no comparison got a verdict"}}
    wrong = shares(np.stack([rows[:, 0] + rows[:, 5], rows[:, 2] + rows[:, 3]], axis=1))[:, 0]
    return result | {"wrong": rate_estimate(wrong, judged)}
