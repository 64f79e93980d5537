"""Estimates over families and their intervals, against hand-made cases and SciPy."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import ttest_1samp, ttest_rel
from scored_cases import bounds, drawn_families

from dcal_core.verification.intervals import (
    UNSEEN,
    effective_families,
    families_of_rarer_class,
    family_counts,
    mean_by_t,
    mean_share,
    paired_difference,
    rate_estimate,
    share_interval,
    shares,
)
from dcal_core.verification.words import estimate_in_words, of_100


def test_the_sample_comes_first_and_then_its_draws():
    rows = family_counts(4, draws=3, seed=7)
    np.testing.assert_array_equal(rows[0], np.ones(4))
    np.testing.assert_array_equal(rows[1:], drawn_families(4, 3, 7))


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
        ([0.5, 0.3, 0.7], 3, *share_interval([0.3, 0.7], 3)),
        ([0.5, 0.2, np.nan, 0.2], 3, 0.2, 0.2),  # an empty draw is left out
        ([0.5, np.nan], 3, None, None),
        ([0.5, 0.0, 1.0], 1, None, None),
        ([0.0, 0.0, 0.0], 3, 0, 1 - 0.05 ** (1 / 3)),  # so rare that three families miss it with a chance of 5 %
        ([1.0, 1.0, 1.0], 3, 0.05 ** (1 / 3), 1),
        ([0.0, 0.0, 0.4], 3, *share_interval([0.0, 0.4], 3)),  # the draws did see some
    ],
)
def test_intervals(rates, families, low, high):
    found = rate_estimate(np.array(rates), np.ones(families))
    assert bounds(found) == {"value": rates[0], "low": pytest.approx(low), "high": pytest.approx(high)}


def test_one_large_family_among_small_ones_widens_the_interval():
    rates = np.random.default_rng(0).uniform(0.2, 0.4, 200)
    even, uneven = (rate_estimate(rates, np.array(sizes)) for sizes in ([1] * 10, [1] * 9 + [30]))
    assert uneven["low"] < even["low"] and even["high"] < uneven["high"]


def test_interval_by_hand():
    # Log-odds -1 and 1 about a mean of one half: spread 1. Nine clusters: 9/8, and t of 4 degrees of freedom, 2.7764.
    values = expit([-1.0, 1.0])
    np.testing.assert_allclose(share_interval(values, 9), expit([-1.125 * 2.7764451, 1.125 * 2.7764451]))


def test_each_end_allows_for_more_families_like_the_worst():
    """The covariance of a mean's draws with a family's counts is what the family changes when it counts once more."""
    counts = family_counts(5, draws=20_000, seed=0)[1:]
    odds = np.array([-0.02, -0.01, 0.0, -0.01, 0.04])  # of each family, of which one is much harder than the others
    draws = expit(counts @ odds)  # centred on one half, where log-odds are straight
    plain, wider = (logit(share_interval(draws, 5, given)) for given in (None, counts))
    moved = np.mean(draws) + UNSEEN / 4 * np.array([-0.02, 0.04])  # of a share, a quarter of its log-odds
    np.testing.assert_allclose(wider - plain, logit(moved) - logit(np.mean(draws)), atol=0.002)
    assert share_interval(1 - draws, 5, counts) == pytest.approx(1 - expit(wider)[::-1])
    flat = share_interval(np.full(20_000, 0.3), 5, counts)
    np.testing.assert_allclose(flat, 0.3)


def test_few_families_set_no_bound_beyond_one_half():
    few, many = (mean_share([0, 0, 0, 1, 0] * n, range(5 * n)) for n in (1, 3))
    assert few["high"] > 0.5 and few["open"] == "high" and estimate_in_words(few, "%").startswith("20.0 % (at least ")
    assert "open" not in many
    turned = mean_share([1, 1, 1, 0, 1], range(5))
    assert turned["open"] == "low" and "(at most " in of_100(turned, "pairs")


def test_interval_is_mirrored_and_works_by_column():
    values = np.random.default_rng(0).beta(2, 30, (50, 3))
    low, high = share_interval(values, 31)
    assert ((low > 0) & (low < values.mean(0)) & (values.mean(0) < high)).all()
    assert (high - values.mean(0) > values.mean(0) - low).all()  # longer away from 0
    np.testing.assert_allclose(share_interval(1 - values, 31), [1 - high, 1 - low])
    np.testing.assert_allclose(share_interval(values[:, 1], 31), [low[1], high[1]])
    assert (share_interval(values, 10)[1] > high).all()


def test_interval_of_draws_without_errors():
    assert share_interval(np.zeros(9), 31).tolist() == [0, 0] and share_interval(np.ones(9), 31).tolist() == [1, 1]
    few = np.array([0.0, 0.01, 0.02, 0.01, 0.0, 0.02])
    low, high = share_interval(few, 31)
    assert 0 < low < 0.01 < 0.02 < high < 0.12
    assert logit(high) - logit(0.01) < 2 * 2.3  # a draw of 0 counts for no more than 2 in log-odds


def test_uneven_families_are_worth_fewer_even_ones():
    assert effective_families([7, 7, 7]) == pytest.approx(3)
    assert effective_families([1, 1, 4]) == pytest.approx(2)
    assert effective_families([0, 5, 5]) == pytest.approx(2)


def test_mean_counts_each_family_the_same_with_students_interval():
    values, family = [1.0, 3.0, 5.0, 9.0], ["x", "x", "y", "z"]  # families: 2, 5, 9
    found = mean_by_t(values, family)
    expected = ttest_1samp([2.0, 5.0, 9.0], 0).confidence_interval(0.95)
    assert found["value"] == pytest.approx(16 / 3)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert mean_by_t([1.0, 2.0], [7, 7]) == {"value": 1.5, "low": None, "high": None}


def test_share_stays_between_0_and_1_and_one_without_errors_is_not_sure():
    found = mean_share([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 2])
    assert found["value"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert 0 < found["low"] < found["value"] < found["high"] < 1
    sure = mean_share(np.ones(40), np.arange(40))
    assert sure == {"value": 1.0, "low": pytest.approx(0.05 ** (1 / 40)), "high": 1.0}


def test_an_interval_of_families_is_not_that_of_their_copies():
    once, copied = mean_share([0, 1, 1, 0, 1], range(5)), mean_share([0, 1, 1, 0, 1] * 9, list(range(5)) * 9)
    assert copied == pytest.approx(once)


@pytest.mark.parametrize("average", [mean_by_t, mean_share])
def test_values_that_are_not_finite_are_refused(average):
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        average([0.5, np.nan], [0, 1])


def test_differences_are_paired_within_the_families_of_both():
    found = paired_difference([1, 3, 5, 9, 70], [1, 1, 2, 3, 4], [4, 2, 5, -8], [3, 2, 1, 0])
    expected = ttest_rel([2, 5, 9], [5, 2, 4]).confidence_interval(0.95)
    assert found["value"] == pytest.approx(5 / 3)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert set(paired_difference([1.0], [0], [2.0], [1]).values()) == {None}
