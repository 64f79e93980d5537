"""Parts of a model or of its losses that take no part in training, and batches that lack what they teach by."""

from collections.abc import Iterator

import numpy as np

from dcal_core.diagnosis.evidence import Evidence, parts_of
from dcal_core.diagnosis.finding import Finding
from dcal_core.training.objectives import UncertaintyWeighting

CHANCE = 0.55  # ROC-AUC of one person against strangers
LEARNS = 0.75  # that another reading must reach
MUTED = 3.0  # |w| of a learnt weight: its loss counts e^-w, a twentieth or twenty times


def dead_parts(evidence: Evidence) -> Iterator[Finding]:
    """Parts that are meant to learn and that no gradient reaches, joined where all of a module is dead."""
    dead = evidence.dead_parts
    parts = parts_of([name for name, _ in evidence.model.named_parameters()])
    alive = {top_of(part) for part in parts if part not in dead}
    for part in dict.fromkeys(part if top_of(part) in alive else top_of(part) for part in dead):
        yield Finding(
            f"dead part {part}",
            f"No gradient reaches {part} in {len(evidence.gradients.people)} batches.",
            0.0,
            0.0,
            "e",
            "give its loss a weight above 0, and look for a detach or a no_grad in front of it",
        )


def top_of(part: str) -> str:
    """The module of a model that a part belongs to."""
    return part.split(".")[0]


def dead_readings(evidence: Evidence) -> Iterator[Finding]:
    """Readings that do not even tell strangers apart, where another one does."""
    scores = evidence.scores["validation"]
    best = max(one.people.low for one in scores.values())
    for reading, one in scores.items():
        if evidence.settled and best > LEARNS and one.people.high < CHANCE:
            yield Finding(
                f"dead reading {reading}",
                f"By {reading}, one person is not told from strangers (ROC-AUC {one.people.auc:.2f}), while another "
                f"reading reaches {best:.2f}.",
                one.people.high,
                CHANCE,
                "d",
                f"raise the weight of the loss of {reading}, or leave that branch out",
            )


def muted_losses(evidence: Evidence) -> Iterator[Finding]:
    """Learnt weights of losses at their clamp, or as far on the other side."""
    for module in evidence.objective.modules():
        if isinstance(module, UncertaintyWeighting):
            for branch, w in module.w.items():
                if abs(w.item()) >= MUTED:
                    share = float(np.exp(-w.item()))
                    how = "drowns the others" if w.item() < 0 else "counts for nothing"
                    yield Finding(
                        f"loss of {branch} out of balance",
                        f"The learnt weight of the loss of {branch} is at w = {w.item():.1f}, so that it counts "
                        f"{share:.2g} times and {how}.",
                        w.item(),
                        MUTED,
                        "e",
                        "give loss_weighting=fixed, or a lower head_lr_factor",
                    )


def batches(evidence: Evidence) -> Iterator[Finding]:
    """Batches without co-twins, or without two images of one person."""
    seen = evidence.gradients
    twins, same = [], []
    for people, families in zip(seen.people, seen.families, strict=True):
        together = families[:, None] == families
        alike = people[:, None] == people
        twins.append((together & ~alike).any(1).mean())
        same.append(((alike.sum(1)) > 1).mean())
    if evidence.data["train"].index.co_twins and not np.any(twins):
        yield Finding(
            "batches without co-twins",
            f"None of the images of {len(twins)} batches has a co-twin in its batch, so no loss sees twins as two "
            "people.",
            0.0,
            0.0,
            "b",
            "look at train_twin_pairs.json and at what draws the batches; give sampler=random or more pairs in a batch",
        )
    if not np.any(same):
        yield Finding(
            "batches without two images of a person",
            f"None of the people in {len(same)} batches has two images there, so no loss sees what one person shares.",
            0.0,
            0.0,
            "b",
            "raise images_per_person, and list more images of each person",
        )
