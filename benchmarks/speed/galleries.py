"""Evaluation from stored features: how long a test set of ND-TWINS' size takes, and what a large gallery costs."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks.speed.memory import peak_above
from benchmarks.speed.timing import Row, Spread
from dcal_core.data.twins import TwinIndex
from dcal_core.models.verifier import Features
from dcal_core.verification.protocol import Scored, score_pairs, twin_pairs, unrelated_scores
from dcal_core.verification.report import System, evaluate

IMAGES = {
    3: 1,
    4: 19,
    6: 6,
    7: 1,
    8: 3,
    12: 5,
    23: 3,
    24: 12,
    28: 10,
    32: 2,
}  # of a person: people, as in ND-TWINS' test
GALLERY = 100_000  # images
WIDTH = 128  # of an embedding
MOST_MB = 500  # a full matrix of scores would take 40,000


class EncodedAlready(nn.Module):
    """What the protocol needs of a model whose images are encoded already."""

    def compare(self, a: Features, b: Features, reading: str | None = None) -> torch.Tensor:
        return a.parts["embedding"] @ b.parts["embedding"].T

    def compare_pairs(self, a: Features, b: Features, reading: str | None = None) -> torch.Tensor:
        return (a.parts["embedding"] * b.parts["embedding"]).sum(-1)


def index_of(images: np.ndarray, name: str) -> TwinIndex:
    """An index of pairs of twins; images: how many each person has, [people]."""
    people = tuple(f"{number:06d}" for number in range(len(images)))
    families = tuple(zip(people[::2], people[1::2], strict=True))
    paths = tuple(f"{number}.png" for number in range(images.sum()))
    return TwinIndex(
        name, people, families, paths, np.repeat(np.arange(len(people)), images), np.arange(len(people)) // 2
    )


def features_of(index: TwinIndex) -> Features:
    """Random embeddings of unit length, those of a family alike, those of a person more so."""
    random = torch.Generator().manual_seed(0)
    family, person, image = (
        torch.randn(count, WIDTH, generator=random)
        for count in (len(index.families), len(index.people), len(index.paths))
    )
    mixed = family[index.family_of[index.person_of]] + 0.5 * person[index.person_of] + image
    return Features({"embedding": nn.functional.normalize(mixed, dim=-1)})


def compared(index: TwinIndex, features: Features) -> tuple[Scored, object]:
    """All pairs within families, scored, and the unrelated comparisons."""
    pairs = twin_pairs(index)
    model = EncodedAlready()
    return Scored(index, pairs, score_pairs(model, features, pairs)), unrelated_scores(model, features, index)


def evaluation_row(draws: int) -> Row:
    """Seconds from the features of a test set of ND-TWINS' size to the whole result, all pairs and all intervals."""
    test = index_of(np.repeat(list(IMAGES), list(IMAGES.values())), "test")
    validation = index_of(np.full(52, 17), "validation")
    features = {index.name: features_of(index) for index in (test, validation)}

    start = time.perf_counter()
    held_out, _ = compared(validation, features["validation"])
    scored, unrelated = compared(test, features["test"])
    systems = [System("features", "", held_out, scored, unrelated)]
    evaluate(systems, "-", error=0.05, calibration="logistic", draws=draws)
    seconds = time.perf_counter() - start
    note = f"{len(scored.pairs):,} pairs within families, {len(unrelated.scores):,} unrelated ones, {draws:,} draws"
    return Row(f"{len(test.paths)} images, from features to report", Spread.of(seconds), "s", goal=10, note=note)


def gallery_row(images: int) -> Row:
    """Memory that comparing a large gallery takes above its features, in MB."""
    index = index_of(np.full(images // 8, 8), "gallery")
    features = features_of(index)
    start = time.perf_counter()
    peak = peak_above("cpu", lambda: compared(index, features)) / 1e6
    seconds = time.perf_counter() - start
    note = f"{len(twin_pairs(index)):,} pairs within families, 2 million unrelated ones at most, {seconds:.1f} s"
    return Row(f"comparing {images:,} images: memory", Spread.of(peak), "MB", goal=MOST_MB, note=note)


def gallery_rows(draws: int, images: int) -> Iterator[Row]:
    """Both rows."""
    yield evaluation_row(draws)
    yield gallery_row(images)
