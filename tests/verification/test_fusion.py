import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm, spearmanr

from dcal_core.verification.fusion import fit_fusion
from dcal_core.verification.metrics import equal_error_rate

COUNT = 20_000


def gaussian(separation, seed, count=COUNT):
    """Scores [P] of unit variance whose classes lie so far apart, half of them genuine; classes [P]; families [P]."""
    genuine = np.arange(count) % 2 == 0
    scores = np.random.default_rng(seed).normal(size=count) + separation * genuine
    return scores, genuine, np.arange(count) // 2 % (count // 20)


def fused(columns, genuine, family, weights=None):
    scores = np.stack(columns, axis=1)
    return fit_fusion(scores, genuine, family, weights).fuse(scores)


def test_two_independent_equal_systems_err_as_often_as_theory_says():
    first, genuine, family = gaussian(2, seed=0)
    second, _, _ = gaussian(2, seed=1)
    both, _ = equal_error_rate(fused([first, second], genuine, family), genuine)
    assert equal_error_rate(first, genuine)[0] == pytest.approx(norm.cdf(-1), abs=0.008)
    assert both == pytest.approx(norm.cdf(-np.sqrt(2)), abs=0.006)  # separations add in squares: 2 -> 2 sqrt 2


def test_gaussian_scores_get_the_weights_of_their_likelihood_ratio():
    first, genuine, family = gaussian(2, seed=0)
    second, _, _ = gaussian(1, seed=1)
    fusion = fit_fusion(np.stack([first, second], axis=1), genuine, family)
    assert fusion.weight / fusion.scale == pytest.approx([2, 1], rel=0.06)  # LLR = 2 x + y + constant
    assert fusion.fuse([[1, 0.5]]) == pytest.approx([0], abs=0.1)  # halfway between the classes


def test_exponential_scores_get_their_likelihood_ratio_with_its_offset():
    _, genuine, family = gaussian(0, seed=0)
    scores = np.random.default_rng(0).exponential(np.where(genuine, 3, 1))
    expected = np.log(1 / 3) + 2 / 3 * np.array([0, 1, 3])  # of the densities exp(-x / 3) / 3 and exp(-x)
    assert fit_fusion(scores[:, None], genuine, family).fuse([[0], [1], [3]]) == pytest.approx(expected, abs=0.06)


def test_noise_leaves_the_order_nearly():
    scores, genuine, family = gaussian(2, seed=0)
    noise, _, _ = gaussian(0, seed=1)
    assert spearmanr(fused([scores, noise], genuine, family), scores).statistic > 0.999


def test_a_system_that_points_the_wrong_way_is_left_out():
    scores, genuine, family = gaussian(2, seed=0)
    suppressor = scores - 2 * genuine + np.random.default_rng(1).normal(size=COUNT) / 4  # unconstrained: below 0
    fusion = fit_fusion(np.stack([scores, suppressor], axis=1), genuine, family)
    alone = fit_fusion(scores[:, None], genuine, family)
    assert fusion.weight == pytest.approx([alone.weight[0], 0])
    with pytest.raises(ValueError, match="nothing to fuse"):
        fit_fusion(-scores[:, None], genuine, family)


def test_is_the_optimum_under_the_bound_of_zero():
    rng = np.random.default_rng(3)
    genuine, family = np.arange(300) % 3 == 0, np.arange(300) // 10
    scores = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4)) + genuine[:, None] * np.array([1, 0.2, 0.5, 0])
    fusion = fit_fusion(scores, genuine, family)
    scaled = (scores - fusion.mean) / fusion.scale
    weights = 30 * np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())

    def loss(parameters):
        logits = scaled @ parameters[1:] + parameters[0]
        return weights @ np.logaddexp(0, np.where(genuine, -logits, logits)) + 0.5 * parameters[1:] @ parameters[1:]

    best = minimize(loss, np.zeros(5), bounds=[(None, None)] + 4 * [(0, None)]).x
    assert np.append(fusion.offset, fusion.weight) == pytest.approx(best, abs=1e-3)
    assert (fusion.weight == 0).any() and (fusion.weight > 0).sum() > 1


