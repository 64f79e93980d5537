import pytest

from dcal_core.explain.conclusions import conclusion, conclusions


def between(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


def found(pointing=None, deletion=(0.1, 0.2), untrustworthy=False):
    record = {"deletion": between(*deletion), "untrustworthy": untrustworthy}
    return record | ({"localisation": {"pointing": between(*pointing)}} if pointing else {})


BASELINES = {"random": found((0.05, 0.1), (0, 0)), "usual_places": {"localisation": {"pointing": between(0.6, 0.7)}}}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (
            found((0.8, 0.9)),
            "trust it to point at what differs (its hottest patch lies on a true mark in 85.0 % (80.0 to",
        ),
        (found((0.65, 0.9)), "trust it to say what the score hangs on, not where the faces differ"),
        (found((0.8, 0.9), (-0.1, 0.2)), "it points at what differs, though the score may not hang on it"),
        (found((0.1, 0.2), (-0.1, 0.2)), "shows how the model works, not why these two differ"),
        (found((0.8, 0.9), untrustworthy=True), "not to be trusted: it hardly changes"),
    ],
)
def test_a_map_is_trusted_for_what_was_shown_of_it(one, words):
    said = conclusion("rollout", {"rollout": one, **BASELINES})
    assert said.startswith("**Attention rollout**: ") and words in said


def test_on_photographs_no_map_is_said_to_point():
    result = {"distinctive": found(), "rollout": found(deletion=(-1, 1)), "random": found(deletion=(0, 0))}
    assert "trust it to say what the score hangs on (covering" in conclusion("distinctive", result)
    assert "shows how the model works" in conclusion("rollout", result)
    said = conclusions(result)
    assert len(said) == 2 + 3 and "nobody has marked" in said[2] and "points at one in" not in "".join(said)


def test_a_single_family_shows_nothing():
    one = found() | {"deletion": {"value": 0.5, "low": None, "high": None}}
    assert "does not surely decide" in conclusion("distinctive", {"distinctive": one})


def test_all_maps_and_the_prior_are_spoken_of():
    said = conclusions({"rollout": found((0.1, 0.2)), "distinctive": found((0.8, 0.9)), **BASELINES})
    assert [text.split("**")[1] for text in said[:2]] == ["What tells them apart", "Attention rollout"]
    assert "points at one in 65.0 % (60.0 to 70.0 %)" in said[2] and len(said) == 5
