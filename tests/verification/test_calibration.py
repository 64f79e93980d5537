import json
from math import inf, log, log2, nan

import numpy as np
import pytest
from scored_cases import bounds, drawn_families
from single_metrics import cllr, cllr_min
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dcal_core.verification.calibrating import (
    cllr_estimate,
    cllr_min_estimate,
    fit_isotonic,
    fit_logistic,
    reliability,
)
from dcal_core.verification.calibration import Isotonic, Logistic, from_dict
from dcal_core.verification.comparisons import family_weights
from dcal_core.verification.intervals import effective_families, share_interval


def normal_case(families=40, genuine_each=20, impostor_each=10, apart=2.0, seed=0):
    """Scores N(0, 1) of impostors and N(apart, 1) of genuine comparisons: their true LLR is apart * s - apart^2 / 2."""
    rng = np.random.default_rng(seed)
    genuine = np.repeat([True, False], [families * genuine_each, families * impostor_each])
    family = np.concatenate([np.repeat(np.arange(families), each) for each in (genuine_each, impostor_each)])
    return apart * genuine + rng.normal(size=len(family)), genuine, family


fits = pytest.mark.parametrize("fit", [fit_logistic, fit_isotonic])
LIKE_SAMPLE = [1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1], [0, 0, 1, 1]


def test_logistic_finds_the_true_ratio_whatever_the_class_sizes():
    for sizes in ((50, 50), (80, 10), (10, 80)):
        found = fit_logistic(*normal_case(200, *sizes))
        assert found.slope == pytest.approx(2, rel=0.05)
        assert found.intercept == pytest.approx(-2, abs=0.1)


def test_logistic_equals_an_unbounded_regression_where_scores_overlap():
    scores, genuine, family = normal_case()
    theirs = LogisticRegression(C=inf, class_weight="balanced", tol=1e-10).fit(scores[:, None], genuine)
    found = fit_logistic(scores, genuine, family)
    assert found.slope == pytest.approx(theirs.coef_[0, 0], rel=0.01)
    assert found.intercept == pytest.approx(theirs.intercept_[0], rel=0.01)


@fits
def test_ratios_follow_a_rescaling_of_the_scores(fit):
    scores, genuine, family = normal_case()
    here = fit(scores, genuine, family).llr(scores)
    there = fit(0.001 * scores + 70, genuine, family).llr(0.001 * scores + 70)
    np.testing.assert_allclose(here, there, atol=1e-6)
    assert here.std() > 1


@fits
def test_whole_weights_are_repetitions(fit):
    scores, genuine, family = normal_case(10)
    weights = np.random.default_rng(1).integers(0, 3, len(scores))
    repeated = (np.repeat(values, weights) for values in (scores, genuine, family))
    np.testing.assert_allclose(fit(scores, genuine, family, weights).llr(scores), fit(*repeated).llr(scores), atol=1e-6)


@fits
def test_separable_scores_say_no_more_than_their_families(fit):
    for families in (2, 31):
        genuine = np.repeat([True, False], 4 * families)
        family = np.tile(np.repeat(np.arange(families), 4), 2)
        calibration = fit(genuine + 0.01 * family, genuine, family)
        llr = calibration.llr(np.array([-1e9, 0, 1.5, 1e9]))
        assert abs(llr[[0, -1]]) == pytest.approx(log(families)) and llr[0] < 0 < llr[-1]
        assert (np.diff(llr) >= 0).all() and np.isfinite(llr).all()


def test_the_prior_alone_bounds_the_slope_of_separable_scores():
    found = fit_logistic([0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1])  # standardised -1 and 1, two families a class
    slope = found.slope / 2
    assert 2 * 2 / (1 + np.exp(slope)) == pytest.approx(slope / 100, rel=1e-5)  # pull of the data, of the prior
    assert found.intercept == pytest.approx(-slope)


@fits
def test_the_rarer_class_bounds_the_ratio(fit):
    scores, genuine, family = normal_case(12)
    kept = genuine | (family < 7)  # five families have no co-twin
    calibration = fit(scores[kept], genuine[kept], family[kept])
    assert calibration.families == 7
    assert fit(scores, genuine, family, kept).families == 7  # nor does a comparison without weight
    assert calibration.llr([1e6]) == pytest.approx([log(7)])


