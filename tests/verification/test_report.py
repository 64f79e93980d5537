"""The result of an evaluation: what it holds, what was chosen where, and that it can be written and read back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scored_cases import FAMILIES, OPTIONS, scored, system

from dcal_core.verification import report
from dcal_core.verification.bootstrap import replicate
from dcal_core.verification.calibrating import fit_logistic
from dcal_core.verification.calibration import from_dict
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.protocol import Unrelated
from dcal_core.verification.report import CURVE_POINTS, compare, evaluate, most_confusable, write_json
from dcal_core.verification.words import CO_TWINS


def test_json_round_trip(result, tmp_path):
    write_json(tmp_path / "result.json", result)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nan_is_refused_and_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "result.json"
    write_json(path, {"eer": 0.1})
    with pytest.raises(ValueError):
        write_json(path, {"eer": number})
    assert json.loads(path.read_text()) == {"eer": 0.1}


def test_result_says_what_it_is_about(result):
    assert result["data"] == "SYNTHETIC" and result["split"] == "test" and result["system"]["name"] == "ours"
    counts = {"genuine": 12 * 20, "impostor": 12 * 25, "families": 12, "draws": 30}
    assert result["metrics"]["counts"] == counts
    # families of one size: counting families evenly changes nothing
    assert result["metrics_per_family"]["eer"] == pytest.approx(result["metrics"]["eer"])


def test_whatever_is_chosen_is_chosen_on_validation_families(ours, result):
    """Other test scores change the figures, but neither threshold nor calibration nor the verdict's thresholds."""
    pairs = ours.validation.pairs
    assert result["threshold"]["value"] == equal_error_rate(ours.validation.scores, pairs.genuine)[1]
    assert result["threshold"]["source"] == "equal error rate of 12 validation families"
    other = evaluate([replace(ours, test=scored("test", FAMILIES, 1.0, 9))], "SYNTHETIC", **OPTIONS)
    for chosen in (("threshold",), ("calibration", "fitted"), ("verdict", "thresholds")):
        mine, others = result, other
        for key in chosen:
            mine, others = mine[key], others[key]
        assert mine == others, chosen
    assert other["metrics"]["eer"] != result["metrics"]["eer"]


def test_unrelated_people_are_calibrated_against_on_validation_families(ours, result):
    assert result["strangers"] is None
    known = ours.validation.pairs.genuine
    scores = ours.validation.scores[~known] - 0.5
    family = np.arange(len(scores)) % FAMILIES
    apart = Unrelated(scores, family, (family + 1) % FAMILIES)
    found = evaluate([replace(ours, strangers=apart)], "SYNTHETIC", **OPTIONS)
    fitted = from_dict(found["strangers"])
    naive = fit_logistic(
        np.concatenate([ours.validation.scores[known], scores]),
        np.repeat([True, False], [known.sum(), len(scores)]),
        np.concatenate([ours.validation.pairs.family[known], 100 + family]),  # here families are all of one size
    )
    assert fitted.families == FAMILIES
    assert fitted.llr([0.0, 0.4]) == pytest.approx(naive.llr([0.0, 0.4]), abs=0.2)
    alike = replace(apart, scores=np.full(len(scores), 9.0))
    assert evaluate([replace(ours, strangers=alike)], "SYNTHETIC", **OPTIONS)["strangers"] is None


def test_verdicts_of_few_families_keep_the_error_and_say_how(ours, result):
    limits = result["verdict"]["thresholds"]
    assert limits["error"] == 0.1 and "12 validation families themselves that leaves 2.5 %" in limits["source"]
    strict = evaluate([ours], "SYNTHETIC", **OPTIONS | {"error": 0.01})["verdict"]["thresholds"]
    assert strict["error"] == 0.01 and "12 validation families are too few to count that" in strict["source"]
    assert strict["different_below"] < limits["different_below"] <= limits["same_from"] < strict["same_from"]


