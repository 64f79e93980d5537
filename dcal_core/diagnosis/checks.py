"""All checks of a run, and what they find."""

from collections.abc import Callable, Iterator

from dcal_core.diagnosis import branches, images, inputs, labels, outcome, rates
from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

Check = Callable[[Evidence], Iterator[Finding]]
ON_IMAGES: tuple[Check, ...] = (images.blank_images, images.duplicates)
ON_CONTENT: tuple[Check, ...] = (  # which need images that show something
    images.blue_faces,
    inputs.inputs,
    labels.people_mixed,
    labels.strangers_paired,
    labels.co_twins_mixed,
)
ON_TRAINING: tuple[Check, ...] = (
    branches.batches,
    rates.diverging,
    rates.still,
    rates.frozen_at_random,
    branches.dead_parts,
    branches.dead_readings,
    branches.muted_losses,
    outcome.collapsed,
    outcome.underfitted,
    outcome.overfitted,
)


def diagnose(evidence: Evidence) -> list[Finding]:
    """The faults of a run, causes before symptoms; what could not be checked is added to `evidence.unchecked`."""
    checks = ON_IMAGES + ON_CONTENT + ON_TRAINING
    if (share := images.share_blank(evidence)) > 0.5:
        evidence.unchecked.append(f"Labels, colours and normalisation: {share:.0%} of the images show nothing.")
        checks = (images.blank_images, *ON_TRAINING)
    found = [finding for check in checks for finding in check(evidence)]
    return sorted(found, key=lambda finding: finding.symptom)
