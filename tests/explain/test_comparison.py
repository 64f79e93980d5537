import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from tiny_models import GRID, make_images, make_model

from dcal_core.data.images import ImageStore
from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.comparison import compare_groups, mean_face, quick_maps
from dcal_core.explain.pair_maps import encode_pairs
from dcal_core.verification.intervals import mean_share
from dcal_core.verification.protocol import Pairs

LEFT = np.zeros((4, 4), bool)
LEFT[:, 0] = True
REGIONS = {"left": LEFT, "rest": ~LEFT}


def make_pairs(genuine, family):
    count = len(genuine)
    return Pairs(np.arange(count), np.arange(count) + 1, np.array(genuine, bool), np.array(family))


def left_shares(shares):
    """A map [n, 2, 2, 2] for each of shares [n] in the left half; evenly there and in the rest."""
    shares = np.array(shares, float)[:, None, None, None]
    row = np.concatenate([shares / 2, (1 - shares) / 2], -1)  # [n, 1, 1, 2]
    return np.broadcast_to(row, (len(row), 2, 2, 2)).astype(np.float32)


HALF = {"left": np.repeat([[True, False]], 2, 0), "right": np.repeat([[False, True]], 2, 0)}


def test_shares_and_their_paired_difference_by_hand():
    pairs = make_pairs([1, 1, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1, 2, 3])
    values = [0.2, 0.4, 0.5, 0.7, 0.1, 0.5, 0.9, 0.8]
    found = compare_groups({"rollout": left_shares(values)}, pairs, HALF)
    assert found["pairs"] == {"same": 4, "twins": 4} and found["families"] == {"same": 3, "twins": 3, "both": 2}
    assert found["areas"] == {"left": 0.5, "right": 0.5}
    left = found["maps"]["rollout"]["speaks"]["all"]["figures"]["left"]
    assert left["same"]["value"] == pytest.approx((0.3 + 0.1 + 0.9) / 3)  # each family counts the same
    assert left["twins"]["value"] == pytest.approx((0.6 + 0.5 + 0.8) / 3)
    faces = [0.2, 0.2, 0.4, 0.4, 0.1, 0.1, 0.9, 0.9]
    expected = mean_share(faces, [0, 0, 0, 0, 1, 1, 2, 2])
    assert [left["same"][end] for end in ("low", "high")] == pytest.approx(
        [expected["low"], expected["high"]], abs=1e-6
    )
    apart = [0.6 - 0.3, 0.5 - 0.1]  # of the families that have both, 0 and 1
    interval = ttest_1samp(apart, 0).confidence_interval(0.95)
    assert left["difference"]["value"] == pytest.approx(0.35)
    assert [left["difference"][end] for end in ("low", "high")] == pytest.approx([interval.low, interval.high])
    json.dumps(found, allow_nan=False)


def test_mean_maps_count_families_the_same_and_faces_of_any_strength():
    pairs = make_pairs([1, 1, 1, 0], [0, 0, 1, 0])
    maps = left_shares([0.2, 0.4, 0.9, 0.5]) * np.array([1, 50, 3, 1], np.float32)[:, None, None, None]
    means = compare_groups({"rollout": maps}, pairs, HALF)["maps"]["rollout"]["means"]
    assert np.allclose(means["same"], [[1.2, 0.8]] * 2)  # left 0.6 over 0.5 of the area
    assert np.allclose(means["twins"], 1)
    signed = compare_groups({"place": maps - 0.5}, pairs, HALF)["maps"]["place"]["means"]  # in units of the map
    assert np.allclose(signed["twins"], maps[3, 0] - 0.5)


