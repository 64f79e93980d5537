from dataclasses import replace

import numpy as np
import pytest
from tiny_models import SIZE, make_model

from dcal_core.data.drawn.synthetic import generate, marks_of
from dcal_core.data.images import open_images
from dcal_core.data.locate import resolve_paths
from dcal_core.data.splits import Split, TwinData
from dcal_core.data.twins import TwinIndex, read_index
from dcal_core.explain.explorer import Explorer, confusing_first
from dcal_core.verification.decision import DecisionRule
from dcal_core.verification.protocol import Pairs, Scored, pairs_to_look_at
from dcal_core.verification.verdicts import Thresholds


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two drawn families, two images of each person."""
    root = tmp_path_factory.mktemp("drawn")
    generate(root, split="test", families=2, images_per_person=2, size=SIZE, difficulty=0.5, seed=0, workers=1)
    index = read_index(root / "test_dataset_infor.json", root / "test_twin_pairs.json", "test")
    index = resolve_paths(index, root, 0.0)
    return TwinData(root, "SYNTHETIC", {"test": Split(index, open_images(index.paths, SIZE, root / "cache", 0.0, 1))})


@pytest.fixture(scope="module")
def explorer(data):
    return Explorer(make_model(), data, DecisionRule("SYNTHETIC", "", 3, 0.4, Thresholds(0.2, 0.6), 0.05, None))


def test_pairs_are_shown_as_the_model_scores_them(explorer, data):
    pairs, images = explorer.scored.pairs, data["test"].images
    assert len(pairs) == 2 * (2 + 4)
    for place in (0, 5, 11):
        a, b = int(pairs.a[place]), int(pairs.b[place])
        view = explorer.view(a, b)
        assert view.score == pytest.approx(explorer.scored.scores[place], abs=1e-5)
        assert (view.faces[1] == images.batch([b])[0].permute(1, 2, 0).numpy()).all()
        assert explorer.view(a, b) is view  # encoded once


def test_co_twins_come_with_their_marks_and_one_person_without(explorer, data):
    paths = data["test"].index.paths
    assert explorer.view(0, 1).marks is None and explorer.name(2) == f"50002/{paths[2].name}"
    view = explorer.view(0, 2)
    assert view.names == (f"50001/{paths[0].name}", f"50002/{paths[2].name}")
    assert (view.marks == marks_of(data.root, [paths[0], paths[2]], data["test"].images.size)).all() and view.marks.any(
        (1, 2)
    ).all()


def test_where_no_co_twins_are_known_two_people_are_drawn_for_each_other(data, monkeypatch):
    alone = replace(
        data["test"].index,
        families=tuple((one,) for one in data["test"].index.people),
        family_of=np.arange(4),
        co_twins=False,
    )
    explorer = Explorer(make_model(), replace(data, splits={"test": replace(data["test"], index=alone)}))
    pairs, person_of = explorer.scored.pairs, alone.person_of
    assert [len(family) for family in explorer.index.families] == [2, 2] and len(pairs) == 2 * (2 + 4)
    for a, b, family in zip(person_of[pairs.a], person_of[pairs.b], pairs.family, strict=True):
        assert {alone.people[a], alone.people[b]} <= set(explorer.index.families[family])
    a, b = next(zip(pairs.a[~pairs.genuine], pairs.b[~pairs.genuine], strict=True))
    assert "two people, unrelated" in explorer.judged(a, b) and explorer.view(a, b).marks is None
    monkeypatch.setattr("dcal_core.verification.protocol.COUPLES", 1)
    index, some = pairs_to_look_at(alone)
    assert len(index.families) == 3 and len(some) == 2 + 4 and len(set(some.family)) == 1


@pytest.mark.parametrize(
    ("score", "images", "words"),
    [
        (0.7, (0, 1), "same person\nIn truth: the same person. The verdict is right."),
        (0.7, (0, 2), "same person\nIn truth: two people, co-twins. The verdict is wrong."),
        (0.4, (0, 2), "undecided\nIn truth: two people, co-twins."),
        (0.1, (0, 1), "two people\nIn truth: the same person. The verdict is wrong."),
    ],
)
def test_a_verdict_is_held_against_the_truth(explorer, monkeypatch, score, images, words):
    monkeypatch.setitem(vars(explorer.view(*images)), "score", score)
    assert explorer.judged(*images).endswith(words)


def test_without_a_report_a_score_has_no_verdict(data):
    assert "not known before an evaluation\nIn truth: the same person." in Explorer(make_model(), data).judged(0, 1)


def test_the_worst_pair_of_each_family_comes_first():
    family = np.array([0, 0, 0, 0, 1, 1, 1])
    genuine = np.array([True, True, False, False, True, False, False])
    scores = np.array([0.1, 0.2, 0.9, 0.8, 0.3, 0.7, 0.6])
    pairs = Pairs(np.arange(7), np.arange(7) + 1, genuine, family)
    order = confusing_first(Scored(None, pairs, scores))
    assert order.tolist() == [2, 0, 5, 4, 3, 1, 6]  # co-twins first, by turns; then what is second worst of a family


def test_the_pairs_of_an_explorer_are_in_that_order(explorer):
    kinds = [explorer.index.person_of[list(explorer.confusing(turn))] for turn in range(4)]
    assert [bool(a == b) for a, b in kinds] == [False, True, False, True]
    worst = explorer.view(*explorer.confusing(0)).score
    assert worst == pytest.approx(explorer.scored.scores[~explorer.scored.pairs.genuine].max(), abs=1e-5)


def test_data_without_a_pair_is_refused(data):
    split = data["test"]
    none = np.zeros(1, int)
    alone = TwinIndex("test", ("50001",), (("50001",),), split.index.paths[:1], person_of=none, family_of=none)
    with pytest.raises(ValueError, match="no pair to look at"):
        Explorer(make_model(), TwinData(data.root, "SYNTHETIC", {"test": Split(alone, split.images)}))
