import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from tiny_models import GRID, SIZE, make_images, make_model, make_oaml

from dcal_core.data.landmarks import DRAWN
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.comparison import compare_groups, comparison_table, draw_comparison
from dcal_core.explain.paint import (
    GAP,
    OPACITY,
    SIDE,
    contoured,
    enlarged,
    greyed,
    overlaid,
    peak_of,
    scale_ends,
    show_colours,
    show_map,
)
from dcal_core.explain.pair_figures import draw_contact_sheet, draw_layers, draw_matches, draw_view
from dcal_core.explain.regions import draw_regions, face_regions, statistics, statistics_table, view_statistics
from dcal_core.explain.trust import draw_faithfulness, faithfulness_table, ranked
from dcal_core.verification.protocol import Pairs

REGIONS = face_regions(DRAWN, SIZE)


@pytest.fixture(scope="module")
def view():
    faces, marks = (make_images(2) * 255).to(torch.uint8), np.zeros((2, SIZE, SIZE), bool)
    marks[0, 5:9, 5:9] = True  # the second face has none
    return PairView(make_model(readout="tokens"), faces, ("90004/one.png", "90005/other.png"), marks)


def words_of(figure):
    """All that is written on a figure, its line breaks as spaces."""
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def cells_of(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def painted(face, weights, signed, peak=None, marks=None):
    """A face under a map, as the painter makes it; `test_browser.py` holds the painter against its definition."""
    picture = overlaid(enlarged(face), np.array(weights), peak or peak_of(weights), signed, OPACITY)
    return picture if marks is None else contoured(picture, marks)


def test_under_a_map_a_face_is_grey():
    face = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    grey = greyed(face)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 1] == grey[..., 2]).all()
    luma = 0.299 * face[..., 0] + 0.587 * face[..., 1] + 0.114 * face[..., 2]
    assert abs(grey[..., 0] - luma).max() <= 0.5


def test_a_map_lies_on_the_pixels_of_its_face():
    face = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    axes = Figure().add_subplot()
    show_map(axes, face, np.array([[0, 1], [2, 4]]), signed=False, peak=4)
    (image,) = axes.get_images()
    assert image.get_extent() == [-0.5, SIZE - 0.5, SIZE - 0.5, -0.5]
    picture = image.get_array()
    quarter = len(picture) // 4
    assert np.array_equal(picture[:quarter, :quarter], greyed(enlarged(face))[:quarter, :quarter])  # nothing over it
    hot = picture[-quarter:, -quarter:].reshape(-1, 3).astype(float)
    left = (1 - OPACITY) * greyed(enlarged(face))[-quarter:, -quarter:].reshape(-1, 3)
    assert np.allclose(hot - left, OPACITY * 255 * np.array((0.993, 0.906, 0.144)), atol=2)  # viridis ends in yellow


def test_the_colours_of_a_signed_map_run_from_orange_to_purple():
    axes = Figure().add_subplot()
    show_colours(axes, True, scale_ends("contribution", 0.41))
    row = axes.get_images()[0].get_array()[0].astype(int)
    assert row[0, 0] > 2 * row[0, 2] and row[-1, 2] > row[-1, 0]  # two people, one person
    assert [text.get_text() for text in axes.texts] == [
        "two people\n-0.41 points of score", "one person\n+0.41 points of score",
    ]  # fmt: skip


def test_the_peak_is_the_largest_size_and_never_zero():
    assert peak_of(np.array([[1.0, -3.0]])) == 3 and peak_of(np.zeros((2, 2))) == 1


def test_a_view_is_drawn_with_titles_meanings_and_marks(view):
    names = ("distinctive", "place", "rollout")
    figure = draw_view(view, names, "Co-twins, score 0.12 (SYNTHETIC)")
    assert figure.get_suptitle() == "Co-twins, score 0.12 (SYNTHETIC)"
    cells = np.array(figure.axes[:16]).reshape(4, 4)
    assert [cells[side, 0].get_title() for side in (0, 1)] == list(view.names)
    assert [axes.get_title() for axes in cells[0, 1:]] == [MAPS[name].title for name in names]
    words = words_of(figure)
    assert all(MAPS[name].meaning in words for name in names)
    ends = {text.get_text().split("\n")[0] for axes in cells[2] for text in axes.texts}
    assert ends == {"two people", "one person", "none", "most"}
    for side in (0, 1):
        assert np.array_equal(cells[side, 0].get_images()[0].get_array(), view.faces[side])
        for name, axes in zip(names, cells[side, 1:], strict=True):
            weights, peak = view.map(name)[side], abs(view.map(name)).max()  # one scale, and outlines of its own marks
            expected = painted(view.faces[side], weights, MAPS[name].signed, peak, view.marks[side])
            assert np.array_equal(axes.get_images()[0].get_array(), expected)
            assert f"{peak:.2g} {MAPS[name].unit}" in words
            bare = painted(view.faces[side], weights, MAPS[name].signed, peak)
            assert np.array_equal(bare, expected) == (side == 1)  # only one face has a mark
    drawn(figure)


