import json
import re
from collections import Counter
from pathlib import Path

import pytest
from tiny_models import OF_DCAL

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.trust import beats, caveats, conclusions_table, in_sentences, trusted_for

DOCS = Path(__file__).parents[2] / "docs"


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


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (found((0.8, 0.9)), "where the faces differ, and what decides the score"),
        (found((0.65, 0.9)), "what decides the score (not shown: where the faces differ)"),
        (found((0.8, 0.9), (0.15, 0.4)), "where the faces differ (not shown: what decides the score)"),
        (found((0.1, 0.2), (0.15, 0.4)), "how the model works (not shown: why these two faces differ)"),
        (
            found((0.8, 0.9), untrustworthy=True),
            "nothing: it hardly changes when the model forgets all that it has learnt",
        ),
    ],
)
def test_a_map_is_trusted_for_what_was_shown_of_it(one, words):
    assert trusted_for("rollout", {"rollout": one, **BASELINES}) == words


def test_every_baseline_must_be_beaten_beyond_doubt():
    assert beats("insertion", found(insertion=(0.21, 0.3)), BASELINES)
    assert not beats("insertion", found(insertion=(0.2, 0.3)), BASELINES)
    assert not beats("insertion", {"insertion": {"value": 0.5, "low": None, "high": None}}, BASELINES)  # one family
    assert beats("pointing", found(), {"random": found()}) is None


def test_on_photographs_no_map_is_said_to_point():
    result = {"distinctive": found(), "rollout": found(insertion=(-1, 1)), "random": found(insertion=(0, 0))}
    assert trusted_for("distinctive", result) == "what decides the score"
    assert "how the model works" in trusted_for("rollout", result)
    assert "hottest patch" not in conclusions_table(result)
    assert "Nobody has marked" in caveats(result)[0] and "points at a mark in" not in "".join(caveats(result))


def test_all_maps_and_the_prior_are_spoken_of():
    result = {"rollout": found((0.1, 0.2)), "distinctive": found((0.8, 0.9)), **BASELINES}
    best, worst = conclusions_table(result).splitlines()[2:]  # the best first
    assert (
        best.startswith("| What tells them apart")
        and "where the faces differ" in best
        and "85.0 % (80.0 to 90.0 %)" in best
    )
    assert worst.startswith("| Attention rollout")
    assert "points at a mark in 65.0 % (60.0 to 70.0 %)" in caveats(result)[0]


def test_the_report_is_told_of_the_best_map_with_its_figures():
    maps = {"rollout": found((0.1, 0.2)), "distinctive": found((0.8, 0.9)), **BASELINES}
    first, second, *others = in_sentences({"pairs": 31, "families": 31, "maps": maps})
    assert first == (
        "The best map, “What tells them apart”, can be trusted for where the faces differ, and what decides the score."
    )
    assert second == (
        "Measured on 31 co-twin pairs of 31 families: hottest patch on a true mark: 85.0 % (80.0 to 90.0 %); score "
        "lost by showing it first, over random: 0.350 (0.300 to 0.400)."
    )
    assert others == caveats(maps)


def as_found(figures):
    """A map's figures of docs/maps.json, [value, low, high], as a result of `faithfulness` has them."""
    record = {name: dict(zip(("value", "low", "high"), one, strict=True)) for name, one in figures.items()}
    return record | {"localisation": {"pointing": record["pointing"]}}


def test_the_documents_say_what_was_measured():
    """The table of docs/explanations.md, from docs/maps.json by the same rule as in the notebook."""
    seeds = [
        {name: as_found(one) for name, one in maps.items()}
        for maps in json.loads((DOCS / "maps.json").read_text())["seeds"].values()
    ]
    page = (DOCS / "explanations.md").read_text()
    for name in ("occlusion", "distinctive", "contribution"):
        assert f"| {MAPS[name].title} | {told([trusted_for(name, result) for result in seeds])} |" in page
    others = {
        trusted_for(name, result)
        for result in seeds
        for name in OF_DCAL
        if name not in ("occlusion", "distinctive", "contribution")
    }
    assert others == {"how the model works (not shown: why these two faces differ)"}
    assert f"| the other six | {others.pop()} |" in page


def told(words):
    """What most seeds show, and which seeds show something else."""
    most, other = (*(one for one, _ in Counter(words).most_common(2)), "")[:2]
    seeds = [str(seed) for seed, one in enumerate(words) if one != most]
    return f"{most}; seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {other}" if other else most


def test_the_table_of_pointing_is_that_of_the_figures():
    figures = json.loads((DOCS / "maps.json").read_text())
    page = (DOCS / "explanations.md").read_text()
    for name in ("occlusion", "distinctive", "contribution", "place", "rollout", "cls_attention", "match"):
        seeds = ", ".join(f"{100 * one[name]['pointing'][0]:.0f}" for one in figures["seeds"].values())
        mean = f"{100 * figures['all_seeds'][name]['pointing'][0]:.1f} %"
        (line,) = re.findall(
            rf"^\| \**{re.escape(MAPS[name].title)}\**(?:: [^|]*)? \| \**{mean}\** \| (.*)$", page, re.M
        )
        energy = figures["all_seeds"][name]["energy"][0]
        assert line.startswith(f"{seeds} | {energy:.1f} | {figures['all_seeds'][name]['randomisation'][0]:.2f}")
