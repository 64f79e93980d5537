"""The result of an evaluation as JSON: error rates, calibration, verdicts, security, mistakes.

The threshold, the calibration and the thresholds of the verdict are chosen on validation families and then frozen.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dcal_core.storage import write_text
from dcal_core.verification.bootstrap import Replicates, differences, replicate, summarise
from dcal_core.verification.calibrating import (
    cllr_cal_estimate,
    cllr_estimate,
    cllr_min_estimate,
    fit_isotonic,
    fit_logistic,
    reliability,
)
from dcal_core.verification.calibration import Calibration, from_dict
from dcal_core.verification.comparisons import family_weights
from dcal_core.verification.evidence import cross_entropy, devpav_estimate, misleading
from dcal_core.verification.intervals import families_of_rarer_class
from dcal_core.verification.metrics import equal_error_rate, error_rates
from dcal_core.verification.protocol import Scored, Unrelated, image_names
from dcal_core.verification.security import FALSE_MATCHES, security
from dcal_core.verification.verdict_rates import allowed_share, verdict_rates, verdict_thresholds
from dcal_core.verification.words import Terms, terms_of

CURVE_POINTS = 200
LOWEST_FMR = 1e-4  # of unrelated people, at which NIST's demonstration measures twins
CALIBRATIONS = {"logistic": fit_logistic, "isotonic": fit_isotonic}


@dataclass(frozen=True, eq=False)
class System:
    """A verifier that has scored its validation families, the test families and, if it is a model's own answer,
    unrelated people among those, but where these are the impostors anyway.

    weights: SHA-256 of the model's weights, "" for a baseline and for a fusion. size: how many weights it has. visible:
    how visible the model takes each place of the test images for, [N, P], None if it does not say. strangers: unrelated
    people among the validation families, where they are scored.
    """

    name: str
    about: str
    validation: Scored
    test: Scored
    unrelated: Unrelated | None
    weights: str = ""
    size: int = 0
    visible: np.ndarray | None = None
    strangers: Unrelated | None = None

    @cached_property
    def equal_errors(self) -> tuple[float, float]:
        """The EER on the validation families, and its threshold."""
        return equal_error_rate(self.validation.scores, self.validation.pairs.genuine)

    @property
    def threshold(self) -> float:
        """The score of equal errors on the validation families."""
        return self.equal_errors[1]

    def calibration(self, kind: str) -> Calibration:
        """From scores to log likelihood ratios, fitted on the validation families; each family counts the same."""
        return CALIBRATIONS[kind](*self.validation.labelled, self.validation.pairs.even_weights())

    def replicates(self, draws: int, seed: int, even: bool = False) -> Replicates:
        """Its metrics on the test families and on bootstrap draws of them; even: every family counts the same."""
        weights = self.test.pairs.even_weights() if even else None
        return replicate(*self.test.labelled, self.threshold, draws, seed, weights)


def evaluate(
    systems: list[System],
    label: str,
    *,
    error: float,
    calibration: str,
    draws: int = 1000,
    seed: int = 0,
    root: Path = Path(),
) -> dict:
    """Return the result of the first system and how the others differ from it, ready for `write_json`.

    label: the data set's name, or SYNTHETIC. error: the share of wrong verdicts in each class that is allowed on
    validation families. calibration: a key of CALIBRATIONS. root: the data's folder, below which images are named.
    `terms` are those of the data. `metrics` counts every comparison the same, as publications do, `metrics_per_family`
    every family. ValueError if the families are too few, or if systems have scored different test pairs.
    """
    system = systems[0]
    test = system.test
    terms = terms_of(test.index.co_twins)
    drawn = [one.replicates(draws, seed) for one in systems]
    source = f"equal error rate of {len(system.validation.index.families)} validation {terms.units}"
    return {
        "data": label,
        "co_twins": test.index.co_twins,
        "terms": terms._asdict() | {"compared": list(terms.compared)},
        "system": {"name": system.name, "about": system.about, "size": system.size},
        "weights": system.weights,
        "split": test.index.name,
        "threshold": {"value": system.threshold, "source": source, "eer": system.equal_errors[0]},
        "metrics": summarise(drawn[0]),
        "metrics_per_family": summarise(system.replicates(draws, seed, even=True)),
        "calibration": calibrate(system, calibration, draws, seed),
        "strangers": calibrate_strangers(system, calibration),
        "verdict": judge(system, error, draws, seed, terms),
        "security": strangers_rows(system, draws, seed),
        "curve": _curve(test),
        "confusable": most_confusable(test, system.threshold, root=root),
        **compare(systems, drawn, terms.compared),
    }


def calibrate(system: System, kind: str, draws: int, seed: int) -> dict:
    """How good the log likelihood ratios of the test families are, every family counting the same.

    `others`: Cllr of the other kind of calibration.
    """
    scores, genuine, family = system.test.labelled
    even = system.test.pairs.even_weights()
    try:
        fitted = {name: system.calibration(name) for name in CALIBRATIONS}
    except ValueError as error:  # a verifier no better than chance
        return {"kind": kind, "reason": str(error)}
    llr = {name: one.llr(scores) for name, one in fitted.items()}
    case = llr[kind], genuine, family, draws, seed, even
    costs = {name: cllr_estimate(one, genuine, family, draws, seed, even) for name, one in llr.items()}
    return {
        "kind": kind,
        "fitted": fitted[kind].as_dict(),
        "cllr": costs.pop(kind),
        "others": costs,
        "cllr_min": cllr_min_estimate(scores, genuine, family, draws, seed, even),
        "cllr_cal": cllr_cal_estimate(llr[kind], scores, genuine, family, draws, seed, even),
        "devpav": devpav_estimate(*case),
        "misleading": misleading(*case),
        "ece": cross_entropy(llr[kind], genuine, even),
        "against_unrelated": against_unrelated(system, kind, draws, seed),
        "reliability": reliability(llr[kind], genuine, family, draws=draws, seed=seed, weights=even),
    }


def calibrate_strangers(system: System, kind: str) -> dict | None:
    """The calibration of one person against unrelated people, fitted on the validation families; None where these were
    not scored or do not score lower."""
    if system.strangers is None:
        return None
    scores, genuine, family = labelled_unrelated(system.validation, system.strangers)
    try:
        return CALIBRATIONS[kind](scores, genuine, family, family_weights(family, genuine)).as_dict()
    except ValueError:
        return None


def strangers_rows(system: System, draws: int, seed: int) -> list[dict]:
    """`security` at FMRs of 1 and 0.1 %, and at 0.01 % as NIST IR 8439, or the lowest that the comparisons resolve."""
    if system.unrelated is None:
        return []
    lowest = max(LOWEST_FMR, FALSE_MATCHES / len(system.unrelated.scores))
    fmrs = [1e-2, 1e-3, *([lowest] if lowest < 1e-3 else [])]
    return security(*system.test.labelled, system.unrelated, fmrs, draws, seed)


def against_unrelated(system: System, kind: str, draws: int, seed: int) -> dict | None:
    """How good the ratios of one person to two unrelated people are on the test families; None without any."""
    fitted = calibrate_strangers(system, kind)
    if fitted is None or system.unrelated is None:
        return None
    scores, genuine, family = labelled_unrelated(system.test, system.unrelated)
    case = from_dict(fitted).llr(scores), genuine, family, draws, seed, family_weights(family, genuine)
    return {"families": fitted["families"], "cllr": cllr_estimate(*case), "misleading": misleading(*case)}


def labelled_unrelated(split: Scored, unrelated: Unrelated) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Genuine and unrelated comparisons: scores, genuine, each [P], and the families of both images, [P, 2]."""
    known = split.pairs.genuine
    scores = np.concatenate([split.scores[known], unrelated.scores])
    own = np.repeat(split.pairs.family[known], 2).reshape(-1, 2)
    return (
        scores,
        np.arange(len(scores)) < len(own),
        np.concatenate([own, np.stack([unrelated.family_a, unrelated.family_b], 1)]),
    )


