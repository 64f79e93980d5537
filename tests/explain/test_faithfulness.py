import json
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score
from tiny_models import GRID, SIZE, Brightness, make_images, make_model

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.faithfulness import (
    BASELINES,
    faithfulness,
    hot_maps,
    localisation,
    rank_correlation,
    removal_areas,
    shuffled,
    usual_places,
)
from dcal_core.explain.pair_maps import encode_pairs, local_mean

PATCH = SIZE // GRID


def mask_of(own=(), others=()):
    """A mask whose named patches hold one pixel in their middle: 255 where own, 128 where the co-twin's."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    for value, patches in ((128, others), (255, own)):
        for row, column in patches:
            mask[row * PATCH + 4, column * PATCH + 4] = value
    return mask


def hot_at(row, column, height=1.0):
    hot = torch.zeros(GRID, GRID)
    hot[row, column] = height
    return hot


def test_pointing_asks_the_hottest_patch_alone():
    masks = torch.stack([mask_of([(1, 1)], [(2, 3)])] * 4)
    maps = torch.stack([hot_at(1, 1), hot_at(2, 3), hot_at(1, 2), hot_at(1, 1, 0.5) + hot_at(0, 0)])
    found = localisation(maps, masks, range(4))
    assert found["pointing"]["value"] == 0.25
    assert found["pointing_any"]["value"] == 0.5


def test_a_mark_touches_every_patch_that_it_has_a_pixel_in():
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[0, PATCH - 1 : PATCH + 1, PATCH - 1] = 255  # two pixels: the last of patch (0, 0), the first of (1, 0)
    for row, column, hit in [(0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 1, 0)]:
        assert localisation(hot_at(row, column)[None], mask, [0])["pointing"]["value"] == hit


def test_energy_is_the_share_on_marks_over_their_share_of_the_face():
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[0, :PATCH, : PATCH // 2] = 255  # half of patch (0, 0): 1/32 of the face
    mask[0, PATCH : 2 * PATCH, :PATCH] = 128
    maps = (3 * hot_at(0, 0) + hot_at(1, 0) - 5 * hot_at(3, 3))[None]  # what is negative has no energy
    found = localisation(maps, mask, [0])
    assert found["energy"]["value"] == pytest.approx((3 / 4 * 1 / 2) / (1 / 32))
    assert localisation(torch.ones(1, GRID, GRID), mask, [0])["energy"]["value"] == pytest.approx(1)
    assert localisation(-maps.abs(), mask, [0])["energy"]["value"] == 0


def test_average_precision_is_scikit_learns():
    maps, mask = make_images(1)[0, :1, ::PATCH, ::PATCH], mask_of([(0, 1), (2, 2), (3, 0)])
    truth = torch.zeros(GRID, GRID, dtype=torch.bool)
    truth[[0, 2, 3], [1, 2, 0]] = True
    expected = average_precision_score(truth.flatten().numpy(), maps[0].flatten().numpy())
    assert localisation(maps, mask[None], [0])["average_precision"]["value"] == pytest.approx(expected)


def test_scaling_a_map_changes_no_figure():
    maps, masks = make_images(3)[:, 0, ::PATCH, ::PATCH], torch.stack([mask_of([(0, 1), (2, 2)], [(3, 3)])] * 3)
    found, scaled = localisation(maps, masks, range(3)), localisation(1e-3 * maps, masks, range(3))
    assert all(found[figure] == pytest.approx(scaled[figure]) for figure in found)


def test_usual_places_are_those_of_other_families():
    masks = torch.stack([mask_of([(0, 0)]), mask_of([(1, 1)], [(0, 0)]), mask_of([(2, 2)]), mask_of([(2, 2), (3, 3)])])
    maps = usual_places(masks, GRID, [0, 0, 1, 2])
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], hot_at(2, 2) + hot_at(3, 3, 0.5))
    torch.testing.assert_close(maps[2], (hot_at(0, 0) + hot_at(1, 1) + hot_at(2, 2) + hot_at(3, 3)) / 3)
    with pytest.raises(ValueError, match="give at least 2"):
        usual_places(masks, GRID, [7, 7, 7, 7])


def test_masks_without_a_mark_and_of_other_faces_are_refused():
    with pytest.raises(ValueError, match="no mark of its own face"):
        localisation(torch.ones(1, GRID, GRID), mask_of(others=[(1, 1)])[None], [0])
    with pytest.raises(ValueError, match="must be of the same faces"):
        localisation(torch.ones(2, GRID, GRID), mask_of([(1, 1)])[None], [0, 1])


def test_removal_follows_each_map_patch_by_patch():
    model, a, b = make_model(), make_images(2, seed=1), make_images(2, seed=2)
    pairs, maps = encode_pairs(model, a, b, GRID), torch.rand(3, 2, 2, GRID, GRID)
    steps, means = 4, [local_mean(x, GRID) for x in (a, b)]
    expected = np.zeros((2, 3, 2))  # deletion, insertion; map; pair
    for insert, which, step in product((0, 1), range(3), range(1, steps + 1)):
        shown = [x.clone() for x in (means if insert else (a, b))]
        for side, pair in product(range(2), range(2)):
            order = maps[which, side, pair].flatten().argsort(descending=True)[: step * 4]
            for row, column in (divmod(int(place), GRID) for place in order):
                area = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                shown[side][pair][area] = ((a, b) if insert else means)[side][pair][area]
        with torch.no_grad():
            expected[insert, which] += model.compare(*map(model.encode, shown)).diagonal().numpy() / steps
    with torch.no_grad():
        areas = removal_areas(pairs, maps, steps)
    for found, wanted in zip(areas, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    blank, again, other = shuffled(model), shuffled(model), shuffled(model, seed=1)
    for name, parameter in blank.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        assert torch.equal(parameter, again.get_parameter(name))
    weight = "vit.blocks.0.attn.qkv.weight"
    assert not torch.equal(blank.get_parameter(weight), before[weight])
    assert not torch.equal(blank.get_parameter(weight), other.get_parameter(weight))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not blank.training


def test_rank_correlation_is_spearmans():
    first, second = make_images(4)[:, 0, ::PATCH, ::PATCH].clone(), make_images(4, seed=2)[:, 0, ::PATCH, ::PATCH]
    first[0, :2] = 0.5  # ties
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    np.testing.assert_allclose(rank_correlation(first, first.exp()), 1)
    np.testing.assert_allclose(rank_correlation(first, -first), -1)
    assert (rank_correlation(torch.zeros(4, GRID, GRID), second) == 1).all()


def test_hot_maps_turn_signed_maps_round():
    pairs = encode_pairs(make_model(), make_images(1), make_images(1, seed=2), GRID)
    hot = dict(hot_maps(pairs, ["match", "distinctive"], torch.Generator().manual_seed(0)))
    assert list(hot) == ["match", "distinctive", *BASELINES, "random"]
    assert torch.equal(hot["match"], -MAPS["match"].make(pairs))
    assert torch.equal(hot["distinctive"], MAPS["distinctive"].make(pairs))
    assert hot["centre"].flatten(2).argmax(2).tolist() == [[5], [5]]  # the first of the four in the middle
    difference = (pairs.faces[0] - pairs.faces[1]).abs().mean(0)[8:16, :8].mean()
    torch.testing.assert_close(hot["image_difference"][:, 0, 1, 0], difference.expand(2))


@pytest.fixture(scope="module")
def marked():
    """Grey faces that differ in one bright patch each, and what is found about their maps."""
    places = [((0, 1), (2, 2)), ((1, 3), (3, 0)), ((2, 0), (0, 2)), ((3, 3), (1, 1)), ((1, 0), (3, 2))]
    faces = 0.1 + 0.01 * torch.rand(2, 5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 5, SIZE, SIZE, dtype=torch.uint8)
    for pair, sides in enumerate(places):
        for side, (row, column) in enumerate(sides):
            area = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            faces[(side, pair, slice(None), *area)] = 0.9
            masks[(side, pair, *area)] = 255
            masks[(1 - side, pair, *area)] = 128
    return faces, masks


class Marks(Brightness):
    """As `Brightness`, with weights that can be shuffled and a cosine, so that marks at other places are unlike."""

    mean = torch.zeros(1, 3, 1, 1)  # of the pixels, which gradient x input asks for

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(GRID * GRID), requires_grad=False)

    def encode(self, images, trace=False):
        features = super().encode(images)
        features.parts["patches"] = torch.nn.functional.normalize(features.parts["patches"] @ self.weight - 0.05)
        return features


def test_a_model_that_sees_the_marks_is_found_faithful(marked):
    faces, masks = marked
    names = ("distinctive", "contribution", "rollout")
    found = faithfulness(Marks(), *faces, GRID, range(5), masks, names, batch=2, seed=2)  # of few pairs, chance decides
    expected = {"distinctive", "contribution", *BASELINES, "random", "usual_places"}
    assert set(found) == expected  # it has no attention
    assert found["usual_places"]["localisation"]["pointing"]["value"] == 0  # no two faces have a mark at one place
    json.dumps(found, allow_nan=False)
    best = found["distinctive"]
    assert best["localisation"]["pointing"]["value"] == 1
    assert best["localisation"]["energy"]["value"] > 3
    assert best["deletion"]["low"] > 0 and best["insertion"]["low"] > 0
    difference = found["image_difference"]  # no weights in it: shuffling them changes nothing
    assert difference["randomisation"]["value"] == 1 and difference["untrustworthy"]
    assert found["random"]["deletion"] == {"value": 0, "low": 0, "high": 0}


def test_a_map_that_is_not_there_is_refused(marked):
    with pytest.raises(ValueError, match="no map heat: choose of distinctive, occlusion"):
        faithfulness(Marks(), *marked[0], GRID, range(5), names=("heat", "match"))


def test_figures_do_not_depend_on_the_batch_and_masks_may_be_missing(marked):
    faces, _ = marked
    names = ("distinctive",)
    small, large = (faithfulness(Marks(), *faces, GRID, range(5), None, names, batch=n) for n in (2, 5))
    assert "localisation" not in small["distinctive"]
    for name, figures in large.items():
        for figure in ("deletion", "insertion", "randomisation"):
            assert small[name][figure] == pytest.approx(figures[figure], abs=1e-6)
