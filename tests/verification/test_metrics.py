import numpy as np
import pytest
import torch
from sklearn.metrics import det_curve, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_eer

from dcal_core.verification import metrics
from dcal_core.verification.metrics import (
    accuracy,
    draw_families,
    equal_error_rate,
    error_rates,
    family_weights,
    fnmr_at_fmr,
    rates_at,
    resolvable_fmr,
    roc_auc,
    roc_band,
    summarise,
    tar_at_fmr,
)


def random_case(seed, count=200, levels=None):
    """Scores [count] of both classes; `levels` rounds them, so that ties appear across and within classes."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(count) % 3 > 0
    scores = rng.normal(size=count) + genuine
    return (np.round(scores * levels) / levels if levels else scores), genuine


def clustered_case(families=12, each=10, seed=0, spread=1.0):
    """Scores, genuine and family of `each` comparisons per class and family; a family shares a shift."""
    rng = np.random.default_rng(seed)
    family = np.tile(np.repeat(np.arange(families), each), 2)
    genuine = np.repeat([True, False], families * each)
    scores = 1.5 * genuine + spread * rng.normal(size=families)[family] + rng.normal(size=len(family))
    return scores, genuine, family


cases = pytest.mark.parametrize("case", [random_case(0), random_case(1, levels=2), random_case(2, 50, levels=1)])


@cases
def test_rates_agree_with_scikit_learn(case):
    scores, genuine = case
    thresholds, fmr, fnmr = error_rates(scores, genuine)
    theirs_fmr, theirs_tar, theirs_thresholds = roc_curve(genuine, scores, drop_intermediate=False)
    np.testing.assert_allclose(thresholds, theirs_thresholds[::-1])
    np.testing.assert_allclose(fmr, theirs_fmr[::-1])
    np.testing.assert_allclose(fnmr, 1 - theirs_tar[::-1], atol=1e-12)
    det_fmr, det_fnmr, det_thresholds = det_curve(genuine, scores)
    at = np.searchsorted(thresholds, det_thresholds)
    np.testing.assert_allclose(fmr[at], det_fmr)
    np.testing.assert_allclose(fnmr[at], det_fnmr)


@cases
def test_auc_agrees_with_scikit_learn_and_torchmetrics(case):
    scores, genuine = case
    ours = roc_auc(scores, genuine)
    assert ours == pytest.approx(roc_auc_score(genuine, scores), abs=1e-12)
    probabilities = torch.sigmoid(torch.tensor(scores))  # it squashes anything outside [0, 1] by itself
    assert ours == pytest.approx(float(binary_auroc(probabilities, torch.tensor(genuine).int())), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_eer_agrees_with_torchmetrics_up_to_its_step(seed):
    scores, genuine = random_case(seed, 600)
    theirs = float(binary_eer(torch.sigmoid(torch.tensor(scores)), torch.tensor(genuine).int()))
    step = 1 / (~genuine).sum()  # it takes the nearest operating point, we interpolate
    assert equal_error_rate(scores, genuine)[0] == pytest.approx(theirs, abs=step)


@pytest.mark.parametrize(
    ("genuine_scores", "impostor_scores", "eer", "auc"),
    [
        ([3, 4], [1, 2], 0, 1),
        ([1, 2], [3, 4], 1, 0),
        ([1, 1], [1, 1], 0.5, 0.5),
        ([2, 3, 4, 5], [0, 1, 2.5, 1.5], 0.25, 15 / 16),
        ([2, 4], [1, 3], 0.5, 0.75),
        ([2, 3], [1, 2], 0.25, 7 / 8),  # halfway from (fmr 1/2, fnmr 0) at 2 to (0, 1/2) at 3
    ],
)
def test_hand_made_lists(genuine_scores, impostor_scores, eer, auc):
    scores = [*genuine_scores, *impostor_scores]
    genuine = [True] * len(genuine_scores) + [False] * len(impostor_scores)
    assert equal_error_rate(scores, genuine)[0] == pytest.approx(eer)
    assert roc_auc(scores, genuine) == pytest.approx(auc)


def test_eer_threshold_is_in_the_middle_of_a_clean_gap():
    assert equal_error_rate([3, 4, 1, 2], [1, 1, 0, 0]) == (0, 2.5)


def test_eer_threshold_is_finite_when_all_scores_tie():
    assert equal_error_rate([7, 7, 7], [1, 0, 0]) == (0.5, 7)


def test_a_score_equal_to_the_threshold_matches():
    scores, genuine = [0.5, 0.4, 0.5, 0.1, 0.2], [1, 1, 0, 0, 0]
    assert rates_at(scores, genuine, 0.5) == (pytest.approx(1 / 3), 0.5)
    assert accuracy(scores, genuine, 0.5) == pytest.approx(3 / 5)


def test_tar_takes_the_best_point_within_the_limit():
    scores = [5, 6, 3, 1, *range(5)]
    genuine = [True] * 4 + [False] * 5
    assert tar_at_fmr(scores, genuine, 0) == 0.5
    assert tar_at_fmr(scores, genuine, 0.39) == 0.5  # at 3 two impostors of five match, ties included
    assert tar_at_fmr(scores, genuine, 0.4) == 0.75
    assert fnmr_at_fmr(scores, genuine, 0.4) == 0.25
    assert tar_at_fmr(scores, genuine, 1) == 1
    with pytest.raises(ValueError, match="fmr must lie in"):
        tar_at_fmr(scores, genuine, 5)


@cases
def test_whole_weights_are_repetitions(case):
    scores, genuine = case
    weights = np.random.default_rng(3).integers(0, 4, len(scores))
    repeated = np.repeat(scores, weights), np.repeat(genuine, weights)
    for metric in (roc_auc, lambda *a: equal_error_rate(*a)[0]):
        assert metric(scores, genuine, weights) == pytest.approx(metric(*repeated), abs=1e-12)
    for metric in (rates_at, accuracy, tar_at_fmr, fnmr_at_fmr):
        assert metric(scores, genuine, 0.2, weights) == pytest.approx(metric(*repeated, 0.2), abs=1e-12)


@cases
def test_rising_transforms_change_nothing(case):
    scores, genuine = case
    for transform in (np.exp, np.arctan, lambda s: 3 * s - 7):
        changed = transform(scores)
        assert equal_error_rate(changed, genuine)[0] == pytest.approx(equal_error_rate(scores, genuine)[0])
        assert roc_auc(changed, genuine) == pytest.approx(roc_auc(scores, genuine))
        assert tar_at_fmr(changed, genuine, 0.1) == pytest.approx(tar_at_fmr(scores, genuine, 0.1))


def test_order_changes_nothing():
    scores, genuine, family = clustered_case()
    order = np.random.default_rng(0).permutation(len(scores))
    there = summarise(scores[order], genuine[order], family[order], 0.7, draws=20)
    here = summarise(scores, genuine, family, 0.7, draws=20)
    assert here["eer"] == pytest.approx(there["eer"])


def test_family_weights_even_out_families_within_each_class():
    family = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1])
    genuine = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    weights = family_weights(family, genuine)
    for part, total in ((genuine, 2), (~genuine, 2.5)):
        sums = [weights[part & (family == number)].sum() for number in (0, 1)]
        np.testing.assert_allclose(sums, total)
    with pytest.raises(ValueError, match=r"both must be \[P\]"):
        family_weights(family[:-1], genuine)


NAMES = ("eer", "roc_auc", "accuracy", "fmr", "fnmr", "tar_at_fmr_0.1", "tar_at_fmr_0.05", "tar_at_fmr_0.01")


def naive_metrics(scores, genuine, threshold, weights):
    fmr, fnmr = rates_at(scores, genuine, threshold, weights)
    tars = [tar_at_fmr(scores, genuine, limit, weights) for limit in (0.1, 0.05, 0.01)]
    share = accuracy(scores, genuine, threshold, weights)
    return [
        equal_error_rate(scores, genuine, weights)[0],
        roc_auc(scores, genuine, weights),
        share,
        fmr,
        fnmr,
        *tars,
    ]


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("chunk", [500, 2_000_000])
def test_bootstrap_equals_a_naive_loop(monkeypatch, even, chunk):
    monkeypatch.setattr(metrics, "resolvable_fmr", lambda impostors, families: 0)
    monkeypatch.setattr(metrics, "_CHUNK", chunk)
    scores, genuine, family = clustered_case(families=6, each=5)
    scores = np.round(scores, 1)  # ties
    kept = np.arange(len(scores)) % 7 > 0  # families of unequal sizes
    scores, genuine, family = scores[kept], genuine[kept], family[kept]
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    replicates = []
    for counts in draw_families(6, draws=40, seed=5):
        chosen = np.concatenate([np.flatnonzero(family == f) for f in np.repeat(np.arange(6), counts)])
        replicates.append(naive_metrics(scores[chosen], genuine[chosen], 0.7, weights[chosen]))
    low, high = np.percentile(replicates, (2.5, 97.5), axis=0)
    values = naive_metrics(scores, genuine, 0.7, weights)
    result = summarise(scores, genuine, 10 * family + 3, 0.7, draws=40, seed=5, weights=weights)
    for column, name in enumerate(NAMES):
        expected = {"value": values[column], "low": low[column], "high": high[column]}
        assert result[name] == pytest.approx(expected, abs=1e-9), name


def test_band_equals_a_naive_loop():
    scores, genuine, family = clustered_case(families=5, each=6)
    grid = [0, 0.1, 0.5, 1]
    tar = []
    for counts in draw_families(5, draws=30, seed=2):
        tar.append([tar_at_fmr(scores, genuine, limit, counts[family]) for limit in grid])
    low, high = roc_band(scores, genuine, family, grid, draws=30, seed=2)
    np.testing.assert_allclose([low, high], np.percentile(tar, (2.5, 97.5), axis=0))


def test_a_seed_fixes_the_intervals():
    case = clustered_case()
    first, again, other = (summarise(*case, 0.7, draws=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["eer"]["value"] == other["eer"]["value"]
    assert first["eer"] != other["eer"]


def test_intervals_are_wider_where_families_differ():
    def width(family_of):
        scores, genuine, family = clustered_case(families=30, each=30)
        result = summarise(scores, genuine, family_of(family), 0.7, draws=200)["fmr"]
        assert result["low"] < result["value"] < result["high"]
        return result["high"] - result["low"]

    clustered = width(lambda family: family)
    as_if_independent = width(lambda family: np.arange(len(family)))
    assert clustered > 2 * as_if_independent


def test_an_unresolvable_tar_is_named_and_not_printed():
    scores, genuine, family = clustered_case(families=25, each=40)
    result = summarise(scores, genuine, family, 0.7, draws=20)
    assert resolvable_fmr(1000, 25) == 0.04 and resolvable_fmr(300, 25) == 0.1
    assert result["tar_at_fmr_0.05"]["value"] > 0
    assert result["tar_at_fmr_0.01"] == {"value": None, "reason": "not resolvable with 25 families"}
    assert result["counts"] == {"genuine": 1000, "impostor": 1000, "families": 25, "draws": 20}


def test_one_family_gives_values_without_intervals():
    scores, genuine, family = clustered_case(families=1, each=20)
    result = summarise(scores, genuine, family, 0.7, draws=20)
    assert result["eer"]["value"] >= 0 and result["eer"]["low"] is result["eer"]["high"] is None
    assert result["counts"]["draws"] == 0
    assert np.isnan(roc_band(scores, genuine, family, [0.1, 0.5])).all()


def test_draws_without_impostors_are_left_out():
    family = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1])  # six of eight families have no co-twin
    genuine = np.arange(10) < 8
    result = summarise(np.arange(10.0), genuine, family, 5, draws=200)
    assert 100 < result["counts"]["draws"] < 200
    assert np.isfinite(result["eer"]["low"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0, np.nan, np.inf, 2.0]}, "2 of 4 scores are not finite"),
        ({"scores": [1.0, 2.0]}, r"must be \[P\]"),
        ({"scores": [[1.0, 2.0, 3.0, 4.0]]}, r"must be \[P\]"),
        ({"genuine": [1, 1, 1, 1]}, "got 4 genuine and 0 impostor comparisons"),
        ({"genuine": [0, 0, 0, 0]}, "got 0 genuine and 4 impostor comparisons"),
        ({"genuine": [0, 1, 2, 1]}, "only True and False"),
        ({"family": [0, 1]}, r"family must be \[P\]"),
        ({"threshold": np.nan}, "threshold must be finite"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"weights": [1, 1, -1, 1]}, "not negative"),
        ({"weights": [1, 1, 0, 0]}, "got 2 genuine and 0 impostor comparisons"),
        ({"scores": [], "genuine": [], "family": []}, "got 0 genuine and 0 impostor"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    good = {"scores": [1.0, 2.0, 3.0, 4.0], "genuine": [1, 1, 0, 0], "family": [0, 1, 0, 1], "threshold": 0.5}
    with pytest.raises(ValueError, match=message):
        summarise(**good | change)


@pytest.mark.parametrize("families", [3, 31])
def test_no_error_in_n_families_still_allows_some(families):
    family = np.repeat(np.arange(families), 4)
    genuine = np.tile([True, True, False, False], families)
    result = summarise(genuine.astype(float), genuine, family, threshold=0.5, draws=100)
    bound = 1 - 0.05 ** (1 / families)  # the share at which N families without an error have a chance of 5 %
    assert (result["eer"]["low"], result["eer"]["value"], result["eer"]["high"]) == (0, 0, pytest.approx(bound))
    assert (result["accuracy"]["low"], result["accuracy"]["high"]) == (pytest.approx(1 - bound), 1)