def judge(system: System, error: float, draws: int, seed: int, terms: Terms) -> dict:
    """The two thresholds of a verdict, for at most `error` wrong ones in each class, and its test rates."""
    pairs = system.validation.pairs
    families = families_of_rarer_class(pairs.genuine, pairs.family)
    thresholds = verdict_thresholds(*system.validation.labelled, error)
    rates = verdict_rates(*system.test.labelled, thresholds, draws, seed)
    allowed = allowed_share(error, families)
    source = f"at most {100 * error:g} % errors in each class"
    if allowed:
        source += f" even if all pairs of one more {terms.unit} were wrong; on the {families} validation "
        source += f"{terms.units} themselves that leaves {100 * allowed:.1f} %"
    else:
        source += f"; {families} validation {terms.units} are too few to count that, so that no pair of theirs is "
        source += f"wrong, the worst one of another {terms.unit} is expected within the limits, and more is undecided"
    return {"thresholds": asdict(thresholds) | {"error": error, "families": families, "source": source}} | rates


def _curve(test: Scored) -> dict[str, list[float]]:
    """At most CURVE_POINTS operating points, spread evenly along the curve so that its ends stay sharp."""
    thresholds, fmr, fnmr = (part[:-1] for part in error_rates(test.scores, test.pairs.genuine))  # the last is infinite
    travelled = fnmr - fmr
    wanted = np.linspace(travelled[0], travelled[-1], CURVE_POINTS)
    kept = np.unique(np.searchsorted(travelled, wanted).clip(max=len(travelled) - 1))
    return {"threshold": thresholds[kept].tolist(), "fmr": fmr[kept].tolist(), "fnmr": fnmr[kept].tolist()}