def test_calibrations_stand_side_by_side_and_chance_has_none(result):
    found = result["calibration"]
    assert found["kind"] == found["fitted"]["kind"] == "logistic" and set(found["others"]) == {"isotonic"}
    for name in ("cllr", "cllr_min"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["cllr_min"]["value"] <= min(found["cllr"]["value"], found["others"]["isotonic"]["value"])
    wrong = evaluate([system(separation=-1.0)], "SYNTHETIC", **OPTIONS)
    assert "do not separate in the right direction" in wrong["calibration"]["reason"]
    assert wrong["metrics"]["eer"]["value"] > 0.5


def test_curve_is_short_and_keeps_its_course(ours, result):
    curve, pairs = result["curve"], ours.test.pairs
    assert len(curve["threshold"]) <= CURVE_POINTS
    for threshold, fmr, fnmr in zip(*(curve[name] for name in ("threshold", "fmr", "fnmr")), strict=True):
        matched = ours.test.scores >= threshold
        assert fmr == pytest.approx(matched[~pairs.genuine].mean())
        assert fnmr == pytest.approx(1 - matched[pairs.genuine].mean())
    assert curve["fmr"][0] == 1 and curve["fnmr"][-1] > 0.97
    assert np.diff(curve["fmr"]).min() > -0.05 and np.diff(curve["fnmr"]).max() < 0.05


def test_most_confusable_takes_the_worst_of_each_family(ours):
    scores, pairs = ours.test.scores, ours.test.pairs
    found = most_confusable(ours.test, threshold=0.7, count=3)
    assert [pair["genuine"] for pair in found] == [False] * 3 + [True] * 3
    for genuine, sign in ((False, 1), (True, -1)):
        worst = [(sign * scores)[(pairs.genuine == genuine) & (pairs.family == f)].max() for f in range(FAMILIES)]
        expected = sign * np.sort(worst)[::-1][:3]
        chosen = [pair for pair in found if pair["genuine"] == genuine]
        np.testing.assert_allclose([pair["score"] for pair in chosen], expected)
        assert len({pair["people"][0][:-1] for pair in chosen}) == 3
        for pair in chosen:
            assert (pair["people"][0] == pair["people"][1]) == genuine
            assert pair["paths"] == [f"{image}.png" for image in pair["images"]]
            assert pair["matched"] == (pair["score"] >= 0.7)


def test_systems_are_compared_on_the_same_draws(ours):
    systems = [ours, system("better", separation=3.0), replace(ours, name="twin of ours")]
    found = compare(systems, [one.replicates(draws=200, seed=0) for one in systems], CO_TWINS.compared)
    table, between = found["systems"], found["differences"]
    assert [line["name"] for line in table] == ["ours", "better", "twin of ours"]
    assert [(line["a"], line["b"], line["metric"]) for line in between] == [
        ("ours", name, metric) for name in ("better", "twin of ours") for metric in CO_TWINS.compared
    ]
    eers = [line["metrics"]["eer"]["value"] for line in table]
    assert between[0]["value"] == pytest.approx(eers[0] - eers[1]) and between[0]["better"] == "b"
    twin = between[len(CO_TWINS.compared)]
    assert twin["value"] == twin["low"] == twin["high"] == 0 and twin["better"] is None


def test_each_system_is_drawn_once_and_the_first_with_even_families_too(ours, result, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "replicate", lambda *what: drawn.append(what) or replicate(*what))
    again = evaluate([system(), system("other", separation=3.0)], "SYNTHETIC", **OPTIONS)
    assert again == result and result["systems"][0]["metrics"] == result["metrics"]
    of_test_scores = [np.array_equal(scores, ours.test.scores) for scores, *_ in drawn]
    assert of_test_scores == [True, False, True]  # the last one for metrics_per_family
    assert drawn[0][-1] is None and drawn[2][-1] is not None


def test_the_threshold_is_found_once_and_a_changed_system_has_its_own(monkeypatch):
    found, fresh = [], system()
    monkeypatch.setattr(report, "equal_error_rate", lambda *what: found.append(what) or equal_error_rate(*what))
    assert fresh.threshold == fresh.threshold and len(found) == 1
    changed = replace(fresh, validation=scored("validation", FAMILIES, 1.0, 9))
    assert changed.threshold != fresh.threshold and len(found) == 2
