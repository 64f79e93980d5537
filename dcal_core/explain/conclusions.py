"""What the maps of one model can and cannot be trusted for, said from their measured faithfulness."""

from dcal_core.explain.registry import MAPS
from dcal_core.verification.words import interval

PRIOR = "usual_places"  # the baseline that knows all about where marks usually are, and nothing about this face


def points(found: dict, baselines: dict[str, dict]) -> bool | None:
    """Whether a map points at true differences: surely more often than every baseline; None where they are unknown."""
    if "localisation" not in found:
        return None
    rivals = [one["localisation"]["pointing"]["high"] for one in baselines.values() if "localisation" in one]
    return found["localisation"]["pointing"]["low"] > max(rivals)


def decides(found: dict) -> bool:
    """Whether covering what a map names changes the score more than covering just anything."""
    low = found["deletion"]["low"]
    return low is not None and low > 0


def conclusion(name: str, result: dict) -> str:
    """A sentence on one map of the result of `faithfulness`: whether to trust it, for what, and by which figures."""
    found, baselines = result[name], {other: one for other, one in result.items() if other not in MAPS}
    pointing, evidence = points(found, baselines), []
    if pointing is not None:
        evidence.append(f"its hottest patch lies on a true mark in {interval(found['localisation']['pointing'], '%')}")
    evidence.append(f"covering what it names {'decides' if decides(found) else 'does not surely decide'} the score")
    if found["untrustworthy"]:
        verdict = "not to be trusted: it hardly changes when the model forgets all that it has learnt"
    elif pointing and decides(found):
        verdict = "trust it to point at what differs"
    elif decides(found):
        verdict = "trust it to say what the score hangs on" + ", not where the faces differ" * (pointing is False)
    elif pointing:
        verdict = "it points at what differs, though the score may not hang on it"
    else:
        verdict = "shows how the model works, not why these two differ"
    return f"**{MAPS[name].title}**: {verdict} ({'; '.join(evidence)})."


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
