import pytest
import torch
from tiny_models import BACKBONES, DEPTH, GRID, PREFIX, Brightness, make_images, make_model

from dcal_core.explain.catalogue import MAPS
from dcal_core.explain.maps import cls_attention, glca_attention, rollout_map, selection_map
from dcal_core.explain.pair_maps import encode_pairs, match_map, place_map, tells_apart

each_map = pytest.mark.parametrize("name", MAPS)


def make_pairs(model, second=2):
    return encode_pairs(model, make_images(2, seed=1), make_images(2, seed=second), GRID)


@each_map
@pytest.mark.parametrize("kind", BACKBONES)
def test_every_map_is_drawn_for_both_faces_as_it_is_described(name, kind):
    entry, pairs = MAPS[name], make_pairs(make_model(kind, readout="tokens"))
    assert entry.fits(pairs)
    maps = entry.make(pairs)
    assert maps.shape == (2, 2, GRID, GRID) and maps.dtype == torch.float32
    assert maps.isfinite().all() and (maps.amax((2, 3)) > maps.amin((2, 3))).all()
    assert bool((maps < 0).any()) == entry.signed
    assert entry.title and entry.meaning.endswith(".") and entry.quick == (name not in ("occlusion", "contribution"))


@each_map
def test_a_map_changes_with_the_other_face_unless_it_shows_attention(name):
    model = make_model(readout="tokens")
    first, second = (MAPS[name].make(make_pairs(model, other))[0] for other in (2, 3))
    same = torch.allclose(first, second, atol=1e-6)
    assert same == (name in ("rollout", "cls_attention", "selection", "glca_attention"))


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
    assert expected.keys() == MAPS.keys()
    for name, maps in expected.items():
        torch.testing.assert_close(MAPS[name].make(pairs), maps)


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
    assert fitting(make_model(readout="tokens")) == set(MAPS)


def test_quick_maps_of_a_pair_encode_it_twice():
    model = make_model(readout="tokens")
    seen, encode = [], model.encode
    model.encode = lambda images, trace=False: seen.append(len(images)) or encode(images, trace)
    pairs = make_pairs(model)
    for entry in MAPS.values():
        if entry.quick:
            entry.make(pairs)
    assert seen == [4, 4]  # once as they are, once half-way to the local mean, which is also led back
    for name in ("occlusion", "contribution"):
        MAPS[name].make(pairs)
    assert sum(seen) == 8 + 4 * GRID * GRID
