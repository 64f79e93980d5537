"""What the maps of one model can and cannot be trusted for, said from their measured faithfulness."""

from dcal_core.explain.registry import MAPS
from dcal_core.verification.words import interval

PRIOR = "usual_places"  # the baseline that knows all about where marks usually are, and nothing about this face


def beats(figure: str, found: dict, baselines: dict[str, dict]) -> bool | None:
    """Whether a map's figure of faithfulness is surely above that of every baseline; None where it is not known."""
    rivals = [high for one in baselines.values() if (high := bounds(figure, one)[1]) is not None]
    low, _ = bounds(figure, found)
    return None if not rivals else low is not None and low > max(rivals)


def bounds(figure: str, found: dict) -> tuple[float | None, float | None]:
    """The ends of a figure's interval, None where it has none."""
    estimate = found.get(figure) or found.get("localisation", {}).get(figure) or {"low": None, "high": None}
    return estimate["low"], estimate["high"]


def conclusion(name: str, result: dict) -> str:
    """A sentence on one map of the result of `faithfulness`: whether to trust it, for what, and by which figures.

    What decides the score is judged by insertion: by deletion any order from the middle outwards beats a random one.
    """
    found, baselines = result[name], {other: one for other, one in result.items() if other not in MAPS}
    points, decides = (beats(figure, found, baselines) for figure in ("pointing", "insertion"))
    if found["untrustworthy"]:
        verdict = "not to be trusted: it hardly changes when the model forgets all that it has learnt"
    elif points and decides:
        verdict = "trust it to point at what differs"
    elif points:
        verdict = "it points at what differs, though the score may not hang on it"
    elif decides:
        verdict = "trust it to say what the score hangs on" + ", not where the faces differ" * (points is False)
    else:
        verdict = "shows how the model works; that it says why these two differ is not shown"
    evidence = f"what it names {'alone brings the score back' if decides else 'does not surely bring the score back'}"
    if points is not None:
        evidence = (
            f"its hottest patch lies on a true mark in {interval(found['localisation']['pointing'], '%')}; {evidence}"
        )
    return f"**{MAPS[name].title}**: {verdict} ({evidence})."


def conclusions(result: dict) -> list[str]:
    """What each map can be trusted for, then what nobody should read from any of them."""
    said = [conclusion(name, result) for name in MAPS if name in result]
    if PRIOR in result:
        prior = interval(result[PRIOR]["localisation"]["pointing"], "%")
        said.append(f"For comparison: who knows only where marks usually are points at one in {prior}.")
    else:
        said.append("Where these faces truly differ nobody has marked, so no map is shown to point at it here.")
    return [
        *said,
        "No map proves that the verdict is right: a wrong verdict has maps as clear as a right one.",
        "A map is about this model; another one, or an examiner, may find other differences.",
    ]
