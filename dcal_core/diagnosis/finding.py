"""One fault that a diagnosis has found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A fault by its name, what shows it, the measured `value` beside its `limit`, the panel of the figure where it is
    drawn, and the cure. symptom: whether it says how the run fails, and not why."""

    name: str
    sentence: str
    value: float
    limit: float
    panel: str
    cure: str
    symptom: bool = False
