"""What one score means: the verdict and the likelihood ratio that a report's validation families have settled."""

import math
from dataclasses import dataclass
from pathlib import Path

from dcal_core.storage import DamagedError, read_json
from dcal_core.verification.calibration import Isotonic, Logistic, from_dict
from dcal_core.verification.verdicts import VERDICTS, Thresholds, verdicts

SAID = {"same": "the same person", "undecided": "undecided", "different": "two people"}


@dataclass(frozen=True)
class Answers:
    """From a score to a verdict and, where the scores could be calibrated, a likelihood ratio; on the data `label`."""

    thresholds: Thresholds
    calibration: Logistic | Isotonic | None
    label: str

    def verdict(self, score: float) -> str:
        """same, undecided or different."""
        return {number: verdict for verdict, number in VERDICTS.items()}[int(verdicts([score], self.thresholds)[0])]

    def llr(self, score: float) -> float | None:
        """ln of how many times likelier the score is for one person than for co-twins."""
        return None if self.calibration is None else float(self.calibration.llr([score])[0])

    def sentence(self, score: float) -> str:
        """The verdict as a person would say it."""
        text, llr = f"score {score:.2f}: {SAID[self.verdict(score)]}", self.llr(score)
        if llr is None:
            return text
        who = "one person than for two" if llr >= 0 else "two people than for one"
        return f"{text}; {math.exp(abs(llr)):.2g} times likelier for {who}"


def read_answers(report: Path) -> Answers:
    """What report.json says about scores; raises DamagedError where it says it otherwise than `evaluate` does."""
    found = read_json(report)
    try:
        limits, fitted = found["verdict"]["thresholds"], found["calibration"].get("fitted")
        thresholds = Thresholds(limits["different_below"], limits["same_from"])
        return Answers(thresholds, from_dict(fitted) if fitted else None, found["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedError(f"{report} is damaged ({error}): evaluate again.") from None
