"""What maps say in figures, as Markdown tables."""

from dcal_core.explain.charts import GROUP_NAMES, SPEAKS, figure_of, map_title, ranked
from dcal_core.explain.registry import MAPS
from dcal_core.markdown import table
from dcal_core.verification.words import ends, shown

COLUMNS = {  # figure of `faithfulness`: its head, its unit
    "pointing": ("hottest patch on a true mark", "%"),
    "energy": ("map on true marks / their area", "score"),
    "average_precision": ("average precision", "%"),
    "deletion": ("deletion, over random", "score"),
    "insertion": ("insertion, over random", "score"),
    "randomisation": ("like the map of shuffled weights", "score"),
}
SPREAD = {
    "entropy_share": ("entropy (% of the largest)", "%"),
    "concentration": ("in the hottest tenth", "%"),
    "centre_x": ("centre, from the left", "%"),
    "centre_y": ("centre, from above", "%"),
}


def _cell(estimate: dict | None, unit: str) -> str:
    """An estimate with its interval, or a dash."""
    if estimate is None or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return shown(estimate["value"], unit)
    return f"{shown(estimate['value'], unit)} ({ends(estimate['low'], estimate['high'], unit)})"


def faithfulness_table(result: dict) -> str:
    """How far each map and baseline of `faithfulness` can be believed, best first."""
    shown_columns = [name for name in COLUMNS if any(figure_of(found, name) for found in result.values())]
    rows = []
    for name in ranked(result):
        found = result[name]
        title = f"**{map_title(name)}**" if name in MAPS else map_title(name)
        title += " (not to be trusted)" if found.get("untrustworthy") else ""
        rows.append([title, *(_cell(figure_of(found, column), COLUMNS[column][1]) for column in shown_columns)])
    return table(["map", *(COLUMNS[column][0] for column in shown_columns)], rows)


def statistics_table(maps: dict, names: tuple[str, str]) -> str:
    """`view_statistics` of a pair of images of these names: how spread out each map is, where, and on which region it
    lies most for that region's area."""
    rows = []
    for kind, by_sign in maps.items():
        for what, sides in by_sign.items():
            title = MAPS[kind].title if what == "all" else f"{MAPS[kind].title}: {SPEAKS[what]}"
            rows += [[title, name, *_spread(side), _densest(side)] for name, side in zip(names, sides, strict=True)]
    return table(["map", "image", *(head for head, _ in SPREAD.values()), "most for its area"], rows)


def _spread(figures: dict) -> list[str]:
    return ["-" if figures[name] is None else shown(figures[name], unit) for name, (_, unit) in SPREAD.items()]


def _densest(figures: dict) -> str:
    """The region whose share of the map exceeds its area the most, in words."""
    if "reason" in figures:
        return figures["reason"]
    times = {name: one["share"] / one["area"] for name, one in figures["regions"].items() if one["area"]}
    region = max(times, key=times.get)
    return f"{region}: {times[region]:.1f} x its area"


def comparison_table(result: dict, name: str) -> str:
    """Spread and regions of one map of `compare_groups`: both groups, and twins less same."""
    rows = []
    for what, one in result["maps"][name]["speaks"].items():
        for figure, values in one["figures"].items():
            head = SPREAD[figure][0] if figure in SPREAD else figure
            groups = [_cell(values[group], "%") for group in GROUP_NAMES]
            rows.append([SPEAKS[what], head, *groups, _cell(values["difference"], "points")])
    return table(["of", "figure", *GROUP_NAMES.values(), "co-twins less one person"], rows)
