"""How a run fails, by its scores: symptoms, which stand beside the faults that explain them."""

from collections.abc import Iterator

import numpy as np

from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

ALIKE = 0.95  # mean cosine of strangers; about 0 in what has learnt, 0.97 in random networks
DIRECTIONS = 1.1  # that embeddings spread over (participation ratio); 1.9 to 25 in what learns
FITTED = 0.60  # ROC-AUC of co-twins that were trained on
MEMORISED = 0.25  # ROC-AUC of co-twins by which training families are ahead of validation; 0 to 0.11 in what learns


def spectrum(embeddings: np.ndarray) -> np.ndarray:
    """Shares of the variance of embeddings [N, D] in its directions, the largest first."""
    values = np.linalg.svd(embeddings - embeddings.mean(0), compute_uv=False) ** 2
    return values / max(values.sum(), 1e-30)


def directions(shares: np.ndarray) -> float:
    """The number of directions that a variance spreads over: its participation ratio."""
    return float(1 / max((shares**2).sum(), 1e-30)) if shares.any() else 0.0


def collapsed(evidence: Evidence) -> Iterator[Finding]:
    """Embeddings that are the same, or lie on one line, for everybody."""
    if not evidence.settled:
        return
    for branch, embeddings in evidence.embeddings.items():
        unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-30)
        alike = float(unit.mean(0) @ unit.mean(0))  # mean cosine of all pairs
        spread = directions(spectrum(embeddings))
        if alike > ALIKE or spread < DIRECTIONS:
            by = (alike, ALIKE) if alike > ALIKE else (spread, DIRECTIONS)
            yield Finding(
                "embeddings collapsed",
                f"The embeddings of {branch} hardly differ from person to person: their mean cosine is {alike:.2f}, "
                f"and they spread over {spread:.1f} directions.",
                *by,
                "f",
                "lower lr or weight_decay, raise softmax_weight or the margin of the twin loss, and take larger "
                "batches",
                symptom=True,
            )


def underfitted(evidence: Evidence) -> Iterator[Finding]:
    """Scores that do not tell those apart who were trained on."""
    twins = evidence.own("train").twins
    if evidence.settled and twins.high < FITTED:
        yield Finding(
            "underfitted",
            f"Co-twins are not told apart even where they were trained on: ROC-AUC {twins.auc:.2f} (at most "
            f"{twins.high:.2f}).",
            twins.high,
            FITTED,
            "c",
            "mend the other findings first; else train longer, weaken augmentation, or take a larger backbone or "
            "image_size",
            symptom=True,
        )


def overfitted(evidence: Evidence) -> Iterator[Finding]:
    """Scores that tell only those apart who were trained on."""
    trained, held = evidence.own("train").twins, evidence.own("validation").twins
    if (ahead := trained.low - held.high) > MEMORISED:
        yield Finding(
            "overfitted",
            f"Co-twins that were trained on are told apart far better (ROC-AUC {trained.auc:.2f}) than those of "
            f"validation families ({held.auc:.2f}).",
            ahead,
            MEMORISED,
            "d",
            "mend the other findings first; else add families, raise augmentation or weight_decay, freeze more, or end "
            "earlier (patience)",
            symptom=True,
        )
