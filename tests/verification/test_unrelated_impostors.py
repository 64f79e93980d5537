"""Where no co-twins are known, unrelated people are compared: a comparison of two counts as often as both are drawn."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from scored_cases import drawn_families
from single_metrics import accuracy, fnmr_at_fmr, rates_at
from torch import nn

from dcal_core.data.twins import TwinIndex
from dcal_core.models.verifier import Features
from dcal_core.verification import plots, protocol
from dcal_core.verification.bootstrap import Sample, replicate, roc_band, summarise
from dcal_core.verification.calibrating import cllr_estimate, cllr_min_estimate, reliability
from dcal_core.verification.comparisons import Comparisons, clusters_of, family_weights
from dcal_core.verification.decision import rule_of_report
from dcal_core.verification.evidence_plots import draw_evidence
from dcal_core.verification.folds import Folds
from dcal_core.verification.intervals import effective_families, families_of_rarer_class, rate_estimate, share_interval
from dcal_core.verification.jackknife import eer_low
from dcal_core.verification.metrics import equal_error_rate, roc_auc
from dcal_core.verification.page import write_page
from dcal_core.verification.protocol import Scored, pairs_of, people_pairs, score_pairs
from dcal_core.verification.report import System, evaluate
from dcal_core.verification.score_list import rows_of
from dcal_core.verification.verdict_rates import verdict_rates
from dcal_core.verification.verdicts import Thresholds
from dcal_core.verification.words import UNRELATED


def people(counts: list[int], name="test") -> TwinIndex:
    """People without co-twins, with so many images each."""
    names = tuple(f"{number:03d}" for number in range(len(counts)))
    person_of = np.repeat(np.arange(len(counts)), counts)
    paths = tuple(f"{names[person]}/{image}.png" for image, person in enumerate(person_of))
    return TwinIndex(
        name, names, tuple((one,) for one in names), paths, person_of, np.arange(len(counts)), co_twins=False
    )


def case(counts=(3, 2, 4, 1, 3, 2, 2, 3), seed=0):
    """Scores, genuine and family [P, 2] of all pairs; people differ in how alike they are to others."""
    index = people(list(counts))
    pairs = people_pairs(index)
    random = np.random.default_rng(seed)
    alike = random.normal(size=len(counts))[pairs.family].sum(1)
    return np.round(alike + 2 * pairs.genuine + random.normal(size=len(pairs)), 1), pairs.genuine, pairs.family


def repeated(family: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The comparisons of a draw, each as often as its people's counts multiplied, or its person's count, says."""
    times = [count[a] if a == b else count[a] * count[b] for a, b in family]
    return np.repeat(np.arange(len(family)), times)


# ---- which pairs


def test_few_people_are_all_compared_with_all_their_images():
    index = people([3, 1, 2])
    pairs = pairs_of(index)
    assert sorted(zip(pairs.a, pairs.b, strict=True)) == [(a, b) for a in range(6) for b in range(a + 1, 6)]
    np.testing.assert_array_equal(pairs.genuine, index.person_of[pairs.a] == index.person_of[pairs.b])
    np.testing.assert_array_equal(pairs.family, index.person_of[np.stack([pairs.a, pairs.b], 1)])
    two = pairs_of(people([2, 1]))
    assert sorted(zip(two.a, two.b, two.genuine, strict=True)) == [(0, 1, True), (0, 2, False), (1, 2, False)]


