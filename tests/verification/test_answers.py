import json
import math

import pytest

from dcal_core.storage import DamagedError
from dcal_core.verification.answers import Answers, read_answers
from dcal_core.verification.calibration import Logistic, fit_logistic
from dcal_core.verification.verdicts import Thresholds

LIMITS = {"different_below": 0.2, "same_from": 0.6}


@pytest.fixture
def logistic():
    scores, genuine, family = [0.1, 0.5, 0.3, 0.9] * 3, [False, False, True, True] * 3, [0] * 4 + [1] * 4 + [2] * 4
    return fit_logistic(scores, genuine, family)


def write(folder, **changes):
    report = {"verdict": {"thresholds": LIMITS}, "calibration": {"reason": "no better than chance"}, "data": "TWINS"}
    (folder / "report.json").write_text(json.dumps(report | changes))
    return folder / "report.json"


def test_answers_are_those_of_the_report(tmp_path, logistic):
    answers = read_answers(write(tmp_path, calibration={"fitted": logistic.as_dict()}))
    assert answers == Answers(Thresholds(0.2, 0.6), logistic, "TWINS") and isinstance(answers.calibration, Logistic)
    assert [answers.verdict(score) for score in (0.19, 0.2, 0.59, 0.6)] == ["different", *["undecided"] * 2, "same"]
    for score in (0.0, 0.3, 1.0):
        llr = logistic.llr([score])[0]
        assert answers.llr(score) == llr
        assert f"{math.exp(abs(llr)):.2g} times likelier for {'one' if llr >= 0 else 'two'} p" in answers.sentence(
            score
        )
    assert answers.sentence(1.0).startswith("score 1.00: the same person; ")


def test_without_a_calibration_the_verdict_stands_alone(tmp_path):
    answers = read_answers(write(tmp_path))
    assert answers.llr(0.3) is None and answers.sentence(0.3) == "score 0.30: undecided"


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": {}},
        {"verdict": {"thresholds": {"different_below": 0.7, "same_from": 0.6}}},
        {"verdict": {"thresholds": {"different_below": "low", "same_from": 0.6}}},
        {"calibration": "none"},
        {"calibration": {"fitted": {"kind": "cubic"}}},
    ],
)
def test_a_report_that_says_it_otherwise_is_damaged(tmp_path, changes):
    with pytest.raises(DamagedError, match=r"report.json is damaged .*: evaluate again"):
        read_answers(write(tmp_path, **changes))
