"""Verification metrics on arrays, in the terms of ISO/IEC 19795-1, and their bootstrap over families.

A comparison is genuine (same person) or impostor (co-twins), and matches when its score >= the threshold.
FMR is the share of impostor comparisons that match, FNMR the share of genuine ones that do not, TAR 1 - FNMR.
Letters: P comparisons, G genuine, I impostor, K operating points, F families, D bootstrap draws.
"""

from collections.abc import Iterator

import numpy as np

REPORTED_FMR = (1e-1, 5e-2, 1e-2)
_ROUNDING = 1e-12  # float weights add up to rates that miss an exact tie, such as 0.1, by a few ulp
_CHUNK = 2_000_000  # weights held at once in the bootstrap: 16 MB


def _checked(scores, genuine, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three arrays [P] of float, bool and float, or say in one sentence what is wrong."""
    scores, genuine = np.asarray(scores, dtype=np.float64), np.asarray(genuine)
    weights = np.ones(scores.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    if scores.ndim != 1 or genuine.shape != scores.shape or weights.shape != scores.shape:
        raise ValueError(f"scores, genuine, weights must be [P], got {scores.shape}, {genuine.shape}, {weights.shape}")
    if bad := int((~np.isfinite(scores)).sum()):
        raise ValueError(f"{bad} of {len(scores)} scores are not finite")
    if not np.isin(genuine, (0, 1)).all():
        raise ValueError("genuine must hold only True and False (or 1 and 0)")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite and not negative")
    genuine = genuine.astype(bool)
    present = weights > 0
    if not (genuine & present).any() or not (~genuine & present).any():
        raise ValueError(
            "both classes are needed, got "
            f"{(genuine & present).sum()} genuine and {(~genuine & present).sum()} impostor comparisons"
        )
    return scores, genuine, weights


def _checked_family(family, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (distinct families [F], position of each comparison's family among them [P])."""
    family = np.asarray(family)
    if family.shape != scores.shape:
        raise ValueError(f"family must be [P] like the scores, got {family.shape} and {scores.shape}")
    return np.unique(family, return_inverse=True)


def _checked_threshold(threshold: float) -> float:
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    return float(threshold)


class _Sorted:
    """Scores sorted once per class, so that any number of weightings costs one cumulative sum each."""

    def __init__(self, scores: np.ndarray, genuine: np.ndarray):
        self.thresholds = np.append(np.unique(scores), np.inf)  # [K]; at inf nothing matches
        self.genuine, self.genuine_below = self._rank(scores, np.flatnonzero(genuine))
        self.impostor, self.impostor_below = self._rank(scores, np.flatnonzero(~genuine))

    def _rank(self, scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Order one class and count its comparisons strictly below each threshold."""
        members = members[np.argsort(scores[members], kind="stable")]
        return members, np.searchsorted(scores[members], self.thresholds, side="left")

    def rates(self, genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights [..., G] and [..., I], in sorted order, into (fmr, fnmr), each [..., K]."""
        rejected_genuine = _running_sum(genuine)
        rejected_impostor = _running_sum(impostor)
        fnmr = rejected_genuine[..., self.genuine_below] / rejected_genuine[..., -1:]
        total = rejected_impostor[..., -1:]
        fmr = (total - rejected_impostor[..., self.impostor_below]) / total
        return fmr, fnmr


def _running_sum(weights: np.ndarray) -> np.ndarray:
    out = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
    np.cumsum(weights, axis=-1, out=out[..., 1:])
    return out


def error_rates(scores, genuine, weights=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (thresholds, fmr, fnmr), each [K]: every distinct operating point, thresholds rising to inf.

    scores, genuine, weights: [P]. The first point accepts everything (fmr 1, fnmr 0), the last nothing.
    Raises ValueError on unequal shapes, a missing class, scores that are not finite, negative weights.
    """
    scores, genuine, weights = _checked(scores, genuine, weights)
    points = _Sorted(scores, genuine)
    fmr, fnmr = points.rates(weights[points.genuine], weights[points.impostor])
    return points.thresholds, fmr, fnmr


def _eer(fmr: np.ndarray, fnmr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (eer, index, share): the crossing lies `share` of the way from point index - 1 to index."""
    gap = fnmr - fmr  # rises from -1 to 1
    after = np.argmax(gap >= -_ROUNDING, axis=-1)[..., None]

    def pick(curve, index):
        return np.take_along_axis(curve, index, axis=-1)[..., 0]

    start, end = pick(gap, after - 1), np.maximum(pick(gap, after), 0.0)
    share = -start / (end - start)
    eer = pick(fmr, after - 1) + share * (pick(fmr, after) - pick(fmr, after - 1))
    return eer, after[..., 0], share


def equal_error_rate(scores, genuine, weights=None) -> tuple[float, float]:
    """Return (eer, threshold) where FMR and FNMR cross, linear between the two operating points around it.

    Every threshold in (lower score, upper score] decides alike; where FMR equals FNMR it is their middle.
    """
    thresholds, fmr, fnmr = error_rates(scores, genuine, weights)
    eer, after, share = _eer(fmr, fnmr)
    lower, upper = thresholds[after - 1], thresholds[after]
    if np.isinf(upper):  # the crossing is above the highest score: nothing finite lies beyond it
        return float(eer), float(lower)
    return float(eer), float(lower + (0.5 if share == 1 else share) * (upper - lower))


def _auc(fmr: np.ndarray, fnmr: np.ndarray) -> np.ndarray:
    tar = 1 - fnmr
    return ((fmr[..., :-1] - fmr[..., 1:]) * (tar[..., :-1] + tar[..., 1:])).sum(-1) / 2


def roc_auc(scores, genuine, weights=None) -> float:
    """Area under TAR over FMR: the chance that a genuine score beats an impostor one, ties half."""
    _, fmr, fnmr = error_rates(scores, genuine, weights)
    return float(_auc(fmr, fnmr))


def rates_at(scores, genuine, threshold: float, weights=None) -> tuple[float, float]:
    """Return (fmr, fnmr) at a threshold frozen beforehand."""
    scores, genuine, weights = _checked(scores, genuine, weights)
    wrong = (scores >= _checked_threshold(threshold)) != genuine
    fmr, fnmr = (np.average(wrong[part], weights=weights[part]) for part in (~genuine, genuine))
    return float(fmr), float(fnmr)


def accuracy(scores, genuine, threshold: float, weights=None) -> float:
    """Verification accuracy: the plain share of comparisons that are right at the threshold.

    It leans to the larger class; the balanced accuracy is 1 - (fmr + fnmr) / 2, from `rates_at`.
    """
    scores, genuine, weights = _checked(scores, genuine, weights)
    return float(np.average((scores >= _checked_threshold(threshold)) == genuine, weights=weights))


def _tar(fmr: np.ndarray, fnmr: np.ndarray, limit: float) -> np.ndarray:
    first = np.argmax(fmr <= limit + _ROUNDING, axis=-1)[..., None]  # the last point has fmr 0: one always holds
    return 1 - np.take_along_axis(fnmr, first, axis=-1)[..., 0]


def tar_at_fmr(scores, genuine, fmr: float, weights=None) -> float:
    """Highest TAR among the operating points whose FMR is at most `fmr`; nothing is interpolated."""
    if not 0 <= fmr <= 1:
        raise ValueError(f"fmr must lie in [0, 1], got {fmr}")
    _, measured, fnmr = error_rates(scores, genuine, weights)
    return float(_tar(measured, fnmr, fmr))


def fnmr_at_fmr(scores, genuine, fmr: float, weights=None) -> float:
    """Lowest FNMR among the operating points whose FMR is at most `fmr`."""
    return 1 - tar_at_fmr(scores, genuine, fmr, weights)


def family_weights(family, genuine) -> np.ndarray:
    """Weights [P] by which every family counts the same within genuine and within impostor comparisons.

    Their mean is 1 in each class, so that the classes keep their sizes. Without them a family counts by the
    square of its number of photographs, which runs from 4 to 68 a person.
    """
    family, genuine = np.asarray(family), np.asarray(genuine, dtype=bool)
    if family.ndim != 1 or family.shape != genuine.shape:
        raise ValueError(f"family has shape {family.shape}, genuine {genuine.shape}; both must be [P]")
    weights = np.empty(len(family))
    for part in (genuine, ~genuine):
        _, member, size = np.unique(family[part], return_inverse=True, return_counts=True)
        weights[part] = part.sum() / (len(size) * size[member])
    return weights


def resolvable_fmr(impostors: int, families: int) -> float:
    """Smallest FMR at which a TAR is reported, from the impostor comparisons and the families that hold them.

    At least 30 false matches must be expected (rule of 30, Doddington et al. 2000), and one family's worth of
    them: below 1 / families one pair of look-alikes can use up the allowance and set the threshold alone, and
    the bootstrap flatters, for it cannot draw the look-alikes that the sample happens to lack.
    """
    return max(30 / impostors, 1 / families)


def draw_families(families: int, draws: int, seed: int) -> np.ndarray:
    """How often each family is drawn with replacement, [D, F]; equal arguments give equal draws."""
    return np.random.default_rng(seed).multinomial(families, np.full(families, 1 / families), size=draws)


def _bootstrap(points: _Sorted, member: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> Iterator:
    """Yield (genuine weights [d, G], impostor weights [d, I]), sorted, for chunks of the draws.

    All comparisons of a family follow it. Draws without a genuine or an impostor comparison are left out;
    where a class comes from a single family nothing is yielded, for one cluster shows no spread.
    """
    if any(len(np.unique(member[part])) < 2 for part in (points.genuine, points.impostor)):
        return
    counts = draw_families(int(member.max()) + 1, draws, seed).astype(np.float64)  # [D, F]
    step = max(1, _CHUNK // len(member))
    for start in range(0, draws, step):
        drawn = counts[start : start + step]
        genuine, impostor = (drawn[:, member[part]] * weights[part] for part in (points.genuine, points.impostor))
        whole = genuine.any(1) & impostor.any(1)
        yield genuine[whole], impostor[whole]


def _metrics(points: _Sorted, genuine: np.ndarray, impostor: np.ndarray, threshold) -> dict[str, np.ndarray]:
    """Every reported metric [d] for weights [d, G] and [d, I], in sorted order."""
    fmr, fnmr = points.rates(genuine, impostor)  # [d, K]
    at = np.searchsorted(points.thresholds, threshold, side="left")  # the operating point it selects
    totals = genuine.sum(1), impostor.sum(1)
    return {
        "eer": _eer(fmr, fnmr)[0],
        "roc_auc": _auc(fmr, fnmr),
        "accuracy": 1 - (fnmr[:, at] * totals[0] + fmr[:, at] * totals[1]) / (totals[0] + totals[1]),
        "fmr": fmr[:, at],
        "fnmr": fnmr[:, at],
        **{f"tar_at_fmr_{limit:g}": _tar(fmr, fnmr, limit) for limit in REPORTED_FMR},
    }


def _interval(values: np.ndarray) -> np.ndarray:
    """2.5th and 97.5th percentile over the draws: [D, ...] -> [2, ...]."""
    return np.percentile(values, (2.5, 97.5), axis=0)


def summarise(scores, genuine, family, threshold: float, draws=1000, seed=0, weights=None) -> dict:
    """Return each metric as {"value", "low", "high"}: 95 % percentile interval, bootstrap over families.

    scores, genuine, family, weights: [P]. The threshold was frozen on other families; accuracy, fmr and fnmr
    are taken there. A TAR below `resolvable_fmr` is {"value": None, "reason": ...}. Where a class has
    a single family, low and high are None. A rate of 0 or 1 in all draws gets the bound that so many families
    without an error allow, about 3 / families (rule of three). `counts`: genuine, impostor, families, usable draws.
    Source: Fogliato et al., arXiv 2306.01198, on resampling comparisons that depend on each other together.
    """
    scores, genuine, weights = _checked(scores, genuine, weights)
    names, member = _checked_family(family, scores)
    threshold = _checked_threshold(threshold)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    points = _Sorted(scores, genuine)
    sample = _metrics(points, weights[points.genuine][None], weights[points.impostor][None], threshold)
    chunks = [_metrics(points, *drawn, threshold) for drawn in _bootstrap(points, member, weights, draws, seed)]
    used = sum(len(chunk["eer"]) for chunk in chunks)
    result = {}
    for name, (value,) in sample.items():
        drawn = np.concatenate([chunk[name] for chunk in chunks]) if used else None
        low, high = _interval(drawn).tolist() if used else (None, None)
        result[name] = {"value": float(value), "low": low, "high": high}
        if low == high and value in (0, 1):  # no draw held an error: the bootstrap cannot see beyond its sample
            bound = 1 - 0.05 ** (1 / len(names))
            result[name]["high" if value == 0 else "low"] = bound if value == 0 else 1 - bound

    families = len(np.unique(member[~genuine]))
    unresolved = {"value": None, "reason": f"not resolvable with {families} families"}
    for fmr in REPORTED_FMR:
        if fmr < resolvable_fmr(len(points.impostor), families):
            result[f"tar_at_fmr_{fmr:g}"] = dict(unresolved)
    counts = {"genuine": len(points.genuine), "impostor": len(points.impostor)}
    return result | {"counts": counts | {"families": len(names), "draws": used}}


def roc_band(scores, genuine, family, fmr, draws=1000, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) TAR, each like `fmr` [M]: pointwise 95 % ROC band of a bootstrap over families.

    Where a class comes from a single family both are NaN.
    """
    scores, genuine, weights = _checked(scores, genuine)
    _, member = _checked_family(family, scores)
    points = _Sorted(scores, genuine)
    limits = np.asarray(fmr, dtype=np.float64) + _ROUNDING
    tar = [
        1 - reject[np.searchsorted(-accept, -limits, side="left")]
        for drawn in _bootstrap(points, member, weights, draws, seed)
        for accept, reject in zip(*points.rates(*drawn), strict=True)  # accept falls from 1 to 0
    ]
    low, high = _interval(np.stack(tar)) if tar else np.full((2, *limits.shape), np.nan)
    return low, high
