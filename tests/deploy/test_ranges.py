"""Limits of the validated range: where planted errors begin, else what was seen."""

import numpy as np
import pytest

from dcal_core.deploy.ranges import MEASURES, RISES, SEEN, fit_range, outside, range_in_words, rising


def comparisons(families=40, each=30, images=400, seed=0):
    """Random faces and pairs of them, with a family each."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, images, (2, families * each))
    return random, random.uniform(0, 1, images), a, b, np.repeat(np.arange(families), each)


def test_a_limit_is_where_errors_begin_to_rise():
    random, values, a, b, family = comparisons()
    worse = np.minimum(values[a], values[b])
    wrong = random.uniform(0, 1, len(a)) < np.where(worse < 0.15, 0.6, 0.05)
    limit = rising(worse, wrong, family)
    edges = np.quantile(worse, np.arange(1, 8) / 8)
    assert limit in edges and 0.1 < limit < 0.3


@pytest.mark.parametrize("rate", [0.0, 0.05, 1.0])
def test_no_limit_is_made_of_errors_that_do_not_rise(rate):
    random, values, a, b, family = comparisons()
    assert rising(np.minimum(values[a], values[b]), random.uniform(0, 1, len(a)) < rate, family) is None


def test_errors_of_one_family_make_no_limit():
    _, values, a, b, family = comparisons()
    worse = np.where(family == 3, 0.01, 0.5 + values[a] / 2)
    assert rising(worse, family == 3, family) is None


def test_limits_of_every_measure_and_what_lies_beyond_them():
    random, values, a, b, family = comparisons()
    wrong = random.uniform(0, 1, len(a)) < np.where(np.maximum(values[a], values[b]) > 0.9, 0.7, 0.02)
    faces = [{"turn_deg": value, "sharpness": 0.3 + value, "light": 100 * value} for value in values]
    found = fit_range(faces, a, b, wrong, family)
    assert set(found) == {"turn_deg", "sharpness", "light"} < set(MEASURES)
    assert found["turn_deg"]["high_because"] == RISES and 0.7 < found["turn_deg"]["high"] < 0.97
    used = values[np.unique([a, b])]
    assert found["sharpness"] == {"low": pytest.approx(0.3 + used.min()), "low_because": SEEN}
    assert found["light"]["high_because"] == RISES and found["light"]["low_because"] == SEEN
    assert outside(faces[int(np.argmin(abs(values - 0.5)))], found) == []
    reasons = outside({"turn_deg": 2.0, "sharpness": 0.1, "light": 50.0}, found)
    limits = found["turn_deg"]["high"], found["sharpness"]["low"]
    assert reasons == [
        f"is turned 2 degrees to the side (validated to {limits[0]:.3g})",
        f"is blurred (sharpness 0.1, validated from {limits[1]:.3g})",
    ]
    assert outside({"light": 50.0}, found) == []  # what was not measured limits nothing


def test_a_value_close_to_its_limit_is_told_apart_from_it():
    assert outside({"light": 203.64}, {"light": {"high": 203.61, "low": 60.0}}) == [
        "is bright (mean grey value 203.64, validated to 203.61)"
    ]
    ends = [(name, end) for name, measure in MEASURES.items() for end in ("low", "high") if getattr(measure, end)]
    for name, end in ends:
        (reason,) = outside({name: 7.0}, {name: {end: 8.0 if end == "low" else 6.0}})
        assert f"validated {'from 8' if end == 'low' else 'to 6'})" in reason and " 7" in reason


def test_the_limits_stand_in_words():
    limits = {"sharpness": {"low": 0.30840, "low_because": SEEN}, "light": {"low": 66.63, "high": 203.6}}
    assert range_in_words(limits) == (
        "sharpness at least 0.308, mean grey value at least 66.6, mean grey value at most 204"
    )
