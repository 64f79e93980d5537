"""The ablation's statistics: paired over families and seeds, told by scores whose effects are known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.ablation.effects import as_markdown, draw_effects, effects, interval, over_seeds
from benchmarks.trials import Row
from dcal_core.verification.bootstrap import replicate_eer
from dcal_core.verification.metrics import equal_error_rate

FAMILIES, EACH, SEEDS = 40, 12, 5
ROWS = (
    Row("plain", "plain: without it", main=True, against=""),
    Row("better", "better: with a part", {"x": 1}, "plain", True),
    Row("same", "the same", {}, "plain"),
)
PAIRS = SimpleNamespace(
    genuine=np.tile(np.arange(EACH) % 2 == 0, FAMILIES), family=np.repeat(np.arange(FAMILIES), EACH)
)


def trial(row: str, seed: int, separation: float, done: bool = True):
    """A run whose genuine scores lie so many deviations above the others; noise by seed alone, hence shared by rows."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=FAMILIES * EACH) + random.normal(size=FAMILIES)[PAIRS.family] / 2
    scores += separation * PAIRS.genuine
    return SimpleNamespace(row=row, seed=seed, result=lambda: {"eer": 0} if done else None, scores=lambda: scores)


@pytest.fixture(scope="module")
def found():
    separations = {"plain": 2.0, "better": 2.8, "same": 2.0}
    trials = [trial(row, seed, separation) for row, separation in separations.items() for seed in range(SEEDS)]
    trials = [one for one in trials if one.row != "same" or one.seed < 2]
    return {line["row"]: line for line in effects(ROWS, trials, PAIRS, draws=200)}


def test_a_rows_eer_is_the_mean_over_its_seeds(found):
    expected = [equal_error_rate(trial("", seed, 2.0).scores(), PAIRS.genuine)[0] for seed in range(SEEDS)]
    assert list(found["plain"]["seeds"].values()) == pytest.approx(expected)
    eer = found["plain"]["eer"]
    assert eer["value"] == pytest.approx(np.mean(expected)) and eer["low"] < eer["value"] < eer["high"]
    assert "difference" not in found["plain"]


def test_a_real_effect_is_shown_and_its_interval_is_narrower_than_unpaired(found):
    difference, relative = found["better"]["difference"], found["better"]["relative"]
    assert difference["high"] < 0 and relative["high"] < 0
    means = [found[row]["eer"]["value"] for row in ("better", "plain")]
    assert difference["value"] == pytest.approx(means[0] - means[1])
    seeds = [np.array(list(found[row]["seeds"].values())) for row in ("better", "plain")]
    assert relative["value"] == pytest.approx(np.exp(np.log(seeds[0] / seeds[1]).mean()) - 1)
    reach = {row: found[row]["eer"]["high"] - found[row]["eer"]["low"] for row in ("better", "plain")}
    assert difference["high"] - difference["low"] < np.hypot(*reach.values())


def test_equal_scores_differ_by_exactly_nothing_on_the_seeds_that_both_have(found):
    assert found["same"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert list(found["same"]["seeds"]) == ["0", "1"]


def test_runs_that_are_not_done_are_left_out():
    lines = effects(ROWS, [trial("plain", 0, 2.0), trial("better", 0, 2.0, done=False)], PAIRS, draws=10)
    assert [line["row"] for line in lines] == ["plain"]
    eer = lines[0]["eer"]
    assert eer["low"] < eer["value"] < eer["high"]  # of the families alone


def test_seeds_are_drawn_alike_for_every_row_and_once_each_in_the_sample():
    table = {seed: np.full(1001, float(seed)) for seed in range(3)}
    drawn = over_seeds(table, [0, 1, 2])
    assert drawn[0] == 1.0 and np.array_equal(drawn, over_seeds(dict(reversed(table.items())), {2, 0, 1}))
    assert np.std(drawn[1:]) == pytest.approx(np.sqrt(2 / 3 / 3), rel=0.1)  # a mean of three draws of variance 2/3


def test_the_interval_is_students_t():
    values = np.concatenate([[0.5], np.tile([0.4, 0.6], 500)])
    found = interval(values, seeds=2)
    spread = np.std(values[1:], ddof=1)
    assert found["high"] - 0.5 == pytest.approx(12.7062 * np.sqrt(2) * spread, rel=1e-4)
    assert interval(values, seeds=1)["high"] - 0.5 == pytest.approx(1.96 * spread, rel=1e-4)


def test_the_interval_over_seeds_and_families_covers_the_truth():
    random, held = np.random.default_rng(0), 0
    truth = 0.1587  # EER of normal scores two deviations apart
    for repetition in range(60):
        shift = {seed: random.normal(scale=0.15) for seed in range(SEEDS)}  # seeds differ in how good they are
        drawn = {}
        for seed in range(SEEDS):
            scores = np.random.default_rng([repetition, seed]).normal(size=FAMILIES * EACH)
            scores += (2 + shift[seed]) * PAIRS.genuine
            drawn[seed] = replicate_eer(scores, PAIRS.genuine, PAIRS.family, 100, repetition).values["eer"]
        line = interval(over_seeds(drawn, range(SEEDS)), SEEDS)
        held += line["low"] <= truth <= line["high"]
    assert held >= 54  # of 60; 57 are expected of an exact interval


def test_table_and_figure_name_every_row(found, tmp_path):
    lines = list(found.values())
    table = as_markdown(lines)
    head, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    assert head[0] == "system" and len(head) == 6 and all(set(cell) == {"-"} for cell in rule)
    assert [row[0] for row in rows] == ["plain: without it", "better: with a part", "the same"]
    assert [row[3] for row in rows] == ["", "plain", "plain"] and rows[0][4:] == ["", ""]
    figure = draw_effects(lines, "SYNTHETIC")
    assert "SYNTHETIC" in figure.get_suptitle()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [line["meaning"] for line in lines]
    references = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert references == ["", "than plain: without it", "than plain: without it"]
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("name", ["exploration", "confirmation"])
def test_no_text_of_the_published_figure_is_cut_off_or_lies_on_another(name):
    file = Path(__file__).parents[3] / f"docs/ablation/{name}.json"
    published = json.loads(file.read_text(encoding="utf-8"))
    figure = draw_effects(published["rows"], published["data"])
    figure.draw_without_rendering()
    page = figure.bbox
    labels = [text for axes in figure.axes for text in (axes.xaxis.label, *axes.get_yticklabels())]
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_a_run_that_has_not_begun_to_learn_does_not_decide_the_relative_effect():
    separations = [(2.0, 2.6), (2.0, 2.6), (0.0, 2.6)]  # of plain and better, by seed: the third plain one is at chance
    trials = [trial(row, s, pair[k]) for s, pair in enumerate(separations) for k, row in enumerate(("plain", "better"))]
    line = effects(ROWS, trials, PAIRS, draws=50)[1]
    shares = [line["seeds"][str(s)] / equal_error_rate(trials[2 * s].scores(), PAIRS.genuine)[0] for s in range(3)]
    assert line["relative"]["value"] == pytest.approx(np.prod(shares) ** (1 / 3) - 1)
