"""Verification metrics on arrays, in the terms of ISO/IEC 19795-1; their intervals are in bootstrap.py.

A comparison is genuine (same person) or impostor (co-twins or, where none are known, unrelated people), and matches
when its score >= the threshold. FMR is the share of impostor comparisons that match, FNMR the share of genuine ones
that do not, TAR 1 - FNMR.
Letters: P comparisons, K operating points, F families, D weightings at once, such as bootstrap draws.
"""

import numpy as np

from dcal_core.verification.comparisons import checked

REPORTED_FMR = (1e-1, 5e-2, 1e-2, 1e-3, 1e-4)
ROUNDING = 1e-12  # sums of float weights miss exact rates such as 0.1 by a few ulp


def curves(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn the weight of each class between neighbouring thresholds, [..., K - 1], into (fmr, fnmr), each [..., K]."""
    fnmr, rejected = (np.zeros((*genuine.shape[:-1], genuine.shape[-1] + 1)) for _ in range(2))
    np.cumsum(genuine, axis=-1, out=fnmr[..., 1:])
    np.cumsum(impostor, axis=-1, out=rejected[..., 1:])
    fnmr /= fnmr[..., -1:].copy()
    total = rejected[..., -1:].copy()
    return (total - rejected) / total, fnmr


def error_rates(scores, genuine, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (thresholds, fmr, fnmr), each [K]: every operating point, from accepting everything to nothing at inf."""
    scores, genuine, weights = checked(scores, genuine, weights)
    thresholds, at = np.unique(scores, return_inverse=True)
    held = (np.bincount(at[part], weights[part], len(thresholds)) for part in (genuine, ~genuine))
    return np.append(thresholds, np.inf), *curves(*held)


def _pick(curve: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take_along_axis(curve, index[..., None], axis=-1)[..., 0]


def crossing(fmr: np.ndarray, fnmr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (eer, index, share) of curves [..., K]: they cross `share` of the way from point index - 1 to index."""
    after = np.argmax(fnmr - fmr >= -ROUNDING, axis=-1)  # the difference rises from -1 to 1
    start = _pick(fnmr, after - 1) - _pick(fmr, after - 1)
    end = np.maximum(_pick(fnmr, after) - _pick(fmr, after), 0.0)
    share = -start / (end - start)
    before = _pick(fmr, after - 1)
    return before + share * (_pick(fmr, after) - before), after, share


def equal_error_rate(scores, genuine, weights=None) -> tuple[float, float]:
    """Return (eer, threshold) where FMR and FNMR cross, linear between the two operating points around it.

    Every threshold in (lower score, upper score] decides alike; where FMR equals FNMR it is their middle.
    """
    thresholds, fmr, fnmr = error_rates(scores, genuine, weights)
    eer, after, share = crossing(fmr, fnmr)
    lower = thresholds[after - 1]
    upper = thresholds[after]
    if np.isinf(upper):  # the crossing is above the highest score: nothing finite lies beyond it
        return float(eer), float(lower)
    return float(eer), float(lower + (0.5 if share == 1 else share) * (upper - lower))


def hull_crossing(fmr: np.ndarray, fnmr: np.ndarray) -> np.ndarray:
    """EER on the convex hull of curves [..., K]: where the hull's edge from FMR >= FNMR to FMR < FNMR crosses equality.

    Quickhull: the point furthest below a chord of the hull is on the hull and ends the next chord.
    """
    left = np.stack([np.ones(fmr.shape[:-1]), np.zeros(fmr.shape[:-1])])  # FMR and FNMR of the chord's ends, [2, ...]
    right = left[::-1]
    while True:
        across = left[0] - right[0]
        down = right[1] - left[1]  # (down, across) is the chord's normal
        below = np.argmin(down[..., None] * fmr + across[..., None] * fnmr, axis=-1)
        low = np.stack([_pick(fmr, below), _pick(fnmr, below)])
        is_below = down * (left[0] - low[0]) + across * (left[1] - low[1]) > ROUNDING
        if not is_below.any():
            break
        is_left = low[0] >= low[1]
        left = np.where(is_below & is_left, low, left)
        right = np.where(is_below & ~is_left, low, right)
    start = left[1] - left[0]
    end = right[1] - right[0]
    return left[0] + start / (start - end) * (right[0] - left[0])


def area(fmr: np.ndarray, fnmr: np.ndarray) -> np.ndarray:
    """Area under TAR over FMR for curves [..., K]."""
    tar = 1 - fnmr
    return ((fmr[..., :-1] - fmr[..., 1:]) * (tar[..., :-1] + tar[..., 1:])).sum(-1) / 2


def roc_auc(scores, genuine, weights=None) -> float:
    """Area under TAR over FMR: the chance that a genuine score beats an impostor one, ties half."""
    _, fmr, fnmr = error_rates(scores, genuine, weights)
    return float(area(fmr, fnmr))


def lowest_fnmr(fmr: np.ndarray, fnmr: np.ndarray, limit: float) -> np.ndarray:
    """FNMR of each of the curves [..., K] at its first operating point with FMR <= limit."""
    return _pick(fnmr, np.argmax(fmr <= limit + ROUNDING, axis=-1))  # the last point has FMR 0: one always holds


def corners(scores: np.ndarray, genuine: np.ndarray) -> np.ndarray:
    """Return thresholds [K], midway between scores, from -inf to inf: the only ones where the ROC can turn.

    Between them it is straight whatever the weights: EER, hull, AUC, TAR and the highest accuracy need no others.
    """
    distinct, at = np.unique(scores, return_inverse=True)
    held = np.stack([np.bincount(at[part], minlength=len(distinct)) > 0 for part in (genuine, ~genuine)])
    turns = (held[:, 1:] != held[:, :-1]).any(0) | held[:, 1:].all(0)
    lower = distinct[:-1][turns]
    upper = distinct[1:][turns]
    middle = lower / 2 + upper / 2
    return np.concatenate([[-np.inf], np.where(middle > lower, middle, upper), [np.inf]])
