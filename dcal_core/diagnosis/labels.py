"""Whether the labels have anything to do with the images, by measures that training cannot have bent."""

from collections.abc import Iterator

from dcal_core.diagnosis.evidence import Evidence
from dcal_core.diagnosis.finding import Finding

RELATED = 0.55  # ROC-AUC that anything must reach on labels that are right; 0.8 on drawn twins
UNSURE = 0.05  # beyond which the interval of so few families may reach
APART = 0.10  # ROC-AUC by which one person must be more alike than co-twins for these to be strangers
LEARNT = 0.60  # ROC-AUC of co-twins on validation families that shows their labels to be good enough


def people_mixed(evidence: Evidence) -> Iterator[Finding]:
    """Images of one person that are no more alike than those of strangers."""
    found = [one for name, one in evidence.likeness.items() if name.startswith("one person")]
    highest = max(one.auc for one in found)
    if highest < RELATED and max(one.high for one in found) < RELATED + UNSURE:
        yield Finding(
            "labels of people mixed up",
            f"Two images of one person are no more alike than those of strangers: ROC-AUC at most {highest:.2f}, by "
            "their pixels and by the network before training.",
            highest,
            RELATED,
            "g",
            "the list gives images to the wrong people: compare some entries of train_dataset_infor.json with their "
            "files, and write it anew from the folders",
        )


def strangers_paired(evidence: Evidence) -> Iterator[Finding]:
    """Co-twins that are no more alike than strangers."""
    twins = [one.auc for name, one in evidence.likeness.items() if name.startswith("co-twins")]
    related = max(one.low for name, one in evidence.likeness.items() if name.startswith("one person"))
    if twins and max(twins) < RELATED and related > RELATED + APART:
        yield Finding(
            "strangers listed as co-twins",
            f"Co-twins are no more alike than strangers: ROC-AUC at most {max(twins):.2f}, while one person reaches "
            f"{related:.2f}.",
            max(twins),
            RELATED,
            "g",
            "correct train_twin_pairs.json, whose pairs join strangers",
        )


def co_twins_mixed(evidence: Evidence) -> Iterator[Finding]:
    """Images that are dealt out to the twins of their family by chance."""
    linear = evidence.linear
    own = evidence.own("validation").twins
    related = max(one.low for name, one in evidence.likeness.items() if name.startswith("one person"))
    if not evidence.settled or not evidence.data["train"].index.co_twins:
        return
    if linear.high < RELATED and own.low < LEARNT and related > RELATED:
        yield Finding(
            "labels of co-twins mixed up",
            "Within families no label can be foretold: a linear comparison learnt on half of the families tells the "
            f"co-twins of the others apart with an ROC-AUC of {linear.auc:.2f} (at most {linear.high:.2f}), and the "
            f"model those of validation with {own.auc:.2f}.",
            linear.high,
            RELATED,
            "g",
            "images stand under the wrong twin: compare some families with their source; if they are right, the twins "
            "do not differ in images of this size, so raise image_size or align the faces",
        )
