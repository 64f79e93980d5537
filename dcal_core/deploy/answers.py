"""What a predictor answers about two pictures, as values and as a sentence."""

import math
from dataclasses import asdict, dataclass, field

from dcal_core.data.twins import SYNTHETIC
from dcal_core.verification.calibration import Calibration
from dcal_core.verification.decision import WORDS, DecisionRule
from dcal_core.verification.words import most_ratio, ratio_text, terms_of

CO_TWINS, STRANGERS = "co-twins", "unrelated people"
DRAWN = f"{SYNTHETIC} model, which knows drawn faces only"
NO_RATIO = "no likelihood ratio"
SAME_LOOK = "both pictures have the same pixels, or one mirrors the other"
NEVER_CHECKED = (
    "whether the pictures are unedited photographs",
    "whether something covers a face",
    "whether the model was trained on them",
)


@dataclass(frozen=True)
class Answer:
    """Two pictures compared.

    score: higher = more alike; None with an error. verdict: same, different or undecided; None with an error.
    log10_lr: the decimal logarithm of the likelihood ratio of one person to co-twins; log10_lr_unrelated: to unrelated
    people; None where the model has no such calibration. inside: whether both faces lie in the validated range; None
    where it is not known. reasons: why not. doubts: what else makes the answer less certain. unchecked: what nobody has
    looked at. label: the data of training and calibration. error: why there is no answer, "" where there is one.
    """

    a: str
    b: str
    score: float | None = None
    verdict: str | None = None
    log10_lr: float | None = None
    log10_lr_unrelated: float | None = None
    inside: bool | None = None
    reasons: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    label: str = ""
    error: str = ""

    def as_dict(self) -> dict:
        """Plain JSON values."""
        return asdict(self)


def decimal(calibration: Calibration | None, scores):
    """Decimal logarithms [P] of the likelihood ratios of scores [P]; None without a calibration."""
    return None if calibration is None else calibration.llr(scores) / math.log(10)


def told(name: str, ends: list[str]) -> list[str]:
    """The ends of sentences about a picture as one clause, which names it once; none where there are none."""
    return [f"{name} {' and '.join(ends)}"] if ends else []


def sentence(answer: Answer, rule: DecisionRule) -> str:
    """An answer in one plain sentence."""
    if answer.error:
        return f"No answer: {answer.error}."
    parts = [f"{WORDS[answer.verdict]} (score {answer.score:.2f})", *ratios(answer, rule)]
    if SAME_LOOK in answer.doubts:
        parts = [f"{parts[0]}: {SAME_LOOK}"]
    elif answer.inside is None:
        parts.append("the validated range of this model is not known")
    else:
        why = f", because {', and '.join(answer.reasons)}" if answer.reasons else ""
        parts.append(f"{'inside' if answer.inside else 'outside'} the validated range{why}")
    text = "; ".join(parts)
    text = f"{DRAWN}: {text}" if SYNTHETIC in answer.label else text
    return f"{text[0].upper()}{text[1:]}."


def ratios(answer: Answer, rule: DecisionRule) -> list[str]:
    """Each likelihood ratio as a clause; the last that reaches a limit says why it goes no further."""
    found, limits = [], []
    for value, calibration, others in (
        (answer.log10_lr, rule.calibration, CO_TWINS if rule.co_twins else STRANGERS),
        (answer.log10_lr_unrelated, rule.strangers, STRANGERS),
    ):
        if value is None:
            continue
        likelier = f"one person than for {others}" if value >= 0 else f"{others} than for one person"
        found.append(f"{ratio_text(10 ** abs(value))} times likelier for {likelier}")
        reached = math.isclose(abs(value), math.log10(calibration.families))
        limits.append(most_ratio(calibration.families, terms_of(rule.co_twins).units) if reached else "")
    for place, limit in enumerate(limits):
        if limit and limit not in limits[place + 1 :]:
            found[place] += f" ({limit})"
    return found or [NO_RATIO]
