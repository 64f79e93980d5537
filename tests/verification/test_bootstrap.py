import numpy as np
import pytest
from scored_cases import clustered_case, drawn_families
from single_metrics import accuracy, eer_on_hull, fnmr_at_fmr, rates_at, tar_at_fmr

from benchmarks.speed.coverage import coverage
from dcal_core.verification import bootstrap
from dcal_core.verification.bootstrap import (
    differences,
    replicate,
    resolvable_fmr,
    roc_band,
    summarise,
)
from dcal_core.verification.comparisons import Comparisons, family_weights
from dcal_core.verification.folds import Folds
from dcal_core.verification.intervals import effective_families, share_interval
from dcal_core.verification.metrics import corners, equal_error_rate, roc_auc


def uneven_case():
    """Six families of unequal sizes, with ties within and across classes."""
    kept = np.arange(60) % 7 > 0
    scores, genuine, family = clustered_case(families=6, each=5)
    return np.round(scores, 1)[kept], genuine[kept], family[kept]


# Replicates


def naive_metrics(scores, genuine, threshold, weights):
    """All metrics but the accuracy over folds, whose folds are those of the sample."""
    fmr, fnmr = rates_at(scores, genuine, threshold, weights)
    limits = (0.1, 0.05, 0.01, 0.001, 0.0001)
    return {
        "eer": equal_error_rate(scores, genuine, weights)[0],
        "eer_hull": eer_on_hull(scores, genuine, weights),
        "roc_auc": roc_auc(scores, genuine, weights),
        "accuracy": accuracy(scores, genuine, threshold, weights),
        "fmr": fmr,
        "fnmr": fnmr,
        **{f"tar_at_fmr_{limit:g}": tar_at_fmr(scores, genuine, limit, weights) for limit in limits},
        **{f"fnmr_at_fmr_{limit:g}": fnmr_at_fmr(scores, genuine, limit, weights) for limit in limits},
    }


def naive_folds(scores, genuine, member, weights, count):
    """Accuracy over the sample's folds where families count so often: training and testing on weighted comparisons."""
    drawn, right = weights * count[member], 0
    for train, test, *_ in Folds(Comparisons(scores, genuine, member, weights)).parts:
        thresholds = corners(scores[train], genuine[train])
        gains = [drawn[train] @ ((scores[train] >= t) == genuine[train]) for t in thresholds]
        best = thresholds[np.flatnonzero(np.isclose(gains, max(gains), rtol=0, atol=1e-9))[0]]
        right += drawn[test] @ ((scores[test] >= best) == genuine[test])
    return right / drawn.sum()


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("chunk", [100, 500_000])
def test_replicates_equal_a_naive_loop(monkeypatch, even, chunk):
    monkeypatch.setattr(bootstrap, "_CHUNK", chunk)
    scores, genuine, family = uneven_case()
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    replicates = replicate(scores, genuine, 10 * family + 3, 0.7, draws=20, seed=5, weights=weights)
    counts = [np.ones(6, dtype=int), *drawn_families(6, draws=20, seed=5)]
    assert {len(values) for values in replicates.values.values()} == {21}
    for draw, count in enumerate(counts):
        chosen = np.concatenate([np.flatnonzero(family == f) for f in np.repeat(np.arange(6), count)])
        expected = naive_metrics(scores[chosen], genuine[chosen], 0.7, weights[chosen])
        expected["accuracy_folds"] = naive_folds(scores, genuine, family, weights, count)
        assert {name: values[draw] for name, values in replicates.values.items()} == pytest.approx(expected, abs=1e-9)


def test_order_changes_nothing():
    scores, genuine, family = uneven_case()
    order = np.random.default_rng(0).permutation(len(scores))
    here = replicate(scores, genuine, family, 0.7, draws=20).values
    there = replicate(scores[order], genuine[order], family[order], 0.7, draws=20).values
    for name in here:
        np.testing.assert_allclose(here[name], there[name], atol=1e-12)


