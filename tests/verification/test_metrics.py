import numpy as np
import pytest
import torch
from single_metrics import accuracy, eer_on_hull, fnmr_at_fmr, fold_accuracy, rates_at, tar_at_fmr
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import det_curve, roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc, binary_eer

from dcal_core.verification.comparisons import Comparisons, balanced, family_weights
from dcal_core.verification.folds import Folds
from dcal_core.verification.metrics import equal_error_rate, error_rates, roc_auc


def random_case(seed, count=200, levels=None):
    """Scores [count] of both classes; `levels` rounds them, so that ties appear across and within classes."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(count) % 3 > 0
    scores = rng.normal(size=count) + genuine
    return (np.round(scores * levels) / levels if levels else scores), genuine


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
    for metric in (roc_auc, eer_on_hull, lambda *a: equal_error_rate(*a)[0]):
        assert metric(scores, genuine, weights) == pytest.approx(metric(*repeated), abs=1e-12)
    for metric in (rates_at, accuracy, tar_at_fmr, fnmr_at_fmr):
        assert metric(scores, genuine, 0.2, weights) == pytest.approx(metric(*repeated, 0.2), abs=1e-12)


@cases
def test_rising_transforms_change_nothing(case):
    scores, genuine = case
    for transform in (np.exp, np.arctan, lambda s: 3 * s - 7):
        changed = transform(scores)
        assert equal_error_rate(changed, genuine)[0] == pytest.approx(equal_error_rate(scores, genuine)[0])
        assert eer_on_hull(changed, genuine) == pytest.approx(eer_on_hull(scores, genuine))
        assert roc_auc(changed, genuine) == pytest.approx(roc_auc(scores, genuine))
        assert tar_at_fmr(changed, genuine, 0.1) == pytest.approx(tar_at_fmr(scores, genuine, 0.1))


def test_family_weights_even_out_families_within_each_class():
    family = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1])
    genuine = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    weights = family_weights(family, genuine)
    for part, total in ((genuine, 2), (~genuine, 2.5)):
        sums = [weights[part & (family == number)].sum() for number in (0, 1)]
        np.testing.assert_allclose(sums, total)
    with pytest.raises(ValueError, match=r"they must be \[P\]"):
        family_weights(family[:-1], genuine)


# EER on the hull


@pytest.mark.parametrize(
    ("genuine_scores", "impostor_scores", "eer"),
    [
        ([3, 4], [1, 2], 0),
        ([1, 2], [3, 4], 0.5),  # worse than chance: the hull is the chance line, though the curves cross at 1
        ([1, 1], [1, 1], 0.5),
        ([2, 4], [1, 3], 1 / 4),  # the edge from (fmr 1/2, fnmr 0) to (0, 1/2)
        ([2, 3, 4, 5], [0, 1, 1.5, 4.5], 3 / 16),  # the edge from (1/4, 0) to (0, 3/4): 3 fmr + fnmr = 3/4
    ],
)
def test_hull_on_hand_made_lists(genuine_scores, impostor_scores, eer):
    genuine = [True] * len(genuine_scores) + [False] * len(impostor_scores)
    assert eer_on_hull([*genuine_scores, *impostor_scores], genuine) == pytest.approx(eer)


def eer_by_pav(scores, genuine):
    """The ROC of scores that PAV has pooled is the hull; EER = max over priors of the lowest error (minimax)."""
    pooled = IsotonicRegression().fit_transform(scores, genuine.astype(float))
    _, fmr, fnmr = error_rates(pooled, genuine)
    gap = fnmr - fmr
    return np.interp(0, gap, fmr)


def eer_by_priors(scores, genuine):
    _, fmr, fnmr = error_rates(scores, genuine)
    return max((prior * fnmr + (1 - prior) * fmr).min() for prior in np.linspace(0, 1, 4001))


@pytest.mark.parametrize("case", [random_case(seed, 120, levels) for seed in range(8) for levels in (None, 3)])
def test_hull_agrees_with_pav_and_with_the_worst_prior(case):
    ours = eer_on_hull(*case)
    assert ours == pytest.approx(eer_by_pav(*case), abs=1e-12)
    assert ours == pytest.approx(eer_by_priors(*case), abs=3e-4)
    assert ours <= equal_error_rate(*case)[0] + 1e-12


# Accuracy over folds


def naive_fold_accuracy(scores, genuine, fold_of):
    """Every threshold midway between training scores, tried one by one; the lowest of the best is taken."""
    right = 0
    for fold in set(fold_of):
        train, test = fold_of != fold, fold_of == fold
        distinct = sorted(set(scores[train]))
        candidates = [-np.inf, *((a + b) / 2 for a, b in zip(distinct, distinct[1:], strict=False)), np.inf]
        best = max(candidates, key=lambda t: (((scores[train] >= t) == genuine[train]).sum(), -t))
        right += ((scores[test] >= best) == genuine[test]).sum()
    return right / len(scores)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [None, 2])
def test_fold_accuracy_equals_a_naive_loop(seed, levels):
    scores, genuine = random_case(seed, 90, levels)
    family = np.arange(90) // 18  # fewer families than folds: each is a fold
    assert fold_accuracy(scores, genuine, family) == pytest.approx(naive_fold_accuracy(scores, genuine, family))


def test_fold_accuracy_by_hand():
    # Trained on family 1 the threshold is 2.5, and both of family 0 fail. Trained on family 0, whose order is wrong,
    # accepting all is as good as rejecting all: the lower threshold, -inf, has 1 of 3 right in family 1.
    scores, genuine = [5.0, 2.0, 3.0, 1.0, 2.0], [0, 1, 1, 0, 0]
    assert fold_accuracy(scores, genuine, [0, 0, 1, 1, 1]) == pytest.approx(1 / 5)
    # A family that counts twice as much is right twice as often.
    assert fold_accuracy(scores, genuine, [0, 0, 1, 1, 1], weights=[1, 1, 2, 2, 2]) == pytest.approx(2 / 8)


def test_folds_hold_whole_families_and_about_as_many_comparisons():
    random = np.random.default_rng(0)
    sizes = random.integers(8, 300, 31)
    member = random.permutation(np.repeat(np.arange(31), sizes))
    scores, genuine = random.normal(size=len(member)), np.arange(len(member)) % 2 == 0
    tests = [test for _, test, *_ in Folds(Comparisons(scores, genuine, member)).parts]
    assert len(tests) == 10 and sorted(np.concatenate(tests)) == list(range(len(member)))
    assert sum(len(np.unique(member[test])) for test in tests) == 31
    assert max(map(len, tests)) < 1.3 * min(map(len, tests))  # families alone differ by a factor of 37


def test_fold_accuracy_depends_neither_on_order_nor_on_scale():
    scores, genuine = random_case(0)
    family, order = np.arange(200) // 10, np.random.default_rng(1).permutation(200)
    expected = fold_accuracy(scores, genuine, family)
    assert 0.5 < expected < accuracy(scores, genuine, equal_error_rate(scores, genuine)[1]) + 0.1
    assert fold_accuracy(scores[order], genuine[order], family[order]) == pytest.approx(expected)
    assert fold_accuracy(3 * scores - 7, genuine, 10 * family + 1) == pytest.approx(expected)


def test_a_threshold_from_the_same_fold_would_flatter():
    family, genuine = np.repeat(np.arange(30), 4), np.tile([True, False], 60)
    noise = [np.random.default_rng(seed).normal(size=120) for seed in range(8)]  # says nothing
    best = [max(accuracy(scores, genuine, t) for t in scores) for scores in noise]
    assert np.mean([fold_accuracy(scores, genuine, family) for scores in noise]) < 0.51 < 0.53 < np.mean(best)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": [3, 3, 3, 3]}, "needs 2 families and 2 folds or more, got 1 and 10"),
        ({"folds": 1}, "needs 2 families and 2 folds or more, got 2 and 1"),
        ({"family": [0, 1]}, r"family must be \[P\]"),
        ({"genuine": [1, 1, 1, 1]}, "got 4 genuine and 0 impostor comparisons"),
        ({"scores": [1.0, np.nan, np.inf, 2.0]}, "2 of 4 scores are not finite"),
        ({"scores": [1.0, 2.0]}, r"must be \[P\]"),
        ({"scores": [[1.0, 2.0, 3.0, 4.0]]}, r"must be \[P\]"),
        ({"genuine": [0, 1, 2, 1]}, "only True and False"),
        ({"weights": [1, 1, -1, 1]}, "not negative"),
        ({"weights": [1, 1, 0, 0]}, "got 2 genuine and 0 impostor comparisons"),
        ({"scores": [], "genuine": [], "family": []}, "got 0 genuine and 0 impostor"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    good = {"scores": [1.0, 2.0, 3.0, 4.0], "genuine": [1, 1, 0, 0], "family": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=message):
        fold_accuracy(**good | change)


def test_weights_are_summed_by_family_and_cell():
    genuine = np.array([True, True, False, False])
    sample = Comparisons(np.arange(4), genuine, ["a", "b", "a", "b"], [1, 2, 0.5, 4])
    np.testing.assert_array_equal(sample.by_family(genuine), [1, 2])
    np.testing.assert_array_equal(sample.by_family(~genuine), [0.5, 4])
    cell = np.array([1, 0, 1, 2])
    np.testing.assert_array_equal(sample.tabulate(cell, 3, sample.weights), [[0, 1.5, 0], [2, 0, 4]])
    among = Comparisons(np.arange(4), genuine, ["b", "c", "b", "c"], names=np.array(["a", "b", "c", "d"]))
    np.testing.assert_array_equal(among.by_family(~genuine), [0, 1, 1, 0])


def test_balanced_weights_hold_one_in_each_class():
    genuine = np.array([True, False, True, False, False])
    found = balanced(genuine, np.array([3.0, 0, 1, 2, 6]))
    np.testing.assert_array_equal(found, [0.75, 0, 0.25, 0.25, 0.75])
