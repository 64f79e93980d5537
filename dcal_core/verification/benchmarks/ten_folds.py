"""Accuracy on pairs in ten folds, the protocol of LFW (Huang et al., 2007), CFP-FP, AgeDB-30, CALFW and CPLFW.

A fold is a tenth of the pairs in a row, judged at the threshold of the highest accuracy on the nine others. Letters: P
pairs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcal_core.data.benchmarks.packed_pairs import read_pairs
from dcal_core.data.decoding import Packed
from dcal_core.data.images import ImageStore, open_images
from dcal_core.data.twins import DataError
from dcal_core.models.verifier import Features, Verifier
from dcal_core.verification.encoding import encode_images
from dcal_core.verification.metrics import corners
from dcal_core.verification.protocol import Pairs, score_pairs

FOLDS = 10
DISTANCES = np.arange(0, 4, 0.01)  # squared L2 of unit vectors, 2 - 2 cosine: the thresholds of published figures
SELF = 1e-4  # from 1, the largest score of an image with itself by which a reading is a cosine


@dataclass(frozen=True, eq=False)
class PairSets:
    """Benchmarks of pairs: all images in one memory map, and whether each two in a row show one person, by title."""

    images: ImageStore
    same: dict[str, np.ndarray]  # [P] bool each, in the order of the images


def open_pair_sets(files: dict[str, Path], size: int, cache: Path) -> PairSets:
    """Read .bin files, by title, and decode their images once, or map those decoded before; raises DataError."""
    packed = []
    same = {}
    for title, file in files.items():
        images, same[title] = read_pairs(file)
        if len(same[title]) < FOLDS:
            raise DataError(
                f"{file} holds {len(same[title])} pairs: {FOLDS} folds take {FOLDS} or more; fetch it again."
            )
        packed += [Packed(f"image {number} of {file}", data) for number, data in enumerate(images)]
    return PairSets(open_images(packed, size, cache, max_lost_share=0.0), same)


@dataclass(frozen=True, eq=False)
class TenFolds:
    """right: whether each pair was judged rightly, [P]; fold: the number of its fold, [P]; thresholds: [10]."""

    right: np.ndarray
    fold: np.ndarray
    thresholds: np.ndarray

    @property
    def accuracies(self) -> np.ndarray:
        """The share of right pairs in each fold, [10]; the benchmark's figure is their mean."""
        return np.bincount(self.fold, self.right) / np.bincount(self.fold)


def ten_folds(scores: np.ndarray, same: np.ndarray, thresholds: np.ndarray | None = None) -> TenFolds:
    """Judge pairs [P] by folds: one person where the score is above the threshold. thresholds: those to choose from,
    the first of equally good ones; None: all that the nine folds tell apart."""
    right = np.empty(len(scores), dtype=bool)
    fold = np.empty(len(scores), dtype=np.int64)
    chosen = np.empty(FOLDS)
    for number, own in enumerate(np.array_split(np.arange(len(scores)), FOLDS)):
        others = np.delete(np.arange(len(scores)), own)
        known = corners(scores[others], same[others]) if thresholds is None else thresholds
        rejected = [
            np.searchsorted(np.sort(scores[others][part]), known, "right") for part in (same[others], ~same[others])
        ]
        chosen[number] = known[np.argmax(rejected[1] - rejected[0])]  # right ones, but for a constant
        right[own] = (scores[own] > chosen[number]) == same[own]
        fold[own] = number
    return TenFolds(right, fold, chosen)


def fold_pairs(
    model: Verifier, features: Features, sets: PairSets, device="cpu", reading: str | None = None
) -> tuple[dict[str, TenFolds], str]:
    """The folds of each set by one reading, from the features of all images, and by what pairs were judged.

    A reading by which images score 1 with themselves is a cosine, and gets the thresholds of published figures.
    """
    few = np.arange(min(8, len(features)))
    itself = score_pairs(model, features, Pairs(few, few, few == few, few), device=device, reading=reading)
    cosine = bool((abs(itself - 1) < SELF).all())
    thresholds = 1 - DISTANCES / 2 if cosine else None
    found = {}
    first = 0
    for title, same in sets.same.items():
        a = first + 2 * np.arange(len(same))
        scores = score_pairs(model, features, Pairs(a, a + 1, same, np.zeros_like(a)), device=device, reading=reading)
        found[title] = ten_folds(scores, same, thresholds)
        first += 2 * len(same)
    return found, "squared L2, 0 to 4 by 0.01" if cosine else "score, every threshold"


def accuracies(model: Verifier, sets: PairSets, batch: int, device) -> dict[str, float]:
    """The accuracy of a model's own answer on each set, and as `benchmarks` their mean; every image is encoded once."""
    features = encode_images(model, sets.images, batch, device, progress=False)
    folds, _ = fold_pairs(model, features, sets, device)
    found = {f"benchmarks/{title}": float(one.accuracies.mean()) for title, one in folds.items()}
    return found | {"benchmarks": float(np.mean(list(found.values())))}
