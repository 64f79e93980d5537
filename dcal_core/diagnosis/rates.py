"""Whether the weights move, and by how much: the learning rate, and parts that are frozen."""

from collections.abc import Iterator

import numpy as np

from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

BEGUN = 50  # batches before which weights need not have moved
STILL = 1e-3  # of its size, by which a model has moved by then; 0.1 and more in what learns
FAR = 2.0  # of its size; 0.1 to 0.4 in what learns, 5 to 15 at 20 to 100 times the learning rate
SKIPPED = 0.02  # share of the steps without a finite loss or gradient; fp16 skips a few while it finds its scale
LEARNT = 0.60  # ROC-AUC of co-twins that were trained on


def diverging(evidence: Evidence) -> Iterator[Finding]:
    """A learning rate that throws the weights about."""
    progress = evidence.progress
    highest = evidence.logged("lr").max(initial=0.0)
    cure = f"give a tenth of lr (now {evidence.recipe.config.lr:g}), and warm up longer"
    share = max(progress.skipped, evidence.logged("skipped").sum()) / max(progress.batch, 1)
    if share > SKIPPED:
        yield Finding(
            "learning rate too high",
            f"{share:.0%} of the steps had no finite loss or gradient, at learning rates of up to {highest:.2g}.",
            share,
            SKIPPED,
            "a",
            cure,
        )
    elif evidence.moved_in_all > FAR and evidence.own("train").twins.high < LEARNT:
        yield Finding(
            "learning rate too high",
            f"The weights have moved by {evidence.moved_in_all:.1f} times their size in {progress.batch} batches, at "
            f"learning rates of up to {highest:.2g}, and nothing is learnt.",
            evidence.moved_in_all,
            FAR,
            "e",
            cure,
        )


def still(evidence: Evidence) -> Iterator[Finding]:
    """Weights that stay as they were: frozen, or at too low a learning rate."""
    batch = evidence.progress.batch
    highest = evidence.logged("lr").max(initial=0.0)
    if not evidence.moved or batch < BEGUN or evidence.moved_in_all >= STILL:
        return
    if not any(evidence.moved.values()) and highest > 0:
        yield Finding(
            "everything frozen",
            f"Not one weight of the model has changed in {batch} batches, at learning rates of up to {highest:.2g}.",
            0.0,
            STILL,
            "e",
            "let the model's parameters have requires_grad, and give them to the optimiser",
        )
        return
    yield Finding(
        "learning rate too low",
        f"The weights have moved by {evidence.moved_in_all:.1g} of their size in {batch} batches, at learning rates of "
        f"up to {highest:.2g}.",
        evidence.moved_in_all,
        STILL,
        "e",
        f"raise lr (now {evidence.recipe.config.lr:g}) tenfold until the loss falls, or warm up for fewer steps",
    )


def frozen_at_random(evidence: Evidence) -> Iterator[Finding]:
    """Parts that are frozen and have never learnt."""
    learns = {name.removeprefix("model.") for name in evidence.gradients.norms}
    total = {name: parameter.numel() for name, parameter in evidence.model.named_parameters()}
    frozen = sum(size for name, size in total.items() if name not in learns) / sum(total.values())
    if frozen > 0.1 and not evidence.pretrained and evidence.before is not None and np.any(list(learns & set(total))):
        yield Finding(
            "frozen at random",
            f"{frozen:.0%} of the weights are frozen, and the run began with random ones.",
            frozen,
            0.1,
            "e",
            "start from trained weights, or freeze nothing",
        )
