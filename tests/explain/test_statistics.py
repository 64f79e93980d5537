import json

import numpy as np
import pytest
import torch
from tiny_models import GRID, OF_DCAL, SIZE, make_images, make_model

from dcal_core.data.landmarks import DRAWN
from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.regions import EMPTY, face_regions, speaks, statistics, view_statistics

LEFT = np.zeros((8, 8), bool)
LEFT[:, :2] = True  # a quarter of the picture
HALVES = {"left": LEFT, "rest": ~LEFT}


def test_an_even_map():
    found = statistics(np.full((4, 4), 0.5), HALVES)
    assert found["total"] == 8 and found["entropy_bits"] == pytest.approx(4) and found["entropy_share"] == 1
    assert (found["centre_x"], found["centre_y"]) == (0.5, 0.5)
    assert found["concentration"] == pytest.approx(0.1)
    assert found["regions"] == {"left": {"share": 0.25, "area": 0.25}, "rest": {"share": 0.75, "area": 0.75}}


def test_a_map_of_one_patch():
    weights = np.zeros((4, 4))
    weights[3, 0] = 7
    found = statistics(weights, HALVES)
    assert found["entropy_bits"] == 0 and found["entropy_share"] == 0
    assert (found["centre_x"], found["centre_y"]) == (0.125, 0.875)
    assert found["concentration"] == 1  # 1.6 patches are a tenth: one is enough
    assert found["regions"]["left"]["share"] == 1 and found["regions"]["rest"]["share"] == 0


def test_the_hottest_tenth_is_exact_between_patches():
    weights = np.ones((4, 4))
    weights[0, 0], weights[2, 2] = 5, 3
    found = statistics(weights, {})  # the tenth is 1.6 patches: the 5 and 0.6 of the 3
    assert found["concentration"] == pytest.approx((5 + 0.6 * 3) / 22)
    assert statistics(np.array([[1, 0], [0, 3]]), {})["concentration"] == pytest.approx(0.4 * 0.75)


def test_entropy_and_centre_by_hand():
    found = statistics(np.array([[0.5, 0.25], [0.25, 0]]), {})
    assert found["entropy_bits"] == pytest.approx(1.5) and found["entropy_share"] == pytest.approx(0.75)
    assert found["centre_x"] == pytest.approx(0.25 * 0.75 + 0.75 * 0.25) == found["centre_y"]


def test_figures_know_no_scale_and_turn_with_the_map():
    weights = np.random.default_rng(0).random((5, 5))
    found, larger, turned = (statistics(w, {}) for w in (weights, 1000 * weights, weights.T))
    for name in ("entropy_bits", "entropy_share", "concentration", "centre_x", "centre_y"):
        assert larger[name] == pytest.approx(found[name])
    assert (turned["centre_x"], turned["centre_y"]) == pytest.approx((found["centre_y"], found["centre_x"]))
    assert found["centre_x"] != pytest.approx(found["centre_y"])


def test_a_region_through_patches_gets_its_part_of_them():
    column = np.zeros((8, 8), bool)
    column[:, :1] = True  # half of the first of four columns of patches
    weights = np.zeros((4, 4))
    weights[:, 0], weights[:, 3] = 3, 1
    assert statistics(weights, {"column": column})["regions"]["column"] == {"share": 0.375, "area": 0.125}


def test_a_map_of_nothing_says_so():
    found = statistics(np.zeros((4, 4)), HALVES)
    assert found["reason"] == EMPTY and found["total"] == 0
    assert found["entropy_bits"] is found["centre_x"] is found["concentration"] is None
    assert found["regions"]["left"] == {"share": None, "area": 0.25}
    assert "reason" not in statistics(np.ones((4, 4)), HALVES)


@pytest.mark.parametrize(
    "weights, said",
    [
        (np.ones((2, 3)), "g, g"),
        (np.ones((1, 1)), "at least 2"),
        (np.ones(4), "g, g"),
        (-np.eye(2), "negative"),
        (np.full((2, 2), np.nan), "finite"),
    ],
)
def test_what_is_no_map_is_refused(weights, said):
    with pytest.raises(ValueError, match=said):
        statistics(weights, {})


def test_a_signed_map_speaks_for_two_things():
    weights = np.array([[2.0, -3.0], [0.0, 1.0]])
    parts = speaks(weights, signed=True)
    assert parts["same"].tolist() == [[2, 0], [0, 1]] and parts["different"].tolist() == [[0, 3], [0, 0]]
    assert speaks(weights, signed=False) == {"all": weights}


def test_all_maps_of_a_pair():
    model, faces = make_model(readout="tokens"), (make_images(2) * 255).to(torch.uint8)
    view, regions = PairView(model, faces, ("one.png", "other.png")), face_regions(DRAWN, SIZE)
    found = view_statistics(view, regions)
    assert list(found) == list(OF_DCAL)
    for name, parts in found.items():
        assert list(parts) == (["same", "different"] if MAPS[name].signed else ["all"])
        for what, sides in parts.items():
            assert len(sides) == 2
            expected = [
                np.maximum(-side if what == "different" else side, 0).sum(dtype=float) for side in view.map(name)
            ]
            assert [side["total"] for side in sides] == pytest.approx(expected)
    assert found["rollout"]["all"][1] == statistics(view.map("rollout")[1], regions)
    assert view.map("rollout").shape == (2, GRID, GRID)
    json.dumps(found, allow_nan=False)
