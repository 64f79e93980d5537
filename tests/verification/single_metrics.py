"""The report's metrics of one sample, one at a time, as their tests against naive loops and other libraries ask."""

import numpy as np

from dcal_core.verification.calibrating import cllr_estimate, cllr_min_estimate
from dcal_core.verification.comparisons import Comparisons, checked
from dcal_core.verification.folds import FOLDS, Folds
from dcal_core.verification.metrics import error_rates, hull_crossing, lowest_fnmr


def eer_on_hull(scores, genuine, weights=None) -> float:
    """EER on the ROC's convex hull (ROCCH-EER, Brümmer & de Villiers, arXiv 1304.2865), never above the EER.

    It is the lowest error that mixing thresholds can promise whatever the share of genuine comparisons.
    """
    _, fmr, fnmr = error_rates(scores, genuine, weights)
    return float(hull_crossing(fmr, fnmr))


def accuracy(scores, genuine, threshold: float, weights=None) -> float:
    """Verification accuracy: the plain share of comparisons that are right at the threshold.

    It leans to the larger class; the balanced accuracy is 1 - (fmr + fnmr) / 2, from `rates_at`.
    """
    scores, genuine, weights = checked(scores, genuine, weights)
    return float(np.average((scores >= threshold) == genuine, weights=weights))


def rates_at(scores, genuine, threshold: float, weights=None) -> tuple[float, float]:
    """FMR and FNMR at a threshold."""
    scores, genuine, weights = checked(scores, genuine, weights)
    wrong = (scores >= threshold) != genuine
    fmr, fnmr = (np.average(wrong[part], weights=weights[part]) for part in (~genuine, genuine))
    return float(fmr), float(fnmr)


def fnmr_at_fmr(scores, genuine, fmr: float, weights=None) -> float:
    """Lowest FNMR among the operating points whose FMR is at most `fmr`; nothing is interpolated."""
    if not 0 <= fmr <= 1:
        raise ValueError(f"fmr must lie in [0, 1], got {fmr}")
    _, measured, fnmr = error_rates(scores, genuine, weights)
    return float(lowest_fnmr(measured, fnmr, fmr))


def tar_at_fmr(scores, genuine, fmr: float, weights=None) -> float:
    """Highest TAR among the operating points whose FMR is at most `fmr`; nothing is interpolated."""
    return 1 - fnmr_at_fmr(scores, genuine, fmr, weights)


def fold_accuracy(scores, genuine, family, folds=FOLDS, weights=None) -> float:
    """Accuracy at the lowest threshold that is best on the other folds, mean over folds by their comparisons.

    The LFW protocol (Huang et al. 2007); scores, genuine, family, weights: [P]. No family is in two folds, which hold
    about as many comparisons each; with fewer families than folds each family is a fold. Raises ValueError for a
    single family, and as `error_rates`.
    """
    sample = Comparisons(scores, genuine, family, weights)
    return float(Folds(sample, folds).accuracy(np.ones((1, sample.families)))[0])


def cllr(llr, genuine, weights=None) -> float:
    """Cost of log likelihood ratios in bits."""
    return cllr_estimate(llr, genuine, np.arange(len(llr)), draws=1, weights=weights)["value"]


def cllr_min(scores, genuine, weights=None) -> float:
    """Lowest cost, in bits, that any rising calibration of the scores reaches."""
    return cllr_min_estimate(scores, genuine, np.arange(len(scores)), draws=1, weights=weights)["value"]