def test_a_line_leads_from_a_place_to_its_match_in_the_colour_of_what_it_says():
    view = PairView(make_oaml(), (make_images(2) * 255).to(torch.uint8), ("one.png", "other.png"))
    figure = draw_matches(view, "SYNTHETIC", most=3)
    found, cell = view.map("local").reshape(2, -1), SIDE / GRID
    for side, axes in enumerate(figure.axes[:2]):
        assert axes.get_title().startswith(view.names[side]) and len(axes.lines) == 3
        for line, place in zip(axes.lines, np.argsort(-abs(found[side])), strict=False):
            rows, columns = np.divmod([place, view.matches[side, place]], GRID)
            assert np.allclose(line.get_xdata(), (columns + 0.5) * cell + [0, SIDE + GAP])
            assert np.allclose(line.get_ydata(), (rows + 0.5) * cell)
            red, _, blue, _ = line.get_color()
            assert (blue > red) == (found[side, place] > 0)
    drawn(figure)


def test_a_contact_sheet_shows_all_pairs(view):
    figure = draw_contact_sheet([view] * 3, "match", [f"pair {n}" for n in range(3)], "SYNTHETIC")
    assert figure.get_suptitle().startswith("SYNTHETIC: Matching patches")
    places = figure.subfigs[0].subfigs
    assert [place.get_suptitle() for place in places] == ["pair 0", "pair 1", "pair 2", ""]
    words = words_of(figure)
    assert MAPS["match"].meaning in words and words.count("two people") == 1  # one bar of colours
    peak = abs(view.map("match")).max()
    assert words.count(f"Strongest: {peak:.2g} in cosine") == 3
    for place in places[:3]:
        assert [axes.get_title() for axes in place.axes[:2]] == list(view.names)
        for side, axes in enumerate(place.axes[2:]):
            expected = painted(view.faces[side], view.map("match")[side], True, peak, view.marks[side])
            assert np.array_equal(axes.get_images()[0].get_array(), expected)
    drawn(figure)


def test_regions_are_drawn_with_their_shares(view):
    figure = draw_regions(view, "rollout", REGIONS, "A pair (SYNTHETIC)")
    *faces, chart = figure.axes
    for side, axes in enumerate(faces):
        found = statistics(view.map("rollout")[side], REGIONS)["regions"]
        for name in REGIONS.keys() - {"elsewhere"}:
            name_shown = f"both {name}" if name in ("brows", "eyes") else name
            assert f"{name_shown}\n{100 * found[name]['share']:.0f} %" in [text.get_text() for text in axes.texts]
        assert np.allclose(chart.lines[side].get_xdata(), [100 * one["share"] for one in found.values()])
    assert np.allclose(chart.lines[2].get_xdata(), [100 * inside.mean() for inside in REGIONS.values()])
    assert [label.get_text() for label in chart.get_yticklabels()] == list(REGIONS)
    drawn(figure)


