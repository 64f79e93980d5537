"""scores.csv: every pair once, names as they are, and figures that give the report's error rates again."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from scored_cases import FAMILIES

from dcal_core.storage import StorageError
from dcal_core.verification.calibration import Logistic
from dcal_core.verification.decision import rule_of_report
from dcal_core.verification.protocol import image_names
from dcal_core.verification.score_list import COLUMNS, write_scores

NAMES = ["a,b", 'say "hi"', "line\nbreak", "cr\ronly", "=1+1", "שלום", "\u202etxt", " space ", "a|b", "👨‍👩‍👧"]


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def rule(result):
    return rule_of_report(result | {"weights": "abc"})


def test_every_pair_of_both_splits_has_one_line(ours, result, rule, tmp_path):
    write_scores(tmp_path / "scores.csv", [ours.validation, ours.test], rule, tmp_path)
    lines = read(tmp_path / "scores.csv")
    assert tuple(lines[0]) == COLUMNS
    assert [line["split"] for line in lines] == ["validation"] * len(ours.validation.pairs) + ["test"] * len(
        ours.test.pairs
    )
    tested = [line for line in lines if line["split"] == "test"]
    scores = np.array([float(line["score"]) for line in tested])
    genuine = np.array([line["same_person"] == "1" for line in tested])
    np.testing.assert_allclose(scores, ours.test.scores, atol=1e-6)
    assert ((scores >= rule.threshold) & ~genuine).sum() / (~genuine).sum() == result["metrics"]["fmr"]["value"]
    assert [line["verdict"] for line in tested] == [rule.verdict(score) for score in ours.test.scores]
    ratios = np.array([float(line["likelihood_ratio"]) for line in tested])
    np.testing.assert_allclose(np.log(ratios), [rule.llr(score) for score in ours.test.scores], atol=1e-4)
    assert len({line["family"] for line in tested}) == FAMILIES
    assert all((line["person_a"] == line["person_b"]) == (line["same_person"] == "1") for line in tested)
    assert all(line["family"] == min(line["person_a"][:-1] + "a", line["person_b"]) for line in tested)


def test_names_of_any_letters_come_back_as_they_are(ours, rule, tmp_path):
    index = ours.test.index
    people = tuple(NAMES[place % len(NAMES)] + str(place) for place in range(len(index.people)))
    paths = tuple(f"{NAMES[place % len(NAMES)]}/{place}.png" for place in range(len(index.paths)))
    families = tuple(people[2 * place : 2 * place + 2] for place in range(len(index.families)))
    named = replace(ours.test, index=replace(index, people=people, paths=paths, families=families))
    write_scores(tmp_path / "scores.csv", [named], rule, tmp_path)
    lines = read(tmp_path / "scores.csv")
    assert len(lines) == len(named.pairs)
    for line, a, b in zip(lines, named.pairs.a, named.pairs.b, strict=True):
        assert (line["image_a"], line["image_b"]) == (paths[a], paths[b])
        assert line["person_a"] == people[index.person_of[a]] and line["family"] in people


def test_images_are_named_below_the_data_so_that_no_folder_of_this_machine_is_published(ours, tmp_path):
    below, elsewhere = tmp_path / "data" / "test" / "1.png", tmp_path / "other" / "2.png"
    index = replace(ours.test.index, paths=(below, elsewhere, "relative/3.png"))
    assert image_names(index, tmp_path / "data") == ["test/1.png", str(elsewhere), "relative/3.png"]


def test_the_second_ratio_is_that_against_unrelated_people(ours, rule, tmp_path):
    strangers = Logistic(slope=3.0, intercept=1.0, families=9)
    write_scores(tmp_path / "scores.csv", [ours.test], replace(rule, strangers=strangers), tmp_path)
    ratios = [float(line["likelihood_ratio_unrelated"]) for line in read(tmp_path / "scores.csv")]
    expected = np.clip(np.exp(3 * ours.test.scores + 1), 1 / 9, 9)
    np.testing.assert_allclose(ratios, expected, rtol=1e-5)


def test_the_first_ten_columns_stay_where_readers_that_count_them_look():
    before = "split image_a image_b person_a person_b family same_person score likelihood_ratio verdict"
    assert list(COLUMNS) == [*before.split(), "likelihood_ratio_unrelated"]


def test_without_its_calibration_a_ratio_is_empty(ours, rule, tmp_path):
    neither = replace(rule, calibration=None, strangers=None)
    write_scores(tmp_path / "scores.csv", [ours.test], neither, tmp_path)
    ratios = {(line["likelihood_ratio"], line["likelihood_ratio_unrelated"]) for line in read(tmp_path / "scores.csv")}
    assert ratios == {("", "")}


def test_the_list_is_written_whole_or_not_at_all(ours, rule, tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    write_scores(path, [ours.validation], rule, tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dcal_core.storage.os.replace", full)
    with pytest.raises(StorageError, match=r"scores\.csv"):
        write_scores(path, [ours.test], rule, tmp_path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["scores.csv"]