def test_a_seed_fixes_the_draws():
    first, again, other = (replicate(*clustered_case(), 0.7, draws=50, seed=seed) for seed in (1, 1, 2))
    assert summarise(first) == summarise(again)
    assert first.values["eer"][0] == other.values["eer"][0]
    assert (first.values["eer"][1:] != other.values["eer"][1:]).any()


def test_draws_without_impostors_are_left_out():
    family = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1])  # six of eight families have no co-twin
    replicates = replicate(np.arange(10.0), np.arange(10) < 8, family, 5, draws=200)
    draws = len(replicates.sample.counts)
    assert 100 < draws < 200 and replicates.values["eer"].shape == (draws + 1,)
    assert (replicates.sample.families, replicates.sample.clusters) == (8, 2)
    assert summarise(replicates)["tar_at_fmr_0.1"] == {"value": None, "reason": "not resolvable with 2 families"}
    assert all(np.isfinite(values).all() for values in replicates.values.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": [0, 1]}, r"family must be \[P\]"),
        ({"threshold": np.nan}, "threshold must be finite"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"genuine": [1, 1, 1, 1]}, "got 4 genuine and 0 impostor comparisons"),
        ({"weights": [1, 1, 0, 0]}, "got 2 genuine and 0 impostor comparisons"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    good = {"scores": [1.0, 2.0, 3.0, 4.0], "genuine": [1, 1, 0, 0], "family": [0, 1, 0, 1], "threshold": 0.5}
    with pytest.raises(ValueError, match=message):
        replicate(**good | change)


# The intervals of metrics


def test_intervals_are_wider_where_families_differ():
    def width(family_of):
        scores, genuine, family = clustered_case(families=30, each=30)
        result = summarise(replicate(scores, genuine, family_of(family), 0.7, draws=200))["fmr"]
        assert result["low"] < result["value"] < result["high"]
        return result["high"] - result["low"]

    assert width(lambda family: family) > 2 * width(lambda family: np.arange(len(family)))


@pytest.mark.parametrize("kind", ["alike", "few hard"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(kind):
    shares = coverage(0.1, (4, 8), simulations=40, draws=80, kind=kind)
    assert all(0.85 <= share <= 1 for share in shares.values())


def test_a_bootstrap_that_takes_families_apart_does_not():
    shares = coverage(0.1, (8, 12), simulations=20, draws=40, clusters=lambda family: np.arange(len(family)) % 300)
    assert all(share < 0.8 for share in shares.values())


# The summary


def test_an_unresolvable_rate_is_named_and_not_printed():
    scores, genuine, family = clustered_case(families=25, each=40)
    result = summarise(replicate(scores, genuine, family, 0.7, draws=20))
    assert resolvable_fmr(1000, 25) == 0.04 and resolvable_fmr(300, 25) == 0.1
    for rate in ("tar", "fnmr"):
        assert result[f"{rate}_at_fmr_0.05"]["value"] > 0
        for fmr in ("0.01", "0.001"):
            assert result[f"{rate}_at_fmr_{fmr}"] == {"value": None, "reason": "not resolvable with 25 families"}
    assert result["counts"] == {"genuine": 1000, "impostor": 1000, "families": 25, "draws": 20}


def test_one_family_gives_values_without_intervals():
    scores, genuine, family = clustered_case(families=1, each=20)
    result = summarise(replicate(scores, genuine, family, 0.7, draws=20))
    assert result["eer"]["value"] >= 0 and result["eer"]["low"] is result["eer"]["high"] is None
    assert result["accuracy_folds"]["value"] is None and result["counts"]["draws"] == 0
    assert np.isnan(roc_band(scores, genuine, family, [0.1, 0.5])).all()


@pytest.mark.parametrize("families", [3, 31])
def test_no_error_in_n_families_still_allows_some(families):
    family = np.repeat(np.arange(families), 4)
    genuine = np.tile([True, True, False, False], families)
    result = summarise(replicate(genuine.astype(float), genuine, family, threshold=0.5, draws=100))
    bound = 1 - 0.05 ** (1 / families)  # the share at which N families without an error have a chance of 5 %
    assert (result["eer"]["low"], result["eer"]["value"], result["eer"]["high"]) == (0, 0, pytest.approx(bound))
    assert (result["accuracy"]["low"], result["accuracy"]["high"]) == (pytest.approx(1 - bound), 1)


# Differences of two systems


def systems(families=25, each=40, **changes):
    """Replicates of a system, and of one on the same comparisons whose classes are one unit further apart."""
    scores, genuine, family = clustered_case(families, each)
    given = {"genuine": genuine, "family": family, "threshold": 0.7, "draws": 100, "seed": 3}
    return replicate(scores, **given), replicate(scores + 2.0 * genuine, **given | changes)


def test_the_better_system_is_named_in_every_metric():
    worse, better = systems()
    result = differences(worse, better)
    assert result["fmr"] == {"value": 0, "low": 0, "high": 0, "better": None}  # impostor scores are the same
    for name, figure in result.items():
        if figure["value"] and name != "fmr":
            assert figure["better"] == "b" and figure["low"] < figure["value"] < figure["high"], name
            assert (figure["value"] > 0) == name.startswith(("eer", "fnmr")), name
    assert sum(figure.get("better") == "b" for figure in result.values()) == 10
    assert result["tar_at_fmr_0.01"] == {"value": None, "reason": "not resolvable with 25 families"}
    for name, figure in differences(better, worse).items():
        if figure["value"] is not None:
            mirrored = [-result[name][key] for key in ("value", "high", "low")]
            assert [figure[key] for key in ("value", "low", "high")] == pytest.approx(mirrored)
            assert figure["better"] == (None if name == "fmr" else "a")


def test_differences_are_paired():
    scores, genuine, family = clustered_case(families=25, each=40)
    noise = 0.02 * np.random.default_rng(1).normal(size=len(scores))
    one, other = (replicate(s, genuine, family, 0.7, draws=100) for s in (scores, scores + noise))
    figure, alone = differences(one, other)["eer"], summarise(one)["eer"]
    assert figure["better"] is None and figure["low"] < 0 < figure["high"]
    assert figure["high"] - figure["low"] < (alone["high"] - alone["low"]) / 5
    drawn = (one.values["eer"] - other.values["eer"])[1:]
    low, high = 2 * share_interval((1 + drawn) / 2, 25) - 1
    assert (figure["low"], figure["high"]) == pytest.approx((low, high))


def test_no_draws_give_differences_without_intervals():
    figure = differences(*systems(families=1))["eer"]
    assert figure["value"] > 0 and figure["low"] is figure["high"] is figure["better"] is None


@pytest.mark.parametrize("changes", [{"seed": 4}, {"draws": 99}, {"family": np.tile(np.arange(25).repeat(20), 4)}])
def test_differences_of_other_pairs_or_draws_are_refused(changes):
    with pytest.raises(ValueError, match="on the same pairs, in one order, with the same draws"):
        differences(*systems(**changes))


# The ROC's band


def test_band_equals_a_naive_loop():
    scores, genuine, family = uneven_case()
    grid = [0, 0.1, 0.5, 1]
    tar = [
        [tar_at_fmr(scores, genuine, limit, counts[family]) for limit in grid]
        for counts in drawn_families(6, draws=30, seed=2)
    ]
    clusters = min(effective_families(np.bincount(family[part])) for part in (genuine, ~genuine))
    band = roc_band(scores, genuine, family, grid, draws=30, seed=2)
    np.testing.assert_allclose(band, share_interval(np.array(tar), clusters, drawn_families(6, draws=30, seed=2)))
    assert [side[-1] for side in band] == [1, 1]
