import re
import warnings

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scored_cases import FAMILIES

from dcal_core.lettering import visible
from dcal_core.verification.metrics import equal_error_rate
from dcal_core.verification.plots import (
    draw_confusable,
    draw_det,
    draw_histogram,
    draw_reliability,
    draw_roc,
    draw_systems,
)


class Noise:
    def batch(self, indices):
        return torch.randint(0, 256, (len(indices), 3, 8, 8), dtype=torch.uint8)


def figures(ours, result, label):
    scores, pairs = ours.test.scores, ours.test.pairs
    what = scores, pairs.genuine, pairs.family
    systems = {"ours": scores, "noisier": scores + np.random.default_rng(0).normal(size=len(scores))}
    return {
        "histogram": draw_histogram(*what, 0.7, label),
        "roc": draw_roc(*what, label, draws=20),
        "det": draw_det(systems, pairs.genuine, pairs.family, label, draws=20),
        "reliability": draw_reliability(result["calibration"], pairs.genuine, pairs.family, label),
        "confusable": draw_confusable(result | {"data": label}, Noise()),
    }


def test_figures_say_what_they_show(ours, result, tmp_path):
    for label in ("SYNTHETIC", "ND-TWINS"):
        for name, figure in figures(ours, result, label).items():
            assert isinstance(figure, Figure)
            title = figure.get_suptitle() or figure.axes[0].get_title()
            assert label in title and f"240 pairs of one person and 300 of co-twins, {FAMILIES} families" in title, name
            assert (label == "SYNTHETIC") == ("SYNTHETIC" in title)
            if name != "confusable":
                axes = figure.axes[0]
                assert axes.get_xlabel() and axes.get_ylabel() and figure.legends
            texts = [text for text in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if text.get_text()]
            assert min(text.get_fontsize() for text in texts) >= 9
            figure.savefig(tmp_path / "figure.png", dpi=40)


def test_the_det_names_every_system_with_its_eer(ours, result):
    legend = figures(ours, result, "SYNTHETIC")["det"].legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert f"ours: EER {result['metrics']['eer']['value']:.1%}" in names
    assert any(name.startswith("noisier: EER") for name in names)


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_systems_stand_below_one_another_with_their_intervals_and_differences(result, tmp_path):
    systems = [("all", (0.02, 0.01, 0.04)), ("half", (0.05, 0.03, 0.09)), ("ours", (0.5, None, None))]
    systems = [{"name": name, "metrics": {"eer": estimate(*eer)}} for name, eer in systems]
    gaps = [{"metric": "eer", **estimate(-0.03, -0.06, 0.01)}, {"metric": "eer", "value": None, "reason": "too few"}]
    differences = [gaps[0], {"metric": "roc_auc", **estimate(0.7, 0.6, 0.8)}, gaps[1]]
    figure = draw_systems(result | {"data": "SYNTHETIC", "systems": systems, "differences": differences})
    errors, between = figure.axes
    assert "SYNTHETIC" in figure.get_suptitle() and f"{FAMILIES} families" in figure.get_suptitle()
    assert [text.get_text() for text in errors.get_yticklabels()] == ["all", "half", "ours"]
    assert errors.get_ylim()[0] > errors.get_ylim()[1]  # the first one on top
    drawn = {kind: [line.get_xydata().tolist() for line in errors.lines if line.get_marker() == kind] for kind in "o"}
    bars = [line.get_xydata().tolist() for line in errors.lines if line.get_marker() == "None"]
    assert drawn["o"] == [[pytest.approx([2, 0])], [pytest.approx([5, 1])], [pytest.approx([50, 2])]]
    assert bars == [[pytest.approx([1, 0]), pytest.approx([4, 0])], [pytest.approx([3, 1]), pytest.approx([9, 1])]]
    points = [line.get_xydata().tolist() for line in between.lines if line.get_marker() == "o"]
    assert points == [[pytest.approx([-3, 1])]]  # none of the first with itself, nor where it is not resolvable
    assert "first minus" in between.get_xlabel() and "points" in between.get_xlabel() and "%" in errors.get_xlabel()
    figure.savefig(tmp_path / "figure.png", dpi=40)


def test_the_reliability_plot_shows_only_bins_that_enough_families_fill(ours, result):
    axes = figures(ours, result, "SYNTHETIC")["reliability"].axes[0]
    shown = [one for one in result["calibration"]["reliability"] if one["observed"]]
    points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [(100 * b["posterior"], 100 * b["observed"]["value"]) for b in shown])


def test_captions_name_people_scores_and_mistakes(result):
    captions = [axes.get_title() for axes in draw_confusable(result, Noise()).findobj(lambda a: hasattr(a, "imshow"))]
    for pair in result["confusable"]:
        people = " / ".join(dict.fromkeys(pair["people"]))
        verdict = "right" if pair["matched"] == pair["genuine"] else "WRONG"
        assert f"{people}\nscore {pair['score']:.3f}, {verdict}" in captions


