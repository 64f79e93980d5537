import json

import numpy as np
import pytest
from scored_cases import bounds, clustered_case, drawn_families
from single_metrics import rates_at

from dcal_core.verification.comparisons import family_weights
from dcal_core.verification.intervals import effective_families, share_interval
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.verdict_rates import allowed_share, verdict_rates, verdict_thresholds
from dcal_core.verification.verdicts import Thresholds, verdicts


def spread_case(families=20, each=10, apart=1.5, seed=0):
    """Clustered scores with ties."""
    scores, genuine, family = clustered_case(families, each, apart, spread=0.5, seed=seed)
    return np.round(scores, 2), genuine, family


def own_families(scores):
    return np.arange(len(scores))


def test_hand_made_thresholds():
    scores = [0, 1, 2, 3, 6, 4, 5, 7, 8, 9]
    genuine = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    family = own_families(scores)
    # five families: at 1/3 one of them may be wrong, as a sixth would be. From 4 upwards one co-twin of five is, below
    # 5 one genuine of five: they cross, and the EER is reached in (4, 5]
    assert allowed_share(1 / 3, 5) == pytest.approx(0.2)
    assert verdict_thresholds(scores, genuine, family, 1 / 3) == Thresholds(4.5, 4.5)
    mixed = [0, 1, 2, 6.5, 6, 4, 5, 7, 8, 9]
    assert verdict_thresholds(mixed, genuine, family, 1 / 3) == Thresholds(5, 6.5)
    np.testing.assert_array_equal(verdicts([4.9, 5, 6.4, 6.5], Thresholds(5, 6.5)), [-1, 0, 0, 1])
    assert verdicts(scores, Thresholds(5, 5)).dtype == np.int8


@pytest.mark.parametrize("error", [0.05, 0.1, 0.2, 0.35])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("apart", [0.5, 1.5, 3])
def test_thresholds_are_the_widest_that_keep_the_error(error, seed, apart):
    scores, genuine, family = spread_case(apart=apart, seed=seed)
    found = verdict_thresholds(scores, genuine, family, error)
    error = allowed_share(error, 20)
    assert rates_at(scores, genuine, found.same_from)[0] <= error
    assert rates_at(scores, genuine, found.different_below)[1] <= error
    if found.different_below < found.same_from:
        lower = scores[scores < found.same_from].max()
        higher = scores[scores > found.different_below].min()
        assert rates_at(scores, genuine, lower)[0] > error and rates_at(scores, genuine, higher)[1] > error
    else:
        assert (verdicts(scores, found) != 0).all()


def test_an_eer_one_score_outside_still_keeps_the_error():
    # FMR is 0.4 from 4.5 to 6, FNMR 0.1, 0.2 and 0.5 at 4.5, 5 and 6: the EER's threshold is between 5 and 6
    scores, genuine = [1, 4.5, 5, 5, 5, 7, 7, 7, 7, 7, *[2, 3, 4, 6, 6] * 2], [1] * 10 + [0] * 10
    assert allowed_share(0.46, 10) == pytest.approx(0.406)
    assert 5 < equal_error_rate(scores, genuine)[1] < 6
    assert verdict_thresholds(scores, genuine, own_families(scores), 0.46) == Thresholds(5, 5)


def test_hopeless_scores_leave_everything_undecided():
    scores, genuine = [0] * 10 + [9] * 10, [1] * 10 + [0] * 10
    found = verdict_thresholds(scores, genuine, own_families(scores), 0.1)
    assert found.different_below == 0 and 9 < found.same_from < 9.001
    assert not verdicts([0, 9], found).any()
    json.dumps(vars(found), allow_nan=False)


def undecided(families, error=0.05, cases=40):
    """The mean share of undecided pairs of other families, by limits from so many."""
    shares = []
    for seed in range(cases):
        found = verdict_thresholds(*spread_case(families, apart=4, seed=seed), error)
        shares.append(np.mean(verdicts(spread_case(40, apart=4, seed=1000 + seed)[0], found) == 0))
    return np.mean(shares)


