"""How far each map of a trained model can be believed: measured on co-twins that it has not seen, then drawn, listed
and put into sentences."""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dcal_core.data.drawn.synthetic import masks_of
from dcal_core.data.splits import TwinData
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.faithfulness import OWN_MARK, faithfulness
from dcal_core.explain.paint import GREY, draw_estimate, estimate_text, label_rows, wrapped
from dcal_core.lettering import as_written
from dcal_core.markdown import table
from dcal_core.models.verifier import Verifier
from dcal_core.palette import BLUE
from dcal_core.verification.protocol import pairs_to_look_at, some_of_each_family
from dcal_core.verification.words import estimate_in_words

BASELINE_NAMES = {
    "centre": "the middle of the image",
    "image_difference": "pixel difference",
    "gradient_times_input": "gradient x input",
    "usual_places": "usual places of marks",
    "random": "random",
}
PANELS = (  # figure of `faithfulness`, factor, what it says, what chance gives
    ("pointing", 100, "hottest patch lies on\na true mark (%)", None),
    ("insertion", 1, "score lost when the hottest patches\nare shown first, over a random order", 0),
)
COLUMNS = {  # figure of `faithfulness`: its head, its unit
    "pointing": ("hottest patch on a true mark", "%"),
    "energy": ("share of the map on true marks, against their area", "times"),
    "average_precision": ("average precision", "%"),
    "deletion": ("score gained by covering it first, over random", "score"),
    "insertion": ("score lost by showing it first, over random", "score"),
    "randomisation": ("like the map of shuffled weights", "score"),
}
PRIOR = "usual_places"  # the baseline that knows where marks usually are, and nothing about this face


def measure_maps(model: Verifier, data: TwinData, pairs_per_family: int = 1, batch: int = 16, seed: int = 0) -> dict:
    """`faithfulness` of every map that the model has, on co-twin pairs of the test split, drawn evenly over families;
    where no co-twins are known, on pairs of unrelated people.

    The model must be in eval mode, and the data must have a test split. The result is for JSON; `left_out` counts the
    pairs that were not measured, since a drawn face in them has no mark of its own. Each pair takes about 2 P + 180
    encodings, for P patches. ValueError if there is no pair to measure.
    """
    index, pairs = pairs_to_look_at(data["test"].index)
    images = data["test"].images
    masks = None
    left_out = 0
    chosen = some_of_each_family(pairs, genuine=False, most=pairs_per_family, seed=seed)
    if data.synthetic and index.co_twins and len(chosen):
        masks = np.stack(
            [masks_of(data.root, [index.paths[i] for i in side[chosen]], images.size) for side in (pairs.a, pairs.b)]
        )
        marked = (masks == OWN_MARK).any((2, 3)).all(0)  # [B]
        chosen = chosen[marked]
        masks = torch.from_numpy(masks[:, marked])
        left_out = int((~marked).sum())
    if not len(chosen):
        raise ValueError(f"maps are measured on pairs of co-twins: there are none, and {left_out} without marks")
    device = next(model.parameters()).device
    a = images.batch(pairs.a[chosen]).to(device)
    b = images.batch(pairs.b[chosen]).to(device)
    family = pairs.family[chosen]
    return {
        "data": data.label,
        "co_twins": index.co_twins,
        "pairs": len(chosen),
        "families": len(np.unique(family)),
        "left_out": left_out,
        "maps": faithfulness(model, a, b, model.grid, family, masks, batch=batch, seed=seed),
    }


def counted(trust: dict) -> str:
    """On how many pairs maps were measured, and of what."""
    kinds = ("co-twin pairs", "families") if trust.get("co_twins", True) else ("pairs", "couples of unrelated people")
    return f"{trust['pairs']:,} {kinds[0]} of {trust['families']:,} {kinds[1]}"


def map_title(name: str) -> str:
    """What a map, or a baseline of `faithfulness`, is called."""
    return MAPS[name].title if name in MAPS else f"Baseline: {BASELINE_NAMES[name]}"


def figure_of(found: dict, name: str) -> dict | None:
    """A figure of one map in the result of `faithfulness`; None if it was not measured."""
    return found.get(name) or found.get("localisation", {}).get(name)


def ranked(result: dict) -> list[str]:
    """The maps of a result of `faithfulness`, best first: by pointing where true marks are known, else by insertion."""
    by = "pointing" if any("localisation" in found for found in result.values()) else "insertion"

    def value(name: str) -> float:
        estimate = figure_of(result[name], by)
        return -np.inf if estimate is None else estimate["value"]

    return sorted(result, key=value, reverse=True)


