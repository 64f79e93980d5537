import numpy as np
import pytest

from dcal_core.verification.bootstrap import draw_families, interval
from dcal_core.verification.family_rates import (
    class_sizes,
    estimate,
    families_of_rarer_class,
    shares,
    tabulate,
    with_draws,
)


def test_the_sample_comes_first_and_then_its_draws():
    rows = with_draws(4, draws=3, seed=7)
    np.testing.assert_array_equal(rows[0], np.ones(4))
    np.testing.assert_array_equal(rows[1:], draw_families(4, 3, 7))


def test_weights_are_tabulated_by_family_and_cell():
    member, cell, weights = np.array([0, 1, 1, 1]), np.array([1, 0, 0, 2]), np.array([1.0, 2.0, 0.5, 4.0])
    np.testing.assert_array_equal(tabulate(member, cell, weights, 3, 3), [[0, 1, 0], [2.5, 0, 4], [0, 0, 0]])


def test_each_class_has_its_weight_in_each_family():
    genuine = np.array([True, True, False, False])
    np.testing.assert_array_equal(class_sizes(genuine, np.array([0, 1, 0, 0]), np.ones(4), 2), [[1, 1], [2, 0]])
    weights = np.array([1, 0, 1, 1])
    np.testing.assert_array_equal(class_sizes(genuine, np.array([0, 1, 0, 1]), weights, 2), [[1, 0], [1, 1]])


def test_families_count_where_the_rarer_class_has_weight():
    genuine, family = np.array([1, 1, 1, 0, 0, 0], dtype=bool), np.array([7, 8, 9, 7, 7, 9])
    assert families_of_rarer_class(genuine, family) == 2  # impostors: families 7 and 9
    assert families_of_rarer_class(~genuine, family) == 2
    assert families_of_rarer_class(genuine, family, np.array([0.5, 0, 0, 1, 1, 1])) == 1  # genuine: family 7
    assert families_of_rarer_class(genuine, family, np.array([1, 1, 1, 0, 0.5, 0])) == 1
    assert families_of_rarer_class(genuine[:3], family[:3]) == 0


def test_shares_of_an_empty_draw_are_no_number():
    np.testing.assert_array_equal(shares(np.array([[1.0, 3.0], [0.0, 0.0]])), [[0.25, 0.75], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("rates", "families", "low", "high"),
    [
        ([0.5, 0.3, 0.7], 3, *interval([0.3, 0.7], 3)),
        ([0.5, 0.2, np.nan, 0.2], 3, 0.2, 0.2),  # an empty draw is left out
        ([0.5, np.nan], 3, None, None),
        ([0.5, 0.0, 1.0], 1, None, None),
        ([0.0, 0.0, 0.0], 3, 0, 1 - 0.05 ** (1 / 3)),  # so rare that three families miss it with a chance of 5 %
        ([1.0, 1.0, 1.0], 3, 0.05 ** (1 / 3), 1),
        ([0.0, 0.0, 0.4], 3, *interval([0.0, 0.4], 3)),  # the draws did see some
    ],
)
def test_intervals(rates, families, low, high):
    found = estimate(np.array(rates), np.ones(families))
    assert found == {"value": rates[0], "low": pytest.approx(low), "high": pytest.approx(high)}


def test_one_large_family_among_small_ones_widens_the_interval():
    rates = np.random.default_rng(0).uniform(0.2, 0.4, 200)
    even, uneven = (estimate(rates, np.array(sizes)) for sizes in ([1] * 10, [1] * 9 + [30]))
    assert uneven["low"] < even["low"] and even["high"] < uneven["high"]
