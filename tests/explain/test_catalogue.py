from itertools import product

import pytest
import torch
from tiny_models import (
    BACKBONES,
    DEPTH,
    GRID,
    OF_DCAL,
    OF_OAML,
    PREFIX,
    Brightness,
    make_images,
    make_model,
    make_oaml,
)

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.maps import cls_attention, glca_attention, rollout_map, selection_map
from dcal_core.explain.pair_maps import encode_pairs, match_map, place_map, tells_apart

each_map = pytest.mark.parametrize("name", MAPS)


def make_pairs(model, second=2, grid=GRID):
    return encode_pairs(model, make_images(2, seed=1), make_images(2, seed=second), grid)


def model_with(name, kind="plain"):
    """A model that has a map."""
    return make_oaml() if name in OF_OAML else make_model(kind, readout="tokens")


@pytest.mark.parametrize("kind, name", [*product(BACKBONES, OF_DCAL), *product(["oaml"], OF_OAML)])
def test_every_map_is_drawn_for_both_faces_as_it_is_described(name, kind):
    entry, pairs = MAPS[name], make_pairs(model_with(name, kind))
    assert entry.fits(pairs)
    maps = entry.make(pairs)
    assert maps.shape == (2, 2, GRID, GRID) and maps.dtype == torch.float32
    assert maps.isfinite().all() and (maps.amax((2, 3)) > maps.amin((2, 3))).all()
    assert bool((maps < 0).any()) == entry.signed
    assert entry.title and entry.meaning.endswith(".") and entry.quick == (name not in ("occlusion", "contribution"))


@each_map
def test_a_map_changes_with_the_other_face_unless_it_shows_attention(name):
    model = model_with(name)
    first, second = (MAPS[name].make(make_pairs(model, other))[0] for other in (2, 3))
    same = torch.allclose(first, second, atol=1e-6)
    assert same == (name in ("visible", "rollout", "cls_attention", "selection", "glca_attention"))


def test_maps_are_those_of_the_functions_they_name():
    model = make_model("dinov3", readout="tokens")
    pairs = make_pairs(model)
    looked = glca_attention(pairs.features)[:, 0, :, 1:, PREFIX["dinov3"] :].mean((1, 2))
    own, shared = pairs.occluded
    expected = {
        "distinctive": pairs.distinctive.clamp(min=0),
        "occlusion": (tells_apart(pairs, own, shared).clamp(min=0) * pairs.distinctive.clamp(min=0)).sqrt(),
        "contribution": shared,
        "place": place_map(pairs),
        "match": match_map(pairs),
        "rollout": rollout_map(pairs.features, GRID).unflatten(0, (2, 2)),
        "cls_attention": cls_attention(pairs.features, GRID)[:, DEPTH - 1].mean(1).unflatten(0, (2, 2)),
        "selection": selection_map(pairs.features, GRID).unflatten(0, (2, 2)),
        "glca_attention": looked.unflatten(-1, (GRID, GRID)).unflatten(0, (2, 2)),
    }
    assert expected.keys() == set(OF_DCAL)
    for name, maps in expected.items():
        torch.testing.assert_close(MAPS[name].make(pairs), maps)


@pytest.mark.parametrize(
    "options", [{}, {"joint": True}, {"visibility": False}, {"local_finer": True, "local_window": 1}], ids=str
)
@torch.no_grad()
def test_local_matches_and_a_constant_add_up_to_the_local_score(options):
    model = make_oaml(**options)
    pairs = make_pairs(model, grid=model.grid)
    maps = MAPS["local"].make(pairs)
    rest = model.compare_pairs(pairs.features[:2], pairs.features[2:], "local") - maps.sum((0, 2, 3))
    norm = model.qaconv.logit_bn
    bias = (1 if model.qaconv.fc.in_features > model.grid**2 else 2) * model.qaconv.fc.bias
    constant = (bias - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(rest, constant.expand(2), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_place_is_answered_by_the_visible_place_that_is_most_alike():
    pairs = make_pairs(make_oaml())
    local, visible = pairs.features.parts["local"], pairs.features.parts["visible"]
    _, where = pairs.places
    for face, other in ((0, 2), (3, 1)):
        for place in range(GRID * GRID):
            alike = [float(local[face, :, place] @ local[other, :, r]) for r in range(GRID * GRID)]
            assert where[face, place] == max(
                range(GRID * GRID),
                key=lambda r: (1 + alike[r]) * float(visible[other, r]),  # noqa: B023
            )
    torch.testing.assert_close(MAPS["visible"].make(pairs)[1, 0, 1, 2], visible[2, GRID + 2])


def test_a_layer_and_a_head_can_be_chosen_where_a_map_says_so():
    pairs = make_pairs(make_model())
    heads = cls_attention(pairs.features, GRID)
    assert {name: entry.by for name, entry in MAPS.items() if entry.by} == {
        "rollout": ("layer",),
        "cls_attention": ("layer", "head"),
    }
    shallow = MAPS["rollout"].make(pairs, layer=0)
    torch.testing.assert_close(shallow, rollout_map(pairs.features, GRID, 1).unflatten(0, (2, 2)))
    one = MAPS["cls_attention"].make(pairs, layer=1, head=0)
    torch.testing.assert_close(one, heads[:, 1, 0].unflatten(0, (2, 2)))
    torch.testing.assert_close(MAPS["cls_attention"].make(pairs, layer=1), heads[:, 1].mean(1).unflatten(0, (2, 2)))


def test_models_get_the_maps_that_they_have_what_it_takes_for():
    def fitting(model):
        pairs = make_pairs(model)
        return {name for name, entry in MAPS.items() if entry.fits(pairs)}

    by_score = {"distinctive", "occlusion", "contribution"}
    by_attention = {"match", "rollout", "cls_attention"}
    assert fitting(Brightness()) == by_score
    assert fitting(make_model(glca_blocks=0)) == by_score | by_attention
    assert fitting(make_model()) == by_score | by_attention | {"selection", "glca_attention"}
    assert fitting(make_model(readout="tokens")) == set(OF_DCAL)
    assert fitting(make_oaml()) == by_score | set(OF_OAML)


def test_quick_maps_of_a_pair_encode_it_twice():
    model = make_model(readout="tokens")
    seen, encode = [], model.encode
    model.encode = lambda images, trace=False: seen.append(len(images)) or encode(images, trace)
    pairs = make_pairs(model)
    for entry in MAPS.values():
        if entry.quick and entry.fits(pairs):
            entry.make(pairs)
    assert seen == [4, 4]  # once as they are, once half-way to the local mean, which is also led back
    for name in ("occlusion", "contribution"):
        MAPS[name].make(pairs)
    assert sum(seen) == 8 + 4 * GRID * GRID