def test_figures_stand_one_family_and_perfect_scores(tmp_path):
    scores, genuine, family = np.array([3, 4, 1, 2]), np.array([1, 1, 0, 0]), np.zeros(4)
    draw_roc(scores, genuine, family, "SYNTHETIC").savefig(tmp_path / "figure.png")
    draw_det({"perfect": scores}, genuine, family, "SYNTHETIC").savefig(tmp_path / "figure.png")
    draw_histogram(scores, genuine, family, 2.5, "SYNTHETIC").savefig(tmp_path / "figure.png")


def test_no_global_figures_are_left(ours, result):
    import matplotlib.pyplot as pyplot

    figures(ours, result, "SYNTHETIC")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("families", [2, 5, 40])
def test_no_rate_in_the_legend_is_above_100_percent(families):
    """With fewer than 30 co-twin comparisons, no FMR can be resolved."""
    genuine = np.tile([True, False], 4 * families)
    scores = genuine + np.random.default_rng(0).normal(size=len(genuine))
    figure = draw_det({"run": scores}, genuine, np.arange(len(genuine)) // 8, "data", draws=100)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert all(float(rate) <= 100 for word in words for rate in re.findall(r"([\d.]+)%", word))
    assert ("no FMR is resolvable with so few pairs" in words) == (4 * families < 30)


@pytest.mark.parametrize("name", ["cash $1 and $2", "$$50001", "张伟", "a_b|<c>"])
def test_names_are_drawn_as_they_are(name, tmp_path):
    scores, genuine, family = np.array([3, 4, 1, 2]), np.array([1, 1, 0, 0]), np.zeros(4)
    for figure in (
        draw_roc(scores, genuine, family, name),
        draw_det({name: scores}, genuine, family, name),
        draw_histogram(scores, genuine, family, 2.5, name),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(tmp_path / "figure.png")
        assert f"({visible(name)})" in figure.axes[0].get_title()


def good_case(families=30, each=20):
    """A good verifier, few of whose scores overlap: scores, genuine, family."""
    random = np.random.default_rng(1)
    genuine = np.tile([True, False], families * each)
    scores = 4 * genuine + random.normal(size=len(genuine))
    return scores, genuine, np.repeat(np.arange(families), 2 * each)


def test_rare_scores_beyond_the_threshold_are_high_enough_to_see():
    scores, genuine, family = good_case()
    axes = draw_histogram(scores, genuine, family, 2.0, "data").axes[0]
    low, high = axes.transData.inverted().transform(axes.get_window_extent().get_points())[:, 1]
    for hill, part in zip(axes.patches, (genuine, ~genuine), strict=False):
        values, edges, _ = hill.get_data()
        count, _ = np.histogram(scores[part], edges)
        rarest = np.log(values[count > 0].min() / low) / np.log(high / low)
        assert rarest > 0.05  # of the height, for a single comparison


@pytest.mark.parametrize("families", [2, 30])
def test_the_roc_spreads_small_fmrs_and_its_legend_has_the_point_of_equal_errors(families, tmp_path):
    scores, genuine, family = good_case(families)
    figure = draw_roc(scores, genuine, family, "data", draws=20)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log" and "%" in axes.get_xlabel()
    least = axes.get_xlim()[0]
    assert 0 < least < 1 / (~genuine).sum()  # a single false match is on the axis
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 2 <= len(labels) <= 15 and labels[-1] == "100"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    eer = equal_error_rate(scores, genuine)[0]
    assert f"EER {eer:.1%}" in names and any("resolvable" in name for name in names)
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize(("apart", "most"), [(4.0, 20), (2.0, 80), (0.0, 80)])
def test_the_det_ends_where_its_curves_do(apart, most):
    scores, genuine, family = good_case()
    figure = draw_det({"run": scores - (4 - apart) * genuine}, genuine, family, "data", draws=20)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert float(labels[-1]) == most
    assert "dots: equal errors (EER)" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_numbers_of_the_reliability_plot_lie_within_its_frame():
    bins = [(0.001, 0.0), (0.04, 0.02), (0.5, 1.0), (0.96, 0.98), (0.999, 1.0)]
    bins = [
        {"posterior": posterior, "count": 1_234_567, "observed": {"value": observed, "low": 0.0, "high": 1.0}}
        for posterior, observed in bins
    ]
    figure = draw_reliability({"reliability": bins}, np.array([True, False]), np.zeros(2), "data")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    frame = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(bins)
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 < b.y0 and b.y1 < frame.y1 for b in boxes)


def test_the_marks_of_drawn_co_twins_are_outlined_and_no_others(result):
    marks = [np.pad(np.ones((2, 2, 2), dtype=bool), ((0, 0), (3, 3), (3, 3))) for _ in result["confusable"]]
    for given, some in ((None, False), (marks, True)):
        figure = draw_confusable(result, Noise(), given)
        grid = [axes for axes in figure.findobj(Axes) if axes.images]
        assert len(grid) == len(result["confusable"])
        for axes, pair in zip(grid, result["confusable"], strict=True):
            lines = [path for one in axes.collections for path in one.get_paths() if len(path.vertices)]
            assert bool(lines) == (some and not pair["genuine"])
        headings = [one.get_suptitle() for one in figure.subfigs]
        assert ["outlined" in heading for heading in headings] == [some, False]