@pytest.mark.parametrize("name", ["rollout", "place"])
def test_a_comparison_shows_both_groups(name):
    maps = np.random.default_rng(0).standard_normal((8, 2, GRID, GRID)).astype(np.float32)
    pairs = Pairs(np.arange(8), np.arange(8), np.arange(8) % 2 == 0, np.arange(8) // 4)
    maps = maps if MAPS[name].signed else abs(maps)
    result = compare_groups({name: maps}, pairs, REGIONS)
    figure = draw_comparison(result, name, np.zeros((SIZE, SIZE, 3), np.uint8), "SYNTHETIC")
    assert figure.get_suptitle() == (
        f"{MAPS[name].title} (SYNTHETIC)\n4 pairs of one person, 4 of co-twins, 2 families"
    )
    pictures, charts = figure.subfigs
    means = result["maps"][name]["means"]
    peak = max(abs(np.array(mean)).max() for mean in means.values())
    for axes, mean in zip(pictures.axes, means.values(), strict=False):  # the bar of colours comes last
        expected = painted(np.zeros((SIZE, SIZE, 3), np.uint8), mean, MAPS[name].signed, peak)  # one scale
        assert np.array_equal(axes.get_images()[0].get_array(), expected)
    assert len(charts.axes) == 2 * len(result["maps"][name]["speaks"])
    for row, one in enumerate(result["maps"][name]["speaks"].values()):
        spots = [line.get_xdata()[0] for line in charts.axes[2 * row].lines if line.get_marker() == "s"]
        assert np.allclose(spots, [100 * one["figures"][region]["twins"]["value"] for region in REGIONS])
        spots = [line.get_xdata()[0] for line in charts.axes[2 * row + 1].lines if line.get_marker() == "D"]
        assert np.allclose(spots, [100 * one["figures"][region]["difference"]["value"] for region in REGIONS])
    drawn(figure)
    table = comparison_table(result, name).splitlines()
    assert len(table) == 2 + (4 + len(REGIONS)) * len(result["maps"][name]["speaks"])
    assert "left cheek" in cells_of(table[2 + 4 + list(REGIONS).index("left cheek")])[:2]


def estimate(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def found(pointing, deletion, untrustworthy=False):
    return {
        "deletion": estimate(deletion),
        "insertion": {"value": deletion, "low": None, "high": None},
        "randomisation": estimate(0.6 if untrustworthy else 0.1),
        "untrustworthy": untrustworthy,
        "localisation": {"pointing": estimate(pointing), "energy": estimate(3), "average_precision": estimate(0.5)},
    }


RESULT = {
    "rollout": found(0.3, 0.6),
    "distinctive": found(0.9, 0.2),
    "centre": found(0.2, 0.3, untrustworthy=True),
    "usual_places": {"localisation": found(0.5, 0)["localisation"]},
}


def without_marks(result):
    return {
        name: {figure: one for figure, one in found.items() if figure != "localisation"}
        for name, found in result.items()
        if name != "usual_places"
    }


def test_faithfulness_is_ranked_and_untrustworthy_maps_are_hollow():
    assert ranked(RESULT) == ["distinctive", "usual_places", "rollout", "centre"]
    figure = draw_faithfulness(RESULT, "Faithfulness (SYNTHETIC)")
    pointing, insertion = figure.axes
    titles = ["What tells them apart", "Baseline: usual places of marks", "Attention rollout"]
    assert [label.get_text() for label in pointing.get_yticklabels()] == [*titles, "Baseline: the middle of the image"]
    spots = [line for line in pointing.lines if line.get_marker() in "os"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in spots] == [
        (pytest.approx(value), row) for row, value in enumerate((90, 50, 30, 20))
    ]
    assert [line.get_marker() for line in spots] == ["o", "s", "o", "s"]
    assert [line.get_markerfacecolor() == "white" for line in spots] == [False, False, False, True]
    assert "not to be trusted" in words_of(figure)
    assert [line.get_ydata()[0] for line in insertion.lines if line.get_marker() in "os"] == [0, 2, 3]  # none of usual
    reach = [line.get_xdata() for line in pointing.lines if len(line.get_xdata()) == 2]
    assert np.allclose(reach[0], [85, 95])
    drawn(figure)


def test_faithfulness_without_true_marks_is_ranked_by_insertion():
    result = without_marks(RESULT)
    assert ranked(result) == ["rollout", "centre", "distinctive"]
    assert len(draw_faithfulness(result, "Photographs").axes) == 1
    assert "hottest patch" not in faithfulness_table(result)


def test_faithfulness_as_a_table():
    lines = faithfulness_table(RESULT).splitlines()
    best, usual, _, worst = map(cells_of, lines[2:])
    assert best[:3] == ["What tells them apart", "90.0 % (85.0 to 95.0 %)", "3.0 times (3.0 to 3.0 times)"]
    assert usual[0] == "Baseline: usual places of marks" and usual[-3:] == ["-", "-", "-"]
    assert worst[0] == "Baseline: the middle of the image (not to be trusted)" and "0.300" in worst


def test_statistics_as_a_table(view):
    stats = view_statistics(view, REGIONS)
    lines = statistics_table(stats, view.names).splitlines()
    assert len(lines) == 2 + 2 * sum(len(parts) for parts in stats.values())
    rollout = next(cells for cells in map(cells_of, lines) if cells[:2] == ["Attention rollout", "90005/other.png"])
    side = stats["rollout"]["all"][1]
    most = max(REGIONS, key=lambda name: side["regions"][name]["share"] / side["regions"][name]["area"])
    assert f"{100 * side['concentration']:.1f} %" in rollout and rollout[-1].startswith(f"{most}: ")
    nothing = {"rollout": {"all": [statistics(np.zeros((2, 2)), REGIONS)] * 2}}
    empty = cells_of(statistics_table(nothing, view.names).splitlines()[-1])
    assert empty[2:] == ["-", "-", "-", "-", "the map is zero everywhere"]


def test_layers_are_drawn_by_depth_and_by_head(view):
    figure = draw_layers(view, 0, "Attention in one.png (SYNTHETIC)")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert "none" in words_of(figure) and "summary token" in words_of(figure)
    depth, heads = view.depth
    assert titles[0].replace("\n", "") == "90004/one.png" and len(titles) == 1 + 2 * depth + heads
    assert titles[1] == "rollout up to layer 1" and titles[-1] == f"last layer, head {heads}"
    shown = {axes.get_title(): axes.get_images()[-1].get_array() for axes in figure.axes if axes.get_images()}
    for title, weights in (
        ("rollout up to layer 2", view.map("rollout", layer=1)[0]),
        ("CLS attention, layer 1", view.map("cls_attention", layer=0)[0]),
        ("last layer, head 2", view.map("cls_attention", layer=depth - 1, head=1)[0]),
    ):
        assert np.array_equal(shown[title], painted(view.faces[0], weights, signed=False))
    drawn(figure)