def draw_faithfulness(result: dict, title: str) -> Figure:
    """The figures that `trusted_for` goes by, best first: maps as dots, baselines as grey squares, hollow if a map
    hardly changes when the weights are shuffled."""
    names = ranked(result)
    panels = [panel for panel in PANELS if any(figure_of(found, panel[0]) for found in result.values())]
    figure = Figure(figsize=(8, 2.2 + 0.34 * len(names)), layout="constrained")
    figure.suptitle(wrapped(title, 70), fontsize=12)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (wanted, factor, text, chance) in zip(all_axes, panels, strict=True):
        label_rows(axes, [map_title(name) for name in names])
        axes.set_xlabel(text, fontsize=10)
        if chance is not None:
            axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        for number, name in enumerate(names):
            if (estimate := figure_of(result[name], wanted)) is not None:
                colour, marker = (BLUE, "o") if name in MAPS else (GREY, "s")
                inside = "white" if result[name].get("untrustworthy") else colour
                draw_estimate(axes, number, estimate, factor, color=colour, marker=marker, markerfacecolor=inside)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, fontsize=10)
    return as_written(figure)


def _legend() -> list[Line2D]:
    look = {"linestyle": "none", "markersize": 7}
    hollow = {"color": BLUE, "marker": "o", "markerfacecolor": "white"} | look
    return [
        Line2D([], [], color=BLUE, marker="o", label="map", **look),
        Line2D([], [], color=GREY, marker="s", label="baseline", **look),
        Line2D([], [], color=GREY, linestyle="--", label="chance"),
        Line2D([], [], label="hardly changes when the weights\nare shuffled: not to be trusted", **hollow),
    ]


def faithfulness_table(result: dict) -> str:
    """How far each map and baseline of `faithfulness` can be believed, best first."""
    shown_columns = [name for name in COLUMNS if any(figure_of(found, name) for found in result.values())]
    rows = []
    for name in ranked(result):
        found = result[name]
        title = map_title(name)
        title += " (not to be trusted)" if found.get("untrustworthy") else ""
        rows.append([title, *(estimate_text(figure_of(found, column), COLUMNS[column][1]) for column in shown_columns)])
    return table(["map", *(COLUMNS[column][0] for column in shown_columns)], rows)


def beats(figure: str, found: dict, baselines: dict[str, dict]) -> bool | None:
    """Whether the interval of a map's figure lies above those of all baselines; None if no baseline has one."""
    rivals = [figure_of(one, figure) for one in baselines.values()]
    highs = [rival["high"] for rival in rivals if rival and rival["high"] is not None]
    if not highs:
        return None
    own = figure_of(found, figure)
    return own is not None and own["low"] is not None and own["low"] > max(highs)


def trusted_for(name: str, result: dict) -> str:
    """What a map of the result of `faithfulness` can be trusted for, in words.

    Insertion tells what decides the score. Deletion does not: any order from the middle outwards beats a random one.
    """
    found = result[name]
    baselines = {other: one for other, one in result.items() if other not in MAPS}
    points = beats("pointing", found, baselines)
    decides = beats("insertion", found, baselines)
    if found.get("untrustworthy"):
        return "nothing: it hardly changes when the model forgets all that it has learnt"
    if points and decides:
        return "where the faces differ, and what decides the score"
    if points:
        return "where the faces differ (not shown: what decides the score)"
    if decides and points is None:
        return "what decides the score"
    if decides:
        return "what decides the score (not shown: where the faces differ)"
    return "how the model works (not shown: why these two faces differ)"


def conclusions_table(result: dict) -> str:
    """What each map of the result of `faithfulness` can be trusted for, with the two figures that say so."""
    columns = [one for one in ("pointing", "insertion") if any(figure_of(found, one) for found in result.values())]
    rows = []
    for name in [one for one in ranked(result) if one in MAPS]:
        figures = (estimate_text(figure_of(result[name], column), COLUMNS[column][1]) for column in columns)
        rows.append([MAPS[name].title, trusted_for(name, result), *figures])
    return table(["map", "trust it for", *(COLUMNS[column][0] for column in columns)], rows)


def in_sentences(trust: dict) -> list[str]:
    """What the best map of a result of `measure_maps` can be trusted for, with its figures, and what none shows."""
    maps = trust["maps"]
    best = next(name for name in ranked(maps) if name in MAPS)
    figures = [
        f"{COLUMNS[one][0]}: {estimate_in_words(figure, COLUMNS[one][1])}"
        for one in ("pointing", "insertion")
        if (figure := figure_of(maps[best], one)) is not None
    ]
    return [
        f"The best map, “{MAPS[best].title}”, can be trusted for {trusted_for(best, maps)}.",
        f"Measured on {counted(trust)}: {'; '.join(figures)}.",
        *caveats(maps),
    ]


def caveats(result: dict) -> list[str]:
    """What none of the maps shows, and what pointing has to be compared with."""
    if PRIOR in result:
        prior = estimate_in_words(result[PRIOR]["localisation"]["pointing"], "%")
        first = f"For comparison: knowing only where marks usually are, one points at a mark in {prior}."
    else:
        first = "Nobody has marked where these faces truly differ, so no map is shown to point at it here."
    return [
        first,
        "No map proves that the verdict is right: a wrong verdict has maps as clear as a right one.",
        "A map is about this model; another one, or an examiner, may find other differences.",
    ]
