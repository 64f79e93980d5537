"""Numbers, metrics and differences in words."""

import math
from typing import NamedTuple

METRICS = {
    "eer": "EER",
    "eer_hull": "EER on the ROC convex hull",
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy at the threshold",
    "accuracy_folds": "accuracy, threshold chosen on the other folds",
    "fmr": "FMR at the threshold",
    "fnmr": "FNMR at the threshold",
}
RATES_AT = {"tar_at_fmr_": "TAR at FMR", "fnmr_at_fmr_": "FNMR at FMR"}


class Terms(NamedTuple):
    """What is said differently where no co-twins are known: who the impostors are, what the units of the bootstrap
    are, and which metrics of systems stand side by side."""

    impostors: str
    units: str
    unit: str
    compared: tuple[str, ...]


CO_TWINS = Terms("co-twins", "families", "family", ("eer", "accuracy", "tar_at_fmr_0.05", "roc_auc"))
UNRELATED = Terms("unrelated people", "people", "person", ("eer", "tar_at_fmr_0.001", "tar_at_fmr_0.0001", "roc_auc"))


def terms_of(co_twins: bool) -> Terms:
    """The terms for data whose co-twins are known, or are not."""
    return CO_TWINS if co_twins else UNRELATED


def number_text(value: float, unit: str) -> str:
    """A share in "%", "points" (a difference) or "of 100", or a plain number of "bits", "times" or "score", as text.

    "rare %" is "%" with two digits that count, so that shares far below 1 % can be compared. Natural frequencies ("of
    100") are misread least (Hoffrage et al., 2000). ValueError if it is not finite.
    """
    return _with_unit(_digits(value, unit), unit)


def _with_unit(text: str, unit: str) -> str:
    """Digits and their unit."""
    return text if unit == "score" else f"{text} {unit.removeprefix('rare ')}"


def _digits(value: float, unit: str) -> str:
    """The same without its unit."""
    if not math.isfinite(value):
        raise ValueError(f"the report cannot show {value}: every figure must be finite")
    if unit == "times":
        return f"{value:.1f}"
    if unit == "rare %" and value > 0:
        decimals = 1 - math.floor(math.log10(100 * value))
        return f"{100 * value:.{min(max(decimals, 1), 4)}f}"
    return f"{value:.3f}" if unit in ("bits", "score") else f"{100 * value:.1f}"


def apart(low: float, high: float) -> tuple[str, str]:
    """Two scores as texts, with three decimals or, where these are equal, as many as tell the scores apart."""
    for decimals in range(3, 18):
        texts = f"{low:.{decimals}f}", f"{high:.{decimals}f}"
        if texts[0] != texts[1] or low == high:
            return texts
    return repr(low), repr(high)


def percent_text(rate: float) -> str:
    """A chosen rate as text, with the digits that it has: "1 %", "0.025 %"."""
    return f"{100 * rate:.2g} %"


def ratio_text(ratio: float) -> str:
    """A likelihood ratio of at least 1 as text: two digits, or all before the point."""
    return f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:,.0f}"


def interval_text(estimate: dict, unit: str) -> str:
    """The 95 % interval of an estimate as text, the unit given once: "1.5 to 5.0 %", or "at least 1.5 %" where so few
    families set no bound above it."""
    return _with_unit(_ends(estimate, unit), unit)


def _ends(estimate: dict, unit: str) -> str:
    """The same without its unit."""
    low, high = (_digits(estimate[end], unit) for end in ("low", "high"))
    return {"high": f"at least {low}", "low": f"at most {high}"}.get(estimate.get("open"), f"{low} to {high}")


def estimate_in_words(estimate: dict, unit: str) -> str:
    """An estimate as text with its 95 % interval, or why there is none."""
    if estimate["value"] is None:
        return estimate["reason"]
    if estimate["low"] is None:
        return f"{number_text(estimate['value'], unit)} (no interval)"
    return f"{number_text(estimate['value'], unit)} ({interval_text(estimate, unit)})"


def of_100(estimate: dict, things: str) -> str:
    """A share of things with its interval: "3.6 of 100 pairs (0.6 to 19.0)"."""
    share = f"{number_text(estimate['value'], 'of 100')} {things}"
    return f"{share} ({_ends(estimate, 'of 100')})" if estimate["low"] is not None else f"{share} (no interval)"


def duration_text(seconds: float) -> str:
    """A time as text, in the unit that fits: "41 s", "8.2 min", "3.5 h"."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def most_ratio(families: int, units: str) -> str:
    """Where the likelihood ratios stop, and why."""
    return f"at most {families:,}, because {families:,} {units} were there to calibrate on"


def metric_name(metric: str) -> str:
    """What a metric is called, as "TAR at FMR 1 %" for tar_at_fmr_0.01; ValueError for one that is not known."""
    if metric in METRICS:
        return METRICS[metric]
    for prefix, name in RATES_AT.items():
        if metric.startswith(prefix):
            return f"{name} {100 * float(metric.removeprefix(prefix)):g} %"
    raise ValueError(f"metric {metric!r} is not known to the report")


def metric_unit(metric: str) -> str:
    """The unit in which `number_text` writes a metric."""
    return "score" if metric == "roc_auc" else "%"


def difference_in_words(difference: dict) -> str:
    """A paired difference in words: which system is better and by how much, or that no difference was shown."""
    a = difference["a"]
    b = difference["b"]
    name = metric_name(difference["metric"])
    if difference["value"] is None:
        return f"{name}, {a} and {b}: {difference['reason']}."
    unit = "points" if metric_unit(difference["metric"]) == "%" else "score"
    if difference["better"] is None:
        text = estimate_in_words(difference, unit)
        return f"{name}: no difference shown between {a} and {b}; {a} minus {b} is {text}."
    better, worse = (a, b) if difference["better"] == "a" else (b, a)
    gain = number_text(abs(difference["value"]), unit)
    low, high = sorted((abs(difference["low"]), abs(difference["high"])))
    reach = interval_text({"low": low, "high": high}, unit)
    return f"{name}: {better} is better than {worse} by {gain}, 95 % interval {reach}."