def test_signs_are_told_apart_and_faces_without_are_counted():
    pairs = make_pairs([1, 1, 0, 0], [0, 1, 0, 1])
    maps = np.zeros((4, 2, 2, 2), np.float32)
    maps[:2, :, 0, 0] = 1  # one person: only what speaks for one, on the left
    maps[2:, :, 0, 1] = -1  # co-twins: only what speaks for two, on the right
    maps[2, 0, 1, 0] = 1  # but one face
    found = compare_groups({"match": maps}, pairs, HALF)["maps"]["match"]["speaks"]
    assert found["same"]["empty"] == {"same": 0, "twins": 3} and found["different"]["empty"] == {"same": 4, "twins": 0}
    assert found["same"]["figures"]["left"]["same"]["value"] == 1
    assert found["same"]["figures"]["left"]["difference"] == {"value": 0, "low": None, "high": None}  # of one family
    nothing = {"value": None, "low": None, "high": None}
    assert (
        found["different"]["figures"]["left"]["same"] == nothing == found["different"]["figures"]["left"]["difference"]
    )
    assert found["different"]["figures"]["right"]["twins"]["value"] == 1


def test_families_with_one_kind_of_pair_have_no_difference():
    found = compare_groups({"rollout": left_shares([0.2, 0.6])}, make_pairs([1, 0], [0, 1]), HALF)
    assert found["families"]["both"] == 0
    assert found["maps"]["rollout"]["speaks"]["all"]["figures"]["left"]["difference"]["value"] is None


def test_an_even_map_has_finite_figures():
    pairs = make_pairs([1, 0, 1, 0], [0, 0, 1, 1])
    found = compare_groups({"rollout": np.full((4, 2, 15, 15), 0.1, np.float32)}, pairs, REGIONS)
    spread = found["maps"]["rollout"]["speaks"]["all"]["figures"]["entropy_share"]
    assert spread["same"]["value"] == pytest.approx(1) and 0 < spread["same"]["low"] < spread["same"]["high"] <= 1
    assert spread["difference"]["value"] == pytest.approx(0, abs=1e-12)


def test_a_comparison_takes_both_groups_and_all_pairs():
    maps = {"rollout": left_shares([0.2, 0.6])}
    with pytest.raises(ValueError, match="no pair of the group twins"):
        compare_groups(maps, make_pairs([1, 1], [0, 1]), HALF)
    with pytest.raises(ValueError, match="all 3 pairs"):
        compare_groups(maps, make_pairs([1, 0, 1], [0, 0, 1]), HALF)


def test_quick_maps_are_those_of_the_pairs():
    model, faces = make_model(readout="tokens"), (make_images(6) * 255).to(torch.uint8)
    images = SimpleNamespace(batch=lambda indices: faces[torch.as_tensor(indices)])
    pairs = Pairs(np.array([0, 2, 1]), np.array([3, 4, 5]), np.array([True, False, True]), np.zeros(3, int))
    found = quick_maps(model, images, pairs, ("distinctive", "rollout"), batch=2)
    encoded = encode_pairs(model, faces[[0, 2, 1]], faces[[3, 4, 5]], GRID)
    for name, maps in found.items():
        assert maps.shape == (3, 2, GRID, GRID)
        torch.testing.assert_close(
            torch.from_numpy(maps).transpose(0, 1), MAPS[name].make(encoded), rtol=1e-3, atol=1e-5
        )


def test_maps_that_are_slow_or_missing_are_refused():
    model, faces = make_model(glca_blocks=0), (make_images(2) * 255).to(torch.uint8)
    images = SimpleNamespace(batch=lambda indices: faces[torch.as_tensor(indices)])
    pairs = Pairs(np.array([0]), np.array([1]), np.array([True]), np.array([0]))
    with pytest.raises(ValueError, match="occlusion, wrong: choose of the quick maps"):
        quick_maps(model, images, pairs, ("occlusion", "wrong", "rollout"))
    with pytest.raises(ValueError, match="no map selection"):
        quick_maps(model, images, pairs, ("rollout", "selection"))


def test_a_mean_face_is_of_images_spread_evenly():
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)
    images = ImageStore(images=pixels, kept=np.arange(10), rejected=[])
    assert (mean_face(images, 2) == 4).all() and mean_face(images).shape == (2, 2, 3)  # of 0 and 9, 4.5 to even
    assert (mean_face(images, 10) == 4).all() and mean_face(images).dtype == np.uint8