def test_everyone_has_as_many_partners_and_no_more_images_than_are_enough(monkeypatch):
    monkeypatch.setattr(protocol, "EACH", 3)
    monkeypatch.setattr(protocol, "PARTNERS", 4)
    monkeypatch.setattr(protocol, "ENOUGH", 0)
    index = people([5, 2, 1, 3, 4, 2, 2, 7, 3])
    pairs = people_pairs(index)
    assert (pairs.a < pairs.b).all() and len(set(zip(pairs.a, pairs.b, strict=True))) == len(pairs)
    used = [
        np.unique(np.concatenate([pairs.a, pairs.b])[index.person_of[np.concatenate([pairs.a, pairs.b])] == p])
        for p in range(9)
    ]
    assert [len(one) for one in used] == [3, 2, 1, 3, 3, 2, 2, 3, 3]
    assert pairs.genuine.sum() == 5 * 3 + 3 * 1
    others = {tuple(two) for two in pairs.family[~pairs.genuine]}
    assert [sum(person in two for two in others) for person in range(9)] == [4] * 9
    assert (~pairs.genuine).sum() == sum(len(used[a]) * len(used[b]) for a, b in others)
    again, other = people_pairs(index), people_pairs(index, seed=1)
    assert np.array_equal(pairs.family, again.family) and not np.array_equal(pairs.family[:, 1], other.family[:, 1])


def test_more_partners_are_drawn_until_there_are_enough_comparisons(monkeypatch):
    monkeypatch.setattr(protocol, "PARTNERS", 2)
    monkeypatch.setattr(protocol, "ENOUGH", 200)
    pairs = people_pairs(people([2] * 20))
    assert len(np.unique(clusters_of(pairs.family[~pairs.genuine]))) == 20 * 2 and (~pairs.genuine).sum() == 160
    monkeypatch.setattr(protocol, "ENOUGH", 250)
    assert (~people_pairs(people([2] * 20)).genuine).sum() == 240


class Dot(nn.Module):
    def compare(self, a: Features, b: Features, reading=None) -> torch.Tensor:
        return a.parts["e"] @ b.parts["e"].T

    def compare_pairs(self, a: Features, b: Features, reading=None) -> torch.Tensor:
        return (a.parts["e"] * b.parts["e"]).sum(1)


@pytest.mark.parametrize("block", [3, 64])
def test_every_pair_gets_its_own_score(block):
    index = people([6, 1, 5, 4, 2, 7])
    pairs = pairs_of(index)
    vectors = torch.randn(25, 8, generator=torch.Generator().manual_seed(0))
    expected = (vectors[pairs.a] * vectors[pairs.b]).sum(1)
    np.testing.assert_allclose(score_pairs(Dot(), Features({"e": vectors}), pairs, block), expected, atol=2e-6)


# ---- what a draw of people holds


