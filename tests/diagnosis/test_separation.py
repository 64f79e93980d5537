"""How well people are told apart: against naive loops, and a linear comparison on labels that are right or wrong."""

import numpy as np
import pytest
from planted import painted, people_mixed, strangers_paired, twins_mixed

from dcal_core.diagnosis.samples import cosines, sample_of
from dcal_core.diagnosis.separation import (
    groups_of,
    linear_separation,
    mean_of,
    ranks_of_families,
    small_images,
    within_families,
)
from dcal_core.verification.metrics import roc_auc


def test_ranks_are_the_share_of_others_that_a_familys_scores_beat():
    random = np.random.default_rng(0)
    scores, others = random.integers(0, 9, 30) / 8, random.integers(0, 9, 50) / 8
    groups = np.repeat([3, 5, 8], 10)
    beats = [np.mean([(score > other) + (score == other) / 2 for other in others]) for score in scores]
    naive = [np.mean([one for one, group in zip(beats, groups, strict=True) if group == which]) for which in (3, 5, 8)]
    assert ranks_of_families(scores, groups, others) == pytest.approx(naive)


def test_the_mean_over_families_has_its_standard_error():
    found = mean_of(np.array([0.4, 0.6, 0.8]))
    assert found.auc == pytest.approx(0.6) and found.error == pytest.approx(0.2 / np.sqrt(3))
    assert (found.low, found.high) == pytest.approx((0.6 - 0.4 / np.sqrt(3), 0.6 + 0.4 / np.sqrt(3)))
    assert mean_of(np.array([0.9])).low == -np.inf


def test_families_count_alike_whatever_their_pairs():
    sample = sample_of(painted(6, 2)["train"], seed=0)
    pairs = sample.pairs
    scores = np.random.default_rng(0).random(len(pairs))
    naive = [
        roc_auc(scores[pairs.family == family], pairs.genuine[pairs.family == family])
        for family in np.unique(pairs.family)
    ]
    assert within_families(scores, pairs).auc == pytest.approx(np.mean(naive)) and len(naive) == 6
    assert (groups_of(pairs) == pairs.family).all()


def test_a_linear_comparison_foretells_labels_that_the_images_show():
    data = painted(60, 4)
    found = {}
    for name, change in {"right": lambda data: data, "people": people_mixed, "twins": twins_mixed}.items():
        sample = sample_of(change(data)["train"], seed=0)
        small = small_images(sample.pixels)
        found[name] = linear_separation(small, sample.index, sample.pairs), cosines(small, sample).people
    assert found["right"][0].low > 0.8 and found["right"][1].low > 0.8
    assert abs(found["twins"][0].auc - 0.5) < 0.05 and found["twins"][1].low > 0.8
    assert abs(found["people"][0].auc - 0.5) < 0.05 and abs(found["people"][1].auc - 0.5) < 0.05


def test_strangers_that_are_paired_are_no_more_alike_than_others():
    data = painted(30, 2)
    for change, alike in ((lambda data: data, True), (strangers_paired, False)):
        sample = sample_of(change(data)["train"], seed=0)
        found = cosines(small_images(sample.pixels), sample)
        impostors = found.scores[~found.genuine]
        assert (
            roc_auc(
                np.r_[impostors, found.strangers], np.arange(len(impostors) + len(found.strangers)) < len(impostors)
            )
            > 0.7
        ) == alike
