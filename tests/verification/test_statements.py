"""The report's statements: each question gets the answer that its figures give, with the reason."""

import copy

import pytest

from dcal_core.verification import statements
from dcal_core.verification.words import apart, number_text, ratio_text


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def bin_of(posterior, value, low, high):
    return {"posterior": posterior, "count": 9, "observed": estimate(value, low, high)}


@pytest.fixture
def found(result):
    """The result, to be changed."""
    return copy.deepcopy(result)


def test_the_headline_has_both_errors_at_the_frozen_threshold(found):
    found["metrics"] |= {"fmr": estimate(0.036, 0.006, 0.19), "fnmr": estimate(0.012, 0.004, 0.039)}
    assert statements.headline(found) == (
        "3.6 of 100 pairs of co-twins (0.6 to 19.0) are taken for one person, and 1.2 of 100 pairs of one person "
        "(0.4 to 3.9) for two people."
    )
    found["metrics"]["eer"] = estimate(0.4, 0.3, 0.5)
    assert statements.headline(found).startswith("Not shown to be better than guessing: 3.6 of 100")
    found["metrics"]["eer"] = estimate(0.1, None, None)
    assert statements.headline(found).startswith("How often the system errs cannot be told")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.8336, 0.8336, "“Same” from a score of 0.834 and “different” below it; no pair is undecided."),
        (0.4, 0.6, "“Same” from a score of 0.600, “different” below 0.400, and “undecided” between."),
        (0.83361, 0.83362, "“Same” from a score of 0.83362, “different” below 0.83361, and “undecided” between."),
        (0.8, 0.8 + 1e-15, "“undecided” between."),
    ],
)
def test_undecided_lies_between_scores_that_differ(found, low, high, words):
    found["verdict"]["thresholds"] |= {"different_below": low, "same_from": high}
    assert words in statements.limits(found)
    if low != high:
        first, second = apart(low, high)
        assert first != second and first in statements.limits(found)


COST = {
    "cllr": estimate(0.135, 0.067, 0.264),
    "cllr_min": estimate(0.082, 0.02, 0.247),
    "devpav": estimate(0.48, 0.18, 1.5),
}
CAUTIOUS = [bin_of(0.03, 0.003, 0.0005, 0.02), bin_of(0.97, 0.99, 0.98, 0.999)]
TOO_SURE = [bin_of(0.03, 0.2, 0.1, 0.3), bin_of(0.97, 0.9, 0.8, 0.99)]


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (COST | {"reliability": CAUTIOUS}, "In part, as far as 12 families can show: no range"),
        (COST | {"reliability": CAUTIOUS, "devpav": estimate(0.1, 0.05, 0.2)}, "Yes, as far as 12 families can show"),
        (COST | {"reliability": TOO_SURE}, "No, because in 1 of 2 ranges of probability the likelier answer is right"),
        (COST | {"reliability": [bin_of(0.97, 0.5, 0.3, 0.7)]}, "No, because in 1 of 1"),
        (COST | {"cllr": estimate(1.2, 0.8, 1.9)}, "No, because their cost, a Cllr of 1.200 bits"),
        (COST | {"cllr": estimate(0.9, 0.6, 1.3)}, "That cannot be told, because the interval"),
        (COST | {"cllr": estimate(0.2, None, None)}, "That cannot be told, because the interval"),
        (COST | {"cllr": estimate(0.3, 0.2, 0.4)}, "No, because they cost more than these scores need"),
        (COST | {"reliability": [{"posterior": 0.5, "count": 1, "observed": None}]}, "In part, as far as 12"),
        ({"reason": "scores do not separate"}, "There are none: scores do not separate."),
    ],
)
def test_whether_probabilities_can_be_trusted_is_answered_with_the_reason(found, calibration, words):
    assert statements.trust(found | {"calibration": calibration}).startswith(words)


def test_the_tendency_counts_the_points_below_the_diagonal(found):
    def told(*bins):
        return statements.tendency(found | {"calibration": {"reliability": list(bins)}})

    low, high = bin_of(0.5, 0.2, 0.1, 0.6), bin_of(0.5, 0.8, 0.7, 0.9)
    text = "2 of 3 points are below the diagonal, as if the probabilities of one person were too high"
    assert told(low, low, high) == f"{text}; the intervals of 2 reach the diagonal."
    assert told(low, low) == f"{text.replace('3', '2')}; the interval of each reaches it, so that may be chance."
    assert "one person were too low" in told(high, high) and "as if" not in told(low, high)
    assert told() == "" and statements.tendency(found | {"calibration": {"reason": "none"}}) == ""


def test_the_largest_ratio_is_explained(found):
    assert "at most 12, because 12 families were there to calibrate on" in statements.largest_ratio(found)
    assert statements.largest_ratio(found | {"calibration": {"reason": "none"}}) == ""
    assert [ratio_text(ratio) for ratio in (1.04, 9.96, 30, 99.4, 120, 1234.5)] == [
        "1",
        "10",
        "30",
        "99",
        "120",
        "1,234",
    ]


