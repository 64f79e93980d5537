"""Every pair of an evaluation with its score, as CSV for other tools."""

import csv
import io
from pathlib import Path

import numpy as np

from dcal_core.storage import write_text
from dcal_core.verification.calibration import Calibration
from dcal_core.verification.comparisons import SCORE_DECIMALS
from dcal_core.verification.decision import DecisionRule
from dcal_core.verification.protocol import Scored, image_names
from dcal_core.verification.verdicts import VERDICTS, verdicts

COLUMNS = (
    "split",
    "image_a",
    "image_b",
    "person_a",
    "person_b",
    "family",
    "same_person",
    "score",
    "likelihood_ratio",
    "verdict",
    "likelihood_ratio_unrelated",  # last, so that readers that count columns find the others where they were
)


def write_scores(path: Path, splits: list[Scored], rule: DecisionRule, root: Path) -> None:
    """Write one line for each pair of one system, whole or not at all: COLUMNS, in UTF-8.

    Images are named below `root`. family: its first person. same_person: 1 or 0. likelihood_ratio: of one person
    to two, and likelihood_ratio_unrelated: of one person to two unrelated people where the impostors are co-twins;
    each empty without its calibration.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # lines end in CR LF, as RFC 4180 has it: with LF alone a CR in a name were not quoted
    writer.writerow(COLUMNS)
    for split in splits:
        writer.writerows(rows_of(split, rule, image_names(split.index, root)))
    write_text(path, text.getvalue())


def rows_of(split: Scored, rule: DecisionRule, names: list[str]):
    """The lines of one split, in the order of its pairs."""
    answers = verdicts(split.scores, rule.thresholds)
    ratios = ratios_of(rule.calibration, split.scores)
    against_unrelated = ratios_of(rule.strangers, split.scores)
    index = split.index
    pairs = split.pairs
    person = index.person_of
    for place, (a, b) in enumerate(zip(pairs.a, pairs.b, strict=True)):
        yield (
            index.name,
            names[a],
            names[b],
            index.people[person[a]],
            index.people[person[b]],
            index.families[index.family_of[person[a]]][0],
            int(pairs.genuine[place]),
            f"{split.scores[place]:.{SCORE_DECIMALS}f}",
            ratios[place],
            VERDICTS[answers[place]],
            against_unrelated[place],
        )


def ratios_of(calibration: Calibration | None, scores: np.ndarray) -> list[str]:
    """The likelihood ratio of each score as text; "" without a calibration."""
    if calibration is None:
        return [""] * len(scores)
    return [f"{ratio:.6g}" for ratio in np.exp(calibration.llr(scores))]