def test_isotonic_pools_violators():
    found = fit_isotonic([1, 2, 3, 4, 5, 6], [0, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1])
    assert found.scores == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(found.llrs, [-log(2), -log(2), 0, 0, log(2), log(2)])
    np.testing.assert_allclose(found.llr([0, 2.5, 3.5, 9]), [-log(2), -log(2) / 2, 0, log(2)])


def test_isotonic_balances_the_classes():
    scores, genuine = [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]  # at 0 a third of all genuine and all impostors
    few = fit_isotonic(scores, genuine, [0, 0, 1, 1, 0, 1])
    np.testing.assert_allclose(few.llr([0, 1]), [-log(2), log(2)])  # two families show no ratio beyond 2
    many = fit_isotonic(scores * 5, genuine * 5, np.arange(30))
    np.testing.assert_allclose(many.llr([0, 1]), [-log(3), log(15)])


@fits
def test_a_calibration_survives_json(fit):
    scores, genuine, family = normal_case()
    weights = family_weights(family, genuine)
    calibration = fit(scores, genuine, family, weights)
    again = from_dict(json.loads(json.dumps(calibration.as_dict(), allow_nan=False)))
    assert again == calibration == fit(scores, genuine, family, weights)
    np.testing.assert_array_equal(again.llr(scores), calibration.llr(scores))


LOGISTIC = Logistic(2.0, -1.0, 31).as_dict()
ISOTONIC = Isotonic([0.0, 1.0], [-1.0, 1.0], 31).as_dict()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "kind must be one of logistic, isotonic, got None"),
        (LOGISTIC | {"kind": ["logistic"]}, "kind must be one of"),
        (LOGISTIC | {"kind": "platt"}, "got 'platt'"),
        (LOGISTIC | {"more": 1}, "kind logistic takes slope, intercept, families"),
        ({"kind": "logistic"}, "kind logistic takes"),
        (LOGISTIC | {"slope": nan}, "finite numbers"),
        (LOGISTIC | {"slope": "2"}, "finite numbers"),
        (LOGISTIC | {"slope": True}, "finite numbers"),
        (LOGISTIC | {"intercept": 10**400}, "finite numbers"),
        (LOGISTIC | {"intercept": [1.0]}, "finite numbers"),
        (LOGISTIC | {"slope": 0.0}, "slope must be positive"),
        (LOGISTIC | {"families": 1}, "families must be a whole number of at least 2"),
        (LOGISTIC | {"families": 31.0}, "families must be a whole number"),
        (ISOTONIC | {"scores": []}, "finite numbers"),
        (ISOTONIC | {"scores": "01"}, "finite numbers"),
        (ISOTONIC | {"llrs": [0.0, inf]}, "finite numbers"),
        (ISOTONIC | {"llrs": [0.0]}, "as many llrs as scores, got 1 and 2"),
        (ISOTONIC | {"scores": [1.0, 1.0]}, "scores must rise"),
        (ISOTONIC | {"llrs": [1.0, 0.0]}, "llrs must not fall"),
    ],
)
def test_a_record_of_nonsense_is_refused(record, message):
    with pytest.raises(ValueError, match=message):
        from_dict(record)


@pytest.mark.parametrize("scores", [[4.0, 3.0, 2.0, 1.0], [0.1, 0.1, 0.1, 0.1], [1.0, 0.0, 1.0, 0.0]])
def test_scores_in_the_wrong_direction_are_refused(scores):
    with pytest.raises(ValueError, match="do not separate in the right direction"):
        fit_logistic(scores, *LIKE_SAMPLE[1:])