@pytest.mark.parametrize(
    ("twins", "words"),
    [
        (
            estimate(0.2, 0.1, 0.4),
            "No, less safe than against unrelated people: at a threshold that 1 % of unrelated",
        ),
        (estimate(0.026, 0.003, 0.22), "Not shown to be less safe than against unrelated people"),
        (estimate(0.026, None, None), "Not shown to be less safe"),
        (estimate(0.001, 0.0005, 0.002), "Yes, safer than against unrelated people"),
        (
            {"value": None, "reason": "not resolvable with 9 unrelated comparisons"},
            "That cannot be told: not resolvable",
        ),
    ],
)
def test_safety_against_twins_is_compared_with_strangers(found, twins, words):
    found["security"] = [{"fmr": 0.01, "twin_fmr": twins}]
    assert statements.safety(found).startswith(words)


def test_the_factor_of_safety_follows_from_the_rates_beside_it(found):
    found["security"] = [{"fmr": 0.000252, "twin_fmr": estimate(0.000504, 0.00001, 0.103)}]
    text = "that 0.025 % of unrelated pairs pass, 0.050 % (0.0010 to 10.3 %) of co-twins do, 2 times as many"
    assert text in statements.safety(found)


def test_rare_shares_have_two_digits_that_count():
    shares = (0, 1e-9, 0.00014, 0.0026, 0.026, 0.31)
    assert [number_text(one, "rare %") for one in shares] == [
        "0.0 %",
        "0.0000 %",
        "0.014 %",
        "0.26 %",
        "2.6 %",
        "31.0 %",
    ]


@pytest.mark.parametrize(
    ("devpav", "words"),
    [
        (estimate(0.1, 0.05, 0.2), "Yes: off by a factor of 1.3 on average, less than the limit of 2, as is"),
        (estimate(0.2, 0.1, 0.4), "Not certain: off by a factor of 1.6 on average, less than the limit of 2, but the"),
        (
            estimate(0.484, 0.177, 1.52),
            "Not certain: off by a factor of 3 on average, more than the limit of 2, but the interval (1.5 to 33) "
            "includes smaller ones. The devPAV is 0.484",
        ),
        (
            estimate(0.6, 0.4, 0.8),
            "Apparently not: off by a factor of 4 on average, more than the limit of 2, as is the whole interval (2.5",
        ),
        (estimate(0.6, None, None), "Not certain: off by a factor of 4 on average, more than the limit of 2, without"),
        ({"value": None, "reason": "not defined"}, "That cannot be told: devPAV is not defined"),
    ],
)
def test_ratios_are_called_right_within_a_factor_of_two(found, devpav, words):
    found["calibration"]["devpav"] = devpav | {"bold": 0.3}
    text = statements.calibrated(found)
    assert words in text
    if devpav["value"]:
        assert "30.0 % of that is where they are too bold, the rest where too timid" in text


def test_ratios_that_cost_more_than_none_at_a_prior_are_named(found):
    found["calibration"]["ece"] = {"prior": [-1.0, 0.0, 1.0], "ratios": [0.2, 0.1, 0.5], "none": [0.4, 1.0, 0.4]}
    assert statements.useful(found).endswith("No: not at log10 prior odds of 1.")
    found["calibration"]["ece"]["ratios"] = [0.2, 0.1, 0.3]
    assert "Yes" in statements.useful(found)


def test_both_propositions_stand_in_words(found):
    found["calibration"]["against_unrelated"] = {"families": 12}
    text = statements.propositions(found)
    assert "Proposition 2: they show two identical twins" in text and "two unrelated people instead" in text
    found["calibration"]["against_unrelated"] = None
    assert "instead" not in statements.propositions(found) and "at most 12, because 12 families" in text


def test_misleading_evidence_is_counted_or_denied(found):
    none = {"one_person": estimate(0.0, 0.0, 0.1), "impostors": estimate(0.0, 0.0, 0.1)}
    found["calibration"]["misleading"] = none
    assert statements.misleading(found).startswith("Does the evidence mislead? In no pair here: 0.0 of 100")
    found["calibration"]["misleading"] = none | {"impostors": estimate(0.02, 0.01, 0.1)}
    assert "At times: 2.0 of 100 pairs of co-twins (1.0 to 10.0) have" in statements.misleading(found)
    assert "second ratio" not in statements.misleading(found)
    second = {"one_person": estimate(0.03, 0.0, 0.1), "impostors": estimate(0.04, 0.01, 0.2)}
    found["calibration"]["against_unrelated"] = {"misleading": second}
    assert statements.misleading(found).endswith(
        " The second ratio is 1 or more in 4.0 of 100 pairs of unrelated people (1.0 to 20.0), and below 1 in 3.0 of "
        "100 pairs of one person (0.0 to 10.0)."
    )


def test_validation_and_test_eer_are_explained_where_they_differ(found):
    found["metrics"]["eer"] = estimate(0.022, 0.006, 0.066)
    found["threshold"]["eer"] = 0.002
    text = statements.flattery(found)
    assert "12 validation families is 0.2 %, that of the 12 test families 2.2 %" in text and "flatters" in text
    assert "chance" not in text
    found["threshold"]["eer"] = 0.03
    assert "chance" in statements.flattery(found) and "flatters" not in statements.flattery(found)


def test_mistakes_are_counted(found):
    found["metrics"] |= {"fmr": estimate(0.25, 0, 1), "fnmr": estimate(0.1, 0, 1)}
    assert statements.mistakes(found).startswith("75 of 300 pairs of co-twins and 24 of 240 pairs of one person")
