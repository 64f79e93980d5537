"""The twin FMR at a threshold that is set on unrelated people.

Face recognition is set up on unrelated people, at an FMR (ISO/IEC 19795-1) that twins far exceed (NIST IR 8439).
Letters: P twin comparisons, U unrelated ones, F families, R rows: the sample, then its bootstrap draws.
"""

from math import ceil

import numpy as np
from scipy.sparse import coo_array

from dcal_core.verification.comparisons import Comparisons
from dcal_core.verification.intervals import family_counts, rate_estimate
from dcal_core.verification.metrics import ROUNDING
from dcal_core.verification.protocol import Unrelated

_TOP = 2  # as a multiple of the matches that an FMR allows: how many of the highest scores are tried first
FALSE_MATCHES = 30  # false matches that an FMR must be expected to hold (rule of 30, Doddington et al. 2000)


def security(
    twin_scores, genuine, family, unrelated: Unrelated, fmrs=(1e-2, 1e-3), draws=1000, seed=0, weights=None
) -> list[dict]:
    """Return, for each FMR of unrelated people, the lowest threshold that keeps it and the error rates of twins there.

    twin_scores, genuine, family, weights: [P], families named as in `unrelated`. Each holds `fmr`, `threshold`, and
    `unrelated_fmr`, `twin_fmr` and `fnmr` as estimates by bootstrap over families, or as {"value": None, "reason": ...}
    for fewer than 30 expected false matches. An unrelated comparison counts by the product of its two families' counts
    (Fogliato et al., arXiv 2306.01198), and every draw sets its own threshold.
    """
    strangers = _checked_unrelated(unrelated)
    names = np.unique(np.concatenate([np.ravel(family), unrelated.family_a, unrelated.family_b]))
    twins = Comparisons(twin_scores, genuine, family, weights, names)
    a = np.searchsorted(names, unrelated.family_a)
    b = np.searchsorted(names, unrelated.family_b)
    for fmr in fmrs:
        if not 0 < fmr < 1:
            raise ValueError(f"fmrs must lie between 0 and 1, got {fmr}")
    counts = family_counts(twins.families, draws, seed)
    drawn = twins.spread(counts)
    resolved = [fmr for fmr in fmrs if fmr * len(strangers) >= FALSE_MATCHES * (1 - ROUNDING)]
    found_at = _thresholds(strangers, a, b, counts, resolved)
    strange = np.bincount(np.concatenate([a, b]))
    found = []
    for fmr in fmrs:
        if fmr not in found_at:
            reason = {"value": None, "reason": f"not resolvable with {len(strangers):,} unrelated comparisons"}
            found.append({"fmr": fmr, "threshold": None, "unrelated_fmr": reason, "twin_fmr": reason, "fnmr": reason})
            continue
        thresholds, measured = found_at[fmr]
        false_matches = _match_rate(twins, ~twins.genuine, thresholds, drawn)
        matches = _match_rate(twins, twins.genuine, thresholds, drawn)
        found.append(
            {
                "fmr": fmr,
                "threshold": float(thresholds[0]),
                "unrelated_fmr": rate_estimate(measured, strange, counts),
                "twin_fmr": rate_estimate(false_matches, twins.by_family(~twins.genuine), counts),
                "fnmr": rate_estimate(1 - matches, twins.by_family(twins.genuine), counts),
            }
        )
    return found


def _thresholds(strangers, a, b, counts: np.ndarray, fmrs) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Return, for each FMR, the lowest threshold that keeps it and the FMR there, each [R]; NaN for a single family.

    A row needs the cumulative weight of its highest scores only: of a few, then of twice as many until it is enough.
    """
    if not fmrs:
        return {}
    order = np.argsort(-strangers, kind="stable")
    distance = -strangers[order]  # the most alike first
    a = a[order]
    b = b[order]
    size = counts.shape[1]
    comparisons = coo_array((np.ones(len(strangers)), (a, b)), shape=(size, size)).tocsr()  # of each two families
    totals = ((comparisons @ counts.T) * counts.T).sum(0)  # [R]
    found = {fmr: np.full((2, len(counts)), np.nan) for fmr in fmrs}
    for row in np.flatnonzero(totals):
        count = counts[row]
        allowed = {fmr: fmr * totals[row] * (1 + ROUNDING) for fmr in fmrs}
        length = _TOP * ceil(max(fmrs) * len(strangers))
        while True:
            running = np.cumsum(count[a[:length]] * count[b[:length]])
            if running[-1] > max(allowed.values()) or length >= len(distance):
                break
            length *= 2
        for fmr, limit in allowed.items():
            first = distance[np.searchsorted(running, limit, side="right")]  # must not match
            matched = np.searchsorted(distance, first, side="left")  # equal scores match together
            weight = running[matched - 1] if matched else 0
            found[fmr][:, row] = np.nextafter(-first, np.inf), weight / totals[row]
    return found


def _match_rate(twins: Comparisons, part: np.ndarray, thresholds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of a class [P] at or above each row's own threshold, [R]; NaN if a row holds none of it."""
    levels, level = np.unique(thresholds, return_inverse=True)  # rows share thresholds: one table serves all
    reached = np.searchsorted(levels, twins.scores, side="right")
    table = twins.tabulate(reached, len(levels) + 1, twins.weights * part)
    accepted = table[:, ::-1].cumsum(1)[:, ::-1]
    rejected = table.cumsum(1)  # [F, levels + 1]
    accepted = (counts * accepted[:, level + 1].T).sum(1)
    rejected = (counts * rejected[:, level].T).sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(thresholds), np.nan, accepted / (accepted + rejected))


def _checked_unrelated(unrelated: Unrelated) -> np.ndarray:
    scores = np.asarray(unrelated.scores, dtype=np.float64)
    if not scores.shape == np.shape(unrelated.family_a) == np.shape(unrelated.family_b) == (scores.size,):
        raise ValueError("unrelated scores, family_a and family_b must all be [U]")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} unrelated scores are not finite")
    if np.any(unrelated.family_a == unrelated.family_b):
        raise ValueError("unrelated comparisons must be of two families: a family's own are not unrelated")
    return scores
