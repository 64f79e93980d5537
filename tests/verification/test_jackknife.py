"""The quick interval of the EER beside the bootstrap, and what it cannot tell."""

import numpy as np
import pytest

from dcal_core.training.learning import LEARNT, NEAR_CHANCE
from dcal_core.verification.bootstrap import replicate_eer
from dcal_core.verification.jackknife import FEWEST, eer_low
from dcal_core.verification.metrics import equal_error_rate


def comparisons(families: int, apart: float, seed: int = 0, each: int = 20):
    """Scores of as many pairs of one person and of co-twins, `apart` by so many standard deviations, by family."""
    random = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), 2 * each)
    genuine = np.tile(np.repeat([True, False], each), families)
    easier = np.repeat(random.normal(0, 0.2, families), 2 * each)
    return random.normal(size=len(family)) + genuine * (apart + easier), genuine, family


@pytest.mark.parametrize("apart", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("families", [15, 26, 90])
def test_it_is_near_the_bootstraps(apart, families):
    for seed in range(5):
        scores, genuine, family = comparisons(families, apart, seed)
        eer, *drawn = replicate_eer(scores, genuine, family).values["eer"]
        low = eer_low(scores, genuine, family)
        assert 0.6 < (eer - low) / (2 * np.std(drawn)) < 1.7


@pytest.mark.parametrize("families", [FEWEST, 26, 90])
def test_what_has_learnt_is_seldom_taken_for_chance(families):
    """At an EER of 40 %, and of few images a person, in no more than one of twenty validations."""
    alarms = 0
    for seed in range(200):
        scores, genuine, family = comparisons(families, apart=0.507, seed=seed, each=4)
        near_chance = equal_error_rate(scores, genuine)[0] >= NEAR_CHANCE
        alarms += near_chance and eer_low(scores, genuine, family) > LEARNT
    assert alarms <= 10


def test_chance_is_seen_with_the_families_of_a_real_validation():
    lows = [eer_low(*comparisons(26, apart=0.0, seed=seed)) for seed in range(50)]
    assert np.mean(np.array(lows) > LEARNT) > 0.95


def test_few_families_tell_nothing():
    assert eer_low(*comparisons(FEWEST - 1, 0.0)) == 0.0 < eer_low(*comparisons(FEWEST, 0.0))


def test_families_of_one_class_are_not_counted():
    scores, genuine, family = comparisons(60, 0.0)
    kept = genuine | (family < FEWEST - 1)
    assert eer_low(scores[kept], genuine[kept], family[kept]) == 0.0
    kept = genuine | (family % 7 == 0)  # 9 families hold both
    assert 0 < eer_low(scores[kept], genuine[kept], family[kept]) < equal_error_rate(scores[kept], genuine[kept])[0]


def test_it_is_never_below_zero():
    assert eer_low(*comparisons(10, 9.0)) == 0.0
