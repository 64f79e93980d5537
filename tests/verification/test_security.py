import json
import time

import numpy as np
import pytest
from scored_cases import bounds, clustered_case, drawn_families
from single_metrics import rates_at

from dcal_core.verification import security as module
from dcal_core.verification.comparisons import family_weights
from dcal_core.verification.intervals import effective_families, share_interval
from dcal_core.verification.protocol import Unrelated
from dcal_core.verification.security import security

NAMES = ("unrelated_fmr", "twin_fmr", "fnmr")


def strangers(families=8, images=6, seed=0, digits=2):
    """All comparisons of different families; two families that look alike hold most of the upper tail."""
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), images)
    first, second = np.triu_indices(len(family), k=1)
    kept = family[first] != family[second]
    a, b = family[first[kept]], family[second[kept]]
    scores = rng.normal(size=len(a)) + 1.0 * ((a == 0) & (b == 1))
    return Unrelated(np.round(scores, digits), a, b)


def twins(families=8, each=8, seed=1):
    """Clustered scores above those of strangers, with ties, of families of unequal sizes."""
    rng = np.random.default_rng(seed)
    scores, genuine, family = clustered_case(families, each, spread=0.5, seed=rng)
    kept = rng.random(len(family)) < 0.7
    return np.round(1.5 + scores[kept], 2), genuine[kept], family[kept]


def naive(scores, genuine, weights, unrelated_scores, fmr):
    """The lowest threshold whose FMR keeps the limit, tried one after the other, and the three rates there."""
    for score in sorted(set(unrelated_scores), reverse=True):
        if np.mean(unrelated_scores >= score) > fmr:
            break
    threshold = np.nextafter(score, np.inf)
    return threshold, np.mean(unrelated_scores > score), *rates_at(scores, genuine, threshold, weights)


def test_known_answer():
    unrelated = Unrelated(np.arange(300.0), np.zeros(300, int), np.ones(300, int))
    # a tenth of 300 may match: 270 and above, so that the threshold lies just beyond 269
    scores, genuine, family = [270, 280, 269, 100, 269.5, 269, 400], [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 1, 0]
    (found,) = security(scores, genuine, family, unrelated, fmrs=(0.1,), draws=50)
    assert found["threshold"] == np.nextafter(269, np.inf)
    assert [found[name]["value"] for name in NAMES] == [0.1, pytest.approx(2 / 3), 0.5]


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("top", [1, 2, 1000])  # of the highest scores looked at first
def test_bootstrap_equals_a_naive_loop(monkeypatch, even, top):
    monkeypatch.setattr(module, "_TOP", top)
    (scores, genuine, family), unrelated = twins(), strangers()
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    fmrs, replicates = (0.1, 0.03), {0.1: [], 0.03: []}
    drawn = drawn_families(8, draws=25, seed=3)
    for counts in drawn:
        of_draw = np.repeat(unrelated.scores, counts[unrelated.family_a] * counts[unrelated.family_b])
        chosen = np.concatenate([np.flatnonzero(family == f) for f in np.repeat(np.arange(8), counts)])
        for fmr in fmrs:
            replicates[fmr].append(naive(scores[chosen], genuine[chosen], weights[chosen], of_draw, fmr)[1:])
    renamed = Unrelated(unrelated.scores, 5 * unrelated.family_a, 5 * unrelated.family_b)
    found = security(scores, genuine, 5 * family, renamed, fmrs, draws=25, seed=3, weights=weights)
    for result, fmr in zip(found, fmrs, strict=True):
        threshold, *values = naive(scores, genuine, weights, unrelated.scores, fmr)
        assert (result["fmr"], result["threshold"]) == (fmr, threshold)
        strange = np.bincount(np.concatenate([unrelated.family_a, unrelated.family_b]))
        sizes = strange, *(np.bincount(family[part], weights[part]) for part in (~genuine, genuine))
        columns = zip(np.transpose(replicates[fmr]), map(effective_families, sizes), strict=True)
        low, high = np.transpose([share_interval(column, clusters, drawn) for column, clusters in columns])
        for column, name in enumerate(NAMES):
            expected = {"value": values[column], "low": low[column], "high": high[column]}
            assert bounds(result[name]) == pytest.approx(expected), name
            assert low[column] < high[column]


def test_order_and_a_rising_transform_change_nothing():
    (scores, genuine, family), unrelated = twins(), strangers()
    here = security(scores, genuine, family, unrelated, (0.05,), draws=30)
    order, other = (np.random.default_rng(0).permutation(len(values)) for values in (scores, unrelated.scores))
    shuffled = Unrelated(np.exp(unrelated.scores)[other], unrelated.family_b[other], unrelated.family_a[other])
    there = security(np.exp(scores)[order], genuine[order], family[order], shuffled, (0.05,), draws=30)
    assert [here[0][name] for name in NAMES] == [there[0][name] for name in NAMES]
    assert here != security(scores, genuine, family, unrelated, (0.05,), draws=30, seed=1)


