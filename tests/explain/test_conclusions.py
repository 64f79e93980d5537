import pytest

from dcal_core.explain.trust import beats, conclusion, conclusions


def between(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


def found(pointing=None, insertion=(0.3, 0.4), untrustworthy=False):
    record = {"insertion": between(*insertion), "untrustworthy": untrustworthy}
    return record | ({"localisation": {"pointing": between(*pointing)}} if pointing else {})


BASELINES = {
    "random": found((0.05, 0.1), (0, 0)),
    "centre": found((0.1, 0.2), (0.1, 0.2)),
    "usual_places": {"localisation": {"pointing": between(0.6, 0.7)}},
}
TRUSTED = "trust it to point at what differs (its hottest patch lies on a true mark in 85.0 %"


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (found((0.8, 0.9)), TRUSTED),
        (found((0.65, 0.9)), "trust it to say what the score hangs on, not where the faces differ"),
        (found((0.8, 0.9), (0.15, 0.4)), "it points at what differs, though the score may not hang on it"),
        (found((0.1, 0.2), (0.15, 0.4)), "that it says why these two differ is not shown"),
        (found((0.8, 0.9), untrustworthy=True), "not to be trusted: it hardly changes"),
    ],
)
def test_a_map_is_trusted_for_what_was_shown_of_it(one, words):
    said = conclusion("rollout", {"rollout": one, **BASELINES})
    assert said.startswith("**Attention rollout**: ") and words in said


def test_every_baseline_must_be_beaten_beyond_doubt():
    assert beats("insertion", found(insertion=(0.21, 0.3)), BASELINES)
    assert not beats("insertion", found(insertion=(0.2, 0.3)), BASELINES)
    assert not beats("insertion", {"insertion": {"value": 0.5, "low": None, "high": None}}, BASELINES)  # one family
    assert beats("pointing", found(), {"random": found()}) is None


def test_on_photographs_no_map_is_said_to_point():
    result = {"distinctive": found(), "rollout": found(insertion=(-1, 1)), "random": found(insertion=(0, 0))}
    assert "trust it to say what the score hangs on (what it names alone" in conclusion("distinctive", result)
    assert "shows how the model works" in conclusion("rollout", result)
    said = conclusions(result)
    assert len(said) == 2 + 3 and "Nobody has marked" in said[2] and "points at a mark in" not in "".join(said)


def test_all_maps_and_the_prior_are_spoken_of():
    said = conclusions({"rollout": found((0.1, 0.2)), "distinctive": found((0.8, 0.9)), **BASELINES})
    assert [text.split("**")[1] for text in said[:2]] == ["What tells them apart", "Attention rollout"]
    assert "points at a mark in 65.0 % (60.0 to 70.0 %)" in said[2] and len(said) == 5
