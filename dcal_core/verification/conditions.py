"""What the figures of a report hold for, in sentences."""

import numpy as np

from dcal_core.config.shared import Config
from dcal_core.data.roots import read_indexes
from dcal_core.data.splits import TwinData
from dcal_core.verification.protocol import EACH, PARTNERS
from dcal_core.verification.report import System
from dcal_core.verification.words import terms_of

WITH_CO_TWINS = (
    "Every pair of images within a family was compared. The two people of a pair are co-twins. Unrelated people, who "
    "are easy to tell apart, set the thresholds of “How safe is it against a twin?” and the second likelihood ratio, "
    "and count nowhere else.",
)
WITHOUT_CO_TWINS = (
    "No co-twins are known in this data: the two people of a pair are unrelated and far easier to tell apart, and the "
    "figures say nothing about twins.",
    f"Of each person at most {EACH} images, drawn, were compared with one another and with those of {PARTNERS} other "
    "people, drawn too, or more. A comparison of two people counts as often as both are drawn for the intervals.",
)
FLIPPED = (
    "Flip fusion: an embedding is the image's plus that of its mirror image, which takes away the asymmetries by which "
    "twins can be told apart."
)


def conditions(config: Config, data: TwinData, systems: list[System]) -> list[str]:
    """The conditions under which the figures hold, and their limits."""
    validation, test = (data[name] for name in ("validation", "test"))
    terms = terms_of(test.index.co_twins)
    sizes = np.bincount(test.index.person_of)
    families = len(test.index.families)
    each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
    used = len(test.index.paths)
    listed = len(read_indexes(data.root, quiet=True)[1].paths)
    low, high = (end(systems[0].validation.scores) for end in (np.min, np.max))
    few = f"{families} {terms.units} are few: the true uncertainty may be larger than the intervals."
    occluders = (
        f"Occluders ({config.occluded_kinds}) were drawn over {100 * config.occluded_share:g} % of the validation and "
        "of the test images: real ones look different, and do not come at random."
    )
    of_families = f" of {families} families" if test.index.co_twins else ""
    return [
        f"{len(test.index.people)} test people{of_families} with {each} images each, not used for training; "
        f"{len(validation.index.families)} other {terms.units} set the threshold, the calibration and the thresholds "
        "of the verdict.",
        f"Refused: {listed - used:,} of the {listed:,} test images listed ({100 * (1 - used / listed):.1f} %), as "
        "missing, unreadable or excluded; every pair of the others was scored, and none was refused for its quality.",
        f"Scores seen in validation: {low:.3f} to {high:.3f}; beyond them no case that was seen supports an answer.",
        *(WITH_CO_TWINS if test.index.co_twins else WITHOUT_CO_TWINS),
        f"Intervals: 95 %, from {config.bootstrap_draws:,} draws of whole {terms.units} with replacement, since "
        f"comparisons within a {terms.unit} are not independent. Each end allows for two more {terms.units} like the "
        f"worst: in simulations of 31 {terms.units}, a few much harder, an EER's interval held it in 94 to 97 %.",
        *([few] if families < 30 else []),
        "Images were used as given, without a check of pose, light or date: pairs taken on one day make the figures "
        "look better.",
        f"{terms.units.capitalize()} that were not tested, other cameras and other ages may do worse.",
        *([occluders] if config.occluded_share else []),
        *([FLIPPED] if config.flip_fusion else []),
        *(f"{system.name}: {system.about}." for system in systems),
    ]