def test_fewer_families_are_more_cautious():
    shares = [undecided(families) for families in (3, 6, 12, 19, 30, 90)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[-1]


def test_few_families_look_beyond_their_worst_pair():
    """Normal scores, one pair of a kind in each family: Student's prediction bound holds the next in 97.5 of 100."""
    random = np.random.default_rng(0)
    genuine, family = np.repeat([True, False], 5), np.tile(np.arange(5), 2)
    wrong = np.zeros(2)
    for _ in range(1000):
        scores = np.concatenate([random.normal(0, 1, 5), random.normal(0, 1, 5)])
        found = verdict_thresholds(scores, genuine, family, 0.05)
        wrong += random.normal() < found.different_below, random.normal() >= found.same_from
    assert ((wrong > 10) & (wrong < 42)).all()


def test_verdicts_take_two_families():
    scores, genuine, family = spread_case()
    alone = genuine | (family < 1)
    with pytest.raises(ValueError, match="at least 2 families, got 1"):
        verdict_thresholds(scores[alone], genuine[alone], family[alone], 0.1)


def test_bad_input_is_refused():
    for error in (0, 0.5, -1, np.nan):
        with pytest.raises(ValueError, match="error must lie between 0 and 0.5"):
            verdict_thresholds(*spread_case(), error)
    for lower, upper in ((2, 1), (np.nan, 1), (0, np.inf)):
        with pytest.raises(ValueError, match="different_below must not exceed same_from"):
            Thresholds(lower, upper)
    with pytest.raises(ValueError, match="1 of 2 scores are not a number"):
        verdicts([0, np.nan], Thresholds(0, 1))
    with pytest.raises(ValueError, match="draws must be at least 1"):
        verdict_rates(*spread_case(), Thresholds(0, 1), draws=0)


NAMES = [(kind, name) for kind in ("genuine", "impostor") for name in ("different", "undecided", "same")]


def naive_rates(scores, genuine, thresholds, weights):
    low = scores < thresholds.different_below
    high = scores >= thresholds.same_from
    outcomes = low, ~low & ~high, high
    rates = [np.average(outcome[part], weights=weights[part]) for part in (genuine, ~genuine) for outcome in outcomes]
    return [*rates, np.average((high != genuine)[low | high], weights=weights[low | high])]


@pytest.mark.parametrize("even", [False, True])
def test_rates_equal_a_naive_loop(even):
    scores, genuine, family = spread_case(6)
    kept = np.random.default_rng(4).random(len(scores)) < 0.7  # families of unequal sizes
    scores, genuine, family = scores[kept], genuine[kept], family[kept]
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    thresholds, replicates = Thresholds(0.3, 1.3), []
    drawn = drawn_families(6, draws=40, seed=5)
    for counts in drawn:
        chosen = np.concatenate([np.flatnonzero(family == f) for f in np.repeat(np.arange(6), counts)])
        replicates.append(naive_rates(scores[chosen], genuine[chosen], thresholds, weights[chosen]))
    answered = (scores < 0.3) | (scores >= 1.3)
    of_columns = [genuine] * 3 + [~genuine] * 3 + [answered]
    clusters = [effective_families(np.bincount(family[part], weights[part])) for part in of_columns]
    ends = [share_interval(column, n, drawn) for column, n in zip(np.transpose(replicates), clusters, strict=True)]
    values = naive_rates(scores, genuine, thresholds, weights)
    found = verdict_rates(scores, genuine, 7 * family, thresholds, draws=40, seed=5, weights=weights)
    for column, estimate in enumerate([*(found[kind][name] for kind, name in NAMES), found["wrong"]]):
        expected = {"value": values[column], "low": ends[column][0], "high": ends[column][1]}
        assert bounds(estimate) == pytest.approx(expected)
    for kind in ("genuine", "impostor"):
        assert sum(share["value"] for share in found[kind].values()) == pytest.approx(1)


def test_no_verdict_and_no_error_are_told_apart():
    family, genuine = np.repeat(np.arange(31), 2), np.tile([True, False], 31)
    silent = verdict_rates(genuine * 1.0, genuine, family, Thresholds(-5, 5), draws=20)
    assert silent["wrong"] == {"value": None, "reason": "no comparison got a verdict"}
    assert silent["genuine"]["undecided"]["value"] == 1
    sure = verdict_rates(genuine * 1.0, genuine, family, Thresholds(0.5, 0.5), draws=20)
    assert sure["wrong"] == {"value": 0, "low": 0, "high": pytest.approx(1 - 0.05 ** (1 / 31))}
    one = verdict_rates([1, 0], [1, 0], [0, 0], Thresholds(0.5, 0.5), draws=20)
    assert one["wrong"] == {"value": 0, "low": None, "high": None}
    json.dumps([silent, sure, one], allow_nan=False)