def test_ties_match_together():
    unrelated = Unrelated(np.repeat([5.0, 4.0, 0.0], [30, 50, 920]), np.zeros(1000, int), np.ones(1000, int))
    case = [4.0, 4.5, 5.0, 4.5], [1, 1, 0, 0], [0, 1, 0, 1]
    found = security(*case, unrelated, fmrs=(0.03, 0.079, 0.08), draws=10)
    assert [result["unrelated_fmr"]["value"] for result in found] == [0.03, 0.03, 0.08]
    assert [result["fnmr"]["value"] for result in found] == [0.5, 0.5, 0]


def test_a_limit_of_whole_errors_is_reached_in_spite_of_rounding():
    assert 0.57 * 100 < 57
    unrelated = Unrelated(np.arange(100.0), np.zeros(100, int), np.ones(100, int))
    (found,) = security([1.0, 2.0], [1, 0], [0, 1], unrelated, fmrs=(0.57,), draws=10)
    assert found["unrelated_fmr"]["value"] == 0.57


def test_a_limit_that_the_highest_tie_exceeds_lets_nothing_match():
    unrelated = Unrelated(np.ones(1000), np.zeros(1000, int), np.ones(1000, int))
    (found,) = security([1.0, 2.0, 1.0, 0.0], [1, 1, 0, 0], [0, 1, 0, 1], unrelated, fmrs=(0.05,), draws=10)
    assert found["threshold"] > 1 and found["unrelated_fmr"]["value"] == found["twin_fmr"]["value"] == 0
    assert found["fnmr"]["value"] == 0.5


def test_an_fmr_of_too_few_errors_is_named_and_not_printed():
    unrelated = strangers(digits=9)  # 28 pairs of families, 36 comparisons each: 1,008
    resolved, below, *_ = security(*twins(), unrelated, fmrs=(30 / 1008, 29 / 1008), draws=10)
    assert resolved["unrelated_fmr"]["value"] == pytest.approx(30 / 1008)
    reason = {"value": None, "reason": "not resolvable with 1,008 unrelated comparisons"}
    assert below == {"fmr": 29 / 1008, "threshold": None} | dict.fromkeys(NAMES, reason)
    json.dumps([resolved, below], allow_nan=False)
    (alone,) = security(*twins(), unrelated, fmrs=(29 / 1008,), draws=10)
    assert alone == below


def test_no_twin_taken_for_another_still_allows_some():
    scores, genuine, family = twins()
    (found,) = security(np.where(genuine, 99, -99), genuine, family, strangers(), (0.1,), draws=100)
    bound = pytest.approx(1 - 0.05 ** (1 / 8))
    assert found["twin_fmr"] == found["fnmr"] == {"value": 0, "low": 0, "high": bound}


@pytest.mark.filterwarnings("error")
def test_draws_of_a_single_family_are_left_out():
    unrelated = strangers(families=2, images=30)
    (found,) = security(*twins(families=2), unrelated, (0.1,), draws=50)  # every other draw has no strangers
    for name in NAMES:
        assert [found[name]["low"], found[name]["high"]] == pytest.approx([found[name]["value"]] * 2)


def test_a_test_set_takes_seconds():
    unrelated = strangers(families=31, images=30, seed=2)
    case = twins(families=31, each=300)
    start = time.process_time()
    security(*case, unrelated)
    assert len(unrelated.scores) > 410_000
    assert time.process_time() - start < 10  # 1 s on an idle core


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fmrs": (0.1, 0)}, "fmrs must lie between 0 and 1, got 0"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"family": [0]}, r"family must be \[P\]"),
        ({"twin_scores": [np.nan] * 4}, "4 of 4 scores are not finite"),
        ({"unrelated": Unrelated(np.array([np.inf]), np.array([0]), np.array([1]))}, "1 of 1 unrelated scores"),
        ({"unrelated": Unrelated(np.ones(2), np.array([0]), np.array([1]))}, r"must all be \[U\]"),
        ({"unrelated": Unrelated(np.ones(2), np.array([0, 1]), np.array([1, 1]))}, "must be of two families"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    good = {"twin_scores": [1.0, 2.0, 3.0, 4.0], "genuine": [1, 1, 0, 0], "family": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=message):
        security(**good | {"unrelated": strangers()} | change)
