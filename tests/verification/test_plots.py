from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scored_cases import FAMILIES

from dcal_core.verification.plots import (
    draw_confusable,
    draw_det,
    draw_histogram,
    draw_reliability,
    draw_roc,
    draw_systems,
)
from dcal_core.verification.protocol import Pairs, Scored


class Noise:
    def batch(self, indices):
        return torch.randint(0, 256, (len(indices), 3, 8, 8), dtype=torch.uint8)


def figures(ours, result, label):
    test = ours.test
    noisier = replace(test, scores=test.scores + np.random.default_rng(0).normal(size=len(test.scores)))
    result = result | {"data": label}
    result["systems"] = [result["systems"][0], result["systems"][1] | {"name": "noisier"}]
    return {
        "histogram": draw_histogram(result, test),
        "roc": draw_roc(result, test, draws=20),
        "det": draw_det(result, [test, noisier], draws=20),
        "reliability": draw_reliability(result),
        "confusable": draw_confusable(result, Noise()),
    }


def test_figures_say_what_they_show(ours, result, tmp_path):
    for label in ("SYNTHETIC", "ND-TWINS"):
        for name, figure in figures(ours, result, label).items():
            assert isinstance(figure, Figure)
            title = figure.get_suptitle() or figure.axes[0].get_title()
            assert label in title and f"240 genuine and 300 co-twin comparisons, {FAMILIES} families" in title, name
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


def test_figures_stand_one_family_and_perfect_scores(result, tmp_path):
    pairs = Pairs(np.arange(4), np.arange(4) + 1, np.array([True, True, False, False]), np.zeros(4))
    test = Scored(None, pairs, np.array([3.0, 4, 1, 2]))
    draw_roc(result, test).savefig(tmp_path / "figure.png")
    draw_det(result, [test]).savefig(tmp_path / "figure.png")
    draw_histogram(result, test).savefig(tmp_path / "figure.png")


def test_no_global_figures_are_left(ours, result):
    import matplotlib.pyplot as pyplot

    figures(ours, result, "SYNTHETIC")
    assert pyplot.get_fignums() == []
