"""The decision rule in a model's folder: what it answers, how it is left there, and what is refused."""

import json
import math
import shutil
from dataclasses import replace

import pytest

from dcal_core.storage import DamagedError, check_seal, digest, read_sums, recover, seal, sealed_folder
from dcal_core.verification.calibrating import fit_isotonic, fit_logistic
from dcal_core.verification.decision import DecisionRule, read_rule, rule_from_dict, rule_of_report, write_rule
from dcal_core.verification.verdicts import Thresholds

CASE = [0.1, 0.5, 0.3, 0.9] * 3, [False, False, True, True] * 3, [0] * 4 + [1] * 4 + [2] * 4


@pytest.fixture
def model(tmp_path):
    """A sealed folder that stands for a model's."""
    with sealed_folder(tmp_path / "run" / "best") as folder:
        (folder / "model.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(range(256)))
    return tmp_path / "run" / "best"


@pytest.fixture
def rule(model):
    weights = digest(model / "model.safetensors")
    return DecisionRule("TWINS", weights, 3, 0.4, Thresholds(0.2, 0.6), 0.05, fit_logistic(*CASE))


def test_verdict_likelihood_ratio_and_sentence(rule):
    assert [rule.verdict(score) for score in (0.19, 0.2, 0.59, 0.6)] == ["different", *["undecided"] * 2, "same"]
    for score in (0.0, 0.3, 1.0):
        llr = rule.calibration.llr([score])[0]
        assert rule.llr(score) == llr
        assert f"{math.exp(abs(llr)):.2g} times likelier for {'one' if llr >= 0 else 'two'} p" in rule.sentence(score)
    assert rule.sentence(1.0).startswith("score 1.00: the same person; ")


def test_a_likelihood_ratio_at_its_limit_says_why_it_goes_no_further(rule):
    for calibration in (fit_logistic(*CASE), fit_isotonic(*CASE), replace(rule.calibration, families=30)):
        families = calibration.families
        capped = replace(rule, calibration=calibration)
        for score in (-99.0, 99.0):
            limit = f"(at most {families}, because {families} families were there to calibrate on)"
            kinds = "one person than for two" if score > 0 else "two people than for one"
            assert capped.sentence(score).endswith(f"{families} times likelier for {kinds} {limit}")
        middle = -rule.calibration.intercept / rule.calibration.slope
        assert "at most" not in rule.sentence(middle)
    assert "1,200 times likelier" in replace(rule, calibration=replace(rule.calibration, families=1200)).sentence(99.0)


def test_the_calibration_against_unrelated_people_is_kept(rule, model):
    both = replace(rule, strangers=fit_isotonic(*CASE))
    write_rule(both, model, model)
    assert read_rule(model) == both and read_rule(model).strangers.kind == "isotonic"
    old = json.loads((model / "decision.json").read_text())
    del old["strangers"]  # as earlier versions wrote it
    assert rule_from_dict(old) == rule


def test_without_a_calibration_the_verdict_stands_alone(rule):
    bare = replace(rule, calibration=None)
    assert bare.llr(0.3) is None and bare.sentence(0.3) == "score 0.30: undecided"


def test_the_rule_is_that_of_the_report(result):
    rule = rule_of_report(result | {"weights": "abc"})
    limits = result["verdict"]["thresholds"]
    assert rule.thresholds == Thresholds(limits["different_below"], limits["same_from"])
    assert (rule.data, rule.weights, rule.families, rule.error) == ("SYNTHETIC", "abc", 12, 0.1)
    assert (
        rule.threshold == result["threshold"]["value"] and rule.calibration.as_dict() == result["calibration"]["fitted"]
    )


@pytest.mark.parametrize("calibration", [None, fit_logistic(*CASE), fit_isotonic(*CASE)])
def test_a_model_folder_keeps_its_rule_and_its_seal(tmp_path, model, rule, calibration):
    rule = replace(rule, calibration=calibration)
    assert read_rule(model) is None
    before = read_sums(model)
    for turn in range(2):  # an earlier rule is replaced
        rule = replace(rule, error=0.01 * (1 + turn))
        assert write_rule(rule, model, model) == model / "decision.json"
        check_seal(model)
        assert read_rule(model) == rule and before.items() < read_sums(model).items()
    shutil.copytree(model, tmp_path / "alone")
    assert read_rule(tmp_path / "alone") == rule


def test_a_model_that_cannot_be_written_to_is_copied_with_its_rule(tmp_path, model, rule):
    for file in model.iterdir():
        file.chmod(0o444)
    before = {file: file.read_bytes() for file in model.iterdir()}
    write_rule(rule, model, tmp_path / "own" / "best")
    check_seal(tmp_path / "own" / "best")
    assert read_rule(tmp_path / "own" / "best") == rule
    assert {file: file.read_bytes() for file in model.iterdir()} == before
    write_rule(replace(rule, error=0.2), tmp_path / "own" / "best", tmp_path / "own" / "best")  # the copy is writable
    assert read_rule(tmp_path / "own" / "best").error == 0.2


def test_a_kill_leaves_the_old_rule_or_the_new_one(tmp_path, model, rule, killed_at, capfd):
    write_rule(rule, model, model)
    new = replace(rule, error=0.3)
    number = 0
    while killed_at(number, lambda: write_rule(new, model, model)):
        recover(model.parent)
        check_seal(model)
        assert read_rule(model) in (rule, new)
        number += 1
    assert number > 8 and read_rule(model) == new
    assert [file.name for file in model.parent.iterdir()] == ["best"]


def spoil(**changes):
    def change(model):
        file = model / "decision.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        seal(model)

    return change


def reword(model):
    """Changed, as a bad sector would, without new checksums."""
    file = model / "decision.json"
    file.write_text(file.read_text().replace("0.6", "0.5"))


def other_weights(model):
    (model / "model.safetensors").write_bytes(b"trained further")
    seal(model)


@pytest.mark.parametrize(
    ("spoils", "words"),
    [
        (reword, "decision.json is damaged: its SHA-256 is not the one in SHA256SUMS"),
        (other_weights, "holds other weights than were evaluated: evaluate again."),
        (lambda model: (model / "SHA256SUMS").unlink(), "its SHA256SUMS is missing"),
        (lambda model: (model / "decision.json").write_text("{"), "decision.json is damaged: not JSON"),
        (spoil(verdict={}), "evaluate again."),
        (spoil(verdict={"different_below": 0.7, "same_from": 0.6, "error": 0.1}), "must not exceed same_from"),
        (spoil(verdict={"different_below": "low", "same_from": 0.6, "error": 0.1}), "evaluate again."),
        (spoil(verdict={"different_below": 0.1, "same_from": 0.6, "error": None}), "error must be a finite number"),
        (spoil(threshold={"value": float("nan")}), "threshold must be a finite number"),
        (spoil(threshold=0.4), "evaluate again."),
        (spoil(families=True), "families must be a whole number"),
        (spoil(data=None), "data and weights must be texts"),
        (spoil(weights=7), "data and weights must be texts"),
        (spoil(calibration="none"), "kind must be one of"),
        (spoil(calibration={"kind": "cubic"}), "kind must be one of"),
    ],
)
def test_damage_is_a_sentence(model, rule, refused, spoils, words):
    write_rule(rule, model, model)
    spoils(model)
    with refused(DamagedError, model, words):
        read_rule(model)


def test_a_damaged_model_gets_no_seal(tmp_path, model, rule, refused):
    sums = (model / "SHA256SUMS").read_bytes()
    (model / "model.json").write_text("{ }")
    with refused(DamagedError, "model.json is damaged"):
        write_rule(rule, model, model)
    (model / "model.json").write_text("{}")
    with refused(DamagedError, "other weights than were evaluated"):
        write_rule(replace(rule, weights="0" * 64), model, model)
    assert (model / "SHA256SUMS").read_bytes() == sums and [file.name for file in model.parent.iterdir()] == ["best"]
