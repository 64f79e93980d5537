"""How rows learn: curves over seeds by hand, and what counts as flat."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.ablation.learning import as_table, draw_learning, learning
from benchmarks.trials import Row

ROWS = tuple(Row(name, f"{name} it is", main=True) for name in ("falls", "flat", "untrained"))
STEPS = np.arange(50, 450, 50)


def trial(row: str, seed: int, errors, steps=STEPS):
    result = {"validation": [[int(step), float(eer)] for step, eer in zip(steps, errors, strict=True)]}
    return SimpleNamespace(row=row, seed=seed, result=lambda: result)


FALLING = np.linspace(0.5, 0.01, 8)
FLAT = np.array([0.5, 0.3, 0.1, 0.05, 0.02, 0.018, 0.016, 0.014])
TRIALS = [trial("falls", 0, FALLING), trial("falls", 1, FALLING + 0.02), trial("flat", 0, FLAT)]


def test_a_curve_is_the_mean_and_the_range_over_seeds():
    falls, flat = learning(ROWS, TRIALS, 200)
    assert falls["steps"] == STEPS.tolist() and falls["mean"] == pytest.approx(FALLING + 0.01)
    assert falls["least"] == pytest.approx(FALLING) and falls["most"] == pytest.approx(FALLING + 0.02)
    assert (falls["flat"], flat["flat"]) == (False, True)  # 0.14 and 0.004 below the quarter before


def test_the_early_difference_is_relative_and_paired_by_seed():
    rows = (Row("sa", "alone"), Row("full", "both", against="sa"))
    flat = np.full(8, 0.4)
    done = [trial("sa", 0, flat), trial("sa", 1, flat / 2), trial("full", 0, flat / 2), trial("full", 1, flat / 8)]
    reference, full = learning(rows, [*done, trial("full", 2, flat / 8)], 200)  # the third has no partner
    assert "relative" not in reference and full["against"] == "sa"
    middle, reach = np.log([0.5, 0.25]).mean(), 12.7062 * np.log(2) / 2  # Student's t of one degree of freedom
    ends = {"value": middle, "low": middle - reach, "high": middle + reach}
    assert full["relative"] == pytest.approx({name: np.expm1(end) for name, end in ends.items()}, rel=1e-4)
    assert "| alone         | -65 % (-100 % to +2790 %)" in as_table([reference, full], 200)
    (alone,) = learning(rows, done[2:3], 200)
    assert "relative" not in alone


def test_seeds_validated_at_different_steps_are_refused():
    with pytest.raises(ValueError, match="falls"):
        learning(ROWS, [TRIALS[0], trial("falls", 1, FALLING, STEPS + 1)], 200)


def test_table_and_figure_show_every_trained_row():
    found = learning(ROWS, TRIALS, 200)
    table = as_table(found, 200)
    assert "after 200 steps" in table and "after 400" in table
    assert "30.0 (29.0-31.0)" in table and "| yes" in table
    figure = draw_learning(found, "SYNTHETIC")
    names = {text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()}
    assert names == {"falls it is", "flat it is", "chance"} and "SYNTHETIC" in figure.get_suptitle()