@pytest.mark.parametrize(("factor", "shift"), [(1000, 7), (1e-4, -3)])
def test_scale_and_origin_of_a_system_do_not_matter(factor, shift):
    first, genuine, family = gaussian(2, seed=0, count=400)
    second, _, _ = gaussian(1, seed=1, count=400)
    expected = fused([first, second], genuine, family)
    assert fused([first, factor * second + shift], genuine, family) == pytest.approx(expected, abs=1e-4)


def test_repeating_a_class_or_every_comparison_changes_nothing():
    scores, genuine, family = gaussian(1, seed=0, count=400)
    expected = fit_fusion(scores[:, None], genuine, family)
    for times in (np.where(genuine, 1, 5), np.full(400, 3)):
        again = np.repeat(np.arange(400), times)
        fusion = fit_fusion(scores[again, None], genuine[again], family[again])
        assert fusion.fuse(scores[:, None]) == pytest.approx(expected.fuse(scores[:, None]), abs=1e-3)
        weighted = fit_fusion(scores[:, None], genuine, family, weights=times)
        assert weighted.fuse(scores[:, None]) == pytest.approx(expected.fuse(scores[:, None]), abs=1e-3)


def test_separable_scores_do_not_explode_and_few_families_weigh_less():
    scores, genuine = np.array([0.0, 0.1, 0.9, 1.0] * 10), np.array([0, 0, 1, 1] * 10)
    few, many = (fit_fusion(scores[:, None], genuine, np.arange(40) // size).weight[0] for size in (20, 4))
    assert 0 < few < many < 5


def test_a_constant_system_has_no_weight():
    scores, genuine, family = gaussian(2, seed=0, count=400)
    assert fit_fusion(np.stack([scores, np.full(400, 0.3)], axis=1), genuine, family).weight[1] == 0


def test_given_weights_are_not_changed():
    scores, genuine, family = gaussian(1, seed=0, count=40)
    weights = np.ones(40)
    fit_fusion(scores[:, None], genuine, family, weights)
    assert (weights == 1).all()


GOOD = {"scores": np.zeros((4, 2)), "genuine": [1, 1, 0, 0], "family": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"scores": np.zeros(4)}, "must be .P, M."),
        ({"scores": np.zeros((4, 0))}, "must be .P, M."),
        ({"scores": np.zeros((3, 2))}, r"scores, genuine, weights must be \[P\], got \(3,\), \(4,\)"),
        ({"family": [0, 1]}, r"family must be \[P\] like the scores, or .P, 2., got \(2,\)"),
        ({"weights": [1, 1]}, r"weights must be \[P\], got \(4,\), \(4,\), \(2,\)"),
        ({"scores": np.array([[0, np.nan], [1, 1], [0, 0], [1, np.inf]])}, "2 of 4 scores are not finite"),
        ({"genuine": [1, 2, 0, 0]}, "True and False"),
        ({"genuine": [1, 1, 1, 1]}, "both classes are needed, got 4 genuine and 0 impostor comparisons"),
        ({"weights": [0, 0, 1, 1]}, "both classes are needed, got 0 genuine and 2 impostor comparisons"),
        ({"weights": [1, -1, 1, 1]}, "not negative"),
    ],
)
def test_bad_input_is_a_sentence(bad, words):
    with pytest.raises(ValueError, match=words):
        fit_fusion(**(GOOD | bad))


def test_fusing_another_number_of_systems_is_a_sentence():
    scores, genuine, family = gaussian(1, seed=0, count=40)
    with pytest.raises(ValueError, match=r"must be \[P, 1\], got \(5, 2\)"):
        fit_fusion(scores[:, None], genuine, family).fuse(np.zeros((5, 2)))
