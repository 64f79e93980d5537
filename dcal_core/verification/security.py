"""How safe a threshold against strangers is against co-twins: the twin FMR where unrelated people rarely match.

Face recognition is set up on unrelated people, at an FMR (ISO/IEC 19795-1) that twins then far exceed (NIST IR 8439).
Letters: P twin comparisons, U unrelated ones, F families, R rows: the sample, then its bootstrap draws.
"""

from math import ceil

import numpy as np
from scipy.sparse import coo_array

from dcal_core.verification.intervals import class_sizes, family_counts, rate_estimate, tabulate
from dcal_core.verification.metrics import ROUNDING, checked, numbered
from dcal_core.verification.protocol import Unrelated

_CHUNK = 1_000_000  # weights held at once: 8 MB
_ERRORS = 30  # false matches that an FMR must be expected to hold (rule of 30, Doddington et al. 2000)


def security(
    twin_scores, genuine, family, unrelated: Unrelated, fmrs=(1e-2, 1e-3), draws=1000, seed=0, weights=None
) -> list[dict]:
    """Return for each FMR of unrelated people the lowest threshold that keeps it, and what twins meet there.

    twin_scores, genuine, family, weights: [P], families named as in `unrelated`. Each holds `fmr`, `threshold`, and
    `unrelated_fmr`, `twin_fmr` and `fnmr` as {"value", "low", "high"}: 95 % bootstrap over families, in which an
    unrelated comparison counts as often as its two families together (Fogliato et al., arXiv 2306.01198) and every
    draw sets its own threshold. An FMR of fewer than 30 expected false matches is {"value": None, "reason": ...}.
    ValueError on bad input.
    """
    scores, genuine, weights = checked(twin_scores, genuine, weights)
    numbered(family, scores)
    strangers = _checked_unrelated(unrelated)
    for fmr in fmrs:
        if not 0 < fmr < 1:
            raise ValueError(f"fmrs must lie between 0 and 1, got {fmr}")
    labels = np.concatenate([np.asarray(family), unrelated.family_a, unrelated.family_b])
    names, labels = np.unique(labels, return_inverse=True)
    member, a, b = np.split(labels, [len(scores), len(scores) + len(strangers)])
    counts = family_counts(len(names), draws, seed)
    tail = _Tail(strangers, a, b, counts)

    def match_rate(part: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return _match_rate(scores[part], member[part], weights[part], thresholds, counts)

    same, twins = class_sizes(genuine, member, weights, len(names))
    strange = np.bincount(np.concatenate([a, b]))
    found = []
    for fmr in fmrs:
        if fmr * len(strangers) < _ERRORS * (1 - ROUNDING):
            found.append(_unresolved(fmr, len(strangers)))
            continue
        thresholds, measured = tail.thresholds(fmr)
        found.append(
            {
                "fmr": fmr,
                "threshold": float(thresholds[0]),
                "unrelated_fmr": rate_estimate(measured, strange),
                "twin_fmr": rate_estimate(match_rate(~genuine, thresholds), twins),
                "fnmr": rate_estimate(1 - match_rate(genuine, thresholds), same),
            }
        )
    return found


def _unresolved(fmr: float, comparisons: int) -> dict:
    reason = {"value": None, "reason": f"not resolvable with {comparisons:,} unrelated comparisons"}
    return {"fmr": fmr, "threshold": None, "unrelated_fmr": reason, "twin_fmr": reason, "fnmr": reason}


class _Tail:
    """Unrelated scores [U], falling, of which every row of counts needs only the highest few."""

    def __init__(self, scores: np.ndarray, a: np.ndarray, b: np.ndarray, counts: np.ndarray):
        order = np.argsort(-scores, kind="stable")
        self.scores, self.a, self.b, self.counts = scores[order], a[order], b[order], counts
        size = counts.shape[1]
        comparisons = coo_array((np.ones(len(scores)), (a, b)), shape=(size, size)).tocsr()  # of each two families
        self.totals = ((comparisons @ counts.T) * counts.T).sum(0)  # [R]

    def thresholds(self, fmr: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest threshold with at most this FMR and the FMR there, each [R]; NaN for an empty draw."""
        empty = self.totals == 0  # a draw of a single family: any threshold will do, and none is returned
        allowed = np.where(empty, -1, fmr * self.totals * (1 + ROUNDING))
        length = min(len(self.scores), 2 * ceil(fmr * len(self.scores)))
        step = max(1, _CHUNK // length)
        rows = [
            self._cut(self.counts[start : start + step], allowed[start : start + step], length)
            for start in range(0, len(allowed), step)
        ]
        first, matches = (np.concatenate(column) for column in zip(*rows, strict=True))
        thresholds = np.where(empty, np.nan, np.nextafter(self.scores[first], np.inf))
        return thresholds, np.divide(matches, self.totals, out=np.full(len(empty), np.nan), where=~empty)

    def _cut(self, counts: np.ndarray, allowed: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the position of the highest score that must not match, and the weight of those above it, each [r]."""
        while True:
            running = np.cumsum(counts[:, self.a[:length]] * counts[:, self.b[:length]], axis=1)
            if length == len(self.scores) or (running[:, -1] > allowed).all():
                break
            length = min(len(self.scores), 2 * length)
        first = np.argmax(running > allowed[:, None], axis=1)
        tied = np.searchsorted(-self.scores, -self.scores[first], side="left")  # equal scores match together
        return first, np.where(tied > 0, running[np.arange(len(first)), tied - 1], 0)


def _match_rate(scores, member, weights, thresholds: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of a class [n] at or above each row's own threshold, [R]; NaN where a row holds none of it."""
    levels, level = np.unique(thresholds, return_inverse=True)  # rows share thresholds: one table serves all
    reached = np.searchsorted(levels, scores, side="right")
    table = tabulate(member, reached, weights, counts.shape[1], len(levels) + 1)
    accepted, rejected = table[:, ::-1].cumsum(1)[:, ::-1], table.cumsum(1)  # [F, levels + 1]
    accepted = (counts * accepted[:, level + 1].T).sum(1)
    rejected = (counts * rejected[:, level].T).sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(thresholds), np.nan, accepted / (accepted + rejected))


def _checked_unrelated(unrelated: Unrelated) -> np.ndarray:
    """Return the unrelated scores [U], or say in one sentence what is wrong."""
    scores = np.asarray(unrelated.scores, dtype=np.float64)
    if not scores.shape == np.shape(unrelated.family_a) == np.shape(unrelated.family_b) == (scores.size,):
        raise ValueError("unrelated scores, family_a and family_b must all be [U]")
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} unrelated scores are not finite")
    if np.any(unrelated.family_a == unrelated.family_b):
        raise ValueError("unrelated comparisons must be of two families: a family's own are not unrelated")
    return scores
