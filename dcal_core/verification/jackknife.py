"""A quick interval of the EER, for every validation; a report takes the slower and truer one of bootstrap.py."""

import numpy as np

from dcal_core.verification.metrics import equal_error_rate

GROUPS = 20  # of families; each is left out once
FEWEST = 8  # families; two standard errors are too few below


def eer_low(scores, genuine, family) -> float:
    """Return the lower end of the EER's 95 % interval over families: the jackknife's two standard errors below it.

    scores, genuine, family: [P], or family [P, 2]. It is 0 where fewer than FEWEST families have comparisons of both
    classes.
    """
    both = np.intersect1d(family[genuine], family[~genuine])
    if len(both) < FEWEST:
        return 0.0
    group = np.searchsorted(both, family).reshape(len(scores), -1) % GROUPS
    groups = min(len(both), GROUPS)
    kept = [(group != out).all(1) for out in range(groups)]
    without = [equal_error_rate(scores[part], genuine[part])[0] for part in kept]
    error = np.sqrt((groups - 1) * np.var(without))
    return float(max(0.0, equal_error_rate(scores, genuine)[0] - 2 * error))