@fits
def test_bad_input_is_refused(fit):
    scores, genuine, family = LIKE_SAMPLE
    with pytest.raises(ValueError, match="at least 2 families, got 1"):
        fit(scores, genuine, [0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"family must be \[P\]"):
        fit(scores, genuine, [0])
    with pytest.raises(ValueError, match="not finite"):
        fit([nan, *scores[1:]], genuine, family)
    with pytest.raises(ValueError, match=r"finite numbers \[P\]"):
        fit(*LIKE_SAMPLE).llr([0.0, nan])


def naive_cllr(llr, genuine):
    same = [log2(1 + np.exp(-value)) for value, same in zip(llr, genuine, strict=True) if same]
    twins = [log2(1 + np.exp(value)) for value, same in zip(llr, genuine, strict=True) if not same]
    return (sum(same) / len(same) + sum(twins) / len(twins)) / 2


def naive_pav(scores, genuine):
    """The posterior at equal priors as max over starts of min over ends of the mean between them."""
    weight = {True: 1 / sum(genuine), False: 1 / (len(genuine) - sum(genuine))}
    levels = sorted(set(scores))
    at = [[weight[bool(g)] * np.array([g, 1]) for s, g in zip(scores, genuine, strict=True) if s == v] for v in levels]
    at = [np.sum(level, axis=0) for level in at]

    def mean(first, last):
        same, both = np.sum(at[first : last + 1], axis=0)
        return same / both

    posterior = {}
    for here, level in enumerate(levels):
        posterior[level] = max(min(mean(a, b) for b in range(here, len(levels))) for a in range(here + 1))
    return np.array([posterior[score] for score in scores])


def test_cllr_has_known_answers():
    genuine = [1, 1, 0]
    assert cllr([0, 0, 0], genuine) == 1
    assert cllr([1e3, 1e3, -1e3], genuine) == 0
    assert cllr([-log(3), -log(3), log(3)], genuine) == pytest.approx(2)  # misleading: log2(1 + 3)
    assert cllr([log(3), 0, -log(3)], genuine) == pytest.approx(((log2(4 / 3) + 1) / 2 + log2(4 / 3)) / 2)
    assert cllr([1e4, 0, 0], [0, 1, 1]) > 7000  # finite, however wrong


def test_cllr_equals_a_naive_loop_and_scikit_learn():
    scores, genuine, _ = normal_case(5)
    assert cllr(scores, genuine) == pytest.approx(naive_cllr(scores, genuine))
    balance = np.where(genuine, 1 / genuine.sum(), 1 / (~genuine).sum())
    theirs = log_loss(genuine, 1 / (1 + np.exp(-scores)), sample_weight=balance) / log(2)
    assert cllr(scores, genuine) == pytest.approx(theirs)


def test_cllr_min_has_known_answers():
    assert cllr_min([1, 2, 3, 4], [0, 0, 1, 1]) == 0
    assert cllr_min([1, 2, 3, 4], [1, 1, 0, 0]) == pytest.approx(1)
    assert cllr_min([7, 7, 7], [1, 0, 0]) == pytest.approx(1)
    assert cllr_min([1, 2, 3, 4], [0, 1, 0, 1]) == pytest.approx(0.5)  # half of either class in one pool


@pytest.mark.parametrize("levels", [1, 5, 1000])
def test_cllr_min_equals_a_naive_loop_and_is_the_least(levels):
    scores, genuine, family = normal_case(4, 6, 3)
    scores = np.round(scores * levels) / levels
    posterior = naive_pav(scores, genuine)
    with np.errstate(divide="ignore"):
        llr = np.log(posterior / (1 - posterior))
    assert cllr_min(scores, genuine) == pytest.approx(naive_cllr(llr, genuine))
    assert cllr_min(np.exp(scores), genuine) == pytest.approx(cllr_min(scores, genuine))
    for fit in (fit_logistic, fit_isotonic):
        assert cllr_min(scores, genuine) <= cllr(fit(scores, genuine, family).llr(scores), genuine) + 1e-12


def test_whole_weights_are_repetitions_in_cllr():
    scores, genuine, _ = normal_case(5)
    weights = np.random.default_rng(1).integers(0, 3, len(scores))
    repeated = np.repeat(scores, weights), np.repeat(genuine, weights)
    assert cllr(scores, genuine, weights) == pytest.approx(cllr(*repeated))
    assert cllr_min(scores, genuine, weights) == pytest.approx(cllr_min(*repeated))


def test_calibration_helps_families_it_has_not_seen():
    fitted = fit_logistic(*normal_case(apart=2))
    scores, genuine, _ = normal_case(400, apart=2, seed=1)
    least = cllr_min(scores, genuine)
    assert least <= cllr(fitted.llr(scores), genuine) < least + 0.02 < cllr(scores, genuine)


def naive_share(inside, genuine, weights):
    same = weights[inside & genuine].sum() / weights[genuine].sum()
    twins = weights[inside & ~genuine].sum() / weights[~genuine].sum()
    return same / (same + twins)


@pytest.mark.parametrize("even", [False, True])
def test_reliability_equals_a_naive_loop(even):
    scores, genuine, family = normal_case(8, apart=1)
    kept = np.random.default_rng(4).random(len(scores)) < 0.6  # families of unequal sizes
    scores, genuine, family = scores[kept], genuine[kept], 3 * family[kept] + 1
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    found = reliability(scores, genuine, family, bins=4, draws=50, seed=2, weights=weights)
    posterior = 1 / (1 + np.exp(-scores))
    assert [(b["from"], b["to"]) for b in found] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert sum(b["count"] for b in found) == len(scores)
    balanced = weights / np.where(genuine, weights[genuine].sum(), weights[~genuine].sum())
    for number, b in enumerate(found):
        inside = np.floor(posterior * 4) == number
        drawn = []
        for counts in drawn_families(8, 50, 2):
            drawn.append(naive_share(inside, genuine, weights * counts[(family - 1) // 3]))
        families = effective_families(np.bincount(family[inside], balanced[inside]))
        low, high = share_interval(drawn, families, drawn_families(8, 50, 2))
        expected = {"value": naive_share(inside, genuine, weights), "low": low, "high": high}
        assert bounds(b["observed"]) == pytest.approx(expected)
        assert b["posterior"] == pytest.approx(np.average(posterior[inside], weights=balanced[inside]))


def test_true_ratios_are_reliable_and_bold_ones_are_not():
    scores, genuine, family = normal_case(300, apart=2)
    llr = 2 * scores - 2
    within = [
        b["observed"]["low"] <= b["posterior"] <= b["observed"]["high"] for b in reliability(llr, genuine, family)
    ]
    assert sum(within) >= 9
    first, *_, last = reliability(5 * llr, genuine, family)
    assert first["observed"]["low"] > first["posterior"] and last["observed"]["high"] < last["posterior"]


def test_a_bin_of_few_families_is_not_drawn():
    family = np.repeat(np.arange(6), 2)
    genuine = np.tile([True, False], 6)
    llr = np.where(genuine, 5.0, -5.0)
    llr[family < 4] *= 0.1  # the outer bins hold two families, the middle ones four
    low, *middle, high = reliability(llr, genuine, family, draws=20)
    assert (low["count"], low["families"], low["observed"]) == (2, 2, None)
    assert all(b["observed"] is None for b in (*middle, high)) and middle[0]["posterior"] is None
    assert [b["count"] for b in reliability(0 * llr, genuine, family, bins=2)] == [0, 12]  # an edge opens its bin
    whole = reliability(np.where(genuine, 5.0, -5.0), genuine, family, draws=20)
    assert bounds(whole[-1]["observed"]) == {"value": 1, "low": pytest.approx(0.05 ** (1 / 6)), "high": 1}
    json.dumps(whole, allow_nan=False)
    for change, message in (({"bins": 0}, "bins must be"), ({"draws": 0}, "draws must be")):
        with pytest.raises(ValueError, match=message):
            reliability(llr, genuine, family, **change)


@pytest.mark.parametrize("even", [False, True])
def test_cllr_with_its_interval_equals_a_naive_loop(even):
    scores, genuine, family = normal_case(8, apart=1)
    scores = scores.round(1)  # with ties
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    options = {"draws": 20, "seed": 3, "weights": weights}
    found = {"cllr": cllr_estimate(2 * scores, genuine, family, **options)}
    found["cllr_min"] = cllr_min_estimate(scores, genuine, family, **options)
    drawn = {"cllr": [], "cllr_min": []}
    for counts in drawn_families(8, 20, 3):
        of_draw = weights * counts[family]
        drawn["cllr"].append(cllr(2 * scores, genuine, of_draw))
        drawn["cllr_min"].append(cllr_min(scores, genuine, of_draw))
    clusters = effective_families(np.bincount(family, weights))
    for name, value in (("cllr", cllr(2 * scores, genuine, weights)), ("cllr_min", cllr_min(scores, genuine, weights))):
        bits = np.array(drawn[name])
        low, high = (
            share / (1 - share) for share in share_interval(bits / (1 + bits), clusters, drawn_families(8, 20, 3))
        )
        assert bounds(found[name]) == pytest.approx({"value": value, "low": low, "high": high}) and low < value < high


@pytest.mark.filterwarnings("error")
def test_draws_without_a_class_are_left_out_and_equal_costs_have_no_interval():
    scores, genuine, family = np.array([2.0, 3, 1, 0]), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    found = cllr_estimate(scores - 1.5, genuine, family, draws=50)  # every usable draw is the sample itself
    assert found == {"value": pytest.approx(cllr(scores - 1.5, genuine)), "low": None, "high": None}
    assert cllr_min_estimate(scores, genuine, family, draws=50) == {"value": 0, "low": None, "high": None}
