import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from dcal_core.data.twins import TwinIndex
from dcal_core.verification.protocol import twin_pairs
from dcal_core.verification.report import (
    CURVE_POINTS,
    draw_confusable,
    draw_det,
    draw_histogram,
    draw_roc,
    evaluate,
    most_confusable,
    write_json,
)

FAMILIES, IMAGES = 6, 5


class Noise:
    def batch(self, indices):
        return torch.randint(0, 256, (len(indices), 3, 8, 8), dtype=torch.uint8)


@pytest.fixture(scope="module")
def case():
    """Index, pairs and clustered scores of six pairs of twins with five images each."""
    names = [(f"{f}a", f"{f}b") for f in range(FAMILIES)]
    index = TwinIndex(
        name="test",
        people=tuple(name for family in names for name in family),
        families=tuple(names),
        paths=tuple(f"{image}.png" for image in range(2 * FAMILIES * IMAGES)),
        person_of=np.repeat(np.arange(2 * FAMILIES), IMAGES),
        family_of=np.repeat(np.arange(FAMILIES), 2),
    )
    pairs = twin_pairs(index)
    rng = np.random.default_rng(0)
    return (
        index,
        pairs,
        rng.normal(size=len(pairs)) + 1.5 * pairs.genuine + rng.normal(size=FAMILIES)[pairs.family],
    )


@pytest.fixture(scope="module")
def result(case):
    index, pairs, scores = case
    return evaluate(scores, pairs, index, 0.7, "4 validation families", "SYNTHETIC", draws=30)


def test_json_round_trip(result, tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json(path, result)
    assert json.loads(path.read_text()) == result
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_result_says_what_it_is_about(result):
    assert result["data"] == "SYNTHETIC" and result["split"] == "test"
    assert result["threshold"] == {"value": 0.7, "source": "4 validation families"}
    assert result["metrics"]["counts"] == {"genuine": 120, "impostor": 150, "families": 6, "draws": 30}
    # families of one size: counting families evenly changes nothing
    assert result["metrics_per_family"]["eer"] == pytest.approx(result["metrics"]["eer"])


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nan_is_refused_and_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "result.json"
    write_json(path, {"eer": 0.1})
    with pytest.raises(ValueError):
        write_json(path, {"eer": number})
    assert json.loads(path.read_text()) == {"eer": 0.1}


def test_curve_is_short_and_keeps_its_course(case, result):
    _, pairs, scores = case
    curve = result["curve"]
    assert len(curve["threshold"]) <= CURVE_POINTS
    for threshold, fmr, fnmr in zip(*(curve[name] for name in ("threshold", "fmr", "fnmr")), strict=True):
        matched = scores >= threshold
        assert fmr == pytest.approx(matched[~pairs.genuine].mean())
        assert fnmr == pytest.approx(1 - matched[pairs.genuine].mean())
    assert curve["fmr"][0] == 1 and curve["fnmr"][-1] > 0.97
    assert np.diff(curve["fmr"]).min() > -0.05 and np.diff(curve["fnmr"]).max() < 0.05


def test_most_confusable_takes_the_worst_of_each_family(case):
    index, pairs, scores = case
    found = most_confusable(scores, pairs, index, threshold=0.7, count=3)
    assert [pair["genuine"] for pair in found] == [False] * 3 + [True] * 3
    for genuine, sign in ((False, 1), (True, -1)):
        worst = [(sign * scores)[(pairs.genuine == genuine) & (pairs.family == f)].max() for f in range(FAMILIES)]
        expected = sign * np.sort(worst)[::-1][:3]
        chosen = [pair for pair in found if pair["genuine"] == genuine]
        np.testing.assert_allclose([pair["score"] for pair in chosen], expected)
        assert len({pair["people"][0][0] for pair in chosen}) == 3
        for pair in chosen:
            assert (pair["people"][0] == pair["people"][1]) == genuine
            assert pair["paths"] == [f"{image}.png" for image in pair["images"]]
            assert pair["matched"] == (pair["score"] >= 0.7)


def figures(case, result, label):
    _, pairs, scores = case
    what = scores, pairs.genuine, pairs.family
    return {
        "histogram": draw_histogram(*what, 0.7, label),
        "roc": draw_roc(*what, label, draws=20),
        "det": draw_det(*what, label, draws=20),
        "confusable": draw_confusable(result | {"data": label}, Noise()),
    }


def test_figures_say_what_they_show(case, result, tmp_path):
    for label in ("SYNTHETIC", "ND-TWINS"):
        for name, figure in figures(case, result, label).items():
            assert isinstance(figure, Figure)
            title = figure.get_suptitle() or figure.axes[0].get_title()
            assert label in title and "120 genuine and 150 co-twin comparisons, 6 families" in title, name
            assert (label == "SYNTHETIC") == ("SYNTHETIC" in title)
            if name != "confusable":
                axes = figure.axes[0]
                assert axes.get_xlabel() and axes.get_ylabel() and figure.legends
            texts = [text for text in figure.findobj(lambda a: hasattr(a, "get_fontsize")) if text.get_text()]
            assert min(text.get_fontsize() for text in texts) >= 9
            figure.savefig(tmp_path / "figure.png", dpi=40)


def test_captions_name_people_scores_and_mistakes(result):
    captions = [axes.get_title() for axes in draw_confusable(result, Noise()).findobj(lambda a: hasattr(a, "imshow"))]
    for pair in result["confusable"]:
        people = " / ".join(dict.fromkeys(pair["people"]))
        verdict = "right" if pair["matched"] == pair["genuine"] else "WRONG"
        assert f"{people}\nscore {pair['score']:.3f}, {verdict}" in captions


def test_figures_stand_one_family_and_perfect_scores(tmp_path):
    genuine, family = np.array([1, 1, 0, 0]), np.zeros(4)
    for draw in (draw_roc, draw_det):
        draw([3, 4, 1, 2], genuine, family, "SYNTHETIC").savefig(tmp_path / "figure.png")
    draw_histogram([3, 4, 1, 2], genuine, family, 2.5, "SYNTHETIC").savefig(tmp_path / "figure.png")


def test_no_global_figures_are_left(case, result):
    import matplotlib.pyplot as pyplot

    figures(case, result, "SYNTHETIC")
    assert pyplot.get_fignums() == []