@pytest.mark.parametrize("even", [False, True])
def test_replicates_equal_a_naive_loop_over_repeated_comparisons(even):
    scores, genuine, family = case()
    weights = family_weights(family, genuine) if even else np.ones(len(scores))
    found = replicate(scores, genuine, family, 1.0, draws=25, seed=3, weights=weights)
    drawn = [np.ones(8, dtype=int), *drawn_families(8, draws=25, seed=3)]
    drawn = [count for count in drawn if len(set(genuine[repeated(family, count)])) == 2]
    assert len(found.values["eer"]) == len(drawn)
    for draw, count in enumerate(drawn):
        chosen = repeated(family, count)
        s, g, w = scores[chosen], genuine[chosen], weights[chosen]
        fmr, fnmr = rates_at(s, g, 1.0, w)
        expected = {"eer": equal_error_rate(s, g, w)[0], "roc_auc": roc_auc(s, g, w), "fmr": fmr, "fnmr": fnmr}
        expected |= {"accuracy": accuracy(s, g, 1.0, w), "tar_at_fmr_0.1": 1 - fnmr_at_fmr(s, g, 0.1, w)}
        assert {name: found.values[name][draw] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_totals_do_not_depend_on_how_many_draws_are_held_at_once(monkeypatch):
    scores, genuine, family = case()
    whole = verdict_rates(scores, genuine, family, Thresholds(0.5, 1.5), draws=40)["impostor"]
    monkeypatch.setattr("dcal_core.verification.comparisons._CHUNK", 50)
    parts = verdict_rates(scores, genuine, family, Thresholds(0.5, 1.5), draws=40)["impostor"]
    assert all(parts[name] == pytest.approx(one) for name, one in whole.items())


def test_other_estimates_equal_those_of_repeated_comparisons():
    scores, genuine, family = case()
    for estimate in (cllr_estimate, cllr_min_estimate):
        rows = []
        counts = np.vstack([np.ones(8, dtype=int), drawn_families(8, draws=20, seed=0)])
        for count in counts:
            chosen = repeated(family, count)
            if len(set(genuine[chosen])) == 2:
                rows.append(estimate(scores[chosen], genuine[chosen], np.arange(len(chosen)), draws=1)["value"])
            else:
                rows.append(np.nan)
        share = np.array(rows) / (1 + np.array(rows))
        found = estimate(scores, genuine, family, draws=20, seed=0)
        assert found["value"] == pytest.approx(rows[0])
        sizes = [((family == person).any(1)).sum() for person in range(8)]
        low = rate_estimate(share, np.array(sizes), counts)["low"]
        assert found["low"] == pytest.approx(low / (1 - low))
    bins = reliability(scores, genuine, family, bins=2, draws=20)
    for one, inside in zip(bins, (scores < 0, scores >= 0), strict=True):
        assert one["families"] == len(np.unique(family[inside]))
    wrong = verdict_rates(scores, genuine, family, Thresholds(1.0, 1.0), draws=20)["impostor"]["same"]
    drawn = [d for d in drawn_families(8, 20, 0) if (~genuine[repeated(family, d)]).any()]
    rates = [np.mean(scores[c][~genuine[c]] >= 1) for c in (repeated(family, d) for d in drawn)]
    sizes = [((family == person).any(1) & ~genuine).sum() for person in range(8)]
    assert wrong["low"] == pytest.approx(share_interval(np.array(rates), effective_families(sizes), np.array(drawn))[0])


def test_a_family_has_its_own_comparisons_and_those_with_others():
    sample = Comparisons([1, 2, 3, 4, 5], [1, 1, 0, 0, 0], [[3, 3], [5, 5], [3, 5], [3, 7], [3, 5]], [1, 2, 4, 8, 16])
    np.testing.assert_array_equal(sample.by_family(~sample.genuine), [28, 20, 8])
    np.testing.assert_array_equal(sample.by_family(sample.genuine), [1, 2, 0])
    np.testing.assert_array_equal(sample.ends.T[sample.member], [[0, 0], [1, 1], [0, 1], [0, 2], [0, 1]])
    np.testing.assert_array_equal(sample.spread(np.array([[2, 3, 5]]))[0][sample.member], [2, 3, 6, 10, 6])
    assert families_of_rarer_class(sample.genuine, np.array([[3, 3], [5, 5], [3, 5], [3, 7], [3, 5]])) == 2
    np.testing.assert_allclose(
        family_weights(np.array([[0, 0], [0, 1], [0, 1], [0, 2]]), [1, 0, 0, 0])[1:], [0.75, 0.75, 1.5]
    )


def test_no_threshold_is_tried_on_a_person_who_has_taught_it():
    scores, genuine, family = case([3] * 12)
    parts = Folds(Comparisons(scores, genuine, family)).parts
    assert sorted(np.concatenate([test for _, test, *_ in parts])) == [*range(len(scores))]
    for train, test, *_ in parts:
        assert not set(family[test, 0]) & set(family[train].ravel()) and len(train)


def test_the_jackknife_leaves_out_all_comparisons_of_a_person():
    scores, genuine, family = case([3] * 9)
    without = []
    for person in range(9):
        kept = (family != person).all(1)
        without.append(equal_error_rate(scores[kept], genuine[kept])[0])
    low = equal_error_rate(scores, genuine)[0] - 2 * np.sqrt(8 * np.var(without))
    assert eer_low(scores, genuine, family) == pytest.approx(max(0, low)) and low > 0


def test_what_so_few_people_cannot_tell_is_said():
    scores, genuine, family = case([2] * 12)
    result = summarise(replicate(scores, genuine, family, 1.0, draws=20))
    assert result["counts"] == {"genuine": 12, "impostor": 264, "families": 12, "draws": 20}
    assert (
        result["tar_at_fmr_0.1"]["value"] is None
        and result["tar_at_fmr_0.1"]["reason"] == "not resolvable with 12 people"
    )
    many = Sample(*case([4] * 12), draws=2, seed=0)  # 66 pairs of people, 1,056 comparisons
    assert "tar_at_fmr_0.05" not in many.unresolved() and "tar_at_fmr_0.01" in many.unresolved()
    low, high = roc_band(*case([4] * 12), [0.1, 0.5], draws=20)
    assert (low < high).all()


# ---- how it is told


@pytest.fixture(scope="module")
def systems():
    def scored(name: str, seed: int) -> Scored:
        index = people([3] * 20, name)
        pairs = people_pairs(index)
        noise = np.random.default_rng(seed).normal(size=len(pairs))
        return Scored(index, pairs, noise + 2 * pairs.genuine)

    return [
        System(name, "made up", scored("validation", n), scored("test", 9 + n), None) for n, name in enumerate("ab")
    ]


def test_the_report_speaks_of_unrelated_people_and_of_no_twins(systems, tmp_path):
    result = evaluate(systems, "faces", error=0.1, calibration="logistic", draws=30)
    assert result["security"] == [] and result["co_twins"] is False
    assert {one["metric"] for one in result["differences"]} == set(UNRELATED.compared)
    told = {"synthetic": False, "created": "now", "device": "CPU", "model": "m", "code": "c", "fingerprint": "f"}
    told |= {
        "command": "evaluate",
        "seconds": {"training": 1.0, "evaluation": 1.0},
        "conditions": [],
        "maps": [],
        "images": "",
    }
    scores, genuine, family = systems[0].test.labelled
    images = SimpleNamespace(batch=lambda chosen: torch.zeros(len(chosen), 3, 8, 8, dtype=torch.uint8))
    figures = {
        "scores": plots.draw_histogram(scores, genuine, family, 1.0, "faces"),
        "roc": plots.draw_roc(scores, genuine, family, "faces", draws=10),
        "det": plots.draw_det({"a": scores}, genuine, family, "faces", draws=10),
        "systems": plots.draw_systems(result),
        **draw_evidence(scores, genuine, family, np.ones(len(scores)), "faces"),
        "reliability": plots.draw_reliability(result["calibration"], genuine, family, "faces"),
        "confusable": plots.draw_confusable(result, images),
    }
    png = b"\x89PNG\r\n\x1a\n"
    write_page(tmp_path / "report.html", result | told, dict.fromkeys(figures, png))
    page = re.sub(
        r"<style>.*?</style>|<[^>]*>", " ", (tmp_path / "report.html").read_text(encoding="utf-8"), flags=re.S
    )
    drawn = [text.get_text() for figure in figures.values() for text in figure.findobj(Text)]
    for text in (page, " ".join(drawn)):
        assert "unrelated people" in text and not re.findall(r"\w*(?:twin|famil)\w*", text, re.IGNORECASE)
    assert "20 people" in page and "TAR at FMR 0.1 %" in page and "not resolvable with 20 people" in page
    assert len({tuple(pair["people"]) for pair in result["confusable"]}) == 8


def test_a_rule_learnt_from_unrelated_people_says_so(systems, tmp_path):
    result = evaluate(systems[:1], "faces", error=0.1, calibration="logistic", draws=10)
    rule = rule_of_report(result)
    assert rule.as_dict()["co_twins"] is False and rule.sentence(5.0).endswith("; of unrelated people, not of co-twins")
    assert "20 people were there to calibrate on" in rule.sentence(99.0)
    lines = list(rows_of(systems[0].test, rule, list(systems[0].test.index.paths)))
    assert len(lines) == len(systems[0].test.pairs) and lines[0][5] == systems[0].test.index.people[0]
