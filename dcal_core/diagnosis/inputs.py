"""Whether pretrained weights get images as they know them: the order of colours and the normalisation."""

from collections.abc import Iterator

from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

BETTER = 0.02  # ROC-AUC of one person against strangers
CERTAIN = 3.0  # standard errors over families
FAULTS = {  # by what would help: the fault and its cure
    "exchanged colours": (
        "colour order against the weights",
        "give the colour_order that the weights were trained with (bgr for AdaFace's), or convert files that hold BGR",
    ),
    "normalisation": (
        "normalisation missing",
        "images must reach the network as the weights were trained: look for files that are washed out, and at the "
        "mean and std of the model",
    ),
    "one normalisation less": (
        "normalisation doubled",
        "give files that nobody has normalised: the model does it",
    ),
}


def inputs(evidence: Evidence) -> Iterator[Finding]:
    """The change of the images that helps the weights most, if one does."""
    gains = evidence.gains
    certain = [name for name, gain in gains.items() if gain.auc > max(BETTER, CERTAIN * gain.error)]
    if certain:
        best = max(certain, key=lambda name: gains[name].auc)
        fault, cure = FAULTS[best]
        yield Finding(
            fault,
            f"With {best} the weights that training began with tell one person from strangers better, by "
            f"{gains[best].auc:.3f} of ROC-AUC (standard error {gains[best].error:.3f}).",
            gains[best].auc,
            BETTER,
            "g",
            cure,
        )
