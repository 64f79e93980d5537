"""The picture of the README can be drawn, and says that it is SYNTHETIC."""

from dataclasses import replace

import pytest
from tiny_browser import KNOWN, drawn_twins
from tiny_models import make_model

from dcal_core.explain.explorer import Explorer
from dcal_core.verification.calibration import Logistic
from docs import front_picture


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """A tiny random model before three drawn families."""
    rule = replace(KNOWN, calibration=Logistic(10.0, -5.0, 30))
    return Explorer(make_model(), drawn_twins(tmp_path_factory.mktemp("twins")), rule)


def test_the_picture_can_be_drawn(explorer, tmp_path):
    figure = front_picture.draw(explorer)
    figure.savefig(tmp_path / "front.png")
    titles = [axes.get_title() for part in figure.subfigs for axes in part.get_axes()]
    assert "SYNTHETIC twins: 3 unseen families" in titles


def test_the_pair_is_one_of_co_twins_with_the_median_score(explorer):
    pairs, scores = explorer.scored.pairs, explorer.scored.scores
    a, b = front_picture.median_twins(explorer)
    (place,) = ((pairs.a == a) & (pairs.b == b)).nonzero()[0]
    twins = scores[~pairs.genuine]
    assert not pairs.genuine[place] and (twins < scores[place]).sum() == len(twins) // 2


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.9, "One person: 30 times likelier for one person than for two"),
        (0.3, "Two people: 7 times likelier for two people than for one"),
        (0.55, "Undecided: 2 times likelier for one person than for two"),
    ],
)
def test_the_verdict_names_the_likelier_of_the_two(explorer, score, words):
    assert front_picture.verdict_of(explorer, score) == words