def most_confusable(test: Scored, threshold: float, count=4, root: Path = Path()) -> list[dict]:
    """Return the highest-scoring impostor pairs, then the lowest-scoring genuine pairs, one per family each.

    Each holds `images` (two indices), `paths` below the root, `people`, `score`, `genuine`, and `matched` at the
    threshold.
    """
    scores = test.scores
    pairs = test.pairs
    index = test.index
    names = image_names(index, root)
    found = []
    for genuine, wrongness in ((False, scores), (True, -scores)):
        order = np.argsort(-wrongness, kind="stable")
        order = order[pairs.genuine[order] == genuine]
        family = index.family_of[index.person_of[pairs.a[order]]]
        _, worst_of_family = np.unique(family, return_index=True)
        for position in order[np.sort(worst_of_family)[:count]]:
            images = [int(pairs.a[position]), int(pairs.b[position])]
            found.append(
                {
                    "images": images,
                    "paths": [names[image] for image in images],
                    "people": [index.people[index.person_of[image]] for image in images],
                    "score": float(scores[position]),
                    "genuine": genuine,
                    "matched": bool(scores[position] >= threshold),
                }
            )
    return found


def write_json(path: Path, result: dict) -> None:
    """Write a result, sorted and indented, whole or not at all; ValueError if it holds a NaN or infinity."""
    write_text(path, json.dumps(result, indent=2, sort_keys=True, allow_nan=False) + "\n")


def compare(systems: list[System], drawn: list[Replicates], compared: Sequence[str]) -> dict[str, list[dict]]:
    """`systems`: the metrics of each, by its replicates; `differences`: of the first system from each of the others, in
    some of them."""
    metrics = [
        {"name": system.name, "about": system.about, "metrics": summarise(one)}
        for system, one in zip(systems, drawn, strict=True)
    ]
    found = []
    for system, one in zip(systems[1:], drawn[1:], strict=True):
        between = differences(drawn[0], one)
        found += [{"a": systems[0].name, "b": system.name, "metric": name} | between[name] for name in compared]
    return {"systems": metrics, "differences": found}
