import numpy as np
import torch
from tiny_models import DEPTH, GRID, HEADS, OF_DCAL, OF_OAML, SIZE, Brightness, make_images, make_model, make_oaml

from dcal_core.explain.catalogue import MAPS, PairView
from dcal_core.explain.faithfulness import faithfulness
from dcal_core.explain.pair_maps import encode_pairs, matches
from dcal_core.models.adaface import AdaFace


def make_view(model):
    faces = (make_images(2) * 255).to(torch.uint8)
    return faces, PairView(model, faces, ("one.png", "other.png"))


def test_a_view_shows_what_the_functions_say_of_the_pair():
    model = make_model(readout="tokens")
    faces, view = make_view(model)
    pairs = encode_pairs(model, faces[:1], faces[1:], GRID)
    assert view.faces.shape == (2, SIZE, SIZE, 3) and (view.faces[1, 3, 5] == faces[1, :, 3, 5].numpy()).all()
    with torch.no_grad():
        expected = model.compare(model.encode(faces[:1]), model.encode(faces[1:])).item()
    assert np.isclose(view.score, expected, atol=1e-5)
    assert view.kinds == OF_DCAL and view.depth == (DEPTH, HEADS)
    for name in view.kinds:
        torch.testing.assert_close(torch.from_numpy(view.map(name)), MAPS[name].make(pairs)[:, 0])
    one_head = MAPS["cls_attention"].make(pairs, layer=1, head=0)[:, 0]
    torch.testing.assert_close(torch.from_numpy(view.map("cls_attention", layer=1, head=0)), one_head)
    assert (view.matches == matches(pairs)[1].numpy()).all()


def test_a_map_is_computed_once():
    model = make_model()
    _, view = make_view(model)
    first = view.map("distinctive"), view.map("rollout", layer=0)
    model.encode = None  # a second call would fail
    assert view.map("distinctive") is first[0] and view.map("rollout", layer=0) is first[1]
    assert view.map("rollout", layer=1) is not first[1]


def test_a_model_without_tokens_is_shown_by_its_score_alone():
    model = Brightness()
    model.grid, model.anything = GRID, torch.nn.Parameter(torch.zeros(1))
    _, view = make_view(model)
    assert view.kinds == ("distinctive", "occlusion", "contribution")
    assert view.depth == (0, 0) and view.matches is None


def test_a_face_network_is_shown_and_measured_like_any_other():
    torch.manual_seed(0)
    model = AdaFace(depth=18, image_size=SIZE, width=8).eval()
    _, view = make_view(model)
    assert view.kinds == ("distinctive", "occlusion", "contribution") and view.map("distinctive").shape == (2, 2, 2)
    result = faithfulness(model, make_images(2), make_images(2, seed=2), model.grid, [0, 1], names=("distinctive",))
    assert {"distinctive", "gradient_times_input", "random"} <= result.keys()


def test_a_network_that_matches_places_is_shown_by_its_own_matches_and_measured_like_any_other():
    model = make_oaml()
    _, view = make_view(model)
    assert view.kinds == ("distinctive", "occlusion", "contribution", *OF_OAML) and view.depth == (0, 0)
    assert (view.matches == view.pairs.places[1].numpy()).all() and view.matches.shape == (2, GRID * GRID)
    result = faithfulness(model, make_images(2), make_images(2, seed=2), GRID, [0, 1], names=OF_OAML)
    assert set(OF_OAML) <= result.keys() and all(
        np.isfinite(result[name]["randomisation"]["value"]) for name in OF_OAML
    )
