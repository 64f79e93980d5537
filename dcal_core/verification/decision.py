"""What a score of a model means: the decision rule that `evaluate` leaves in the model's folder.

It is chosen on validation families. With it a model folder alone turns a score into a verdict and a likelihood ratio.
"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from dcal_core import storage
from dcal_core.runs import DECISION_FILE, WEIGHTS_FILE
from dcal_core.storage import SUMS, DamagedError
from dcal_core.verification.calibration import Calibration, from_dict
from dcal_core.verification.comparisons import rounded
from dcal_core.verification.verdicts import VERDICTS, Thresholds, verdicts
from dcal_core.verification.words import most_ratio, ratio_text, terms_of

WORDS = {"same": "the same person", "undecided": "undecided", "different": "two people"}


@dataclass(frozen=True)
class DecisionRule:
    """From a score to a verdict and, if the scores could be calibrated, a log likelihood ratio.

    data: the label of the data it was chosen on. weights: SHA-256 of the model's weights. families: validation
    families of the rarer class. threshold: where FMR equals FNMR, for a yes or a no. thresholds: of the verdict, at
    most a share `error` of each class being wrong. co_twins: whether the impostors were co-twins. strangers: the
    calibration against unrelated people, where there is one beside that against co-twins.
    """

    data: str
    weights: str
    families: int
    threshold: float
    thresholds: Thresholds
    error: float
    calibration: Calibration | None
    co_twins: bool = True
    strangers: Calibration | None = None

    def __post_init__(self):
        if not (isinstance(self.data, str) and isinstance(self.weights, str)):
            raise ValueError("data and weights must be texts")
        if type(self.families) is not int or self.families < 1:
            raise ValueError(f"families must be a whole number of at least 1, got {self.families!r:.40}")
        for name in ("threshold", "error"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r:.40}")

    def verdict(self, score: float) -> str:
        """Return same, undecided or different."""
        return VERDICTS[verdicts([rounded(score)], self.thresholds)[0]]  # rounded as what the thresholds are from

    def llr(self, score: float) -> float | None:
        """Return the natural-log likelihood ratio of one person to two, or None without a calibration."""
        return None if self.calibration is None else float(self.calibration.llr([score])[0])

    def sentence(self, score: float) -> str:
        """Return the score, the verdict and the likelihood ratio in words, with its limit where it is reached."""
        text = f"score {score:.2f}: {WORDS[self.verdict(score)]}"
        llr = self.llr(score)
        if llr is not None:
            likelier = "one person than for two" if llr >= 0 else "two people than for one"
            text += f"; {ratio_text(math.exp(abs(llr)))} times likelier for {likelier}{self.limit(score)}"
        return text if self.co_twins else f"{text}; of unrelated people, not of co-twins"

    def limit(self, score: float) -> str:
        """Return why the likelihood ratio of a score goes no further, in brackets; "" where it is below its limit."""
        families = self.calibration.families
        if not math.isclose(abs(self.llr(score)), math.log(families)):
            return ""
        return f" ({most_ratio(families, terms_of(self.co_twins).units)})"

    def as_dict(self) -> dict:
        """Return plain JSON values, as they stand in the model's folder."""
        return {
            "data": self.data,
            "co_twins": self.co_twins,
            "weights": self.weights,
            "families": self.families,
            "threshold": {"value": self.threshold, "chosen_for": "equal error rates"},
            "verdict": {
                "different_below": self.thresholds.different_below,
                "same_from": self.thresholds.same_from,
                "error": self.error,
                "chosen_for": f"at most {100 * self.error:.1f} % wrong in each class",
            },
            "calibration": self.calibration.as_dict() if self.calibration else None,
            "strangers": self.strangers.as_dict() if self.strangers else None,
        }


def rule_of_report(result: dict) -> DecisionRule:
    """Return the decision rule of the first system of an evaluation's result."""
    limits = result["verdict"]["thresholds"]
    fitted = result["calibration"].get("fitted")
    return rule_from_dict(result | {"verdict": limits, "families": limits["families"], "calibration": fitted})


def rule_from_dict(found: dict) -> DecisionRule:
    """Return the rule that `as_dict` wrote; KeyError, TypeError, AttributeError or ValueError for anything else."""
    limits = found["verdict"]
    strangers = found.get("strangers")
    return DecisionRule(
        data=found["data"],
        weights=found["weights"],
        families=found["families"],
        threshold=found["threshold"]["value"],
        thresholds=Thresholds(limits["different_below"], limits["same_from"]),
        error=limits["error"],
        calibration=None if found["calibration"] is None else from_dict(found["calibration"]),
        co_twins=bool(found.get("co_twins", True)),
        strangers=None if strangers is None else from_dict(strangers),
    )


def write_rule(rule: DecisionRule, model: Path, folder: Path) -> Path:
    """Write a model's folder with this rule as `folder`, its own or another one, sealed, whole or not at all.

    Returns the rule's file. DamagedError if the model has changed since it was sealed or has other weights.
    """
    with storage.sealed_folder(folder) as new:
        for file in Path(model).iterdir():
            storage.flush(shutil.copyfile(file, new / file.name))  # without its permissions: inputs are read-only
        storage.check_seal(new)
        _check_weights(rule, new)
        (new / SUMS).unlink()
        (new / DECISION_FILE).write_text(json.dumps(rule.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder / DECISION_FILE


def read_rule(model: Path) -> DecisionRule | None:
    """Return the decision rule in a model's folder, or None before an evaluation; DamagedError if it was changed."""
    file = Path(model) / DECISION_FILE
    if not file.is_file():
        return None
    found = storage.read_json(file)
    if storage.read_sums(model).get(DECISION_FILE) != storage.digest(file):
        raise DamagedError(f"{file} is damaged: its SHA-256 is not the one in {SUMS}; {storage.CURE}.")
    try:
        rule = rule_from_dict(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{file} is damaged ({error}): evaluate again.") from None
    _check_weights(rule, model)
    return rule


def _check_weights(rule: DecisionRule, model: Path) -> None:
    if storage.read_sums(model).get(WEIGHTS_FILE) != rule.weights:
        raise DamagedError(f"{Path(model) / WEIGHTS_FILE} holds other weights than were evaluated: evaluate again.")
